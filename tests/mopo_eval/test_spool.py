import json
from pathlib import Path

import pytest

from mopo_eval.answers import Answer
from mopo_eval.spool import open_spool, read_spool
from mopo_train.errors import MopoError


def answer(index: int, response: str = "Yes.") -> Answer:
    return Answer("policy-00", f"p{index}", 0, response, "stop", 3, 5, "test")


def test_answers_come_back_in_order_whatever_they_hold(tmp_path: Path) -> None:
    kept = [answer(0, "two\nlines"), answer(1, "\u2028 separator"), answer(2, ""), answer(3, "naïve ✓")]
    with open_spool(tmp_path / "run" / "answers.jsonl") as spool:
        for given in kept:
            spool.append(given)
    assert read_spool(tmp_path / "run" / "answers.jsonl", Answer) == kept


def test_an_answer_can_be_read_before_the_spool_is_closed(tmp_path: Path) -> None:
    with open_spool(tmp_path / "answers.jsonl") as spool:
        spool.append(answer(0))
        assert read_spool(tmp_path / "answers.jsonl", Answer) == [answer(0)]


def test_a_missing_spool_holds_nothing(tmp_path: Path) -> None:
    assert read_spool(tmp_path / "answers.jsonl", Answer) == []


def test_a_line_that_a_crash_cut_is_no_answer_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    whole = json.dumps(answer(0)._asdict()) + "\n"
    path.write_text(whole + json.dumps(answer(1)._asdict())[:40], encoding="utf-8")
    with open_spool(path) as spool:
        spool.append(answer(2))
    assert read_spool(path, Answer) == [answer(0), answer(2)]


def test_lines_that_hold_something_else_are_no_answers(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b'\0\0\0\n{"policy": "p"}\n[1]\n3\n' + json.dumps(answer(0)._asdict()).encode())
    assert read_spool(path, Answer) == [answer(0)]


def test_two_runs_cannot_write_one_spool(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with open_spool(path) as spool:
        spool.append(answer(0))
        with pytest.raises(MopoError, match="another mopo-eval is measuring"):
            with open_spool(path):
                pass
    with open_spool(path) as spool:  # free again
        spool.append(answer(1))
    assert read_spool(path, Answer) == [answer(0), answer(1)]


def test_a_full_disk_is_told() -> None:
    with pytest.raises(MopoError, match="cannot keep more in '/dev/full'"), open_spool(Path("/dev/full")) as spool:
        spool.append(answer(0))
    assert Path("/dev/full").exists()  # only an empty file of our own is removed


def test_a_spool_without_answers_leaves_nothing_but_what_others_put_there(tmp_path: Path) -> None:
    with open_spool(tmp_path / "run" / "answers.jsonl"):
        pass
    assert not (tmp_path / "run").exists()
    with open_spool(tmp_path / "run" / "answers.jsonl"):
        (tmp_path / "run" / "engine.log").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["engine.log"]
