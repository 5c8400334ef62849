"""The address of a DICOM archive, ``dicom://AET@host:port``, and the options behind it.

``calling=AET`` is our own title, ``tls=yes`` switches to TLS, and with it ``ca=PATH``,
``cert=PATH`` and ``key=PATH`` name certificates of one's own; ``timeout=SECONDS`` is for an
archive that takes long to answer.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from deid_hooks import SettingsError

_CALLING = "DEID-HOOKS"
_TITLE = re.compile(r"[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?")  # PS3.5, table 6.2-1, AE
_OPTIONS = {"calling", "tls", "ca", "cert", "key", "timeout"}
_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where an archive is, and how it is spoken to. ``name`` is without the options."""

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


def address_of(url: str) -> Address:
    """Raises SettingsError for a URL that isn't one, and for certificates that can't be read."""
    malformed = SettingsError("A DICOM archive is named as dicom://AET@host:port, with a port.")
    try:
        split = urlsplit(url)
        called, host, port = split.username or "", split.hostname or "", split.port
        pairs = parse_qsl(split.query, keep_blank_values=True, strict_parsing=bool(split.query))
    except ValueError:
        raise malformed from None
    if split.password or split.path.strip("/") or not (host and port):
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
    return Address(called, calling, host, port, _seconds(options), _tls(options))


def _seconds(options: dict[str, str]) -> float:
    try:
        seconds = float(options.get("timeout", _SECONDS))
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 3600:
        raise SettingsError("timeout= wants a number of seconds.")
    return seconds


def _tls(options: dict[str, str]) -> ssl.SSLContext | None:
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
