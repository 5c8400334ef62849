"""The destination ``dicomweb+https://host:port/path``: STOW-RS (PS3.18, section 10.5).

Credentials come from DICOMWEB_TOKEN, from DICOMWEB_USERNAME and DICOMWEB_PASSWORD, or from the
user's ``.netrc``; never from the URL, which is in the log.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from pydicom import dcmread
from pydicom.dataset import Dataset

from deid_hooks import SettingsError
from deid_hooks.destinations import (
    FINISH,
    Delivery,
    DestinationError,
    Outgoing,
    find_known,
    is_host,
    is_loopback,
)

_TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two bytes of an answer
_MOST_FILES, _MOST_BYTES = 50, 64 << 20  # in one request, which is in memory whole
_DUPLICATE = 0x0111
_NO_ANSWER = "gave no answer, it may be there"


class Web:
    """The archive of a URL. SettingsError if it isn't one, or dicomweb-client isn't installed."""

    def __init__(self, url: str) -> None:
        try:
            import requests
            from dicomweb_client.api import DICOMwebClient
        except ImportError:
            raise SettingsError(
                "Sending to dicomweb: needs dicomweb-client: pip install 'deid-hooks[dicomweb]'"
            ) from None
        self._failures: Any = requests.RequestException
        plain = _check_url(url.removeprefix("dicomweb+"))
        self.name = f"dicomweb+{plain}"
        self._session = requests.Session()
        self._session.max_redirects = 0  # or images would go where the log doesn't say
        self._session.hooks["response"].append(_strip_parameters)
        if token := os.environ.get("DICOMWEB_TOKEN", "").strip():
            self._session.auth = _Bearer(token)
        elif user := os.environ.get("DICOMWEB_USERNAME"):
            self._session.auth = (user, os.environ.get("DICOMWEB_PASSWORD", ""))
        self._client = DICOMwebClient(plain, session=self._session, timeout=_TIMEOUT)
        self._client.set_http_retry_params(retry=False)

    def check(self) -> None:
        """Search for one study, which needs the same way, and the same rights, as what follows."""
        try:
            self._client.search_for_studies(limit=1)
        except self._failures as error:
            code = _find_code(error)
            if code in (401, 403):
                raise DestinationError(
                    f"the archive {self.name} answers {code}",
                    "give DICOMWEB_TOKEN, DICOMWEB_USERNAME and DICOMWEB_PASSWORD, or a .netrc",
                ) from None
            if code in range(300, 400):
                raise DestinationError(
                    f"the archive {self.name} redirects to another address",
                    "name that one, if it is the archive's: the log has to hold it",
                ) from None
            if code is None or code >= 500:
                raise self._explain(error) from None
            # It answers, and need not know how to search.
        except Exception as error:  # noqa: BLE001 - a name or a token that can't be one; nonsense
            raise self._explain(error) from None

    def deliver(self, files: Sequence[Outgoing], tried_before: bool) -> list[Delivery]:
        found = find_known(files, self._find(files) if tried_before else ())
        rest = [at for at in range(len(files)) if at not in found]
        for batch in _split(files, rest):
            found |= zip(batch, self._store([files[at] for at in batch]), strict=True)
        return [found[at] for at in range(len(files))]

    def _store(self, files: Sequence[Outgoing]) -> list[Delivery]:
        datasets = [dcmread(file.path) for file in files]
        try:
            stored, refused = self._send(datasets)
        except self._failures as error:
            code = _find_code(error)
            silent = "can't be reached" if _is_never_connected(error) else _NO_ANSWER
            reason = f"answers {code}" if code else silent
            return [Delivery("failed", f"{self.name} {reason}; {FINISH}")] * len(files)
        except Exception as error:  # noqa: BLE001 - an answer that can't be understood
            reason = f"gave an answer that makes no sense ({type(error).__name__})"
            return [Delivery("failed", f"{self.name} {reason}; {FINISH}")] * len(files)
        return [self._read_outcome(file.sop_uid, stored, refused) for file in files]

    def _send(self, datasets: Sequence[Dataset]) -> tuple[dict[str, int], dict[str, int]]:
        """Send the datasets, and return which of them the archive reports stored, and refused."""
        try:
            answer = self._client.store_instances(datasets)
        except self._failures as error:
            refusal = _read_refusal(error)
            if refusal is None:
                raise
            answer = refusal
        return (
            _read_codes(answer, "ReferencedSOPSequence", "WarningReason"),
            _read_codes(answer, "FailedSOPSequence", "FailureReason"),
        )

    def _read_outcome(self, uid: str, stored: dict[str, int], refused: dict[str, int]) -> Delivery:
        if refused.get(uid) == _DUPLICATE:
            return Delivery("already there")
        if uid in refused:
            return Delivery("failed", f"{self.name} refused it with the reason {refused[uid]:04X}")
        if uid not in stored:
            return Delivery("failed", f"{self.name} did not report what became of it; {FINISH}")
        code = stored[uid]
        return Delivery(
            "uploaded", f"{self.name} took it with the warning {code:04X}" if code else ""
        )

    def _find(self, files: Sequence[Outgoing]) -> set[str]:
        """Return the SOP Instance UIDs that a QIDO-RS search finds; none if it can't be asked."""
        there: set[str] = set()
        for study_uid, series_uid in {(file.study_uid, file.series_uid) for file in files}:
            with suppress(Exception):  # an answer that makes no sense; what came before it counts
                for uid in self._search(study_uid, series_uid):
                    there.add(uid)
        return there

    def _search(self, study_uid: str, series_uid: str) -> Iterator[str]:
        """Yield the SOP Instance UIDs of a series, as long as a page of answers holds a new one.

        An archive that doesn't know ``offset`` answers with the same page for ever.
        """
        seen: set[str] = set()
        answered = 0
        while True:
            found = self._client.search_for_instances(study_uid, series_uid, offset=answered)
            uids = {str(instance["00080018"]["Value"][0]) for instance in found} - seen
            if not uids:
                return
            yield from uids
            seen |= uids
            answered += len(found)

    def _explain(self, error: Exception) -> DestinationError:
        code = _find_code(error)
        cause = f"answers {code}" if code else f"can't be reached ({type(error).__name__})"
        return DestinationError(f"the archive {self.name} {cause}", f"see that it runs; {FINISH}")


class _Bearer:
    """A token as ``requests`` asks for it; a header alone would give way to a .netrc."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _strip_parameters(response: Any, **_: Any) -> None:
    """Strip the media type of parameters: the library takes none with ``; charset=utf-8``."""
    media_type = response.headers.get("Content-Type", "")
    response.headers["Content-Type"] = media_type.partition(";")[0].strip().lower()


def _check_url(url: str) -> str:
    try:
        split = urlsplit(url)
        usable = is_host(split.hostname) and split.port != 0
    except ValueError:
        usable = False
    insecure = split.query == "insecure=yes"
    if not usable or (split.query and not insecure) or split.fragment:
        raise SettingsError("A DICOMweb archive is named as dicomweb+https://host:port/path.")
    if split.username or split.password:
        raise SettingsError(
            "The name of a DICOMweb archive is kept in the log: give credentials by DICOMWEB_TOKEN,"
            " DICOMWEB_USERNAME and DICOMWEB_PASSWORD, or a .netrc."
        )
    if split.scheme == "http" and not insecure and not is_loopback(split.hostname or ""):
        raise SettingsError(
            "Beyond this machine images go to a DICOMweb archive over TLS: write dicomweb+https://."
            " ?insecure=yes sends them readable to whoever is on the network."
        )
    return url.removesuffix("?insecure=yes").rstrip("/")


def _split(files: Sequence[Outgoing], places: Sequence[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    size = 0
    for at in places:
        length = files[at].path.stat().st_size
        if batch and (len(batch) == _MOST_FILES or size + length > _MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(at)
        size += length
    if batch:
        yield batch


def _read_codes(answer: Dataset, sequence: str, reason: str) -> dict[str, int]:
    """Return the code that came with each UID, 0 for none (PS3.18, table 10.5.3-1)."""
    return {
        str(item.get("ReferencedSOPInstanceUID", "")): int(item.get(reason) or 0)
        for item in answer.get(sequence) or ()
    }


def _read_refusal(error: Any) -> Dataset | None:
    """Return what a refusal (409 above all) holds of each instance."""
    with suppress(Exception):
        answer = Dataset.from_json(error.response.json())
        if "FailedSOPSequence" in answer or "ReferencedSOPSequence" in answer:
            return answer
    return None


def _is_never_connected(error: Any) -> bool:
    """Return whether there was no connection, so that nothing can have arrived."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    reason = getattr(next(iter(error.args), None), "reason", None)
    return isinstance(reason, NewConnectionError | ConnectTimeoutError)


def _find_code(error: Any) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
