import csv
import io

import pandas as pd
import pytest

from dashboards.spreadsheet import csv_bytes


def rows(content: bytes) -> list[list[str]]:
    """What a program reads that knows nothing but CSV in UTF-8."""
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_text_begins_a_formula_in_a_cell_or_a_head(start: str) -> None:
    evil = f'{start}HYPERLINK("https://example.org", "look")'
    assert rows(csv_bytes(pd.DataFrame({evil: ["fine", evil]}))) == [["'" + evil], ["fine"], ["'" + evil]]


def test_numbers_below_zero_and_texts_of_every_alphabet_stay_what_they_are() -> None:
    frame = pd.DataFrame(
        {"名前": ["田中、愛子", 'a "b", c=d'], "policy": ["-", "p"], "change": [-0.25, 3.0], "n": [-1, 2]}
    )
    content = csv_bytes(frame)
    assert rows(content)[1] == ["田中、愛子", "-", "-0.25", "-1"]
    assert content.startswith(b"\xef\xbb\xbf")
    pd.testing.assert_frame_equal(pd.read_csv(io.BytesIO(content)), frame)


def test_a_cell_does_not_end_at_the_semicolon_that_some_countries_separate_by() -> None:
    assert b'"one;=1+1"' in csv_bytes(pd.DataFrame({"comment": ["one;=1+1"]}))
