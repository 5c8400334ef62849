"""A site that uploads to a real archive, which the tests kill."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread

from tests.faults.scene import Scene, Stage
from tests.orthanc import Orthanc


class ArchivedScene(Scene):
    """A site that has sent the first series to an archive, in the network of that."""

    def __init__(self, stage: Stage, folder: Path, archive: Orthanc, destination: str) -> None:
        self._archive = archive
        super().__init__(stage, folder)
        self.destination = destination
        self.run("init")
        self.upload_first(*archive.network)

    def files(self) -> dict[str, bytes]:
        """What the archive holds, as a folder would. A file that says the same is the same."""
        found = {}
        for _, path, content in self._held():
            known = self.stage.undisturbed.get(path, b"")
            found[path] = known if known and _same(content, known) else content
        return found

    def marks(self) -> dict[str, tuple[int, ...]]:
        """The number that each arrival has in the archive's list of changes."""
        changes = self._archive.ask("/changes?limit=1000")["Changes"]
        arrivals = {c["ID"]: c["Seq"] for c in changes if c["ChangeType"] == "NewInstance"}
        return {path: (arrivals[instance],) for instance, path, _ in self._held()}

    def _held(self) -> Iterator[tuple[str, str, bytes]]:
        """Of each instance: its id in the archive, the path it would have in a folder, its file."""
        for instance in self._archive.ask("/instances"):
            content = self._archive.fetch(f"/instances/{instance}/file")
            read = dcmread(BytesIO(content))
            folder = f"{read.StudyInstanceUID}/{read.SeriesInstanceUID}"
            yield instance, f"{folder}/{read.SOPInstanceUID}.dcm", content


def _same(one: bytes, other: bytes) -> bool:
    """Whether two files are the same but for what their writers say of themselves."""
    first, second = (dcmread(BytesIO(content)) for content in (one, other))
    return first == second and _syntax(first) == _syntax(second)


def _syntax(read: Dataset) -> str:
    return str(read.file_meta.TransferSyntaxUID)
