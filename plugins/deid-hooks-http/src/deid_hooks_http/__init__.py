"""The log behind a service, as a backend: what each call asks, and what its answer must be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import httpx

from deid_hooks.backends import (
    WRONG_FORM,
    AccessRow,
    AppendUnknown,
    Deadline,
    Entry,
    Erasure,
    LogUnavailable,
    ObjectCodec,
    Page,
    Query,
    Receipt,
    Record,
    RemoteBackend,
    Seal,
    SettingsError,
    Tombstone,
    UploadEvent,
    decode_record,
    decode_text,
    encode_query,
    encode_record,
    encode_text,
)
from deid_hooks.destinations import is_loopback
from deid_hooks_http.exchange import AccessFile, Exchange, NotFound, NotWhole, read_access_file

R = TypeVar("R", bound=Record)

_FILE = "deidlog+file:"
_IDS_AT_ONCE = 500
_MOST_IDS = 10_000
_RECEIPT: ObjectCodec[Receipt] = ObjectCodec(Receipt)
_ERASURE: ObjectCodec[Erasure] = ObjectCodec(Erasure)


class HTTPBackend(RemoteBackend):
    """``deidlog+https://host:port``, or ``deidlog+http://`` on the same machine.

    Beyond it ``deidlog+http://`` has to say ``?insecure=true``. ``deidlog+file:/path`` names the
    file with address, certificate and token that the administrator of the service made. The token
    decides what its holder may do; NotAllowed says that something is not allowed. The service keeps
    the access trail: it writes a record before it answers anything identifying. It holds the keys,
    seals what it appends, and checks the entries and uploads that it answers.
    """

    def __init__(self, url: str) -> None:
        """Raises SettingsError for a URL with a password, without a host or TLS, or no file."""
        super().__init__(url)
        access: AccessFile | None = None
        if url.startswith(_FILE):
            path = Path(unquote(url.removeprefix(_FILE))).expanduser()
            if not path.is_absolute():  # or the folder that is worked in would choose the service
                raise SettingsError("Name the file behind deidlog+file: by its whole path.")
            access = read_access_file(path)
            url = access.url
        try:
            parts = urlsplit(url.removeprefix("deidlog+"))
            host = httpx.URL(f"http://{parts.netloc}").host.encode("idna")
            whole = bool(host) and parts.port != 0
        except (ValueError, httpx.InvalidURL):
            raise _make_no_url() from None
        insecure = parts.query == "insecure=true"
        if parts.username is not None or (parts.query and not insecure) or parts.fragment:
            raise SettingsError(
                "The URL of a log service holds no token: put it into DEID_HOOKS_TOKEN or a file."
            )
        if not whole:
            raise _make_no_url()
        if parts.scheme == "http" and not insecure and not is_loopback(parts.hostname or ""):
            raise SettingsError(
                "Plain HTTP would send originals and the token readable over the network. Write"
                " deidlog+https://; ?insecure=true behind the URL insists."
            )
        base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/v1"
        self._exchange = Exchange(base, access)

    def create(self, deadline: Deadline) -> None:
        _require_done(self._exchange.ask(deadline, "PUT", "/store"))

    def check(self, deadline: Deadline) -> None:
        _read_text(self._exchange.ask(deadline, "GET", "/check"), "key")

    def append(self, records: Sequence[Record], seal: Seal, deadline: Deadline) -> None:
        """Send the records; the service seals them, and adds an access row in its own words."""
        if not records:
            return
        if len(records) == 1 and isinstance(records[0], AccessRow):
            path, body = "/access", encode_record(records[0])
            expected: dict[str, Any] = {"done": True}
        else:
            path, body = "/records", {"records": [encode_record(record) for record in records]}
            written = dict.fromkeys(each.log_id for each in records if isinstance(each, Entry))
            expected = {"log_ids": list(written)}
        if self._exchange.ask(deadline, "POST", path, body, writes=True) != expected:
            error = NotWhole()
            cause = f"{error.cause}, and whether it was written is unknown"
            raise AppendUnknown(cause, error.remedy)

    def read(self, after: int, deadline: Deadline) -> Page:
        answer = self._exchange.ask(deadline, "GET", f"/records?after={after}")
        records = tuple(_read_list(answer, "records", Record))
        cursor = _read_text(answer, "cursor")
        if not (cursor.isascii() and cursor.isdigit()):
            raise _make_not_ours()
        seals = answer.get("seals")
        if not isinstance(seals, list) or not all(isinstance(each, str) for each in seals):
            raise _make_not_ours()
        return Page(records, tuple(seals), int(cursor))

    def erase(
        self, log_ids: Sequence[str], erasure: Erasure, seal: Seal, deadline: Deadline
    ) -> None:
        """Ask the service to erase; it seals the tombstones, and says who and when itself."""
        ids = [encode_text(log_id) for log_id in log_ids]
        body = {"log_ids": ids, **_ERASURE.encode(erasure)}
        _require_done(self._exchange.ask(deadline, "POST", "/erasures", body))

    def close(self) -> None:
        self._exchange.close()

    def resolve(self, log_id: str, deadline: Deadline) -> Entry | Receipt | Tombstone | None:
        return self._resolve(f"/entries/{quote(log_id, safe='')}", deadline)

    def _resolve(self, path: str, deadline: Deadline) -> Entry | Receipt | Tombstone | None:
        try:
            answer = self._exchange.ask(deadline, "GET", path)
        except NotFound:
            return None
        if "receipt" not in answer:
            found: Entry | Tombstone = _read_record(answer.get("record"), Entry | Tombstone)
            return found
        try:
            return _RECEIPT.decode(answer["receipt"])
        except WRONG_FORM:
            raise _make_not_ours() from None

    def entries(self, log_ids: Iterable[str], deadline: Deadline) -> Iterator[Entry]:
        ids = iter(log_ids)
        while some := [encode_text(log_id) for log_id in islice(ids, _IDS_AT_ONCE)]:
            yield from self._read_records(
                Deadline(deadline.seconds), "/entries", {"log_ids": some}, Entry
            )

    def find_equal(self, entry: Entry, deadline: Deadline) -> str | None:
        try:
            body = {"record": encode_record(entry)}
            return _read_text(self._exchange.ask(deadline, "POST", "/equal", body), "log_id")
        except NotFound:
            return None

    def fetch_receipt(self, log_id: str, deadline: Deadline) -> Receipt | Tombstone | None:
        found = self._resolve(f"/receipts/{quote(log_id, safe='')}", deadline)
        if isinstance(found, Entry):
            raise _make_not_ours()
        return found

    def find_label(self, project: str, patient_id: str, issuer: str, deadline: Deadline) -> str:
        texts = {"project": project, "patient_id": patient_id, "issuer": issuer}
        body = {name: encode_text(text) for name, text in texts.items()}
        return _read_text(self._exchange.ask(deadline, "POST", "/labels", body), "label")

    def derive_key(self, project: str, deadline: Deadline) -> bytes:
        answer = self._exchange.ask(deadline, "POST", "/keys", {"project": encode_text(project)})
        try:
            return bytes.fromhex(_read_text(answer, "key"))
        except ValueError:
            raise _make_not_ours() from None

    def block(
        self,
        patients: Sequence[tuple[str, str]],
        project: str,
        reason: str,
        lift: bool,
        deadline: Deadline,
    ) -> None:
        body = {
            "patients": [[encode_text(text) for text in patient] for patient in patients],
            "project": encode_text(project),
            "reason": encode_text(reason),
            "lift": lift,
        }
        _require_done(self._exchange.ask(deadline, "POST", "/blocks", body, writes=True))

    def search(self, query: Query, deadline: Deadline) -> Iterator[str]:
        body = {"query": encode_query(query)}
        for line in self._exchange.read_lines(deadline, "POST", "/search", body):
            yield _read_text(line, "log_id")

    def uploads(self, log_ids: Iterable[str] | None, deadline: Deadline) -> Iterator[UploadEvent]:
        wanted = None if log_ids is None else list(dict.fromkeys(log_ids))
        few = wanted is not None and len(wanted) <= _MOST_IDS
        body = {"log_ids": [encode_text(i) for i in wanted]} if few and wanted is not None else {}
        rest = None if few or wanted is None else frozenset(wanted)
        for event in self._read_records(deadline, "/uploads", body, UploadEvent):
            if rest is None or event.log_id in rest:
                yield event

    def trail(self, deadline: Deadline) -> Iterator[tuple[AccessRow, str]]:
        for line in self._exchange.read_lines(deadline, "GET", "/trail"):
            yield _read_record(line.get("record"), AccessRow), _read_text(line, "seal")

    def _read_records(
        self, deadline: Deadline, path: str, body: dict[str, Any], kind: type[R]
    ) -> Iterator[R]:
        for line in self._exchange.read_lines(deadline, "POST", path, body):
            yield _read_record(line.get("record"), kind)


def _read_record(document: Any, kind: Any) -> Any:
    """Return the record of this kind that ``document`` is; raise LogUnavailable otherwise."""
    try:
        record = decode_record(document)
    except ValueError:
        raise _make_not_ours() from None
    if not isinstance(record, kind):
        raise _make_not_ours()
    return record


def _read_list(answer: dict[str, Any], name: str, kind: Any) -> Iterator[Any]:
    """Yield the records of a member; raise LogUnavailable if it is no list of such records."""
    found = answer.get(name)
    if not isinstance(found, list):
        raise _make_not_ours()
    for document in found:
        yield _read_record(document, kind)


def _require_done(answer: dict[str, Any]) -> None:
    """Raise LogUnavailable unless the answer says that it is done: others may send any JSON."""
    if answer.get("done") is not True:
        raise _make_not_ours()


def _read_text(answer: dict[str, Any], name: str) -> str:
    try:
        return decode_text(answer[name])
    except WRONG_FORM:
        raise _make_not_ours() from None


def _make_no_url() -> SettingsError:
    return SettingsError("The URL of a log service is deidlog+https://HOST:PORT.")


def _make_not_ours() -> LogUnavailable:
    error = NotWhole()
    return LogUnavailable(error.cause, error.remedy)
