"""The destination ``dicom://AET@host:port``: C-STORE to an archive (PS3.4, annex B)."""

from __future__ import annotations

import logging
import re
import socket
import ssl
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from deid_hooks import SettingsError
from deid_hooks.batches import split_batches
from deid_hooks.destinations import (
    FINISH,
    Delivery,
    DestinationError,
    Outgoing,
    find_known,
    is_host,
    is_loopback,
)
from deid_hooks.dicom.dictionary import SOP_INSTANCE_UID

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.events import Event

_DUPLICATE = 0x0111
_MOST_IDS = 0xFFFF  # of messages, PS3.7, section 9.3.1.1
_WARNINGS = range(0xB000, 0xC000)
_MOST_BROKEN = 2
"""Files running at each of which an association is lost, before the archive is given up."""


class Archive:
    """The archive of a URL. One association for each acquisition, unless it is lost; every wait is
    bounded.

    SettingsError for a URL that isn't one, or if pynetdicom isn't installed.
    """

    def __init__(self, url: str) -> None:
        try:
            import pynetdicom
        except ImportError:
            raise SettingsError(
                "Sending to dicom: needs pynetdicom: pip install 'deid-hooks[dicom]'"
            ) from None
        # A file goes out as it lies there.
        pynetdicom._config.STORE_SEND_CHUNKED_DATASET = True  # noqa: SLF001 - its page names it
        # It prints tracebacks of what is explained here in words.
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
        self._address = parse_address(url)
        self.name = self._address.name
        self._entity = pynetdicom.AE(self._address.calling)
        self._asked = 0
        self._answers: deque[int] = deque()
        seconds = self._address.seconds
        self._entity.connection_timeout = self._entity.acse_timeout = seconds
        self._entity.dimse_timeout = self._entity.network_timeout = seconds

    def check(self) -> None:
        """Send a C-ECHO (PS3.4, annex A)."""
        from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

        with self._association([(Verification, None)]) as association:
            if not association.is_established or _code(association.send_c_echo()) != 0:
                raise DestinationError(
                    f"the archive {self.name} does not answer a C-ECHO", "read its log"
                )

    def deliver(self, files: Sequence[Outgoing], tried_before: bool) -> list[Delivery]:
        found = find_known(files, self._find(files) if tried_before else ())
        kinds: dict[int, Kind] = {}
        for at in (at for at in range(len(files)) if at not in found):
            if kind := read_kind(files[at]):
                kinds[at] = kind
            else:
                found[at] = Delivery(
                    "failed", "it does not say its SOP class and transfer syntax, as C-STORE needs"
                )
        for some in split_batches(sorted(set(kinds.values())), _MOST_KINDS):
            batch = {at: kind for at, kind in kinds.items() if kind in some}
            found |= self._deliver_batch(files, batch)
        return [found[at] for at in range(len(files))]

    def _deliver_batch(
        self, files: Sequence[Outgoing], kinds: Mapping[int, Kind]
    ) -> dict[int, Delivery]:
        """Store files; where an association is lost, the next ones go in another.

        The file at which it was lost is tried alone. Where that breaks twice running it is the
        archive, not the file, and the rest is left to another run.
        """
        found: dict[int, Delivery] = {}
        waiting = deque(kinds)
        broken = 0
        contexts = list_contexts(kinds.values())
        try:
            while waiting and broken < _MOST_BROKEN:
                at = waiting[0]
                with self._association(contexts) as association:
                    while waiting and (association.is_established or at == waiting[0]):
                        at = waiting.popleft()
                        found[at] = self._store(association, files[at], kinds[at])
                    lost = not association.is_established
                if lost and found[at].status == "failed":
                    found[at] = self._store_alone(files[at], kinds[at])
                    broken = broken + 1 if found[at].status == "failed" else 0
        except DestinationError as error:
            return found | dict.fromkeys(waiting, Delivery("failed", str(error)))
        lost_too = Delivery("failed", f"the association with {self.name} was lost; {FINISH}")
        return found | dict.fromkeys(waiting, lost_too)

    def _store_alone(self, file: Outgoing, kind: Kind) -> Delivery:
        """Store a file in an association of its own."""
        try:
            with self._association(list_contexts([kind])) as association:
                delivery = self._store(association, file, kind)
        except DestinationError as error:
            return Delivery("failed", str(error))
        if delivery.status == "failed":
            return Delivery("failed", f"{delivery.reason} (tried in an association of its own)")
        return delivery

    def _store(self, association: Association, file: Outgoing, kind: Kind) -> Delivery:
        accepted = {
            (c.abstract_syntax, c.transfer_syntax[0]) for c in association.accepted_contexts
        }
        if accepted.isdisjoint(list_contexts([kind])):
            syntax = UID(kind.syntax).name
            return Delivery(
                "failed", f"{self.name} takes no {UID(kind.sop_class).name} in the syntax {syntax}"
            )
        if not association.is_established:
            return Delivery("failed", f"the association with {self.name} was lost; {FINISH}")
        as_it_lies = kind.as_it_lies and (kind.sop_class, kind.syntax) in accepted
        self._asked = self._asked % _MOST_IDS + 1
        try:
            sent = file.path if as_it_lies else dcmread(file.path)
            answer = association.send_c_store(sent, msg_id=self._asked)
        except Exception as error:  # noqa: BLE001 - what a file does to pydicom, or the network
            return Delivery("failed", f"it could not be sent: {type(error).__name__}")
        code = _code(answer)
        if code is not None and self._answers.popleft() != self._asked:
            code = None
        if code is None:
            if association.is_established:
                association.abort()  # what comes now can't be told apart
            return Delivery("failed", f"{self.name} gave no answer, it may be there; {FINISH}")
        if code == _DUPLICATE:
            return Delivery("already there")
        if code == 0:
            return Delivery("uploaded")
        if code in _WARNINGS:
            return Delivery("uploaded", f"{self.name} took it with the warning {code:04X}")
        return Delivery("failed", f"{self.name} refused it with the status {code:04X}")

    def _find(self, files: Sequence[Outgoing]) -> set[str]:
        """Return the SOP Instance UIDs that a C-FIND finds; none if the archive can't be asked."""
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
    def _association(self, kinds: Iterable[tuple[str, str | None]]) -> Iterator[Association]:
        from pynetdicom import build_context, evt

        address = self._address
        self._answers.clear()
        try:
            association = self._entity.associate(
                address.host,
                address.port,
                contexts=[build_context(kind, syntax) for kind, syntax in kinds],
                ae_title=address.called,
                tls_args=(address.tls, address.host) if address.tls else None,
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, _tune, [address.seconds]),
                    (evt.EVT_DIMSE_RECV, _note, [self._answers]),
                ],
            )
        except (OSError, ValueError) as error:
            raise DestinationError(
                f"the archive {self.name} can't be reached ({type(error).__name__})"
            ) from None
        try:
            if association.is_rejected:
                raise DestinationError(
                    f"the archive {self.name} rejected the association",
                    f"see whether it knows this machine as {address.calling}",
                )
            if not association.is_established and not association.acceptor.primitive:
                trust = ", and that each side knows the other's certificate" if address.tls else ""
                raise DestinationError(
                    f"the archive {self.name} can't be reached",
                    f"see that it runs{trust}; {FINISH}",
                )
            yield association
        finally:
            if association.is_established:
                association.release()
            else:
                association.abort()


def _tune(event: Event, seconds: float) -> None:
    """Don't wait for more to send (90 ms a file), nor for a receiver that stopped reading."""
    connection: Any = event.assoc.dul.socket
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.socket.settimeout(seconds)


def _note(event: Event, answers: deque[int]) -> None:
    """Note to which message an answer belongs: an archive that answers twice is a file ahead."""
    answers.append(int(event.message.command_set.get("MessageIDBeingRespondedTo", 0)))


def _code(status: Dataset) -> int | None:
    """Return the status (PS3.7, annex C); None without an answer."""
    return int(status.Status) if "Status" in status else None


_CALLING = "DEID-HOOKS"
_TITLE = re.compile(r"[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?")  # PS3.5, table 6.2-1, AE
_OPTIONS = {"calling", "tls", "ca", "cert", "key", "timeout", "insecure"}
_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where an archive is, and how it is reached. ``name`` is without the options."""

    called: str
    calling: str
    host: str
    port: int
    seconds: float
    tls: ssl.SSLContext | None

    @property
    def name(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"dicom://{self.called}@{host}:{self.port}"


def parse_address(url: str) -> Address:
    """Parse a URL.

    Raises SettingsError if it isn't one, if certificates can't be read, or if it leads beyond this
    machine and asks for neither TLS nor the lack of it.
    """
    malformed = SettingsError("A DICOM archive is named as dicom://AET@host:port, with a port.")
    try:
        split = urlsplit(url)
        called, host, port = split.username or "", split.hostname or "", split.port
        pairs = parse_qsl(split.query, keep_blank_values=True, strict_parsing=bool(split.query))
    except ValueError:
        raise malformed from None
    if split.password or split.path.strip("/") or not (is_host(host) and port):
        raise malformed
    if not _TITLE.fullmatch(called):
        raise malformed
    options = dict(pairs)
    if unknown := set(options) - _OPTIONS:
        known = ", ".join(sorted(_OPTIONS))
        raise SettingsError(f"Unknown option {min(unknown)} of a DICOM archive. Known: {known}.")
    calling = options.get("calling", _CALLING)
    if not _TITLE.fullmatch(calling):
        raise SettingsError("calling= wants an application entity title of 1 to 16 characters.")
    tls = _load_tls(options)
    if tls is None and options.get("insecure") != "yes" and not is_loopback(host):
        raise SettingsError(
            "Beyond this machine images go to a DICOM archive over TLS: write ?tls=yes behind it."
            " ?insecure=yes sends them readable to whoever is on the network."
        )
    return Address(called, calling, host, port, _parse_seconds(options), tls)


def _parse_seconds(options: dict[str, str]) -> float:
    try:
        seconds = float(options.get("timeout", _SECONDS))
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 3600:
        raise SettingsError("timeout= wants a number of seconds.")
    return seconds


def _load_tls(options: dict[str, str]) -> ssl.SSLContext | None:
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
    return context


_MOST_KINDS = 63  # 128 contexts in an association (PS3.8, section 9.3.2), at most two for a kind
_LONGEST_UID = 64  # PS3.5, section 9.1


class Kind(NamedTuple):
    """What has to be negotiated for a file.

    ``as_it_lies``: its file meta information agrees with its dataset, so that it can be sent
    without being decoded.
    """

    sop_class: str
    syntax: str
    as_it_lies: bool


def read_kind(file: Outgoing) -> Kind | None:
    """Return what a file is; None if it has no UIDs that can be proposed."""
    with file.path.open("rb") as staged:
        dataset = read_partial(staged, stop_when=lambda tag, vr, length: tag > SOP_INSTANCE_UID)
    meta = dataset.file_meta
    sop_class = dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
    syntax = meta.get("TransferSyntaxUID")
    if not (sop_class and syntax) or max(len(str(sop_class)), len(str(syntax))) > _LONGEST_UID:
        return None
    uids = (meta.get("MediaStorageSOPClassUID"), meta.get("MediaStorageSOPInstanceUID"))
    return Kind(str(sop_class), str(syntax), uids == (sop_class, file.sop_uid))


def list_contexts(kinds: Iterable[Kind]) -> list[tuple[str, str | None]]:
    """Return what to propose: files as they are, and what every archive takes (PS3.5, 10.1)."""
    proposed: set[tuple[str, str | None]] = {(kind.sop_class, kind.syntax) for kind in kinds}
    plain = {
        (kind, ImplicitVRLittleEndian) for kind, of in proposed if of == ExplicitVRLittleEndian
    }
    return sorted(proposed | plain, key=str)
