"""Options of the policy step on a tiny language model: lagged reference, own samples, length, divergence."""

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from mopo_train.console import ProgressLine
from mopo_train.dual import Solution, solve, tilt
from mopo_train.policy.adapter import AdapterTask, OwnSamples, new_adapter, save_adapter, train_adapter
from mopo_train.policy.batches import make_units, plan_steps
from mopo_train.policy.corpus import Corpus, log_probabilities
from mopo_train.policy.followed import Followed, Refresh, make_target
from mopo_train.policy.lagged import Lag
from mopo_train.policy.loop import LoopSettings
from mopo_train.policy.packing import collate
from mopo_train.policy.sampling import generated_divergence, sample
from mopo_train.policy.scoring import response_log_probabilities
from mopo_train.winrates import FloatArray, WinRates
from tests.mopo_train.test_policy import encoded, small_world, tiny_llama
from tests.tiny_family import write_tokenizer

TAU, STEPS, T0 = 0.3, 60, 20
COMPARED = np.array([[3 * x + a, 3 * x + b] for x in range(4) for a, b in [(0, 1), (0, 2), (1, 2)]])


class Interrupted(Exception):
    """What Ctrl-C or a kill is to a training."""


class Stopping(ProgressLine):
    """Stops the work after ``steps`` steps."""

    def __init__(self, steps: int) -> None:
        super().__init__("", STEPS, 0)
        self.steps = steps

    def advance(self, pieces: int = 1, note: str = "") -> None:
        super().advance(pieces, note)
        if self.done >= self.steps:
            raise Interrupted


def again(rates: WinRates, floors: Mapping[str, float]) -> Solution:
    return solve(rates, primary="help", floors=floors, tau=TAU, epsilon=0)


def make_task(work: Path, lag: Lag | None = None, **options: Any) -> tuple[Any, AdapterTask]:
    rates, corpus = small_world()
    base = tiny_llama()
    point = tilt(rates, primary="help", multipliers={"safe": 0.5}, tau=TAU, epsilon=0)
    target = make_target(point.ratio, point.score, TAU, rates)
    first = Followed(target, log_probabilities(base, corpus.rows), rates.mass, point)
    plan = plan_steps(make_units(COMPARED, rates.prompt_of(), 12), corpus.lengths, 12, STEPS, seed=0)
    refresh = Refresh(lag, again, work) if lag else None
    kind = options.pop("kind", "pairwise")
    return base, AdapterTask(kind, first, corpus, rates, plan, 0.1, TAU, refresh=refresh, **options)


def train(
    work: Path, lag: Lag | None = None, stop: int = 0, **options: Any
) -> tuple[PeftModel, list[dict[str, float]]]:
    base, task = make_task(work, lag, **options)
    model = new_adapter(base, rank=4, seed=0, start=None)
    settings = LoopSettings(learning_rate=0.01, checkpoint_seconds=0)
    line = Stopping(stop) if stop else ProgressLine("", STEPS, 0)
    return model, train_adapter(model, task, settings, work, line)


def weights(model: PeftModel, directory: Path) -> dict[str, list[float]]:
    save_adapter(model, "base", directory)
    return {name: w.flatten().tolist() for name, w in load_file(directory / "adapter_model.safetensors").items()}


def log_ratios(model: PeftModel, corpus: Corpus, reference: FloatArray) -> FloatArray:
    with torch.no_grad():
        found = response_log_probabilities(model, collate(corpus.rows)).double().numpy()  # type: ignore[arg-type]
    moved: FloatArray = found - reference
    return moved


def test_a_reference_that_never_lags_is_the_plain_training(tmp_path: Path) -> None:
    plain, rows = train(tmp_path / "plain")
    lagged, logged = train(tmp_path / "lagged", Lag(STEPS // 2))  # until step 2 t0 the reference is the first one
    assert weights(lagged, tmp_path / "a") == weights(plain, tmp_path / "b")
    assert logged == rows


def test_a_lagged_reference_moves_further_and_the_log_says_what_was_solved(tmp_path: Path) -> None:
    plain, rows = train(tmp_path / "plain")
    lagged, logged = train(tmp_path / "lagged", Lag(T0, "adaptive", beta=0.9))
    _, task = make_task(tmp_path)
    moved = [np.abs(log_ratios(model, task.corpus, task.first.reference)).mean() for model in (plain, lagged)]
    assert moved[1] > 1.3 * moved[0]
    assert [row["step"] for row in logged] == list(range(10, STEPS + 1, 10))
    assert logged[:4] == rows[:4]
    floors = [row["floor.safe"] for row in logged]
    assert floors[3] != floors[4] == floors[5]  # rows at 50 and 60: after the refresh at 40
    columns = {"kl", "ess", "lambda.safe", "chi.safe", "predicted.help", "estimated.help", "floor.safe"}
    assert all(columns <= row.keys() for row in logged)


def test_a_killed_lagged_training_continues_to_the_same_weights(tmp_path: Path) -> None:
    """Killed twice, after checkpoints at steps 30 and 40: before a refresh that counts, and with it done."""
    lag = Lag(T0, "adaptive", beta=0.9)
    whole, rows = train(tmp_path / "whole", lag)
    for stop, checkpoint in ((37, "checkpoint-30"), (45, "checkpoint-40")):
        with pytest.raises(Interrupted):
            train(tmp_path / "killed", lag, stop)
        assert [path.name for path in (tmp_path / "killed").glob("checkpoint-*")] == [checkpoint]
    model, logged = train(tmp_path / "killed", lag)
    assert weights(model, tmp_path / "a") == weights(whole, tmp_path / "b")
    assert logged == rows


@pytest.mark.parametrize("kind", ["pairwise", "weighted-bc"])
def test_a_length_normalised_step_is_the_plain_one_where_every_response_is_as_long(kind: str, tmp_path: Path) -> None:
    plain, rows = train(tmp_path / "plain", kind=kind)
    same, logged = train(tmp_path / "same", kind=kind, length_normalised=True)
    assert logged == rows
    assert weights(plain, tmp_path / "a") == weights(same, tmp_path / "b")


def test_own_samples_keep_the_policy_near_the_reference_on_other_text(tmp_path: Path) -> None:
    base, task = make_task(tmp_path)
    other = [encoded([1, 2 + x], [3 + y, 23]) for x, y in itertools.product(range(4), range(5))]
    reference = log_probabilities(base, other)
    drift = {}
    for weight in (0.0, 1.0):
        own = OwnSamples(other, reference, weight) if weight else None
        model, rows = train(tmp_path / f"{weight}", own=own)
        assert ("own_kl" in rows[-1]) == bool(weight)
        drift[weight] = float(-log_ratios(model, Corpus(other, np.zeros(0, dtype=np.int64), ""), reference).mean())
    assert drift[1.0] < 0.5 * drift[0.0]


def test_samples_follow_the_models_probabilities(tmp_path: Path) -> None:
    """Of 4,000 answers of one token, the share of each token is its probability; the same seed repeats them."""
    tokenizer, model = write_tokenizer(tmp_path), tiny_llama(vocabulary=264)
    model.lm_head.weight.data *= 3
    prompts = [np.array([5, 6, 7], dtype=np.int32)] * 4000
    rows = sample(model, tokenizer, prompts, limit=4, seed=1)
    drawn = np.bincount([int(row.response[0]) for row in rows], minlength=264) / 4000
    with torch.no_grad():
        exact = torch.softmax(model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1], dim=-1).numpy()
    assert np.abs(drawn - exact).max() < 4.5 * math.sqrt(0.25 / 4000)
    again_rows = sample(model, tokenizer, prompts[:64], limit=4, seed=1)
    assert [r.response.tolist() for r in again_rows] == [r.response.tolist() for r in rows[:64]]


def test_padding_on_the_left_does_not_change_what_is_sampled(tmp_path: Path) -> None:
    tokenizer, model = write_tokenizer(tmp_path), tiny_llama(vocabulary=264)
    model.lm_head.weight.data *= 100  # nearly deterministic
    short, long = np.array([5], dtype=np.int32), np.arange(5, 17, dtype=np.int32)
    together = sample(model, tokenizer, [long, short], limit=16, seed=0)
    (alone,) = sample(model, tokenizer, [short], limit=16, seed=0)
    assert together[1].response.tolist() == alone.response.tolist()[: len(together[1].response)]
    assert all(row.length <= 16 for row in together)


def test_the_generated_divergence_is_that_of_the_next_token(tmp_path: Path) -> None:
    """For answers of one token the KL divergence can be summed over the vocabulary."""
    tokenizer, base = write_tokenizer(tmp_path), tiny_llama(vocabulary=264)
    adapted = new_adapter(base, rank=4, seed=0, start=None)
    same = generated_divergence(adapted, tokenizer, [np.array([5], dtype=np.int32)] * 8, 2, seed=0)
    assert same.kl == pytest.approx(0, abs=1e-6)
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    found = generated_divergence(adapted, tokenizer, [np.array([5, 6], dtype=np.int32)] * 3000, 3, seed=0)
    network: Any = adapted
    with torch.no_grad():
        ours = torch.log_softmax(network(input_ids=torch.tensor([[5, 6]])).logits[0, -1], dim=-1)
        with adapted.disable_adapter():
            theirs = torch.log_softmax(network(input_ids=torch.tensor([[5, 6]])).logits[0, -1], dim=-1)
    exact = float((ours.exp() * (ours - theirs)).sum())
    assert exact > 0.05
    assert found.kl == pytest.approx(exact, abs=4 * found.error)
    assert found.prompts == 3000
