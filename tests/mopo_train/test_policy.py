"""Batches, log-probabilities, estimates and the training of one adapter, each against independent arithmetic."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from mopo_train.console import ProgressLine
from mopo_train.dual import tilt
from mopo_train.errors import FamilyError
from mopo_train.policy.adapter import AdapterTask, StepKind, new_adapter, save_adapter, train_adapter
from mopo_train.policy.batches import make_units, plan_steps
from mopo_train.policy.corpus import Corpus, corpus_log_probabilities
from mopo_train.policy.estimates import Estimates
from mopo_train.policy.followed import Followed, make_target
from mopo_train.policy.loop import LoopSettings, last_checkpoint
from mopo_train.policy.packing import collate
from mopo_train.policy.scoring import response_log_probabilities
from mopo_train.policy.tokens import Encoded
from mopo_train.winrates import WinRates, from_rates


def tiny_llama(vocabulary: int = 24) -> Any:
    torch.manual_seed(0)
    build: Any = LlamaForCausalLM
    sizes: dict[str, Any] = {
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "initializer_range": 0.3,
    }
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=32, intermediate_size=48, **sizes)
    return build(config).eval()


def encoded(prompt: list[int], response: list[int]) -> Encoded:
    return Encoded(np.array(prompt, dtype=np.int32), np.array(response, dtype=np.int32))


ROWS = [encoded([1, 2, 3], [4, 5]), encoded([6], [7, 8, 9, 10, 11]), encoded([1, 1, 1, 1, 1, 1], [2])]


def test_response_log_probabilities_equal_those_of_each_response_alone() -> None:
    model = tiny_llama()
    with torch.no_grad():
        together = response_log_probabilities(model, collate(ROWS))
        for row, found in zip(ROWS, together.tolist(), strict=True):
            tokens = torch.tensor([*row.prompt.tolist(), *row.response.tolist()])
            steps = torch.log_softmax(model(input_ids=tokens[None]).logits[0], dim=-1)
            places = range(len(row.prompt), len(tokens))
            assert found == pytest.approx(sum(float(steps[at - 1, tokens[at]]) for at in places), abs=1e-4)


def test_reference_log_probabilities_are_computed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_llama()
    corpus = Corpus(ROWS, np.array([row.length for row in ROWS]), "digest")
    some = corpus_log_probabilities(model, corpus, [0, 2], tmp_path, "model", title="reference")
    assert np.isnan(some).tolist() == [False, True, False]
    every = corpus_log_probabilities(model, corpus, [0, 1, 2], tmp_path, "model", title="reference")
    assert every[[0, 2]].tolist() == some[[0, 2]].tolist()
    capsys.readouterr()
    with torch.no_grad():
        model.model.norm.weight.mul_(2)  # would change them if they were computed again
    again = corpus_log_probabilities(model, corpus, [0, 1, 2], tmp_path, "model", title="reference")
    assert again.tolist() == every.tolist()
    assert capsys.readouterr().err == ""
    other = corpus_log_probabilities(model, corpus, [0, 1, 2], tmp_path, "another model", title="reference")
    assert other.tolist() != every.tolist()


@pytest.mark.parametrize("rest", [0, 40, -8])
def test_log_probabilities_that_were_damaged_are_computed_again(rest: int, tmp_path: Path) -> None:
    corpus = Corpus(ROWS, np.array([row.length for row in ROWS]), "digest")
    first = corpus_log_probabilities(tiny_llama(), corpus, [0, 1, 2], tmp_path, "model", title="reference")
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:rest])
    again = corpus_log_probabilities(tiny_llama(), corpus, [0, 1, 2], tmp_path, "model", title="reference")
    assert again.tolist() == first.tolist()
    assert path.read_bytes() == whole


def test_two_runs_keep_the_same_log_probabilities_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, save = Corpus(ROWS, np.array([row.length for row in ROWS]), "digest"), np.save

    def scored() -> list[float]:
        found = corpus_log_probabilities(tiny_llama(), corpus, [0, 1, 2], tmp_path, "model", title="reference")
        return list(found.tolist())

    def meanwhile(*given: Any) -> None:
        monkeypatch.undo()
        save(*given)
        scored()

    monkeypatch.setattr(np, "save", meanwhile)
    assert scored() == scored()
    assert len(list(tmp_path.iterdir())) == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 6)), min_size=1), st.integers(2, 9))
def test_every_pair_is_in_exactly_one_unit_and_every_unit_fits(pairs: list[tuple[int, int, int]], size: int) -> None:
    compared = np.array(sorted({(7 * p + min(a, b), 7 * p + max(a, b)) for p, a, b in pairs if a != b}))
    if not len(compared):
        return
    units = make_units(compared, np.arange(42) // 7, size)
    found = [tuple(unit.responses[pair].tolist()) for unit in units for pair in unit.pairs]
    assert sorted(found) == [tuple(pair) for pair in compared.tolist()]
    assert all(len(unit.responses) <= size and len(set((unit.responses // 7).tolist())) == 1 for unit in units)


def test_an_epoch_sees_every_unit_once_and_pairs_point_at_their_responses() -> None:
    compared = np.array([[0, 1], [0, 2], [1, 2], [3, 4], [5, 6], [7, 8]])
    prompts = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3])
    units = make_units(compared, prompts, 4)
    plan = plan_steps(units, np.arange(9), 4, 3, seed=1)
    assert sorted(np.concatenate([step.responses for step in plan]).tolist()) == list(range(9))
    seen = [tuple(step.responses[pair].tolist()) for step in plan for pair in step.pairs]
    assert sorted(seen) == [tuple(pair) for pair in compared.tolist()]
    for step in plan:
        assert [prompts[step.responses[step.unit == unit]].std() for unit in set(step.unit.tolist())] == pytest.approx(
            [0] * len(set(step.unit.tolist()))
        )


def test_the_plan_depends_on_the_seed_alone() -> None:
    units = make_units(np.arange(80).reshape(-1, 2), np.arange(80) // 2, 8)
    a, b, c = (plan_steps(units, np.arange(80), 8, 20, seed) for seed in (1, 1, 2))
    assert [step.responses.tolist() for step in a] == [step.responses.tolist() for step in b]
    assert [step.responses.tolist() for step in a] != [step.responses.tolist() for step in c]


def test_estimates_weigh_responses_by_the_policy_share() -> None:
    """Prompt 0: shares 3/4 and 1/4, rates 1 and 0; prompt 1: even shares, rates .2 and .4, no label on safety."""
    rates = from_rates(
        ("help", "safe"),
        [[1.0, 0.0], [0.0, 1.0], [0.2, 0.5], [0.4, 0.5]],
        [0, 2, 4],
        labelled=np.array([[True, True], [True, False]]),
    )
    estimates = Estimates(rates)
    estimates.add(torch.tensor([math.log(3.0), 0.0, 5.0, 5.0]), torch.tensor([0, 0, 1, 1]), torch.arange(4))
    found = estimates.take()
    assert found["estimated.help"] == pytest.approx((0.75 + 0.3) / 2)
    assert found["estimated.safe"] == pytest.approx(0.25)
    assert found["kl"] == pytest.approx((0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2)
    assert found["ess"] == pytest.approx((1 / (2 * (0.75**2 + 0.25**2)) + 1) / 2)
    assert estimates.take() == {}


def small_world() -> tuple[WinRates, Corpus]:
    """Four prompts with three responses of one token each."""
    generator = np.random.default_rng(3)
    rates = from_rates(("help", "safe"), generator.uniform(size=(12, 2)), [0, 3, 6, 9, 12])
    rows = [encoded([1, 2 + x], [10 + y, 23]) for x in range(4) for y in range(3)]
    return rates, Corpus(rows, np.array([row.length for row in rows]), "small")


@pytest.mark.parametrize("kind", ["pairwise", "pairwise-logistic", "weighted-bc"])
def test_an_adapter_learns_the_ratio_of_a_language_model(kind: StepKind, tmp_path: Path) -> None:
    """On every response of the data, the policy's share relative to the reference's becomes rho."""
    rates, corpus = small_world()
    model = tiny_llama()
    reference = corpus_log_probabilities(model, corpus, range(12), tmp_path, "", title="reference")
    for x in range(4):  # the data's responses stand for pi_ref and count alike: make the reference agree
        reference[3 * x : 3 * x + 3] = reference[3 * x : 3 * x + 3].mean()
    point = tilt(rates, primary="help", multipliers={"safe": 0.5}, tau=0.3, epsilon=0)
    target = make_target(point.ratio, point.score, 0.3, rates)
    compared = np.array([[3 * x + a, 3 * x + b] for x in range(4) for a, b in [(0, 1), (0, 2), (1, 2)]])
    plan = plan_steps(make_units(compared, rates.prompt_of(), 12), corpus.lengths, 12, 250, seed=0)
    adapter = new_adapter(model, rank=4, seed=0, start=None)
    task = AdapterTask(kind, Followed(target, reference, rates.mass, point), corpus, rates, plan, 0.1, tau=0.3)
    rows = train_adapter(adapter, task, LoopSettings(learning_rate=0.01), tmp_path / "work", ProgressLine("", 250, 0))
    with torch.no_grad():
        found = response_log_probabilities(adapter, collate(corpus.rows)).double().numpy() - reference  # type: ignore[arg-type]
    ratio = np.exp(found).reshape(4, 3)
    wanted = point.ratio if kind == "weighted-bc" else np.exp(target.level)
    share = ratio / ratio.mean(axis=1, keepdims=True)
    assert share.flatten().tolist() == pytest.approx(wanted.tolist(), abs=0.03)
    assert [row["step"] for row in rows] == list(range(10, 251, 10))
    wins = (share * rates.rates[:, 0].reshape(4, 3)).mean()
    assert rows[-1]["estimated.help"] == pytest.approx(wins, abs=0.02)


def test_an_adapter_that_another_begins_from_is_saved_without_a_lookup_on_the_hub(tmp_path: Path) -> None:
    """Its file names the base relative to the family, which PEFT warns that it cannot find; warnings are errors."""
    tiny_llama().save_pretrained(tmp_path / "model")
    base = LlamaForCausalLM.from_pretrained(tmp_path / "model")
    save_adapter(new_adapter(base, rank=2, seed=0, start=None), "base", tmp_path / "first")
    fresh = LlamaForCausalLM.from_pretrained(tmp_path / "model")
    new_adapter(fresh, rank=2, seed=0, start=tmp_path / "first").save_pretrained(str(tmp_path / "checkpoint"))
    assert (tmp_path / "checkpoint" / "adapter_model.safetensors").is_file()


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    kept = tmp_path / "checkpoint-9"
    kept.mkdir()
    (kept / "trainer_state.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FamilyError, match="checkpoint-9' belongs to another training or another version"):
        last_checkpoint(tmp_path, "this one")
    (kept / "training.sha256").write_text("this one", encoding="utf-8")
    assert last_checkpoint(tmp_path, "this one") == kept


def test_a_half_written_checkpoint_is_not_used(tmp_path: Path) -> None:
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-9" / "trainer_state.json").write_text("{}", encoding="utf-8")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    assert not (tmp_path / "checkpoint-10").exists()
    assert last_checkpoint(tmp_path / "checkpoint-9") is None
