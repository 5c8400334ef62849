"""Settings: argument, then environment, then ``deid-hooks.toml``, then the default.

The file is the user's, or the one that is named, and then the site's; never one of the folder that
is worked in. Each setting comes from the first place that has it, which is kept with it. What the
site locks comes from its file alone.
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
from deid_hooks.files import NotPrivate, read_private, trust_owners
from deid_hooks.plugins import suggest_nearest
from deid_hooks.records.fields import INDEXED_FIELDS

FILE_NAME = "deid-hooks.toml"
PREFIX = "DEID_HOOKS_"
VARIABLE_OF_FILE = f"{PREFIX}CONFIG"
SITE_FILE = Path("/etc/deid-hooks/deid-hooks.toml")
"""The site's settings. No argument and no variable names another one."""
_SITE_OWNER = 0
_ALWAYS_LOCKED = ("store_owners",)  # whose log is taken is never the word of who asks
_OTHER_VARIABLES = ("CONFIG", "SECRET", "TOKEN")
_APPLICATION = "deid-hooks"

_PASSWORDS = (
    re.compile(r"(://[^/?#@:]*:)[^/?#]*(?=@)"),
    # One that holds / ? or # unquoted, which is no URL but is typed. A port is left alone.
    re.compile(r"(://[^/?#@:]*:)(?!\d+[/?#]|\*{3}@).*(?=@)"),
    re.compile(r"([?&](?:password|passwd|pwd|token|secret)=)[^&#]*", re.IGNORECASE),
)


_RELATIVE_URL = re.compile("(sqlite|jsonl):///(?!/)")


@dataclass(frozen=True)
class ProjectRules:
    """How a project is uploaded: by which engine, ``""`` for any; where to, ``()`` for anywhere."""

    engine: str = ""
    destinations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What can be set. ``origins`` has the place where each value came from.

    ``locked`` names the settings that the site's file alone decides.
    """

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
    allowed_plugins: tuple[str, ...] | None = None
    """Plugins that may be loaded: any other that is installed is an error. None for all."""
    store_owners: tuple[str, ...] = ()
    """Other users, and groups (``group:NAME``), whose SQLite log is taken: of the site's file."""
    projects: Mapping[str, ProjectRules] = field(default_factory=dict)
    """The engine and the destinations of projects."""
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    locked: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    def choose_engine(self, project: str, asked: str = "") -> str:
        """Return the engine that is asked for, else the project's, else ``basic``.

        Raises SettingsError if the project's is another one, or the site locks ``projects`` and
        names no such project.
        """
        wanted = self._find_rules(project).engine
        if asked and wanted and asked != wanted:
            raise SettingsError(
                f"The project {project} is de-identified by the engine {wanted}"
                f" ({self.origins.get('projects')}): leave out --engine."
            )
        return asked or wanted or "basic"

    def refuse_destination(self, project: str, name: str) -> None:
        """Raise SettingsError if the project has destinations, and this is none of them.

        ``name`` is the destination's name in the log.
        """
        allowed = self._find_rules(project).destinations
        if allowed and name not in allowed:
            raise SettingsError(
                f"The project {project} is not sent to {name}: {self.origins.get('projects')}"
                f" allows {', '.join(allowed)}. Nothing was sent."
            )

    def _find_rules(self, project: str) -> ProjectRules:
        if "projects" in self.locked and project not in self.projects:
            raise SettingsError(
                f"{SITE_FILE} has no project {project or 'without a name'}, and locks projects:"
                f" use --project with {' or '.join(self.projects) or 'none at all'}."
            )
        return self.projects.get(project, ProjectRules())


_MOST_MEBIBYTES = 1024  # what SQLite holds in a value, less what goes with it

KEYS = tuple(f.name for f in fields(Settings) if f.name not in ("origins", "locked"))
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
    site = _read_site_file()
    locked = _take_locks(site)
    above = [("argument", given), *_read_environment(), *_read_user_file()]
    sources = [*above, (str(SITE_FILE), site), ("default", _make_defaults())]
    for origin, source in sources:
        for key, value in source.items():
            if key not in KEYS:
                raise SettingsError(
                    f"Unknown setting {key} ({origin}){suggest_nearest(key, KEYS)}."
                )
            if key not in values:
                values[key] = _convert(key, value, origin)
                origins[key] = origin
    for key in locked:
        origin, source = next(each for each in sources[len(above) :] if key in each[1])
        if values[key] != _convert(key, source[key], origin):
            raise _make_locked(key, origins[key])
        if key not in _ALWAYS_LOCKED:
            origins[key] = f"{origin} (locked)"
    trust_owners(values["store_owners"])
    return Settings(**values, origins=origins, locked=frozenset(locked))


def _take_locks(site: dict[str, Any]) -> tuple[str, ...]:
    """Take ``locked`` out of the site's settings, and return the keys that it names."""
    locked = site.pop("locked", [])
    if not isinstance(locked, list) or not all(isinstance(key, str) for key in locked):
        raise SettingsError(f"locked must be a list of settings ({SITE_FILE}).")
    for key in locked:
        if key not in KEYS:
            raise SettingsError(
                f"locked names an unknown setting {key} ({SITE_FILE}){suggest_nearest(key, KEYS)}."
            )
    if "secret_file" in locked and f"{PREFIX}SECRET" in os.environ:
        raise _make_locked("secret_file", f"{PREFIX}SECRET")
    return (*locked, *_ALWAYS_LOCKED)


def _make_locked(key: str, origin: str) -> SettingsError:
    place = "the argument" if origin == "argument" else origin
    return SettingsError(
        f"{SITE_FILE} locks {key}, which {place} would change. Take it out there, or ask the"
        " administrator of this machine."
    )


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
    secrets = [file.with_name("secret") for file in (find_config_file(), SITE_FILE)]
    return {
        "url": f"sqlite:///{quote(str(data))}",
        "secret_file": next(filter(_may_exist, secrets), secrets[0]),
        **{
            f.name: f.default
            for f in fields(Settings)
            if f.name in KEYS and f.name not in ("url", "secret_file", "projects")
        },
        "projects": {},
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


def _read_site_file() -> dict[str, Any]:
    """Return what the site sets. Raises SettingsError if another user could have written it."""
    values = _read(SITE_FILE)
    if values is None:
        return {}
    for path in (SITE_FILE, SITE_FILE.parent):
        found = path.stat()
        if found.st_uid != _SITE_OWNER or found.st_mode & 0o022:
            raise SettingsError(
                f"{path} holds the site's settings, and must be root's and writable by nobody else:"
                f" chown root {path}; chmod go-w {path}"
            )
    return values


def _read_user_file() -> list[tuple[str, dict[str, Any]]]:
    if named := os.environ.get(VARIABLE_OF_FILE):
        values = _read(Path(named))
        if values is None:
            raise SettingsError(
                f"There is no file {named}, which --config or {VARIABLE_OF_FILE} names."
            )
        return [(named, values)]
    path = find_config_file()
    values = _read(path)
    return [] if values is None else [(str(path), values)]


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
    _refuse_relative(values, path)
    return values


def _refuse_relative(values: Mapping[str, Any], path: Path) -> None:
    """Raise SettingsError for a path that would be another one in each folder that is worked in."""
    secret_file = values.get("secret_file", "")
    relative = {
        "url": _RELATIVE_URL.match(str(values.get("url", ""))),
        "secret_file": isinstance(secret_file, str) and secret_file[:1] not in ("/", "~", ""),
    }
    for key, found in relative.items():
        if found:
            raise SettingsError(
                f"{key} of {path} is a relative path, another one in each folder that is worked in:"
                " write the whole path."
            )


def _convert(key: str, value: Any, origin: str) -> Any:
    """Return a value of its setting's kind, from TOML or from the text of a variable."""
    try:
        if key == "allowed_plugins" and value is None:
            return None
        if key in ("fields", "disabled_plugins", "allowed_plugins", "store_owners"):
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
        if key == "projects":
            return {project: _convert_rules(table) for project, table in value.items()}
        if not value:
            raise ValueError
        if key == "secret_file":
            return Path(value).expanduser()
        if not isinstance(value, str):
            raise ValueError
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        # RuntimeError: ~ of an unknown user
        raise SettingsError(f"{key} has a value of the wrong kind ({origin}).") from None
    if key in _CHOICES and value not in _CHOICES[key]:
        raise SettingsError(
            f"{key} must be {' or '.join(_CHOICES[key])} ({origin})"
            f"{suggest_nearest(value, _CHOICES[key])}."
        )
    return value


def _convert_rules(table: Mapping[str, Any]) -> ProjectRules:
    rules = ProjectRules(**table)
    destinations = rules.destinations
    texts = [rules.engine, *destinations]
    if isinstance(destinations, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError
    return ProjectRules(rules.engine, tuple(destinations))


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
