"""What is fed with odd input. Each takes bytes, and raises only if something is wrong."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from pydicom import dcmread

from deid_hooks import restore
from deid_hooks.assembly import assemble
from deid_hooks.entry import INDEXED_FIELDS, new_log_id
from deid_hooks.errors import DeidHooksError, SettingsError, TermError
from deid_hooks.matching import parse, read_terms
from deid_hooks.pseudonyms import Pseudonyms
from deid_hooks.secret import SiteSecret
from deid_hooks.settings import load_settings
from deid_hooks.testing.records import make_entry
from deid_hooks.uploader.prepare import Preparer, Refused, be_quiet_and_fast

SECRET = SiteSecret(b"s" * 32)
_FOLDER = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


@cache
def _preparer() -> Preparer:
    be_quiet_and_fast()
    return Preparer("basic", Pseudonyms("", b"s" * 32), INDEXED_FIELDS, _FOLDER)


def dicom(content: bytes) -> None:
    """A file is de-identified and comes back, or is refused in words."""
    path = _FOLDER / f"{os.getpid()}.dcm"
    path.write_bytes(content)
    prepared = _preparer().prepare(path)
    if isinstance(prepared, Refused):
        assert prepared.reason
        return
    try:
        entry = assemble(
            [prepared.changes], new_log_id(), "", "fuzz", SECRET, INDEXED_FIELDS, "all"
        )
        restore(dcmread(prepared.staged), entry)
    except DeidHooksError:
        pass
    finally:
        prepared.staged.unlink()


def terms(content: bytes) -> None:
    """Terms are refused in words, or hold or don't hold of an entry."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    try:
        parse(read_terms(lines)).matches(make_entry())
    except TermError as error:
        assert str(error)


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
