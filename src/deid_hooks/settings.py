"""Settings: argument, then environment, then ``deid-hooks.toml``, then the default.

The file is looked for in the current folder, the user's and the site's configuration folder; each
setting comes from the first place that has it, and knows which place that was.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import platformdirs

from deid_hooks.entry import INDEXED_FIELDS
from deid_hooks.errors import SettingsError
from deid_hooks.plugins import nearest

FILE_NAME = "deid-hooks.toml"
PREFIX = "DEID_HOOKS_"
_OTHER_VARIABLES = ("CONFIG", "SECRET")
_APPLICATION = "deid-hooks"


@dataclass(frozen=True)
class Settings:
    """What can be set. ``origins`` tells where each value came from."""

    url: str = ""
    """Where the log is: ``sqlite:////abs.db``, ``postgresql://…``, ``none:``."""
    secret_file: Path = Path()
    """The site secret, mode 0600, the same on every machine that shares the log."""
    fields: tuple[str, ...] = INDEXED_FIELDS
    """Keywords that can be searched fast."""
    policy: str = "all"
    """What is logged of what the engine changed: ``all``, or ``identifying`` (fields and UIDs)."""
    mixed_patients: str = "refuse"
    """Instances that disagree on the patient: ``refuse`` the acquisition, or ``log`` it."""
    deadline: float = 10.0
    """Seconds that anyone waits for the log."""
    plugin_timeout: float = 10.0
    """Seconds that a plugin may take to answer."""
    disabled_plugins: tuple[str, ...] = ()
    """Installed plugins that are not loaded."""
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


KEYS = tuple(f.name for f in fields(Settings) if f.name != "origins")
_CHOICES = {"policy": ("all", "identifying"), "mixed_patients": ("refuse", "log")}


def load_settings(**arguments: Any) -> Settings:
    """The settings of this machine; an argument that is not None comes before everything else.

    Raises SettingsError for an unknown key, a value of the wrong kind, or a file that can't be
    read, naming the file or variable.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    given = {key: value for key, value in arguments.items() if value is not None}
    sources = [("argument", given), *_environment(), *_files(), ("default", _defaults())]
    for origin, source in sources:
        for key, value in source.items():
            if key not in KEYS:
                raise SettingsError(f"Unknown setting {key} ({origin}){nearest(key, KEYS)}.")
            if key not in values:
                values[key] = _converted(key, value, origin)
                origins[key] = origin
    return Settings(**values, origins=origins)


def masked(url: str) -> str:
    """A URL as it may be shown: without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user = quote(parts.username or "", safe="")
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:***@{host}"))


def config_file() -> Path:
    """Where ``deid-hooks init`` writes the user's settings."""
    return Path(platformdirs.user_config_dir(_APPLICATION)) / FILE_NAME


def _defaults() -> dict[str, Any]:
    data = Path(platformdirs.user_data_dir(_APPLICATION)) / "log.db"
    user_secret = config_file().with_name("secret")
    site_secret = Path(platformdirs.site_config_dir(_APPLICATION)) / "secret"
    use_site = site_secret.exists() and not user_secret.exists()
    return {
        "url": f"sqlite:///{quote(str(data))}",
        "secret_file": site_secret if use_site else user_secret,
        **{
            f.name: f.default
            for f in fields(Settings)
            if f.name not in ("url", "secret_file", "origins")
        },
    }


def _environment() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for name, value in os.environ.items():
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in _OTHER_VARIABLES:
            key = name.removeprefix(PREFIX).lower()
            if key not in KEYS:
                known = [PREFIX + k.upper() for k in KEYS]
                raise SettingsError(f"Unknown variable {name}{nearest(name, known)}.")
            found.append((name, {key: value}))
    return found


def _files() -> list[tuple[str, dict[str, Any]]]:
    if named := os.environ.get(f"{PREFIX}CONFIG"):
        if not Path(named).is_file():
            raise SettingsError(f"{PREFIX}CONFIG names {named}, which is not a file.")
        paths = [Path(named)]
    else:
        folders = (
            Path.cwd(),
            config_file().parent,
            Path(platformdirs.site_config_dir(_APPLICATION)),
        )
        paths = [folder / FILE_NAME for folder in folders]
    return [(str(path), _read(path)) for path in paths if path.is_file()]


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        where = str(error).rpartition("(")[2].rstrip(")") if "(" in str(error) else ""
        raise SettingsError(f"{path} is not TOML{f': {where}' if where else ''}.") from None
    if mode & 0o077 and _has_password(str(values.get("url", ""))):
        raise SettingsError(
            f"Others may read {path}, which holds a password. Make it yours alone: chmod 600 {path}"
        )
    return values


def _has_password(url: str) -> bool:
    try:
        return urlsplit(url).password is not None
    except ValueError:
        return False


def _converted(key: str, value: Any, origin: str) -> Any:
    """A value of its setting's kind, from TOML or from the text of a variable."""
    try:
        if key in ("fields", "disabled_plugins"):
            parts = value.replace(",", " ").split() if isinstance(value, str) else list(value)
            converted: Any = tuple(str(part) for part in parts)
            return _known_fields(converted) if key == "fields" else converted
        if key in ("deadline", "plugin_timeout"):
            seconds = float(value)
            if not 0 < seconds <= 3600:
                raise ValueError
            return seconds
        if key == "secret_file":
            return Path(value).expanduser()
        if not isinstance(value, str):
            raise ValueError
    except (TypeError, ValueError):
        raise SettingsError(f"{key} has a value of the wrong kind ({origin}).") from None
    if key in _CHOICES and value not in _CHOICES[key]:
        raise SettingsError(
            f"{key} must be {' or '.join(_CHOICES[key])} ({origin}){nearest(value, _CHOICES[key])}."
        )
    return value


def _known_fields(keywords: tuple[str, ...]) -> tuple[str, ...]:
    from deid_hooks.dictionary import keywords as dictionary_keywords

    known = {*dictionary_keywords(), *INDEXED_FIELDS}
    for keyword in keywords:
        if keyword not in known:
            raise SettingsError(
                f"fields names an unknown keyword {keyword}{nearest(keyword, known)}."
            )
    return tuple(dict.fromkeys((*INDEXED_FIELDS, *keywords)))
