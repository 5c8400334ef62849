"""Forgetting the entry of the first series, and what is true afterwards."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.aftermath import leaks, out_there
from tests.faults.scene import Ran, Scene
from tests.faults.tally import LEAKED, LOST, WRONG_MESSAGE, Problem
from tests.whole.canaries import found_in
from tests.whole.site import LOG


class Forgetting:
    """The command, for the only entry that the log of a scene has."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        ((self._log_id,),) = scene.query("SELECT id FROM deid_log")

    def run(self, *prefix: str) -> Ran:
        words = ("forget", self._log_id, "--reason", "request of 2026-11-24", "--yes")
        return self._scene.ended(self._scene.start(*words, before=prefix))

    def aftermath(self, ran: Ran) -> list[Problem]:
        """The entry is there whole, or a tombstone is; and forgetting it again leaves no trace."""
        problems = [*self._state(), *_message(ran), *leaks(self._scene, ran)]
        if ran.code == 0:
            problems += self._traces()
        again = self.run()
        if again.code:
            problems.append(Problem(LOST, f"it can't be forgotten: {again.out}{again.err}"))
        return [*problems, *self._state(), *self._traces(), *leaks(self._scene, again)]

    def _state(self) -> Iterator[Problem]:
        there = self._rows("deid_log")
        stones = self._rows("deid_log_tombstone")
        if there + stones != 1:
            yield Problem(LOST, f"{there} entries and {stones} tombstones of one acquisition")
        if there:
            yield from out_there(self._scene)

    def _traces(self) -> Iterator[Problem]:
        there = self._rows("deid_log")
        if there:
            yield Problem(LOST, "an entry that was said to be erased is there")
        for path in (self._scene.folder / LOG).parent.glob("log.db*"):
            if found := found_in(path.read_bytes()):
                yield Problem(LEAKED, f"{len(found)} values of the erased entry in {path.name}")

    def _rows(self, table: str) -> int:
        ((count,),) = self._scene.query(f"SELECT count(*) FROM {table} WHERE id = '{self._log_id}'")
        return int(count)


def _message(ran: Ran) -> Iterator[Problem]:
    said = ran.out + ran.err
    if ran.code < 0:
        return
    if "Traceback" in said or ran.code not in (0, 1, 69) or not said.strip():
        yield Problem(WRONG_MESSAGE, f"exit code {ran.code}: {said[-500:]}")
