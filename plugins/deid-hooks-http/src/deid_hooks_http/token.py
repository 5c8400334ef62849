"""The token of this user: from the environment, or a file that its owner alone may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from deid_hooks.errors import LogUnavailable
from deid_hooks.settings import find_config_file

VARIABLE = "DEID_HOOKS_TOKEN"
FILE_NAME = "token"


def token() -> str:
    """The token. LogUnavailable, saying where it is looked for, if there is none to use."""
    if text := os.environ.get(VARIABLE, "").strip():
        return _plain(text, VARIABLE)
    named = os.environ.get("DEID_HOOKS_CONFIG")
    path = (Path(named) if named else find_config_file()).with_name(FILE_NAME)
    try:
        with path.open(encoding="ascii") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise LogUnavailable(
                    f"others may read the token {path}", f"make it yours alone: chmod 600 {path}"
                )
            return _plain(file.read().strip(), str(path))
    except FileNotFoundError:
        raise LogUnavailable(
            "there is no token for the service of the log", f"set {VARIABLE}, or write it to {path}"
        ) from None
    except (OSError, UnicodeDecodeError):
        raise LogUnavailable(f"the token {path} can't be read") from None


def _plain(text: str, where: str) -> str:
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise LogUnavailable(f"what stands in {where} is no token", "copy it again, whole")
    return text
