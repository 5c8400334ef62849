"""The destination ``dicom://AET@host:port``: C-STORE to an archive (PS3.4, annex B).

Options stand behind a question mark: ``calling=AET`` for our own title, ``tls=yes``, and with it
``ca=PATH``, ``cert=PATH`` and ``key=PATH`` for certificates of one's own; ``timeout=SECONDS`` for
an archive that takes long to answer.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from pydicom import dcmread
from pydicom.dataset import Dataset

from deid_hooks import SettingsError
from deid_hooks.uploader.destinations import (
    Delivery,
    DestinationError,
    Outgoing,
    known_already,
)

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.events import Event

_CALLING = "DEID-HOOKS"
_TITLE = re.compile(r"[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?")  # PS3.5, table 6.2-1, AE
_OPTIONS = {"calling", "tls", "ca", "cert", "key", "timeout"}
_SECONDS = 30.0
_MOST_CONTEXTS = 126  # 128 in an association (PS3.8, section 9.3.2), less those for verification
_DUPLICATE = 0x0111
_WARNINGS = range(0xB000, 0xC000)
_FINISH = "run it again: what has arrived is not sent twice"


class Archive:
    """The archive of a URL. One association for each acquisition, every wait bounded.

    SettingsError for a URL that isn't one, or if pynetdicom isn't installed.
    """

    def __init__(self, url: str) -> None:
        try:
            import pynetdicom
        except ImportError:
            raise SettingsError(
                "Sending to dicom: needs pynetdicom: pip install 'deid-hooks[dicom]'"
            ) from None
        pynetdicom._config.STORE_SEND_CHUNKED_DATASET = True  # a file goes out as it lies there
        self._called, self._host, self._port, options = _parts(url)
        self.name = f"dicom://{self._called}@{self._host}:{self._port}"
        self._tls = _tls(options, self._host)
        self._entity = pynetdicom.AE(options.get("calling", _CALLING))
        self._seconds = _seconds(options)
        self._entity.connection_timeout = self._entity.acse_timeout = self._seconds
        self._entity.dimse_timeout = self._entity.network_timeout = self._seconds

    def check(self) -> None:
        """C-ECHO (PS3.4, annex A)."""
        from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

        with self._association([(Verification, None)]) as association:
            if _code(association.send_c_echo()) != 0:
                raise DestinationError(f"{self.name} does not answer a C-ECHO", "look at its log")

    def deliver(self, files: Sequence[Outgoing], tried_before: bool) -> list[Delivery]:
        found = known_already(files, self._found(files) if tried_before else ())
        kinds = {at: _kind_of(file) for at, file in enumerate(files) if at not in found}
        for some in _batches(sorted(set(kinds.values()))):
            with self._association(some) as association:
                for at in (at for at, kind in kinds.items() if kind in some):
                    found[at] = self._store(association, files[at], kinds[at])
        return [found[at] for at in range(len(files))]

    def _store(self, association: Association, file: Outgoing, kind: tuple[str, str]) -> Delivery:
        if not any(
            context.abstract_syntax == kind[0] and kind[1] in context.transfer_syntax
            for context in association.accepted_contexts
        ):
            return Delivery(
                "failed", f"{self.name} takes no {_name(kind[0])} in the syntax {_name(kind[1])}"
            )
        if not association.is_established:
            return Delivery("failed", f"the association with {self.name} was lost; {_FINISH}")
        try:
            code = _code(association.send_c_store(file.path))
        except (RuntimeError, ValueError, OSError, AttributeError) as error:
            return Delivery("failed", f"it could not be sent: {type(error).__name__}")
        if code is None:
            return Delivery("failed", f"{self.name} gave no answer, it may be there; {_FINISH}")
        if code == _DUPLICATE:
            return Delivery("already there")
        if code == 0:
            return Delivery("uploaded")
        if code in _WARNINGS:
            return Delivery("uploaded", f"{self.name} took it with the warning {code:04X}")
        return Delivery("failed", f"{self.name} refused it with the status {code:04X}")

    def _found(self, files: Sequence[Outgoing]) -> set[str]:
        """SOP Instance UIDs that a C-FIND tells of; none if the archive can't be asked."""
        from pynetdicom.sop_class import (  # type: ignore[attr-defined]
            StudyRootQueryRetrieveInformationModelFind as FIND,
        )

        there: set[str] = set()
        series = {(file.study_uid, file.series_uid) for file in files}
        with suppress(DestinationError), self._association([(FIND, None)]) as association:
            for study_uid, series_uid in series:
                asked = Dataset()
                asked.QueryRetrieveLevel = "IMAGE"
                asked.StudyInstanceUID, asked.SeriesInstanceUID = study_uid, series_uid
                asked.SOPInstanceUID = ""
                with suppress(RuntimeError, ValueError):  # no context for it, or it was lost
                    for status, answer in association.send_c_find(asked, FIND):
                        if _code(status) in (0xFF00, 0xFF01) and answer is not None:
                            there.add(str(answer.get("SOPInstanceUID", "")))
        return there

    @contextmanager
    def _association(self, kinds: Sequence[tuple[str, str | None]]) -> Iterator[Association]:
        from pynetdicom import build_context, evt

        contexts = [build_context(kind, syntax) for kind, syntax in kinds]
        association = self._entity.associate(
            self._host,
            self._port,
            contexts=contexts,
            ae_title=self._called,
            tls_args=self._tls,
            evt_handlers=[(evt.EVT_CONN_OPEN, _tune, [self._seconds])],
        )
        try:
            if association.is_rejected:
                raise DestinationError(
                    f"{self.name} rejected the association",
                    f"look whether it knows this machine as {self._entity.ae_title}",
                )
            if not association.is_established and not association.acceptor.primitive:
                raise DestinationError(
                    f"{self.name} can't be reached", f"see that it runs; {_FINISH}"
                )
            yield association
        finally:
            if association.is_established:
                association.release()
            else:
                association.abort()


def _parts(url: str) -> tuple[str, str, int, dict[str, str]]:
    malformed = SettingsError("A DICOM archive is named as dicom://AET@host:port, with a port.")
    try:
        split = urlsplit(url)
        title, host, port = split.username or "", split.hostname or "", split.port
        pairs = parse_qsl(split.query, keep_blank_values=True, strict_parsing=bool(split.query))
    except ValueError:
        raise malformed from None
    options = dict(pairs)
    if split.password or split.path.strip("/") or not (host and port):
        raise malformed
    if not _TITLE.fullmatch(title):
        raise malformed
    if unknown := set(options) - _OPTIONS:
        known = ", ".join(sorted(_OPTIONS))
        raise SettingsError(f"Unknown option {min(unknown)} of a DICOM archive. Known: {known}.")
    if not _TITLE.fullmatch(options.get("calling", _CALLING)):
        raise SettingsError("calling= wants an application entity title of 1 to 16 characters.")
    return title, host, port, options


def _seconds(options: dict[str, str]) -> float:
    try:
        seconds = float(options.get("timeout", _SECONDS))
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 3600:
        raise SettingsError("timeout= wants a number of seconds.")
    return seconds


def _tls(options: dict[str, str], host: str) -> tuple[ssl.SSLContext, str] | None:
    if options.get("tls", "no") not in ("yes", "no"):
        raise SettingsError("tls= wants yes or no.")
    if options.get("tls") != "yes":
        if {"ca", "cert", "key"} & set(options):
            raise SettingsError("Certificates are for tls=yes.")
        return None
    try:
        context = ssl.create_default_context(cafile=options.get("ca"))
        if "cert" in options:
            context.load_cert_chain(options["cert"], options.get("key"))
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"The certificates of the DICOM archive can't be read: {type(error).__name__}."
        ) from None
    return context, host


def _tune(event: Event, seconds: float) -> None:
    """No waiting for more to send (90 ms a file), and none for a receiver that stopped reading."""
    connection: Any = event.assoc.dul.socket
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.socket.settimeout(seconds)


def _kind_of(file: Outgoing) -> tuple[str, str]:
    """SOP class and transfer syntax, as the file lies there."""
    dataset = dcmread(file.path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
    return str(dataset.SOPClassUID), str(dataset.file_meta.TransferSyntaxUID)


def _batches(kinds: Sequence[tuple[str, str]]) -> Iterator[Sequence[tuple[str, str]]]:
    return (kinds[at : at + _MOST_CONTEXTS] for at in range(0, len(kinds), _MOST_CONTEXTS))


def _code(status: Dataset) -> int | None:
    """The status (PS3.7, annex C); None for silence."""
    return int(status.Status) if "Status" in status else None


def _name(uid: str) -> str:
    from pydicom.uid import UID

    return UID(uid).name
