"""What outsiders may use: the public names, pinned, and what they cost to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PUBLIC = {
    "deid_hooks": """
        Acquisition AppendUnknown Changes DeidHooks DeidHooksError Entry ForkedProcess Forgotten
        IdConflict Instance LogError LogUnavailable PluginError PostDeid PostUpload PreUpload
        Pseudonyms Reader Restored Settings SettingsError Snapshot Stamp TermError UnableToLog
        UnusableDataset Upload UploadRefused capture changes find_config_file find_installed
        hookimpl install
        normalise_identity restore reveals stamp unstamp
    """,
    "deid_hooks.backends": """
        AccessRow AppendUnknown Block BlocksPage Deadline Entry Erased Erasure ForkedProcess
        Forgotten IdConflict
        Instance Key LATER_FIELDS LogBackend LogError LogUnavailable NoAnswer NotAllowed
        NotPrivate read_private
        ObjectCodec OlderLog Page Query Receipt Record RemoteBackend Seal
        SettingsError Statistics Tombstone Turn
        UploadEvent WRONG_FORM Worker call_store call_within count_fitting decode_query
        decode_record decode_text encode_query encode_record encode_text erase_salt erase_terms
        estimate_size get_id get_key iterate_entries
        iterate_pages iterate_uploads make_erased make_readable make_tombstone put_file seal_new
        select_new
    """,
    "deid_hooks.destinations": """
        FINISH Delivery Destination DestinationError Outgoing find_known is_host is_loopback
        open_destination
    """,
    "deid_hooks.engines": """
        Engine add_method make_engine mark_identity_removed renew_file_meta
    """,
    "deid_hooks.testing": """
        FAULTS BackendConformance Fault MemoryBackend MemoryLog memory_log
    """,
}


@pytest.mark.parametrize("package", PUBLIC)
def test_the_public_names_of_a_package_are_these_and_no_others(package: str) -> None:
    module = import_module(package)
    assert sorted(module.__all__) == sorted(PUBLIC[package].split())
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


BESIDES = {
    "deid-hooks-sql": "deid_hooks.backends.tables",  # the tables of the default store, on a server
    "deid-hooks-service": "deid_hooks",  # serves the log itself: of the same version, always
}
"""What distributions of ours import although it is not public."""


@pytest.mark.parametrize(
    "path", sorted((ROOT / "plugins").glob("*/src/**/*.py")), ids=lambda path: path.stem
)
def test_our_own_plugins_use_public_names_alone(path: Path) -> None:
    besides = BESIDES.get(path.relative_to(ROOT).parts[1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "deid_hooks":
            if besides and f"{node.module}.".startswith(f"{besides}."):
                continue
            public = PUBLIC.get(node.module or "", "").split()
            assert {name.name for name in node.names} <= set(public), node.module


def test_names_that_need_no_dicom_are_imported_without_pydicom() -> None:
    program = (
        "import sys; from deid_hooks import DeidHooks, UnableToLog, hookimpl;"
        " from deid_hooks.backends import LogBackend, Query, select_new;"
        " from deid_hooks.testing import MemoryBackend;"
        " sys.exit(bool({'pydicom', 'pytest', 'hypothesis', 'sqlite_utils'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
