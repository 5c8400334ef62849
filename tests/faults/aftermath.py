"""What is true after a fault, found with plain sqlite3 and pydicom and nothing of deid_hooks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from tests.faults.scene import SERIES, Query, Ran, Scene
from tests.faults.tally import CUT_SHORT, LEAKED, LOST, UNLOGGED, WRONG_MESSAGE, Problem
from tests.whole.canaries import found_in

SENTENCES = (
    "Unable to log de-identified data",
    "Unable to resolve de-identification ID",
    "deid-hooks.toml can't be read",
    "A worker process died",
    "the engine odd failed on it",
    "The engine odd (odd 1.0) can't be made",
    "the de-identified dataset has no SOPInstanceUID",
    "the temporary folder",
    "There can't be a temporary folder",
    "Standard output can't be written",
    "Internal error: OSError (too many open files)",
    "The destination folder:",
    "The archive dicom",
    "the association with dicom",
    "dicom-web gave no answer",
    "dicom-web can't be reached",
)
"""One of them is in what a run says that didn't do its job."""

ENTRY_FIELDS = ("PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate")
_ROWS = f"""
    SELECT instance.deid_SOPInstanceUID, instance.SOPInstanceUID, entry.id,
           {", ".join(f"entry.{field}" for field in ENTRY_FIELDS)}
    FROM deid_log_instance AS instance JOIN deid_log AS entry ON entry.id = instance.log_id
    WHERE EXISTS (SELECT 1 FROM deid_log_upload WHERE log_id = entry.id AND event = 'cleared'
                  AND destination = '%s')
"""


def logged(query: Query, destination: str) -> dict[str, list[dict[str, Any]]]:
    """The originals of each de-identified SOP Instance UID, as they stand in a log.

    Only entries that were cleared for the destination.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for deid_uid, uid, log_id, *fields in query(_ROWS % destination):
        values = dict(zip(ENTRY_FIELDS, fields, strict=True))
        values |= {"SOPInstanceUID": uid, "log_id": log_id}
        found.setdefault(deid_uid, []).append(values)
    return found


@cache
def originals(source: Path) -> dict[bytes, Dataset]:
    """The original of each image, by its pixels."""
    read = (dcmread(path) for path in (source / "all").iterdir())
    return {dataset.PixelData: dataset for dataset in read}


def out_there(scene: Scene, *logs: Query) -> Iterator[Problem]:
    """Each delivered file that no log has, or has with other originals, or that isn't whole."""
    known = [logged(query, scene.destination) for query in logs or (scene.query,)]
    for path, content in scene.files().items():
        if scene.stage.undisturbed.get(path) != content:
            yield Problem(CUT_SHORT, f"{path} isn't the file of an undisturbed run")
            continue
        dataset = dcmread(BytesIO(content))
        original = originals(scene.stage.source)[dataset.PixelData]
        wanted = {name: str(original[name].value) for name in (*ENTRY_FIELDS, "SOPInstanceUID")}
        entries = [e for each in known for e in each.get(dataset.SOPInstanceUID, ())]
        if not any(wanted.items() <= entry.items() for entry in entries):
            yield Problem(UNLOGGED, f"{path} has no entry with its originals")


def kept(scene: Scene, ran: Ran | None) -> Iterator[Problem]:
    """What was acknowledged and is gone: entries, and files of a destination."""
    there = scene.marks()
    for path, mark in scene.before.items():
        if there.get(path) != mark:
            yield Problem(LOST, f"{path} was there before the fault, and is gone or another file")
    known = logged(scene.query, scene.destination)
    ids = {entry["log_id"] for entries in known.values() for entry in entries}
    for row in ran.report if ran else ():
        if row["status"] in ("uploaded", "already there") and row["log_id"] not in ids:
            yield Problem(LOST, f"{row['file']} was reported as {row['status']}, and has no entry")
    if len(known) < len(scene.before):
        yield Problem(LOST, "an entry of before the fault is gone")


_KINDS = ("upload", "access", "tombstone", "block")
_CHAIN = " UNION ALL ".join(  # one statement: a service may be writing meanwhile
    (
        "SELECT seal, 0 FROM deid_log_chain",
        "SELECT 'entry', count(*) FROM deid_log",
        *(f"SELECT '{kind}', count(*) FROM deid_log_{kind}" for kind in _KINDS),
    )
)


def chain(scene: Scene) -> Iterator[Problem]:
    """Where the chain of the log is broken, or has not one seal for each record."""
    found = scene.query(_CHAIN)
    seals = [json.loads(text) for text, _ in found if text.startswith("[")]
    before = ""
    for n, seal in enumerate(sorted(seals, key=itemgetter(0))):
        at, kind, log_id, leaf, link, *_, genesis = seal
        if at != n or link != _link(before or genesis, str(n), kind, log_id, leaf):
            yield Problem(LOST, f"record {n} does not follow the one before it")
        before = link
    for kind, rows in (row for row in found if not row[0].startswith("[")):
        sealed = [seal for seal in seals if seal[1] == kind]
        erased = [seal for seal in sealed if kind == "entry" and not seal[8]]
        if rows != len(sealed) - len(erased):
            yield Problem(LOST, f"{rows} records of kind {kind}, and {len(sealed)} seals")


def _link(*texts: str) -> str:
    parts = [text.encode() for text in ("deid-hooks 1 link", *texts)]
    return sha256(b"".join(len(part).to_bytes(8) + part for part in parts)).hexdigest()


def leaks(scene: Scene, *runs: Ran) -> Iterator[Problem]:
    """Where an identifying value is that is neither the source nor the log."""
    for ran in runs:
        if found := found_in(ran.out + ran.err):
            yield Problem(LEAKED, f"{len(found)} values in what the program says")
        if found := found_in(ran.processes):
            yield Problem(LEAKED, f"{len(found)} values in arguments or environment")
    for path in scene.folder.rglob("*"):
        if path.name.startswith("log.db") or "saved" in path.parts:
            continue
        name = str(path.relative_to(scene.folder))
        if found_in(name) or (path.is_file() and found_in(path.read_bytes())):
            yield Problem(LEAKED, f"a value in {name}")


def message(ran: Ran, complete: bool) -> Iterator[Problem]:
    """Whether what it says fits what it did: done, or in words what stopped it."""
    said = ran.out + ran.err
    if ran.code < 0:  # who is killed says nothing, and Python's workers what they like
        return
    if "Traceback" in said or "Exception ignored" in said:
        yield Problem(WRONG_MESSAGE, said[-1500:])
    if ran.code == 0 and not complete:
        yield Problem(WRONG_MESSAGE, "exit code 0, and not everything is there")
    if ran.code and not any(sentence in said for sentence in SENTENCES):
        yield Problem(WRONG_MESSAGE, f"exit code {ran.code} and no reason: {said[-500:]}")
    if ran.code not in (0, 1, 2, 3, 69):
        yield Problem(WRONG_MESSAGE, f"exit code {ran.code}")


def told(ran: Ran) -> Iterator[Problem]:
    """Whether a command that is no upload says in words why it did not do what it was asked."""
    said = ran.out + ran.err
    if ran.code > 0 and (
        "Traceback" in said or ran.code not in (1, 2, 3, 69) or not ran.err.strip()
    ):
        yield Problem(WRONG_MESSAGE, f"exit code {ran.code}: {said[-500:]}")


def completed(scene: Scene, run: Callable[[], Ran] | None = None) -> Iterator[Problem]:
    """Run it again, undisturbed: it completes the work and repeats nothing."""
    before = scene.marks()
    again = (run or scene.upload_all)()
    if again.code:
        yield Problem(LOST, f"the re-run ends with {again.code}: {again.out[-300:]}{again.err}")
    if scene.files() != scene.stage.undisturbed:
        yield Problem(LOST, "the re-run doesn't complete the work")
    after = scene.marks()
    for path, mark in before.items():
        if after.get(path) != mark:
            yield Problem(LOST, f"the re-run sends {path} again")
    sent = [row for row in again.report if row["status"] == "uploaded"]
    if len(sent) != len(after) - len(before):
        yield Problem(LOST, f"the re-run reports {len(sent)} files as sent")
    ((entries, series),) = scene.query(
        "SELECT count(*), count(DISTINCT SeriesInstanceUID) FROM deid_log"
        " WHERE SeriesInstanceUID <> ''"
    )
    if not entries == series == SERIES:
        yield Problem(LOST, f"{entries} entries of {series} series")
    if left := list((scene.folder / "tmp").iterdir()):
        yield Problem(LOST, f"{len(left)} folders are left in the temporary folder")
    yield from chain(scene)
    yield from out_there(scene)
    yield from leaks(scene, again)


def everything(
    scene: Scene, ran: Ran | None, run: Callable[[], Ran] | None = None
) -> list[Problem]:
    """All that must hold after a fault; ``run`` is how it is run again."""
    problems = [*out_there(scene), *kept(scene, ran), *chain(scene)]
    if ran:
        complete = scene.files() == scene.stage.undisturbed
        problems += [*message(ran, complete), *leaks(scene, ran)]
    return [*problems, *completed(scene, run)]
