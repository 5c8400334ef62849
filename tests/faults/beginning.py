"""A site where nothing was set up: the first upload begins the log and makes the site secret."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.faults.aftermath import completed, kept, leaks, logged, message
from tests.faults.scene import TO_TRIAL, Ran, Scene, Stage
from tests.faults.tally import CUT_SHORT, UNLOGGED, Problem


class Beginning(Scene):
    """Its secret is a new one each time, so what is delivered is the same only within a site."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        super().__init__(stage, folder)
        del self.environment["DEID_HOOKS_SECRET"]
        self._ask = self.query
        self.query = self._asked

    def _asked(self, statement: str) -> list[tuple[Any, ...]]:
        try:
            return self._ask(statement)
        except sqlite3.OperationalError:  # it has no tables yet
            return []

    def again(self) -> Ran:
        """Begin the log, if that is left to do, and upload: here, and into another folder.

        What is there then is what an undisturbed run delivers.
        """
        self.run("init")
        ran = self.upload_all()
        here, self.delivered = self.delivered, self.folder / "other"
        other = self.run("upload", str(self.stage.source / "all"), "folder:other", *TO_TRIAL)
        assert other.returncode == 0, other.stderr
        self.stage = replace(self.stage, undisturbed=self.files())
        self.delivered = here
        return ran

    def aftermath(self, ran: Ran) -> list[Problem]:
        """What must hold after a fault of the first upload, and after the next one."""
        known = logged(self.query, self.destination)
        early = self.files()
        problems = [*kept(self, ran), *message(ran, len(early) == len(self.stage.undisturbed))]
        problems += [*leaks(self, ran), *completed(self, self.again)]
        return [*problems, *self._early(early, set(known))]

    def _early(self, early: dict[str, bytes], known: set[str]) -> Iterator[Problem]:
        """What of the files that were there before it was run again was wrong then."""
        for path, content in early.items():
            if self.stage.undisturbed.get(path) != content:
                yield Problem(CUT_SHORT, f"{path} isn't the file of an undisturbed run")
            if Path(path).name.removesuffix(".dcm") not in known:
                yield Problem(UNLOGGED, f"{path} had no entry")
