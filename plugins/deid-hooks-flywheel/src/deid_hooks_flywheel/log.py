"""Our log in programs built on flywheel-migration: its ``DeIdLog``, filled by its engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

from flywheel_migration.deidentify.deid_log import DeIdLog
from pydicom import dcmread

from deid_hooks import Acquisition, DeidHooks, Snapshot, UnableToLog, capture


class HooksDeIdLog(DeIdLog):  # type: ignore[misc]
    """Fills an acquisition with what a profile changes.

    Originals are taken as a file is loaded, before the profile's own rules: with
    ``remove-undefined`` and ``remove-private-tags`` values are gone before "before" is logged.

        log = HooksDeIdLog(hooks, project="TRIAL7")
        log.attach(profile)
        with log.acquisition() as acquisition:
            profile.process_packfile("dicom", source, target, paths)
            acquisition.post_deid()  # durable, or UnableToLog: nothing of it may leave
    """

    def __init__(self, hooks: DeidHooks, project: str = "") -> None:
        self._hooks = hooks
        self._project = project
        self._state = threading.local()

    def attach(self, profile: Any) -> None:
        """Make every ``dicom`` part of a profile report to this log what it does."""
        for part in profile.file_profiles:
            if part.name == "dicom":
                part.add_log(self)
                part.load_record = MethodType(_capturing(self, part.load_record), part)

    @contextmanager
    def acquisition(self) -> Iterator[Acquisition]:
        """Open one packfile. ``post_deid`` raises UnableToLog if a changed file was not logged."""
        with self._hooks.acquisition(self._project) as acquisition:
            self._state.acquisition, self._state.originals = acquisition, {}
            log = acquisition.post_deid

            def post_deid(*, reuse: bool = False) -> str:
                self._refuse_unlogged()
                return log(reuse=reuse)

            acquisition.post_deid = post_deid  # type: ignore[method-assign]
            try:
                yield acquisition
            finally:
                self._state.acquisition = None

    # What flywheel-migration calls.

    def to_config_str(self) -> str:
        return "deid-hooks"

    def initialize(self, profile: Any) -> None:
        return None

    def write_entry(self, entry: Any, **kwargs: Any) -> None:
        if kwargs["entry_type"] == "after":
            acquisition = self._open_acquisition()
            acquisition.add(self._state.originals.pop(kwargs["path"]), kwargs["record"])

    def close(self) -> None:
        return None

    def loaded(self, path: str, original: Snapshot) -> None:
        """Keep the original of a file that was read; nothing of it changed yet."""
        self._open_acquisition()
        self._state.originals[path] = original

    def passed_over(self, path: str) -> None:
        """Drop a file that the profile leaves out: nothing of it is sent."""
        self._state.originals.pop(path, None)

    def _open_acquisition(self) -> Acquisition:
        acquisition = getattr(self._state, "acquisition", None)
        if acquisition is None:
            raise UnableToLog(
                "a profile was applied outside an acquisition",
                "wrap process_packfile in `with log.acquisition():`",
            )
        return acquisition  # type: ignore[no-any-return]

    def _refuse_unlogged(self) -> None:
        if self._state.originals:
            raise UnableToLog(
                f"{len(self._state.originals)} files were written by the profile without a word to"
                " the log: it has no fields, or another part of it took them"
            )


def _capturing(log: HooksDeIdLog, load: Any) -> Any:
    def load_record(self: Any, state: Any, src_fs: Any, path: str) -> Any:
        with src_fs.open(path, "rb") as file:
            log.loaded(path, capture(dcmread(file, force=True)))
        record, modified = load(state, src_fs, path)
        if record is None:
            log.passed_over(path)
        return record, modified

    return load_record
