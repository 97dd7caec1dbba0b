"""Held-out prompts that are in the data, word for word or nearly."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mopo_train.check.heldout import leaked, read_held_out
from mopo_train.check.similar import near_duplicates
from mopo_train.cli import main
from mopo_train.errors import DataError
from mopo_train.preferences import read_preferences
from tests.comparisons import row, write_rows

LONG = "Please tell me in plain words how a heat pump gets warmth out of cold air in winter"
OTHER = "Which spices would you put into a lentil soup for ten people who like it hot?"


def write_prompts(path: Path, *prompts: object) -> Path:
    path.write_text("".join(json.dumps({"id": str(i), "prompt": p}) + "\n" for i, p in enumerate(prompts)))
    return path


def test_same_and_nearly_same_prompts_are_told_apart_with_their_rows(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", [row(LONG), row(OTHER), row("Something else"), row(OTHER, "c", "d")])
    messages = [{"role": "user", "content": "Something else"}]
    held = write_prompts(tmp_path / "prompts.jsonl", LONG + "?", LONG + " mornings", messages, "Fresh", "Fresh")
    found = read_held_out([str(held)])
    assert len(found.texts) == 4
    read = read_preferences([data], at_least=1)
    pairs = near_duplicates([*read.prompt_texts(), *found.texts])
    leak = leaked(read, found, pairs)
    assert (leak.same.tolist(), leak.near.tolist()) == ([2], [0, 1])
    assert leak.rows.tolist() == [True, False, True, False]

    result = CliRunner().invoke(main, ["check", str(data), "--held-out", str(held), "--json"], catch_exceptions=False)
    document = json.loads(result.stdout)
    assert document["held_out"] == {"prompts": 4, "same": 1, "near": 2}
    (problem,) = [each for each in document["problems"] if each["kind"] == "leakage"]
    assert (problem["rows"], problem["examples"]) == (2, [0, 2])
    assert "1 of the 4 held-out prompts are here word for word, 2 nearly" in problem["message"]
    assert "do not trust what is measured on them" in document["verdict"]


def test_a_conversation_with_the_same_words_but_other_roles_is_only_nearly_the_same(tmp_path: Path) -> None:
    turns = [("user", "Hello there my friend"), ("assistant", "Hi"), ("user", "How are you doing today?")]
    first = [{"role": role, "content": text} for role, text in turns]
    second = [{"role": "system", "content": turns[0][1]}, *first[1:]]
    data = read_preferences([write_rows(tmp_path / "pairs.jsonl", [row(first)])], at_least=1)
    held = read_held_out([str(write_prompts(tmp_path / "held.jsonl", second))])
    leak = leaked(data, held, near_duplicates([*data.prompt_texts(), *held.texts]))
    assert (len(leak.same), len(leak.near)) == (0, 1)


def test_held_out_preferences_may_have_any_format(tmp_path: Path) -> None:
    hh = {"chosen": f"\n\nHuman: {LONG}\n\nAssistant: x", "rejected": f"\n\nHuman: {LONG}\n\nAssistant: y"}
    path = write_rows(tmp_path / "hh.jsonl", [hh])
    assert read_held_out([f"safety={path}"]).texts == read_held_out([str(path)]).texts == [LONG]


def test_a_file_without_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: 'prompt' is missing"):
        read_held_out([str(write_rows(tmp_path / "rows.jsonl", [{"question": "q"}]))])


@pytest.mark.data
def test_real_test_prompts_that_are_known_to_be_in_the_training_rows(real_data: Path) -> None:
    data = read_preferences([real_data / "pku_saferlhf_train.jsonl.gz"])
    held = read_held_out([str(real_data / "pku_saferlhf_test_prompts.jsonl.gz")])
    leak = leaked(data, held, near_duplicates([*data.prompt_texts(), *held.texts]))
    assert (len(held.texts), len(leak.same)) == (7495, 441)  # as the notes beside the files say
    assert 0 < len(leak.near) < 100
