import threading
from pathlib import Path

import pytest
from pydantic import BaseModel

from dashboards.journal import append, read_journal


class Note(BaseModel):
    text: str


def test_what_was_added_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "notes.jsonl"
    assert read_journal(path, Note) == ([], [])
    for text in ("one", "二", "three"):
        append(path, Note(text=text).model_dump_json())
    notes, problems = read_journal(path, Note)
    assert ([note.text for note in notes], problems) == (["one", "二", "three"], [])


def test_a_line_that_a_crash_cut_off_is_reported_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    append(path, '{"text": "whole"}')
    with path.open("a", encoding="utf-8") as file:
        file.write('{"text": "ha')
    append(path, '{"text": "next"}')
    notes, problems = read_journal(path, Note)
    assert [note.text for note in notes] == ["whole", "next"]
    assert len(problems) == 1
    assert "line 2" in problems[0]


def test_many_sessions_add_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    threads = [threading.Thread(target=_add, args=(path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    notes, problems = read_journal(path, Note)
    assert (len(notes), problems) == (40, [])


def _add(path: Path) -> None:
    for _ in range(10):
        append(path, '{"text": "' + "x" * 2000 + '"}')


def test_an_entry_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one line"):
        append(tmp_path / "notes.jsonl", "a\nb")


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_line_ends_of_other_kinds_stand_in_an_entry(tmp_path: Path, end: str) -> None:
    path, note = tmp_path / "notes.jsonl", Note(text=f"one{end}two")
    append(path, note.model_dump_json())
    assert read_journal(path, Note) == ([note], [])
