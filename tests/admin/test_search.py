"""Searching for people: sorted, in bulk, explained, completed; every page of answers is a look."""

from __future__ import annotations

import csv
import io
import os
import pty
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deid_hooks.access import AccessRecorder
from deid_hooks.admin import search as searching
from deid_hooks.backends.sqlite import reading
from deid_hooks.cli.context import complete_column, complete_term
from deid_hooks.cli.output import disarm_cell
from deid_hooks.errors import TermError
from deid_hooks.query.parser import parse_terms
from tests.admin.conftest import SERIES, Desk


def test_answers_are_sorted_either_way_and_what_has_no_value_comes_last(delivered: Desk) -> None:
    def dates(*more: str) -> list[str]:
        rows = delivered("search", "Doe", "--show", "StudyDate", *more).rows
        return [row["StudyDate"] for row in rows]

    assert dates("--sort", "StudyDate") == ["19950903", *["20010101"] * 3]
    assert dates("--sort", "-StudyDate") == [*["20010101"] * 3, "19950903"]
    assert dates("--sort", "StudyDate", "--limit", "1") == ["19950903"]
    assert dates("--sort", "-StudyDate", "--limit", "1") == ["20010101"]
    assert len(dates("--sort", "AccessionNumber")) == 4
    assert delivered("search", "Doe", "--sort", "StudyDat").code == 2


def test_only_what_is_shown_of_a_sorted_search_is_in_the_trail_as_found(delivered: Desk) -> None:
    delivered("search", "Doe", "--sort", "-StudyDate", "--limit", "1")
    assert len(delivered("access").rows[0]["log_ids"]) == 1


def test_too_many_to_sort_are_refused_unless_there_is_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(searching, "MOST_SORTED", 600)
    rows: list[dict[str, Any]] = [{"id": f"{n:04}"} for n in range(1_000)]
    with pytest.raises(TermError, match="limit"):
        list(searching.sort_rows(iter(rows), "id", None))
    assert list(searching.sort_rows(iter(rows), "-id", 2)) == [rows[-1], rows[-2]]


@given(st.lists(st.one_of(st.none(), st.text(max_size=3))), st.booleans(), st.integers(1, 5))
def test_a_limit_gives_the_beginning_of_the_sorted_answers(
    values: list[str | None], backwards: bool, limit: int
) -> None:
    rows = [{"StudyID": value} for value in values]
    column = "-StudyID" if backwards else "StudyID"
    whole = list(searching.sort_rows(iter(rows), column, None))
    assert list(searching.sort_rows(iter(rows), column, limit)) == whole[:limit]


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        ("InstanceNumber", ["-1", "2", "10"]),  # IS
        ("PatientWeight", ["-0.5", "9.75", "1e1", "70"]),  # DS
        ("Rows", ["64", "128", "1024"]),  # US
        ("StudyID", ["10", "2", "A"]),  # SH, text
    ],
)
def test_columns_of_numbers_are_sorted_by_number(column: str, texts: list[str]) -> None:
    last: list[Any] = [None] if column == "StudyID" else ["n/a", None, "NaN", ""]
    values = [*last, *texts[::-1], [*texts[:1], "999"]]
    rows = [{column: value} for value in values]
    first, *rest = texts
    ascending = [first, [first, "999"], *rest, *last]
    assert [row[column] for row in searching.sort_rows(rows, column, None)] == ascending
    descending = [*reversed(rest), first, [first, "999"], *last]
    assert [row[column] for row in searching.sort_rows(rows, f"-{column}", None)] == descending
    limited = searching.sort_rows(rows, f"-{column}", len(rest))
    assert [row[column] for row in limited] == descending[: len(rest)]


def test_many_values_are_answered_in_their_order(delivered: Desk) -> None:
    (delivered.folder / "ids.csv").write_text(
        "Name,PatientID\nx,none\ny,77654033\nz,\nw,77654033\n", encoding="utf-8-sig"
    )
    found = delivered("search", "--from", "ids.csv", "Modality=CT", "--show", "Modality").rows
    assert [(row["PatientID"], row["found"]) for row in found] == [
        ("none", False),
        ("77654033", True),
        ("", False),
        ("77654033", True),
    ]
    assert found[1]["Modality"] == "CT"
    assert (found[0]["id"], found[0]["Modality"]) == (None, None)


def test_values_come_from_standard_input_too_and_from_a_column_of_another_name(
    delivered: Desk,
) -> None:
    plain = delivered("search", "--from", "-", "--format", "ids", stdin="77654033\nnone\n")
    assert len(plain.ids) == 4
    mrn = delivered(
        "search", "--from", "-", "--column", "MRN=PatientID", stdin="a,MRN\n1,77654033\n"
    )
    assert [row["MRN"] for row in mrn.rows] == ["77654033"] * 4
    none = delivered("search", "--from", "-", stdin="none\n")
    assert (none.code, none.rows[0]["found"]) == (1, False)


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        (["--column", "MRN"], "MRN\n1\n", "MRN"),
        (["--column", "PatientID"], "a,b\n1,2\n", "no column PatientID"),
        (["--column", "PatienID"], "PatienID\n1\n", "did you mean PatientID"),
        (["--column", "id"], "id\nsecret\n", "Value 1: id takes one whole log id"),
        ([], 'a,PatientID\n1,"secret\n2,secret\n', "The list is no CSV: at line 3"),
        ([], f"a,PatientID\n{'secret' * 50_000},1\n", "The list is no CSV: at line 2"),
        (["--sort", "StudyDate"], "x\n", "its own order"),
    ],
)
def test_a_list_that_cannot_be_used_is_answered_in_one_sentence(
    delivered: Desk, words: list[str], stdin: str, said: str
) -> None:
    refused = delivered("search", "--from", "-", *words, stdin=stdin)
    assert (refused.code, refused.out) == (2, "")
    assert said in refused.err
    assert "secret" not in refused.err


def test_values_of_a_list_are_taken_literally(delivered: Desk) -> None:
    assert not any(r["found"] for r in delivered("search", "--from", "-", stdin="7765*\n").rows)
    dates = delivered("search", "--from", "-", "--column", "StudyDate", stdin="1995-09-03\n")
    assert [row["found"] for row in dates.rows] == [True]


def test_a_look_for_many_values_is_in_the_trail_in_pages(delivered: Desk) -> None:
    values = [f"none{number}" for number in range(150)] + ["77654033"]
    delivered("search", "--from", "-", stdin="\n".join(values))
    rows = [row for row in delivered("access").rows if row["action"] == "search"]
    assert [len(row["asked"].splitlines()) for row in rows] == [100, 51]
    assert [len(row["log_ids"]) for row in rows] == [0, 4]


def test_without_the_trail_there_is_no_answer_of_any_kind(delivered: Desk) -> None:
    with sqlite3.connect(delivered.log) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON deid_log_access"
            " BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    for words in (
        ["search", "Doe", "--sort", "StudyDate"],
        ["search", "--from", "-"],
        ["report", "Doe"],
        ["show", "0" * 32],
        ["access"],
        ["forget", "Doe", "--dry-run", "--reason", "r"],
    ):
        refused = delivered(*words, stdin="77654033\n")
        assert (refused.code, refused.out.strip("[]\n")) == (69, "")


def test_explain_names_the_index_that_serves(delivered: Desk) -> None:
    told = delivered("search", "PatientID=x", "Modality=CT", "--explain").rows
    assert [row["term"] for row in told] == ["PatientID", "Modality"]
    assert "idx_deid_log_PatientID" in told[0]["served by"]
    assert told[1]["served by"].startswith("none")
    assert delivered.trail() == []


def test_shells_complete_keywords_of_terms_and_columns() -> None:
    assert complete_term("PatientNa")[0] == "PatientName="
    assert "deid:PatientID=" in complete_term("deid:pat")
    assert complete_term("PatientName=D") == []
    assert "StationName=" in complete_term("Stat")
    assert "StudyDate,Modality" in complete_column("StudyDate,Mod")
    assert "-StudyDate" in complete_column("-StudyDa")


def test_a_csv_of_answers_is_safe_in_a_spreadsheet(desk: Desk) -> None:
    found = desk("search", "--from", "-", "--format", "csv", stdin='"=HYPERLINK(1)"\n').out
    [row] = csv.DictReader(io.StringIO(found))
    assert row["PatientID"] == "'=HYPERLINK(1)"


@given(st.text())
def test_safe_cells_start_no_formula_and_give_their_text_back(text: str) -> None:
    cell = disarm_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    is_quoted = cell.startswith("'") and cell[1:].startswith(
        ("=", "+", "-", "@", "\t", "\r", "\n", "'")
    )
    assert (cell[1:] if is_quoted else cell) == text


def on_a_terminal(desk: Desk, columns: int, *words: str) -> list[str]:
    terminal, program = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1"}
    command = [str(Path(sys.executable).with_name("deid-hooks")), *words]
    process = subprocess.Popen(command, stdout=program, env=environment, cwd=desk.folder)
    os.close(program)
    said = b""
    while True:
        try:
            said += os.read(terminal, 65536)
        except OSError:
            break
    process.wait()
    os.close(terminal)
    return said.decode().replace("\r\n", "\n").splitlines()


def test_tables_fit_the_terminal_and_keep_the_ids_whole(delivered: Desk) -> None:
    lines = on_a_terminal(
        delivered, 80, "search", "Doe", "--show", "StudyInstanceUID,SeriesInstanceUID,Modality"
    )
    ids = delivered("search", "Doe", "--format", "ids").ids
    assert all(len(line) <= 80 for line in lines)
    assert [line[:32] for line in lines[2:]] == ids
    assert all("…" in line and line.rstrip().endswith(("CR", "CT")) for line in lines[2:])
    assert not any("\x1b" in line for line in lines)
    whole = delivered("search", "Doe", "--show", "StudyInstanceUID").out
    assert "…" not in whole


def test_a_very_long_answer_takes_bounded_memory(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_BYTES_A_PAGE", 100_000)
    desk.upload(SERIES / "77654033" / "CR1")
    with desk.hooks() as hooks:
        [log_id] = hooks.gate.open_log().search(parse_terms(["Doe"]))
        [entry] = hooks.gate.open_log().entries([log_id])
        for start in range(0, 3_000, 500):
            hooks.gate.open_log().append(
                [replace(entry, log_id=f"{n:032X}") for n in range(start, start + 500)]
            )
        recorder = AccessRecorder(hooks.gate.open_log(), "search", "")

        def consumed() -> int:
            tracemalloc.start()
            ids: Iterator[str] = hooks.gate.open_log().search(parse_terms(["Doe"]))
            found = recorder.record_ids(ids, "Doe")
            count = sum(1 for _ in searching.make_rows(hooks.gate.open_log(), found, {}))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert count == 3_001
            return peak

        assert consumed() < 4_000_000
