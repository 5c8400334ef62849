"""Nothing leaves unlogged: what DICOM uploaders call before de-identified images leave.

Importing this only defines names; each is imported when it is first used. What teams with a store
of their own need is in ``deid_hooks.backends``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deid_hooks._lazy import load_name

if TYPE_CHECKING:
    from deid_hooks.access import Reader
    from deid_hooks.acquisition import Acquisition, Upload
    from deid_hooks.dicom.capture import Snapshot, capture
    from deid_hooks.dicom.difference import Changes, changes
    from deid_hooks.dicom.restore import Restored, Stamp, restore, stamp, unstamp
    from deid_hooks.errors import (
        AppendUnknown,
        DeidHooksError,
        Forgotten,
        ForkedProcess,
        IdConflict,
        LogError,
        LogUnavailable,
        PluginError,
        SettingsError,
        TermError,
        UnableToLog,
        UnusableDataset,
        UploadRefused,
    )
    from deid_hooks.hooks import DeidHooks
    from deid_hooks.install_in_host import install
    from deid_hooks.plugins import PostDeid, PostUpload, PreUpload, find_installed, hookimpl
    from deid_hooks.records.keys import Pseudonyms, normalise_identity, reveals
    from deid_hooks.records.model import Entry, Instance
    from deid_hooks.settings import Settings, find_config_file

__all__ = [
    "Acquisition",
    "AppendUnknown",
    "Changes",
    "DeidHooks",
    "DeidHooksError",
    "Entry",
    "Forgotten",
    "ForkedProcess",
    "IdConflict",
    "Instance",
    "LogError",
    "LogUnavailable",
    "PluginError",
    "PostDeid",
    "PostUpload",
    "PreUpload",
    "Pseudonyms",
    "Reader",
    "Restored",
    "Settings",
    "SettingsError",
    "Snapshot",
    "Stamp",
    "TermError",
    "UnableToLog",
    "UnusableDataset",
    "Upload",
    "UploadRefused",
    "capture",
    "changes",
    "find_config_file",
    "find_installed",
    "hookimpl",
    "install",
    "normalise_identity",
    "restore",
    "reveals",
    "stamp",
    "unstamp",
]

_MODULES = (  # those that import pydicom come last
    "errors",
    "records.model",
    "records.keys",
    "settings",
    "plugins",
    "hooks",
    "access",
    "install_in_host",
    "acquisition",
    "dicom.capture",
    "dicom.difference",
    "dicom.restore",
)


def __getattr__(name: str) -> Any:
    return load_name(__name__, name, __all__, _MODULES)
