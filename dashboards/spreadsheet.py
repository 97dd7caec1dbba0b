"""Tables for spreadsheets, as CSV: no text in them is taken for a formula, and every alphabet arrives.

A cell that begins like a formula gets an apostrophe before it, and every text is quoted (OWASP, "CSV injection"):
comments, names and whatever else people or clients write are opened by people who trust the dashboard.
"""

import csv

import pandas as pd

FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a cell begins that a spreadsheet would compute; in some countries also with the wide signs."""
NOTHING = "-"
"""No profile or policy, in the audit store; alone it computes nothing."""


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """``frame`` without its index; numbers stay as they are, so that "-0.1" is one only where it is no text.

    UTF-8 with a mark, without which Excel takes Japanese for another encoding.
    """
    safe = frame.map(_inert).rename(columns=_inert)
    return safe.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC).encode("utf-8-sig")


def _inert(value: object) -> object:
    if isinstance(value, str) and value.startswith(FORMULAS) and value != NOTHING:
        return f"'{value}"
    return value
