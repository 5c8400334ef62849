"""Cells that no spreadsheet takes for a formula (OWASP, CSV injection), and back."""

from __future__ import annotations

_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def safe_cell(text: str) -> str:
    """``text`` with an apostrophe before what could start a formula, and before an apostrophe."""
    return f"'{text}" if text.startswith(_STARTS) else text


def plain_cell(cell: str) -> str:
    """The text that :func:`safe_cell` made into ``cell``."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_STARTS) else cell
