"""Accuracy on labelled pairs: by hand on given log-ratios, and of real adapters against transformers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from mopo_eval.cli import main
from mopo_eval.pairs import clustered_difference, compare_with_first, pair_accuracies
from mopo_train.family import read_family
from mopo_train.preferences import read_preferences
from tests.comparisons import row, write_rows


def test_accuracy_counts_strict_labels_and_halves_ties(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "pairs.jsonl",
        [
            row("Q1", "a", "b", {"helpfulness": 1, "safety": 0}),
            row("Q1", "b", "c", {"helpfulness": 0.8, "safety": 0.5}),
            row("Q2", "a", "b", {"helpfulness": 0}),
        ],
    )
    data = read_preferences([path])
    scores = {("Q1", "a"): 2.0, ("Q1", "b"): 1.0, ("Q1", "c"): 1.0, ("Q2", "a"): 3.0, ("Q2", "b"): 0.0}
    ratio = np.array(
        [
            scores[data.messages(prompt)[0]["content"], data.response(index)]
            for index, prompt in enumerate(data.response_prompt.tolist())
        ]
    )
    found = pair_accuracies(data, ratio)
    assert (found["helpfulness"].accuracy, found["helpfulness"].n) == (0.5, 3)  # right, tied, wrong
    assert (found["safety"].accuracy, found["safety"].n) == (0, 1)
    assert found["safety"].high > 0.5  # one pair says little


def test_the_command_agrees_with_transformers(tiny_family: Path, tmp_path: Path) -> None:
    rows = [row(f"Say {word}.", f"{word} then", f"no {word} at all", {"safety": 1}) for word in ("one", "two", "three")]
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    root = shutil.copytree(tiny_family, tmp_path / "family")  # log-probabilities are kept there
    result = CliRunner().invoke(main, ["pairs", str(root), str(path), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    family = read_family(tiny_family)
    assert list(found) == [policy.id for policy in family.policies if policy.adapter]
    tokenizer = AutoTokenizer.from_pretrained(tiny_family / "base")
    for policy in family.policies[1:3]:
        right = []
        for item in rows:
            sides = []
            for text in (item["response_a"], item["response_b"]):
                talk = [{"role": "user", "content": item["prompt"]}]
                start = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
                prompt = tokenizer(start, add_special_tokens=False)["input_ids"]
                answer = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
                sides.append(log_ratio(tiny_family, str(policy.adapter), prompt, answer))
            right.append(sides[0] > sides[1])
        assert found[policy.id]["safety"]["accuracy"] == pytest.approx(np.mean(right))
        assert found[policy.id]["safety"]["n"] == 3


@torch.no_grad()
def log_ratio(root: Path, adapter: str, prompt: list[int], answer: list[int]) -> float:
    """log [pi / pi_ref] of an answer, by models that are loaded for this alone."""
    plain = AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float32)
    adapted = AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float32)
    totals = []
    for model in (PeftModel.from_pretrained(adapted, str(root / adapter)), plain):
        logs = torch.log_softmax(model(input_ids=torch.tensor([prompt + answer])).logits[0], dim=-1)
        totals.append(sum(float(logs[len(prompt) - 1 + at, token]) for at, token in enumerate(answer)))
    return totals[0] - totals[1]


def test_pairs_that_were_trained_on_are_measured_with_a_warning(tiny_family: Path, tmp_path: Path) -> None:
    rows = [row(f"Say {word}.", f"{word} then", f"no {word} at all", {"safety": 1}) for word in ("one", "two", "three")]
    trained = write_rows(tmp_path / "trained.jsonl", rows)
    mixed = write_rows(tmp_path / "mixed.jsonl", [rows[0], row("Say four.", "four", "no", {"safety": 1})])
    root = shutil.copytree(tiny_family, tmp_path / "family")
    members = read_family(root)
    source = members.data.model_copy(update={"source": [str(trained)]})
    (root / "family.json").write_text(members.model_copy(update={"data": source}).model_dump_json())
    done = CliRunner().invoke(main, ["pairs", str(root), str(mixed), "--json"])
    assert done.exit_code == 0, done.stderr
    assert "NOT HELD OUT: 1 of the 2 prompts are training prompts of this family (the first: 'Say one.')" in done.stderr
    assert set(json.loads(done.stdout)) == {policy.id for policy in members.policies if policy.adapter}


def test_a_difference_of_single_rows_is_students_paired_one() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = (rng.random((2, 200)) < np.array([[0.7], [0.6]])).astype(float)
    found, peer = clustered_difference(ours, theirs, np.arange(200)), stats.ttest_rel(ours, theirs)
    assert found.p_value == pytest.approx(peer.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(peer.confidence_interval()))


def test_copies_of_rows_say_nothing_more_about_a_difference() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = rng.integers(0, 2, (2, 50)).astype(float)
    once = clustered_difference(ours, theirs, np.arange(50))
    copies = clustered_difference(np.repeat(ours, 4), np.repeat(theirs, 4), np.repeat(np.arange(50), 4))
    assert copies[:4] == pytest.approx(once[:4])


def test_equal_policies_on_pairs_that_share_prompts_differ_no_more_often_than_stated() -> None:
    rng, trials, rejected = np.random.default_rng(3), 400, 0
    for _ in range(trials):
        shared = np.repeat(rng.random((2, 40)), 6, axis=1)  # each policy knows or does not know a prompt
        right = (rng.random((2, 240)) < 0.3 + 0.4 * shared).astype(float)
        rejected += clustered_difference(right[0], right[1], np.repeat(np.arange(40), 6)).p_value <= 0.05
    assert rejected <= stats.binom.ppf(0.999, trials, 0.05)


def test_few_prompts_that_differ_are_not_compared() -> None:
    found = clustered_difference(np.ones(40), np.zeros(40), np.repeat(np.arange(5), 8))
    assert (found.mean, found.low, found.high, found.p_value) == (1, -1, 1, 1)


def test_every_later_policy_is_compared_with_the_first_and_p_values_are_adjusted(tmp_path: Path) -> None:
    rows = [row(f"Q{i}", "a", "b", {"helpfulness": 1, "safety": int(i % 3 > 0)}) for i in range(60)]
    data = read_preferences([write_rows(tmp_path / "pairs.jsonl", rows)])
    first = np.array([data.response(index) == "b" for index in range(len(data.response_prompt))]).astype(float)
    found = compare_with_first(data, {"loose": first, "strict": 1 - first, "same": first.copy()})
    assert list(found) == ["strict", "same"]
    assert found["strict"]["helpfulness"].mean == 1
    assert found["strict"]["safety"].mean == pytest.approx(40 / 60 - 20 / 60)
    one = stats.ttest_1samp([1.0 if i % 3 else -1.0 for i in range(60)], 0).pvalue
    assert found["strict"]["safety"].p_value == pytest.approx(3 * one)  # second smallest of four
    assert found["same"]["helpfulness"].p_value == 1
    assert {difference.policy for scores in found.values() for difference in scores.values()} == {"loose"}
