"""Opening the log of the settings, and serving it until the process is told to stop."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from deid_hooks.errors import SettingsError
from deid_hooks.log import make_backend, open_log
from deid_hooks.settings import Settings
from deid_hooks_service.app import application
from deid_hooks_service.flywheel_users import FlywheelUsers
from deid_hooks_service.observing import log_to_stderr
from deid_hooks_service.senders import Senders
from deid_hooks_service.service import Service
from deid_hooks_service.tokens import Tokens

log = logging.getLogger("deid_hooks_service")


@dataclass(frozen=True)
class Listening:
    """Where to listen, with which certificate, and whose tokens to take."""

    host: str
    port: int
    tokens: Path
    certificate: Path | None = None
    key: Path | None = None
    plain: bool = False
    flywheel_site: str = ""


def serve(settings: Settings, listening: Listening) -> None:
    """Serve the log until SIGTERM or SIGINT; then finish what was accepted.

    Raises SettingsError for what can't be served.
    """
    refuse_unsafe(listening)
    log_to_stderr()
    backend = make_backend(settings.url)
    if not backend.records:
        raise SettingsError("Logging is switched off (url none:): there is nothing to serve.")
    recorder = open_log(backend, settings)
    tokens = Tokens(listening.tokens)
    if not tokens.all() and not listening.flywheel_site:
        log.warning("There are no tokens yet: deid-hooks-service token add NAME --role upload")
    users = FlywheelUsers(listening.flywheel_site) if listening.flywheel_site else None
    service = Service(recorder, Senders(tokens, users))
    uvicorn.run(
        application(service),
        host=listening.host,
        port=listening.port,
        ssl_certfile=listening.certificate,
        ssl_keyfile=listening.key,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=int(settings.deadline) + 1,
    )


def refuse_unsafe(listening: Listening) -> None:
    """Raise SettingsError for plain HTTP that leaves the machine, unless that is insisted on."""
    if (listening.certificate is None) != (listening.key is None):
        raise SettingsError("TLS needs both --tls-certificate and --tls-key.")
    for path in (listening.certificate, listening.key):
        if path is not None and not path.is_file():
            raise SettingsError(f"There is no file {path}.")
    if listening.certificate is None and not _is_loopback(listening.host) and not listening.plain:
        raise SettingsError(
            f"Plain HTTP on {listening.host} would send originals and tokens readable over the"
            " network. Give --tls-certificate and --tls-key, or listen on 127.0.0.1 behind a proxy"
            " that does TLS; --plain-http insists."
        )
    if listening.flywheel_site and not listening.flywheel_site.startswith(("https://", "http://")):
        raise SettingsError("--flywheel-site must be a URL, https://...")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
