"""Which entries a command is about: log ids, or search terms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from deid_hooks.entry import parse_log_id
from deid_hooks.errors import TermError
from deid_hooks.matching import Query, parse
from deid_hooks.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Selection:
    """Log ids, or else a query. ``asked`` is how it stands in the access trail."""

    log_ids: tuple[str, ...]
    query: Query | None
    asked: str = field(repr=False)

    def search(self, recorder: Recorder) -> Iterator[str]:
        """The log ids, those that were named or that the terms find now."""
        if self.query is None:
            return iter(self.log_ids)
        return recorder.search(self.query)


def selected(texts: Sequence[str]) -> Selection:
    """What these texts select. Raises TermError for ids among terms, and what ``parse`` raises."""
    log_ids = [parse_log_id(text) for text in texts]
    found = tuple(dict.fromkeys(log_id for log_id in log_ids if log_id))
    if found and None in log_ids:
        raise TermError("name log ids, or give search terms (id=LOG_ID is one), not both")
    return Selection(found, None if found else parse(texts), "\n".join(texts))
