"""Where the log is: from a URL to the path of a file."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote_to_bytes

from deid_hooks.errors import LogUnavailable

_PREFIX = "sqlite:///"


def path_of(url: str) -> Path:
    """The absolute path in ``sqlite:///relative.db`` or ``sqlite:////absolute.db``.

    Percent-encoded bytes are decoded (RFC 3986, section 2.1). A relative path starts at the folder
    that is current now, so that a later ``chdir`` does not lead to another log. Raises
    LogUnavailable for any other URL.
    """
    path = os.fsdecode(unquote_to_bytes(url.removeprefix(_PREFIX)))
    if not url.startswith(_PREFIX) or not path or "\0" in path or "?" in url or "#" in url:
        raise LogUnavailable(
            "the URL of the log is not one of a SQLite file",
            "write sqlite:///relative.db or sqlite:////folder/absolute.db, with %3F for a ? in it",
        )
    return Path(path).absolute()
