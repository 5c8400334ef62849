"""Run a process for the kit that opens the store, does one job and reports what was durable.

The order comes as a line of JSON on standard input.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

from deid_hooks.backends.contract import LogBackend
from deid_hooks.deadline import Deadline
from deid_hooks.errors import LogError
from deid_hooks.records.chain import commit_terms
from deid_hooks.records.model import AccessRow, read_clock
from deid_hooks.testing.records import chain_seals, fresh_id, make_entry


def main() -> None:
    order: dict[str, Any] = json.loads(sys.stdin.readline())
    kind = getattr(importlib.import_module(order["module"]), order["name"])
    backend: LogBackend = kind(order["url"])
    job = {"entries": _entry, "access rows": _append_access_row, "fork": _forked}[order["job"]]
    done = 0
    while not order["count"] or done < order["count"]:
        print(job(backend), flush=True)
        done += 1
    backend.close()


def _entry(backend: LogBackend) -> str:
    entry = make_entry()
    backend.append([entry], chain_seals, Deadline(30))
    return entry.log_id


def _append_access_row(backend: LogBackend) -> str:
    row = commit_terms(
        AccessRow(fresh_id(), read_clock(), "who", "host", "search", "PatientID=4711", ())
    )
    backend.append([row, make_entry()], chain_seals, Deadline(30))
    return row.id


def _forked(backend: LogBackend) -> str:
    """Append in a child of the process that uses the log and after it; return how both ended."""
    backend.append([make_entry()], chain_seals, Deadline())
    child = os.fork()
    if child == 0:
        entry = make_entry()
        try:
            backend.append([entry], chain_seals, Deadline(5))
            said = "returned"
        except LogError as error:
            said = type(error).__name__
        except BaseException:  # noqa: BLE001 - that is the finding
            said = "raised what is no LogError"
        print(entry.log_id, said.replace(" ", "-"), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    entry = make_entry()
    backend.append([entry], chain_seals, Deadline())
    return f"{entry.log_id} returned"


if __name__ == "__main__":
    main()
