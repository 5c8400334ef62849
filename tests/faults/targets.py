"""What is fed with odd input. Each takes bytes, and raises only if something is wrong."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.valuerep import VR

from deid_hooks import restore
from deid_hooks.backends.sqlite import SQLiteBackend
from deid_hooks.deadline import Deadline
from deid_hooks.dicom.difference import assemble
from deid_hooks.errors import DeidHooksError, SettingsError, TermError
from deid_hooks.query.parser import parse_terms, read_terms
from deid_hooks.records.fields import INDEXED_FIELDS
from deid_hooks.records.keys import Pseudonyms
from deid_hooks.records.model import Entry, make_log_id
from deid_hooks.settings import load_settings
from deid_hooks.testing.records import KEYWORDS, TEXTS, chain_seals, make_entry
from deid_hooks.uploader.prepare import Preparer, Refused, Work, be_quiet_and_fast
from tests.dicom.files import Leaves, leaves, sent

_VRS = frozenset(map(str, VR))
_FOLDER = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


@cache
def _preparer() -> Preparer:
    be_quiet_and_fast()
    return Preparer(Work("basic", Pseudonyms("", b"s" * 32), INDEXED_FIELDS, _FOLDER))


def dicom(content: bytes) -> None:
    """A file is refused in words; or it is de-identified, and comes back as it was."""
    path = _FOLDER / f"{os.getpid()}.dcm"
    path.write_bytes(content)
    prepared = _preparer().prepare(path)
    if isinstance(prepared, Refused):
        assert prepared.reason
        return
    try:
        entry = assemble([prepared.changes], make_log_id(), "", "fuzz", INDEXED_FIELDS, "all")
        restored = restore(dcmread(prepared.staged), entry)
    except DeidHooksError:
        return
    finally:
        prepared.staged.unlink()
    if not restored.not_restored:
        assert _is_back(path, restored.dataset)


def _is_back(path: Path, restored: Dataset) -> bool:
    """Whether each element is as it was in the file, or as pydicom writes what it reads there."""
    try:
        read = leaves(dcmread(path, force=True))
        if not {vr for vr, _ in read.values() if vr} <= _VRS:
            return True  # a garbled VR, first in an item, is read as implicit VR once it is written
        original = _elements(dcmread(path, force=True))
        written = _elements(sent(dcmread(path, force=True)))
        back = _elements(sent(restored))
    except Exception:  # pydicom can't read all elements, nor write all that it reads
        return True
    absent = (None, None)
    for name in {*original, *written, *back}:
        vr, value = back.get(name, absent)
        # Without a VR it is read as implicit VR, which says so only where its length is undefined.
        if not any(
            value == was and (vr == its or None in (vr, its))
            for its, was in (original.get(name, absent), written.get(name, absent))
        ):
            return False
    return True


def _elements(dataset: Dataset) -> Leaves:
    """Its leaves: values are without padding, and the VR is None where it says nothing.

    It does not if the standard has none such, nor for a sequence that can't be read as one and
    comes back as UN, nor in the file meta information, whose VRs pydicom takes from its dictionary.
    """
    found: Leaves = {}
    for name, (vr, value) in leaves(dataset).items():
        plain = value.encode() if isinstance(value, str) else value
        stripped = plain.rstrip(b"\0 ") if isinstance(plain, bytes) else plain
        items = isinstance(plain, int)
        known = vr in _VRS and (vr != "SQ" or items) and not name.startswith("0002")
        found[name] = (vr if known else None, stripped)
    return found


@cache
def _entries() -> list[Entry]:
    """Entries of many values, some of which are odd."""
    made = []
    for number in range(24):
        fields = {name: (values[number % len(values)],) for name, values in KEYWORDS.items()}
        institution = {"00080080": {"Value": [TEXTS[number % len(TEXTS)]], "vr": "LO"}}
        made.append(make_entry(fields=fields, originals=json.dumps(institution)))
    return made


@cache
def _store() -> SQLiteBackend:
    store = SQLiteBackend(f"sqlite:///{_FOLDER}/log.db")
    store.create(Deadline())
    store.append(_entries(), chain_seals, Deadline())
    return store


def terms(content: bytes) -> None:
    """Terms are refused in words, or the store finds what the reference matcher finds."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    try:
        query = parse_terms(read_terms(lines))
    except TermError as error:
        assert str(error)
        return
    wanted = [entry.log_id for entry in _entries() if query.matches(entry)]
    assert list(_store().search(query, Deadline(60))) == wanted


def settings(content: bytes) -> None:
    """A settings file is refused in words, or read."""
    path = _FOLDER / f"{os.getpid()}.toml"
    path.write_bytes(content)
    os.environ["DEID_HOOKS_CONFIG"] = str(path)
    try:
        load_settings()
    except SettingsError as error:
        assert str(error)
    finally:
        del os.environ["DEID_HOOKS_CONFIG"]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "capture and restore": dicom,
    "search terms": terms,
    "settings": settings,
}
