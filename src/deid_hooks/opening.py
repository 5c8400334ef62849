"""Opening the log that the settings name: its backend, the site secret, and a first beginning."""

from __future__ import annotations

import logging
from urllib.parse import unquote

from deid_hooks.backend import LogBackend
from deid_hooks.errors import DeidHooksError, PluginError, SettingsError
from deid_hooks.plugins import BACKENDS, installed, nearest
from deid_hooks.recorder import Recorder
from deid_hooks.secret import keep_secret, new_secret, read_secret
from deid_hooks.settings import Settings, masked

log = logging.getLogger("deid_hooks")


def backend_of(url: str) -> LogBackend:
    """The backend of a URL. Nothing is opened yet.

    Raises SettingsError if none is installed or it can't use the URL, PluginError if it can't be
    imported.
    """
    scheme, colon, _ = url.partition(":")
    known = installed(BACKENDS)
    if not colon or scheme not in known:
        raise SettingsError(
            f"No backend for {scheme!r} in the url of the log{nearest(scheme, known)}."
            f" Installed are {', '.join(known)}."
        )
    backend_class = known[scheme].load()
    if not (isinstance(backend_class, type) and issubclass(backend_class, LogBackend)):
        raise PluginError(f"The backend {known[scheme]} is not a subclass of LogBackend.")
    try:
        return backend_class(url)
    except DeidHooksError:
        raise
    except Exception as error:  # noqa: BLE001 - its text may quote the password
        raise SettingsError(
            f"The backend {known[scheme]} can't be made for the url {masked(url)}:"
            f" {type(error).__name__}."
        ) from None


def open_log(backend: LogBackend, settings: Settings) -> Recorder:
    """The log as it stands; on a machine where nothing was ever set up, a new one, which is said.

    Raises SettingsError if there is no site secret, LogUnavailable if a new log can't be made.
    """
    secret = read_secret(settings.secret_file)
    if secret is not None:
        return Recorder(backend, secret, settings.deadline)
    untouched = all(settings.origins.get(key) == "default" for key in ("url", "secret_file"))
    if backend.records and not (untouched and not backend.exists()):
        raise SettingsError(
            f"There is no site secret at {settings.secret_file}, and the log needs the one it"
            " was begun with. Copy it from the machine that began the log, or begin a new log:"
            " deid-hooks init"
        )
    recorder = begin_log(backend, settings)
    if backend.records:
        log.warning("A new log was begun at %s", unquote(masked(settings.url)))
    log.warning("A new site secret was made, keep a copy of it: %s", settings.secret_file)
    return recorder


def begin_log(backend: LogBackend, settings: Settings) -> Recorder:
    """Make the store and the site secret where there are none. Touches nothing that exists.

    The store comes first: one that was begun with another secret refuses, and no wrong secret is
    left behind. Raises SettingsError or LogUnavailable.
    """
    secret = read_secret(settings.secret_file) or new_secret()
    Recorder(backend, secret, settings.deadline).create()
    return Recorder(backend, keep_secret(secret, settings.secret_file), settings.deadline)
