"""Forgetting the entry of the first series, and what is true afterwards."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.aftermath import chain, leaks, out_there, told
from tests.faults.scene import Ran, Scene
from tests.faults.tally import LEAKED, LOST, Problem
from tests.whole.canaries import found_in
from tests.whole.site import LOG


class Forgetting:
    """The command, for the only entry that the log of a scene has."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        ((self._log_id,),) = scene.query("SELECT id FROM deid_log")

    def run(self, *prefix: str) -> Ran:
        words = ("forget", self._log_id, "--reason", "request of 2026-11-24", "--yes")
        return self.scene.ended(self.scene.start(*words, before=prefix))

    def aftermath(self, ran: Ran) -> list[Problem]:
        """The entry is there whole, or a tombstone is; and forgetting it again leaves no trace."""
        problems = [*self._state(), *told(ran), *leaks(self.scene, ran)]
        if ran.code == 0:
            problems += self._traces()
        again = self.run()
        if again.code:
            problems.append(Problem(LOST, f"it can't be forgotten: {again.out}{again.err}"))
        return [*problems, *self._state(), *self._traces(), *leaks(self.scene, again)]

    def _state(self) -> Iterator[Problem]:
        there = self._rows("deid_log")
        stones = self._rows("deid_log_tombstone")
        if there + stones != 1:
            yield Problem(LOST, f"{there} entries and {stones} tombstones of one acquisition")
        if there:
            yield from out_there(self.scene)
        yield from chain(self.scene)

    def _traces(self) -> Iterator[Problem]:
        there = self._rows("deid_log")
        if there:
            yield Problem(LOST, "an entry that was said to be erased is there")
        for path in (self.scene.folder / LOG).parent.glob("log.db*"):
            if found := found_in(path.read_bytes()):
                yield Problem(LEAKED, f"{len(found)} values of the erased entry in {path.name}")

    def _rows(self, table: str) -> int:
        ((count,),) = self.scene.query(f"SELECT count(*) FROM {table} WHERE id = '{self._log_id}'")
        return int(count)
