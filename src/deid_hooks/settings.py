"""Settings: argument, then environment, then ``deid-hooks.toml``, then the default.

The file may be in the current folder, the user's and the site's configuration folder; each setting
comes from the first place that has it, which is kept with it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import platformdirs

from deid_hooks.errors import SettingsError
from deid_hooks.files import NotPrivate, read_private
from deid_hooks.plugins import suggest_nearest
from deid_hooks.records.fields import INDEXED_FIELDS

FILE_NAME = "deid-hooks.toml"
PREFIX = "DEID_HOOKS_"
_OTHER_VARIABLES = ("CONFIG", "SECRET", "TOKEN")
_APPLICATION = "deid-hooks"

_PASSWORDS = (
    re.compile(r"(://[^/?#@:]*:)[^/?#]*(?=@)"),
    # One that holds / ? or # unquoted, which is no URL but is typed. A port is left alone.
    re.compile(r"(://[^/?#@:]*:)(?!\d+[/?#]|\*{3}@).*(?=@)"),
    re.compile(r"([?&](?:password|passwd|pwd|token|secret)=)[^&#]*", re.IGNORECASE),
)


@dataclass(frozen=True)
class Settings:
    """What can be set. ``origins`` has the place where each value came from."""

    url: str = field(default="", repr=False)
    """Where the log is: ``sqlite:////abs.db``, ``postgresql://…``, ``none:``."""
    secret_file: Path = Path()
    """The site secret, mode 0600, the same on every machine that shares the log."""
    fields: tuple[str, ...] = INDEXED_FIELDS
    """Keywords that can be searched fast."""
    policy: str = "all"
    """What is logged of what the engine changed: ``all``, or ``identifying`` (fields and UIDs)."""
    mixed_patients: str = "refuse"
    """Instances that disagree on the patient: ``refuse`` the acquisition, or ``log`` it."""
    large_values: int = 64
    """MiB up to which an original value is kept."""
    not_kept: Literal["refuse", "log"] = "refuse"
    """A file with a larger value that the engine changed: ``refuse`` it, or ``log`` the rest."""
    stamp: Literal["none", "equipment", "private"] = "none"
    """The log id in delivered files: ``none``, ``equipment`` or ``private``."""
    deadline: float = 10.0
    """Seconds that anyone waits for the log."""
    plugin_timeout: float = 10.0
    """Seconds that a plugin may take to answer."""
    require_reason: bool = False
    """Whether a reason is required for access to the log."""
    disabled_plugins: tuple[str, ...] = ()
    """Installed plugins that are not loaded."""
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


_MOST_MEBIBYTES = 1024  # what SQLite holds in a value, less what goes with it

KEYS = tuple(f.name for f in fields(Settings) if f.name != "origins")
_CHOICES = {
    "policy": ("all", "identifying"),
    "mixed_patients": ("refuse", "log"),
    "not_kept": ("refuse", "log"),
    "stamp": ("none", "equipment", "private"),
}


def load_settings(**arguments: Any) -> Settings:
    """Load the settings of this machine; an argument that is not None comes before all else.

    Raises SettingsError for an unknown key, a value of the wrong kind, or a file that can't be
    read, naming the file or variable.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    given = {key: value for key, value in arguments.items() if value is not None}
    defaults = ("default", _make_defaults())
    sources = [("argument", given), *_read_environment(), *_read_files(), defaults]
    for origin, source in sources:
        for key, value in source.items():
            if key not in KEYS:
                raise SettingsError(
                    f"Unknown setting {key} ({origin}){suggest_nearest(key, KEYS)}."
                )
            if key not in values:
                values[key] = _convert(key, value, origin)
                origins[key] = origin
    return Settings(**values, origins=origins)


def mask_passwords(url: str) -> str:
    """Return a URL as it may be shown: without its password."""
    for password in _PASSWORDS:
        url = password.sub(r"\g<1>***", url)
    return url


def find_config_file() -> Path:
    """Return the path of the user's settings."""
    return Path(platformdirs.user_config_dir(_APPLICATION)) / FILE_NAME


def _make_defaults() -> dict[str, Any]:
    data = Path(platformdirs.user_data_dir(_APPLICATION)) / "log.db"
    secrets = [folder / "secret" for folder in _list_configuration_folders()]
    return {
        "url": f"sqlite:///{quote(str(data))}",
        "secret_file": next(filter(_may_exist, secrets), secrets[0]),
        **{
            f.name: f.default
            for f in fields(Settings)
            if f.name not in ("url", "secret_file", "origins")
        },
    }


def _read_environment() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for name, value in os.environ.items():
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in _OTHER_VARIABLES:
            key = name.removeprefix(PREFIX).lower()
            if key not in KEYS:
                known = [PREFIX + k.upper() for k in (*KEYS, *_OTHER_VARIABLES)]
                raise SettingsError(f"Unknown variable {name}{suggest_nearest(name, known)}.")
            found.append((name, {key: value}))
    return found


def _read_files() -> list[tuple[str, dict[str, Any]]]:
    if named := os.environ.get(f"{PREFIX}CONFIG"):
        values = _read(Path(named))
        if values is None:
            raise SettingsError(f"{PREFIX}CONFIG names {named}, which does not exist.")
        return [(named, values)]
    folders = [*_find_current_folder(), *_list_configuration_folders()]
    paths = [folder / FILE_NAME for folder in folders]
    return [(str(path), values) for path in paths if (values := _read(path)) is not None]


def _find_current_folder() -> list[Path]:
    try:
        return [Path.cwd()]
    except FileNotFoundError:  # it was removed under us
        return []


def _list_configuration_folders() -> list[Path]:
    """Return the user's folder, then those of the site: a desktop session has several."""
    site = platformdirs.site_config_dir(_APPLICATION, multipath=True).split(os.pathsep)
    return [find_config_file().parent, *map(Path, site)]


def _may_exist(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # reading it will say why
        return True


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a file sets; None without a file. Raises SettingsError if it can't be read."""
    try:
        values = tomllib.loads(path.read_bytes().decode())
        url = str(values.get("url", ""))
        if mask_passwords(url) != url:
            read_private(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except NotPrivate:
        raise SettingsError(
            f"Others may read {path}, which holds a password. Make it yours alone: chmod 600 {path}"
        ) from None
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror}.") from None
    except ValueError as error:  # its text ends with the place, and may begin with a value
        where = str(error).rpartition("(")[2].rstrip(")") if "(" in str(error) else ""
        raise SettingsError(f"{path} is not TOML{f': {where}' if where else ''}.") from None
    return values


def _convert(key: str, value: Any, origin: str) -> Any:
    """Return a value of its setting's kind, from TOML or from the text of a variable."""
    try:
        if key in ("fields", "disabled_plugins"):
            parts = value.replace(",", " ").split() if isinstance(value, str) else value
            if not isinstance(parts, list | tuple) or not all(isinstance(p, str) for p in parts):
                raise ValueError
            return _check_fields(tuple(parts), origin) if key == "fields" else tuple(parts)
        if key in ("deadline", "plugin_timeout"):
            seconds = float(value)
            if isinstance(value, bool) or not 0 < seconds <= 3600:
                raise ValueError
            return seconds
        if key == "large_values":
            if isinstance(value, bool | float) or not 0 < int(value) <= _MOST_MEBIBYTES:
                raise ValueError
            return int(value)
        if key == "require_reason":
            return {"true": True, "false": False}[str(value).lower()]
        if not value:
            raise ValueError
        if key == "secret_file":
            return Path(value).expanduser()
        if not isinstance(value, str):
            raise ValueError
    except (TypeError, ValueError, KeyError, RuntimeError):  # RuntimeError: ~ of an unknown user
        raise SettingsError(f"{key} has a value of the wrong kind ({origin}).") from None
    if key in _CHOICES and value not in _CHOICES[key]:
        raise SettingsError(
            f"{key} must be {' or '.join(_CHOICES[key])} ({origin})"
            f"{suggest_nearest(value, _CHOICES[key])}."
        )
    return value


def _check_fields(keywords: tuple[str, ...], origin: str) -> tuple[str, ...]:
    from deid_hooks.dicom.dictionary import list_keywords, lookup_tag, lookup_vr

    known = {*list_keywords(), *INDEXED_FIELDS}
    for keyword in keywords:
        if keyword not in known:
            raise SettingsError(
                f"fields names an unknown keyword {keyword} ({origin})"
                f"{suggest_nearest(keyword, known)}."
            )
        vr = lookup_vr(lookup_tag(keyword) or 0)
        # A sequence, bytes, or what is a number in one file and bytes in the next.
        if vr in ("SQ", "UN", "NONE") or vr.startswith("O") or " " in vr:
            raise SettingsError(
                f"fields names {keyword} ({origin}), which has no text that a column could show:"
                f" its value representation is {vr}."
            )
    return tuple(dict.fromkeys((*INDEXED_FIELDS, *keywords)))
