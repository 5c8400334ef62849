"""Commands that show originals, and what is true after a fault: no look without a row of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

from tests.faults.aftermath import chain, leaks, told
from tests.faults.scene import Ran, Scene
from tests.faults.tally import LOST, UNLOGGED, Problem
from tests.whole.canaries import found_in


class Looking:
    """A command that shows the originals of the only entry that the log of a scene has."""

    def __init__(self, scene: Scene, command: str) -> None:
        self.scene = scene
        self._command = command
        self._back = scene.folder / "back"
        self._looks_seen = 0
        ((self._log_id,),) = scene.query("SELECT id FROM deid_log")

    def run(self, *prefix: str) -> Ran:
        what = [self._log_id]
        if self._command == "reidentify":
            what = [str(self.scene.delivered), "--output", str(self._back)]
        words = (self._command, *what, "--reason", "incidental finding")
        return self.scene.ended(self.scene.start(*words, before=prefix))

    def aftermath(self, ran: Ran) -> list[Problem]:
        """What was shown is in the access trail; and looking once more shows all of it."""
        problems = [*self._looks(ran), *told(ran)]
        again = self.run()
        if again.code or not self._seen(again):
            problems.append(Problem(LOST, f"it can't be looked at: {again.err}"))
        return [*problems, *self._looks(again)]

    def _looks(self, ran: Ran) -> Iterator[Problem]:
        self._looks_seen += self._seen(ran)
        trail = self.scene.query("SELECT log_ids FROM deid_log_access")
        if sum(self._log_id in log_ids for (log_ids,) in trail) < self._looks_seen:
            yield Problem(UNLOGGED, "originals were shown, and no row of the access trail says so")
        shutil.rmtree(self._back, ignore_errors=True)
        yield from chain(self.scene)
        yield from leaks(self.scene, replace(ran, out=""))

    def _seen(self, ran: Ran) -> bool:
        """Whether an original came out, whole or in part."""
        files = (path.read_bytes() for path in self._back.rglob("*") if path.is_file())
        return bool(found_in(ran.out)) or any(map(found_in, files))
