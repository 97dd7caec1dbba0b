"""Tokens against a limit, with the tiny family's own tokenizer as the truth."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

from mopo_train.check import context
from mopo_train.check.context import context_use
from mopo_train.cli import main
from mopo_train.preferences import PreferenceData, read_preferences
from tests.comparisons import row, write_rows


@pytest.fixture
def data(tmp_path: Path) -> PreferenceData:
    rows = [row(f"Say {n}", "a", "word " * n, {"safety": 1}) for n in range(1, 60)]
    rows.append(row("very long prompt " * 40, "a", "b", {"safety": 0}))
    return read_preferences([write_rows(tmp_path / "pairs.jsonl", rows)], at_least=1)


def test_what_is_cut_is_what_the_tokenizer_says(data: PreferenceData, tiny_family: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_family / "base")
    found = context_use(data, tokenizer, 64)
    cut = no_room = 0
    for comparison in data.comparisons():
        asked = tokenizer.apply_chat_template(comparison.prompt, add_generation_prompt=True, return_dict=False)
        texts = (comparison.response_a, comparison.response_b)
        longest = max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in texts)
        no_room += len(asked) >= 64
        cut += len(asked) < 64 < len(asked) + longest
    assert (found.checked, found.no_room, found.cut) == (60, no_room, cut)
    assert no_room == 1 and 0 < cut < 59


def test_of_very_many_rows_a_sample_is_tokenised(
    data: PreferenceData, tiny_family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "MOST_ROWS", 20)
    tokenizer = AutoTokenizer.from_pretrained(tiny_family / "base")
    every = [context_use(data, tokenizer, 64, seed).cut for seed in range(30)]
    monkeypatch.undo()
    assert np.mean(every) * 3 == pytest.approx(context_use(data, tokenizer, 64).cut, rel=0.2)


def test_the_command_names_the_rows_that_do_not_fit(data: PreferenceData, tiny_family: Path, tmp_path: Path) -> None:
    arguments = [str(tmp_path / "pairs.jsonl"), "--tokenizer", str(tiny_family / "base"), "--max-length", "64"]
    result = CliRunner().invoke(main, ["check", *arguments, "--json"], catch_exceptions=False)
    document = json.loads(result.stdout)
    told = [each["message"] for each in document["problems"] if each["kind"] == "context-overflow"]
    assert told[0].startswith("1 row has a prompt")
    assert document["context"]["limit"] == 64
    result = CliRunner().invoke(main, ["check", arguments[0], "--tokenizer", str(tmp_path / "nowhere/at/all")])
    assert (result.exit_code, "no model directory" in result.stderr) == (1, True)
