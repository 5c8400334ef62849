"""Re-identify files one at a time, and return what became of each."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from pydicom.dataset import Dataset

from deid_hooks.access import AccessRecorder
from deid_hooks.admin.derived import (
    MARKS_OF_IDENTITY,
    mark_identity_restored,
    restore_derived,
)
from deid_hooks.admin.import_log import IMPORTED_BY
from deid_hooks.admin.search import Directory, merge_originals
from deid_hooks.dicom.capture import Snapshot, capture
from deid_hooks.dicom.comparison import PADS
from deid_hooks.dicom.dictionary import PIXELS, lookup_tag, name_element
from deid_hooks.dicom.difference import FINGERPRINT, strip_wrapping
from deid_hooks.dicom.elements import Layout, read_layout
from deid_hooks.dicom.part10 import read_dicom, refuse_altered, write_dicom
from deid_hooks.dicom.restore import STAMPS, list_instances, restore
from deid_hooks.errors import LogError, UnusableDataset
from deid_hooks.files import make_new_file, remove_leftovers_within
from deid_hooks.records.fields import DEID_FIELDS
from deid_hooks.records.model import Entry, make_readable
from deid_hooks.uploader.scan import explain_os_error, find_wrong_beginning

_RECORDED_KEPT = 10_000
_ANOTHER_INSTANCE = (
    "its entry holds another instance with its UID, which differs in file meta information or"
    " padding only"
)
_PIXELS = frozenset(map(name_element, PIXELS))
_NOT_LOGGED_ITSELF = "no entry holds it: only UIDs that the log knows, and what they lead to"
_IMPORTED = "its entry was imported from another system, and holds only what that one kept"


@dataclass(frozen=True, slots=True)
class Returned:
    """What became of one file. ``not_restored`` names the elements that stay, ``reason`` says why.

    ``status`` is ``restored``, ``derived``, ``not found``, ``refused``, ``failed`` or ``no DICOM``.
    """

    path: Path
    status: str
    log_id: str = ""
    output: Path | None = None
    reason: str = ""
    not_restored: tuple[str, ...] = ()


class Reidentifier:
    """Writes originals into a folder of its own; every entry it uses is in the trail before.

    ``derived``: also objects made from de-identified images, by their references. ``entry`` is the
    log id of the entry to use where several hold a file.
    """

    def __init__(
        self, access: AccessRecorder, output: Path, derived: bool, entry: str = ""
    ) -> None:
        self._entry = entry
        self._access = access
        self._output = output
        self._derived = derived
        self._directory = Directory(access.log)
        self._recorded: dict[str, None] = {}

    def run(self, paths: Iterable[Path]) -> Iterator[Returned]:
        """Re-identify every file in and below these paths, each as its result is asked for.

        Raises OSError if the output folder can't be made (FileExistsError: it is there), LogError
        if the log can't be reached: nothing further is written.
        """
        self._output.mkdir(mode=0o700)
        remove_leftovers_within(self._output.parent)  # another run may have had another output
        unknown = 0
        for found in _list_files(paths):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's quote values
                returned = found if isinstance(found, Returned) else self._reidentify(*found)
            unknown += returned.status == "not found"
            yield returned
        if unknown:
            self._access.record(f"{unknown} files that no entry knows", ())

    def _reidentify(self, path: Path, relative: Path) -> Returned:
        try:
            if path.exists() and not path.is_file():
                return Returned(path, "no DICOM", reason="neither a file nor a folder")
            with path.open("rb") as file:
                if wrong := find_wrong_beginning(file):
                    return Returned(path, wrong[0], reason=wrong[1])
                dataset, layout = read_dicom(file)
                uid = str(dataset.get("SOPInstanceUID", ""))
                if not uid:
                    return Returned(path, "refused", reason="it has no SOPInstanceUID")
                entries = self._directory.find_instance(uid)
                if entries:
                    return self._restore(path, relative, dataset, layout, entries)
                if self._derived or any(True for _ in self._directory.find_other_uids([uid])):
                    return self._restore_derived(path, relative, dataset, layout)
        except UnusableDataset as error:
            return Returned(path, "refused", reason=str(error))
        except OSError as error:
            return Returned(path, "failed", reason=str(error.strerror).lower())
        except LogError:
            raise
        except Exception as error:  # noqa: BLE001 - its text may quote values
            return Returned(path, "failed", reason=f"{type(error).__name__} while restoring it")
        return Returned(path, "not found", reason="the log holds no instance with this UID")

    def _restore(
        self,
        path: Path,
        relative: Path,
        dataset: Dataset,
        layout: Layout,
        entries: tuple[Entry, ...],
    ) -> Returned:
        uid = str(dataset.SOPInstanceUID)
        entry, note = self._choose(path, dataset, entries)
        original, missing, encoding = restore(dataset, entry)
        mark_identity_restored(original)
        self._record(uid, [entry.log_id])

        def verify(written: Layout) -> None:
            # An archive may have changed the encoding, and with it every value.
            if written.header.encoding == layout.header.encoding:
                refuse_altered(layout, written, _list_changed(uid, entry))

        target = self._write(original, relative, encoding, verify)
        why = _IMPORTED if entry.uploader.startswith(IMPORTED_BY) else _explain(missing)
        reason = "; ".join(filter(None, (why, note)))
        return Returned(path, "restored", entry.log_id, target, reason, missing)

    def _choose(
        self, path: Path, dataset: Dataset, entries: tuple[Entry, ...]
    ) -> tuple[Entry, str]:
        """Return the entry of a file, and what is to be said of others that hold its UID.

        Raises UnusableDataset, which names the entries, where they differ about the file.
        """
        if self._entry:
            entries = tuple(each for each in entries if each.log_id == self._entry)
            if not entries:
                raise UnusableDataset(f"the entry {self._entry} does not hold it")
        present = capture(dataset)
        if len(entries) == 1:
            alike = {each.originals for each in list_instances(present, entries[0])}
            return entries[0], _ANOTHER_INSTANCE if len(alike) > 1 else ""
        entries = tuple(filter(partial(_has_values_of, present), entries)) or entries
        about = {each.log_id: _describe(present, each) for each in entries}
        if len(set(about.values())) > 1:
            folder = (
                f"folder:{path.resolve().parents[2]}" if len(path.resolve().parents) > 2 else ""
            )
            outcome = self._access.log.outcome
            there = [e for e in entries if outcome(e.log_id, folder) in ("uploaded", "partial")]
            if len({about[each.log_id] for each in there}) != 1:
                ids = " and ".join(sorted(about))
                raise UnusableDataset(f"the entries {ids} differ about it: name one with --entry")
            entries = tuple(there)
        oldest, *others = sorted(entries, key=lambda each: (each.created, each.log_id))
        uid = str(dataset.SOPInstanceUID)
        if len({_list_originals(uid, each) for each in entries}) > 1:
            ids = ", ".join(each.log_id for each in others)
            return oldest, f"{ids} differ from its entry in file meta information or padding only"
        return oldest, ""

    def _was_delivered_to(self, path: Path, log_id: str) -> bool:
        """Return whether a file is where this entry's files were put in a destination folder."""
        folders = path.resolve().parents
        destination = f"folder:{folders[2]}" if len(folders) > 2 else ""
        return self._access.log.outcome(log_id, destination) in ("uploaded", "partial")

    def _restore_derived(
        self, path: Path, relative: Path, dataset: Dataset, layout: Layout
    ) -> Returned:
        uid = str(dataset.SOPInstanceUID)
        log_ids, missing = restore_derived(dataset, self._directory)
        self._record(uid, log_ids)
        target = self._write(dataset, relative, layout.header.encoding)
        known = str(dataset.SOPInstanceUID) != uid  # de-identified itself, and not logged
        why = _NOT_LOGGED_ITSELF if known else _explain(missing)
        return Returned(path, "derived", log_ids[0], target, why, missing)

    def _record(self, uid: str, log_ids: Iterable[str]) -> None:
        new = [log_id for log_id in log_ids if log_id not in self._recorded]
        if new:
            self._access.record(f"deid:SOPInstanceUID=={uid}", new)
            self._recorded.update(dict.fromkeys(new))
            if len(self._recorded) > _RECORDED_KEPT:
                self._recorded.pop(next(iter(self._recorded)))

    def _write(
        self,
        dataset: Dataset,
        relative: Path,
        encoding: tuple[bool, bool],
        verify: Callable[[Layout], None] = lambda written: None,
    ) -> Path:
        """Write a file that can be read to its end and that ``verify`` takes, under a free name."""
        folder = self._output
        for part in relative.parent.parts:
            folder /= part
            folder.mkdir(mode=0o700, exist_ok=True)
        with make_new_file(self._output) as new:
            with open(new.descriptor, "w+b", closefd=False) as file:
                write_dicom(dataset, file, encoding)
                verify(read_layout(file))
            os.fsync(new.descriptor)
            for target in _list_names(folder / relative.name):
                try:
                    new.name(target)
                except FileExistsError:
                    continue
                return target
        raise AssertionError  # pragma: no cover - names don't end


def _list_changed(uid: str, entry: Entry) -> set[str]:
    """Return the paths at which a restored file differs from the de-identified one."""
    instances = [instance for instance in entry.instances if instance.deid_uid == uid]
    originals = [merge_originals(entry, instance) for instance in instances]
    paths = {
        path
        for each in originals
        for path, element in each.items()
        if not (isinstance(element, dict) and PADS in element)
    }
    return {*MARKS_OF_IDENTITY, *STAMPS, *paths}


def _has_values_of(present: Snapshot, entry: Entry) -> bool:
    """Return whether the de-identified values that an entry notes are those of a file."""
    tags = [tag for keyword in DEID_FIELDS if (tag := lookup_tag(keyword)) is not None]
    found = dict(zip(DEID_FIELDS, present.texts(tuple(tags)), strict=True))
    return all(make_readable(found[keyword] or "") in entry.deid[keyword] for keyword in entry.deid)


def _describe(present: Snapshot, entry: Entry) -> str:
    """Return what an entry says of a file, apart from what is around its dataset."""
    about = [
        (instance.uid, sorted(strip_wrapping(merge_originals(entry, instance)).items()))
        for instance in list_instances(present, entry)
    ]
    return repr(sorted(about, key=repr))


def _list_originals(uid: str, entry: Entry) -> str:
    """Return all that an entry says of an instance."""
    found = []
    for instance in entry.instances:
        if instance.deid_uid == uid:
            originals = merge_originals(entry, instance)
            originals.pop(FINGERPRINT, None)
            found.append((instance.uid, sorted(originals.items())))
    return repr(sorted(found, key=repr))


def _explain(missing: tuple[str, ...]) -> str:
    if set(missing) & _PIXELS:
        return "pixels as delivered: the engine altered them, and the log holds no pixels"
    return "the log does not hold the originals of some elements" if missing else ""


def _list_names(path: Path) -> Iterator[Path]:
    yield path
    yield from (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))


def _list_files(paths: Iterable[Path]) -> Iterator[tuple[Path, Path] | Returned]:
    """Yield every file, in the order of names, and its place below the path that was given.

    For a folder that is passed over its result is yielded.
    """
    for given in paths:
        if not given.is_dir():
            yield given, Path(given.name)
            continue
        unlisted: list[OSError] = []
        for folder, folders, names in os.walk(given, onerror=unlisted.append):
            folders.sort()
            for name in folders:
                if (path := Path(folder, name)).is_symlink():
                    yield Returned(path, "refused", reason="a link to a folder is not followed")
            for name in sorted(names):
                path = Path(folder, name)
                yield path, path.relative_to(given)
        for error in unlisted:
            yield Returned(Path(error.filename), "failed", reason=explain_os_error(error))
