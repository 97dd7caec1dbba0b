"""Every baseline through the command, in small: a Llama of 32 dimensions and a few steps."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel

from mopo_eval.pairs import policy_log_ratios
from mopo_train.baselines.config import BaselineConfig
from mopo_train.baselines.dpo import DpoTask, make_trainer
from mopo_train.baselines.pairs import DrawnPairs
from mopo_train.baselines.reward import fitted_rewards
from mopo_train.baselines.run import train_baseline
from mopo_train.cli import main
from mopo_train.errors import FamilyError
from mopo_train.family import PolicyFamily, read_family
from mopo_train.policy.adapter import new_adapter
from mopo_train.policy.corpus import encode_corpus
from mopo_train.policy.loop import LoopSettings
from mopo_train.policy.models import load_model, load_tokenizer
from mopo_train.policy.packing import collate
from mopo_train.policy.scoring import response_log_probabilities
from mopo_train.preferences import read_preferences
from tests.mopo_train.test_run import World

SMALL: dict[str, Any] = {"steps": 4, "batch_size": 8, "rank": 2, "max_length": 64, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def train(world: World, out: Path, **options: Any) -> PolicyFamily:
    return train_baseline([world.data], out, BaselineConfig(**(SMALL | options)), model=str(world.model))


def weights_of(root: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(root.glob("policies/*/adapter_model.safetensors"))}


@pytest.mark.parametrize(
    ("method", "policies", "kinds"),
    [("dpo", None, 2), ("soup", 3, 3), ("scalarised-dpo", 2, 2), ("modpo", 2, 2), ("grpo", 1, 1)],
)
def test_every_method_writes_a_family_that_can_be_measured(
    method: str, policies: int | None, kinds: int, world: World, tmp_path: Path
) -> None:
    options = {"max_answer": 8, "generations": 4} if method == "grpo" else {}
    family = train(world, tmp_path / "family", method=method, policies=policies, **options)
    assert [policy.kind for policy in family.policies] == ["reference", *[method] * kinds]
    assert read_family(tmp_path / "family") == family
    assert {path.name for path in (tmp_path / "family").iterdir()} >= {"base", "policies", "training", "run.json"}
    assert [path.suffix for path in (tmp_path / "family" / ".work").iterdir()] in ([".npy"], [".npy"] * 2, [])
    for policy in family.policies[1:]:
        assert sum(family.config["weights"][policy.id].values()) == pytest.approx(1, abs=1e-5)
        if method != "soup":  # which trains its experts only
            log = pd.read_parquet(tmp_path / "family" / "training" / f"{policy.id}.parquet")
            assert np.isfinite(log["loss"]).all()
            assert log["weight.helpfulness"].iloc[0] == family.config["weights"][policy.id]["helpfulness"]
    ratios = policy_log_ratios(tmp_path / "family", family, read_preferences([world.data]))
    assert list(ratios) == [policy.id for policy in family.policies[1:]]
    assert all(np.abs(ratio).max() > 1e-4 for ratio in ratios.values())


def test_dpo_learns_what_its_objective_prefers(world: World, tmp_path: Path) -> None:
    """Longer answers are preferred on one objective, shorter ones on the other."""
    family = train(world, tmp_path / "family", method="dpo", steps=20)
    data = read_preferences([world.data])
    ratios = policy_log_ratios(tmp_path / "family", family, data)
    for k, name in enumerate(data.objectives):
        known = ~np.isnan(data.labels[:, k])
        sign = np.where(data.labels[known, k] > 0.5, 1, -1)
        margin = sign * (ratios[f"dpo-{name}"][data.first] - ratios[f"dpo-{name}"][data.second])[known]
        assert (margin > 0).mean() > 0.8


def test_the_loss_of_trl_is_that_of_the_paper_on_our_log_probabilities(world: World, tmp_path: Path) -> None:
    data, tokenizer = read_preferences([world.data]), load_tokenizer(str(world.model))
    corpus = encode_corpus(data, tokenizer, 64)
    model: Any = new_adapter(load_model(str(world.model)), rank=2, seed=0, start=None)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zero at first: no policy but the reference
            torch.nn.init.normal_(weight, std=0.05)
    chosen, rejected = np.array([0, 5, 7]), np.array([2, 3, 6])
    reference = np.random.default_rng(0).normal(-20, 2, len(corpus.rows))
    task = DpoTask(DrawnPairs(chosen, rejected), 1, corpus, reference, beta=0.3)
    trainer: Any = make_trainer(model, tokenizer, task, LoopSettings(learning_rate=1e-3), tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        found = float(trainer.compute_loss(model, batch))
        own = [
            response_log_probabilities(model, collate([corpus.rows[i] for i in side])) for side in (chosen, rejected)
        ]
    margin = 0.3 * ((own[0] - own[1]).double().numpy() - (reference[chosen] - reference[rejected]))
    assert found == pytest.approx(float(np.log1p(np.exp(-margin)).mean()), rel=1e-5)


def updates(root: Path, adapter: str) -> dict[str, torch.Tensor]:
    """Per matrix, what the adapter adds to it."""
    model: Any = PeftModel.from_pretrained(load_model(str(root / "base")), str(root / adapter))
    return {
        name: module.get_delta_weight("default") for name, module in model.named_modules() if hasattr(module, "lora_A")
    }


def test_a_soup_is_the_mean_of_its_experts_updates_and_not_of_their_factors(world: World, tmp_path: Path) -> None:
    experts = tmp_path / "dpo"
    train(world, experts, method="dpo")
    soup = train(world, tmp_path / "soup", method="soup", policies=3)
    parts = {name: updates(experts, f"policies/dpo-{name}") for name in soup.objectives}  # the same seeds and steps
    weights = soup.config["weights"]["soup-01"]
    for matrix, update in updates(tmp_path / "soup", "policies/soup-01").items():
        mean = sum(weights[name] * parts[name][matrix] for name in soup.objectives)
        assert torch.allclose(update, torch.as_tensor(mean), atol=1e-7)
    config = json.loads((tmp_path / "soup/policies/soup-01/adapter_config.json").read_bytes())
    assert (config["r"], config["base_model_name_or_path"]) == (2 * SMALL["rank"], "base")


def test_a_killed_run_continues_with_the_policy_that_is_missing(world: World, tmp_path: Path) -> None:
    whole = train(world, tmp_path / "whole", method="modpo", policies=2)
    half = tmp_path / "half"
    shutil.copytree(tmp_path / "whole", half)
    (half / "family.json").unlink()
    shutil.rmtree(half / "policies" / "modpo-01")
    kept = (half / "policies/modpo-00/adapter_model.safetensors").stat().st_mtime_ns
    again = train(world, half, method="modpo", policies=2)
    assert weights_of(half) == weights_of(tmp_path / "whole")
    assert (half / "policies/modpo-00/adapter_model.safetensors").stat().st_mtime_ns == kept
    assert again.policies == whole.policies
    with pytest.raises(FamilyError, match="beta was 0.1, now 0.7.*--force"):
        train(world, half, method="modpo", policies=2, beta=0.7)


def test_the_command(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["baseline", str(world.data), "--model", str(world.model), "--out", str(tmp_path / "family")]
    small = ["--steps", "2", "--batch-size", "4", "--rank", "2", "--max-length", "64"]
    done = CliRunner().invoke(main, [*arguments, "--method", "dpo", *small])
    assert done.exit_code == 0, done.output
    assert "dpo-safety" in done.stdout
    wrong = CliRunner().invoke(main, [*arguments, "--method", "dpo", *small, "--primary", "speed"])
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "'speed' is not an objective" in wrong.stderr
    monkeypatch.setitem(sys.modules, "trl", None)
    missing = CliRunner().invoke(main, [*arguments, "--method", "dpo", "--force"])
    assert missing.exit_code == 1
    assert "pip install 'mopo-suite[baselines]'" in missing.stderr


def test_rewards_follow_the_labels_and_are_fitted_once(world: World, tmp_path: Path) -> None:
    """The longer answer is preferred on one objective, the shorter on the other."""
    data = read_preferences([world.data])
    rewards = fitted_rewards(data, tmp_path, seed=0)
    talk = [{"role": "user", "content": "How do I make dish 3?"}]
    found = rewards.score([talk] * 2, ["Mix 3 parts and stir well.", "I will not say."])
    assert np.sign(found[0] - found[1]).tolist() == [1 if name == "helpfulness" else -1 for name in data.objectives]
    kept = (tmp_path / "rewards.safetensors").stat().st_mtime_ns
    again = fitted_rewards(data, tmp_path, seed=0)
    assert again.score([talk], ["Mix 3."]) == pytest.approx(rewards.score([talk], ["Mix 3."]), abs=1e-6)
    assert (tmp_path / "rewards.safetensors").stat().st_mtime_ns == kept
