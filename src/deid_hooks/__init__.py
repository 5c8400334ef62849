"""Nothing leaves unlogged: what DICOM uploaders call before de-identified images leave.

Importing this does nothing but define names; parts are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deid_hooks.acquisition import Acquisition as Acquisition
    from deid_hooks.acquisition import Upload as Upload
    from deid_hooks.backends.contract import LogBackend as LogBackend
    from deid_hooks.backends.contract import Page as Page
    from deid_hooks.deadline import Deadline as Deadline
    from deid_hooks.dicom.capture import Snapshot as Snapshot
    from deid_hooks.dicom.capture import capture as capture
    from deid_hooks.dicom.difference import Changes as Changes
    from deid_hooks.dicom.difference import changes as changes
    from deid_hooks.dicom.restore import Restored as Restored
    from deid_hooks.dicom.restore import restore as restore
    from deid_hooks.dicom.stamp import Stamp as Stamp
    from deid_hooks.dicom.stamp import stamp as stamp
    from deid_hooks.dicom.stamp import unstamp as unstamp
    from deid_hooks.errors import AppendUnknown as AppendUnknown
    from deid_hooks.errors import DeidHooksError as DeidHooksError
    from deid_hooks.errors import Forgotten as Forgotten
    from deid_hooks.errors import ForkedProcess as ForkedProcess
    from deid_hooks.errors import IdConflict as IdConflict
    from deid_hooks.errors import LogError as LogError
    from deid_hooks.errors import LogUnavailable as LogUnavailable
    from deid_hooks.errors import PluginError as PluginError
    from deid_hooks.errors import SettingsError as SettingsError
    from deid_hooks.errors import TermError as TermError
    from deid_hooks.errors import UnableToLog as UnableToLog
    from deid_hooks.errors import UnusableDataset as UnusableDataset
    from deid_hooks.errors import UploadRefused as UploadRefused
    from deid_hooks.hooks import DeidHooks as DeidHooks
    from deid_hooks.hookspecs import PostDeid as PostDeid
    from deid_hooks.hookspecs import PostUpload as PostUpload
    from deid_hooks.hookspecs import PreUpload as PreUpload
    from deid_hooks.hookspecs import hookimpl as hookimpl
    from deid_hooks.install_in_host import install as install
    from deid_hooks.plugins import find_installed as find_installed
    from deid_hooks.records.model import Entry as Entry
    from deid_hooks.records.model import Instance as Instance
    from deid_hooks.records.pseudonyms import Pseudonyms as Pseudonyms
    from deid_hooks.records.pseudonyms import normalise_identity as normalise_identity
    from deid_hooks.records.pseudonyms import reveals as reveals
    from deid_hooks.settings import Settings as Settings

_MODULES = {
    "acquisition": ["Acquisition", "Upload"],
    "dicom.capture": ["Snapshot", "capture"],
    "backends.contract": ["LogBackend", "Page"],
    "deadline": ["Deadline"],
    "dicom.difference": ["Changes", "changes"],
    "records.model": ["Entry", "Instance"],
    "errors": [
        "AppendUnknown",
        "DeidHooksError",
        "ForkedProcess",
        "Forgotten",
        "IdConflict",
        "LogError",
        "LogUnavailable",
        "PluginError",
        "SettingsError",
        "TermError",
        "UnableToLog",
        "UnusableDataset",
        "UploadRefused",
    ],
    "hooks": ["DeidHooks"],
    "hookspecs": ["PostDeid", "PostUpload", "PreUpload", "hookimpl"],
    "install_in_host": ["install"],
    "plugins": ["find_installed"],
    "records.pseudonyms": ["Pseudonyms", "normalise_identity", "reveals"],
    "dicom.restore": ["Restored", "restore"],
    "settings": ["Settings"],
    "dicom.stamp": ["Stamp", "stamp", "unstamp"],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
