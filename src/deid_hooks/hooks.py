"""The facade that uploaders call: load once, check, log each acquisition, upload it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from deid_hooks.errors import SettingsError
from deid_hooks.gate import Gate, make_pre_upload
from deid_hooks.plugins import PreUpload, register
from deid_hooks.records.keys import Pseudonyms
from deid_hooks.records.model import parse_log_id
from deid_hooks.settings import Settings, load_settings, mask_passwords

if TYPE_CHECKING:
    from deid_hooks.access import Reader
    from deid_hooks.acquisition import Acquisition, Upload


class AskedLabels(Mapping[tuple[str, str], str]):
    """The labels of patients, by (PatientID, issuer), that are asked for when they are needed."""

    def __init__(self, ask: Callable[[str, str], str | None]) -> None:
        self._ask = ask
        self._asked: dict[tuple[str, str], str | None] = {}

    def __getitem__(self, identity: tuple[str, str]) -> str:
        if identity not in self._asked:
            self._asked[identity] = self._ask(*identity) if identity[0] else None
        label = self._asked[identity]
        if label is None:
            raise KeyError
        return label

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return (identity for identity, label in self._asked.items() if label is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __reduce__(self) -> tuple[type[dict[Any, Any]], tuple[dict[Any, Any]]]:
        return dict, (dict(self),)


class DeidHooks:
    """The hooks of one process, with the log behind them. Use it as a context manager.

    Safe from any thread, several acquisitions at once. In a child forked from the process that
    loaded it, it refuses everything with ForkedProcess as the cause.
    """

    def __init__(self, settings: Settings, uploader: str = "") -> None:
        self.settings = settings
        self.uploader = uploader
        self.gate = Gate(settings)

    @classmethod
    def load(
        cls, uploader: str = "", *, settings: Settings | None = None, **arguments: Any
    ) -> DeidHooks:
        """Read the settings, load every plugin and find the backend.

        ``uploader`` names the program in the log: ``"sender/1.2"``. Keyword arguments are settings
        (``url="sqlite:////srv/log.db"``), unless ``settings`` holds them all. Raises SettingsError
        or PluginError. The log itself is opened by the first call that needs it.
        """
        if settings is not None and arguments:
            raise TypeError("load takes settings or single settings as arguments, not both")
        return cls(settings or load_settings(**arguments), uploader)

    def reading(self, reason: str = "") -> Reader:
        """Return what reads the log for a program, with every access in the trail before.

        ``reason`` is kept there; SettingsError if the settings require one and there is none, or if
        there is no site secret; LogUnavailable if a first log can't be made; ForkedProcess in a
        child of the process that loaded the hooks.
        """
        from deid_hooks.access import Reader

        if self.settings.require_reason and not reason.strip():
            raise SettingsError("The settings require a reason: hooks.reading(reason=...)")
        return Reader(self.gate.open_log(), reason)

    def init(self) -> None:
        """Make the site secret and the store where there are none. Changes nothing that exists.

        Raises SettingsError or LogUnavailable.
        """
        self.gate.begin_log()

    def check(self) -> None:
        """Return if an upload could be logged now; raise LogUnavailable or SettingsError if not.

        Call it before a file is touched.
        """
        self.gate.check()

    def register(self, plugin: object, name: str) -> None:
        """Add a plugin of the uploader's own, verified like any other, or raise PluginError."""
        register(self.gate.plugins, plugin, name)

    def acquisition(self, project: str = "") -> Acquisition:
        """Open an acquisition; its ``log_id`` exists from here. A context manager.

        Opens the log, and raises what :meth:`reading` raises.
        """
        from deid_hooks.acquisition import Acquisition  # it imports pydicom

        return Acquisition(self.gate, project, self.uploader)

    def uploading(self, log_id: str, destination: str) -> Upload:
        """Clear an acquisition to be sent, and take reports of what was delivered.

        Takes only the id: in another process, another hour, more than once. Entering raises
        UploadRefused with every reason. ``destination`` is the name that the log records; never
        put a password there.
        """
        from deid_hooks.acquisition import Upload

        return Upload(self.gate, make_pre_upload(PreUpload(log_id, destination, self.uploader)))

    def outcome(self, log_id: str, destination: str) -> str | None:
        """Return what the log knows of this acquisition at this destination.

        ``uploaded``, ``partial``, ``failed``, ``pending``, ``withdrawn`` (deleted there: not to be
        sent again unasked), or None if it was never cleared there. Raises LogUnavailable.
        """
        return self.gate.open_log().outcome(parse_log_id(log_id) or "", mask_passwords(destination))

    def is_behind_service(self) -> bool:
        """Return whether a service holds the keys of the log, makes the labels and compares them.

        Opens the log, and raises what :meth:`reading` raises.
        """
        return self.gate.open_log().remote is not None

    def subject(self, project: str, patient_id: str, issuer: str = "") -> str | None:
        """Return the label that a patient has in this project, given on any machine of this log.

        None if the log knows no label, or one that reveals the PatientID, as after an engine that
        kept it: nobody may be sent under that again. A service that holds the keys answers with the
        label to be, too. Raises LogUnavailable, or NotAllowed where the token may not ask.
        """
        return self.gate.open_log().find_label(project, patient_id, issuer)

    def pseudonyms(
        self, project: str, labels: Mapping[tuple[str, str], str] | None = None
    ) -> Pseudonyms:
        """Return what engines make stable pseudonyms and UIDs with, different in each project.

        They are those that the project began with, whatever keys were rotated since. ``labels``
        maps (PatientID, IssuerOfPatientID) to labels that are given already. Without it the log is
        asked for each patient's, once; sent to another process, they are those asked for until
        then. Raises LogUnavailable.
        """
        if labels is None:
            labels = AskedLabels(lambda *identity: self.subject(project, *identity))
        return self.gate.open_log().make_pseudonyms(project, labels)

    def close(self) -> None:
        """Close the log. Idempotent, never raises. A forked child leaves it to its parent."""
        self.gate.close()

    def __enter__(self) -> DeidHooks:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
