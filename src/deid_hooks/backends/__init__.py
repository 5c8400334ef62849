"""Stores of the log: everything that a store raises, returns or takes, for teams that write one.

A backend is a subclass of :class:`LogBackend`, found by its entry point in the group
``deid_hooks.backends``, whose name is the scheme of its URLs. It is tested with
``deid_hooks.testing.BackendConformance``. Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deid_hooks._lazy import load_name

if TYPE_CHECKING:
    from deid_hooks.backends.contract import (
        BlocksPage,
        Key,
        LogBackend,
        OlderLog,
        Page,
        Receipt,
        RemoteBackend,
        Seal,
        Statistics,
        count_fitting,
        estimate_size,
        get_key,
        iterate_entries,
        iterate_pages,
        iterate_uploads,
        make_tombstone,
        seal_new,
        select_new,
    )
    from deid_hooks.deadline import Deadline, NoAnswer, Turn, Worker, call_store, call_within
    from deid_hooks.errors import (
        AppendUnknown,
        Forgotten,
        ForkedProcess,
        IdConflict,
        LogError,
        LogUnavailable,
        NotAllowed,
        SettingsError,
    )
    from deid_hooks.files import NotPrivate, put_file, read_private
    from deid_hooks.query.conditions import Query
    from deid_hooks.query.json_codec import decode_query, encode_query
    from deid_hooks.records.chain import erase_salt, erase_terms, make_erased
    from deid_hooks.records.fields import LATER_FIELDS
    from deid_hooks.records.json_codec import (
        WRONG_FORM,
        ObjectCodec,
        decode_record,
        decode_text,
        encode_record,
        encode_text,
    )
    from deid_hooks.records.model import (
        AccessRow,
        Block,
        Entry,
        Erased,
        Erasure,
        Instance,
        Record,
        Tombstone,
        UploadEvent,
        get_id,
        make_readable,
    )

__all__ = [
    "LATER_FIELDS",
    "WRONG_FORM",
    "AccessRow",
    "AppendUnknown",
    "Block",
    "BlocksPage",
    "Deadline",
    "Entry",
    "Erased",
    "Erasure",
    "Forgotten",
    "ForkedProcess",
    "IdConflict",
    "Instance",
    "Key",
    "LogBackend",
    "LogError",
    "LogUnavailable",
    "NoAnswer",
    "NotAllowed",
    "NotPrivate",
    "ObjectCodec",
    "OlderLog",
    "Page",
    "Query",
    "Receipt",
    "Record",
    "RemoteBackend",
    "Seal",
    "SettingsError",
    "Statistics",
    "Tombstone",
    "Turn",
    "UploadEvent",
    "Worker",
    "call_store",
    "call_within",
    "count_fitting",
    "decode_query",
    "decode_record",
    "decode_text",
    "encode_query",
    "encode_record",
    "encode_text",
    "erase_salt",
    "erase_terms",
    "estimate_size",
    "get_id",
    "get_key",
    "iterate_entries",
    "iterate_pages",
    "iterate_uploads",
    "make_erased",
    "make_readable",
    "make_tombstone",
    "put_file",
    "read_private",
    "seal_new",
    "select_new",
]

_MODULES = (
    "backends.contract",
    "deadline",
    "errors",
    "files",
    "query.conditions",
    "query.json_codec",
    "records.chain",
    "records.fields",
    "records.json_codec",
    "records.model",
)


def __getattr__(name: str) -> Any:
    return load_name(__name__, name, __all__, _MODULES)
