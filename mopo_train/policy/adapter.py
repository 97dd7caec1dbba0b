"""Train one LoRA adapter on a frozen reference so that it follows a density ratio."""

import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from mopo_train.console import ProgressLine
from mopo_train.policy.batches import Planned
from mopo_train.policy.corpus import Corpus
from mopo_train.policy.estimates import Estimates
from mopo_train.policy.loop import Batch, LoopSettings, Task, optimise
from mopo_train.policy.losses import Pairs, level_loss, mean_by_prompt, pairwise_loss, weighted_bc_loss
from mopo_train.policy.tokens import TokenBatch, collate, response_log_probabilities
from mopo_train.winrates import FloatArray, WinRates

StepKind = Literal["pairwise", "weighted-bc"]


class Target(NamedTuple):
    """What a policy should follow, per response (Y,)."""

    ratio: FloatArray
    """rho: policy / reference, averaging to 1 over each prompt's responses."""
    tilt: FloatArray
    """score / tau with the correction for in-set labels; only differences within a prompt matter."""
    level: FloatArray
    """Log of the ratio that ``tilt`` stands for, normalised over each prompt's responses."""


class AdapterTask(NamedTuple):
    """Everything that the training of one adapter reads."""

    kind: StepKind
    target: Target
    corpus: Corpus
    reference: FloatArray
    """(Y,) log pi_ref of each response, in nats."""
    rates: WinRates
    plan: list[Planned]
    anchor: float
    """Weight of the level term of ``pairwise``."""


def make_target(ratio: FloatArray, score: FloatArray, tau: float, rates: WinRates) -> Target:
    """The target of a solution: ``ratio`` and ``score`` (Y,) at ``tau``."""
    sizes = np.diff(rates.starts)  # (P,)
    number = np.repeat(sizes, sizes)  # (Y,) r of each response's prompt
    tilt = score / tau * (number - 1) / np.maximum(number, 1)
    top = np.repeat(np.maximum.reduceat(tilt, rates.starts[:-1]), sizes)
    normaliser = np.repeat(np.add.reduceat(np.exp(tilt - top) * rates.mass, rates.starts[:-1]), sizes)
    return Target(ratio, tilt, tilt - top - np.log(normaliser))


def new_adapter(base: PreTrainedModel, *, rank: int, seed: int, start: Path | None) -> PeftModel:
    """A trainable LoRA adapter on all linear layers of ``base``, which it wraps; ``start`` holds one to begin with."""
    wrapped: Any
    if start is not None:
        wrapped = PeftModel.from_pretrained(base, str(start), is_trainable=True)
    else:
        torch.manual_seed(seed)
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        wrapped = get_peft_model(base, config)
    adapter: PeftModel = wrapped
    return adapter


def train_adapter(
    model: PeftModel, task: AdapterTask, settings: LoopSettings, work: Path, line: ProgressLine
) -> list[dict[str, float]]:
    """Train ``model`` in place, continuing from the last checkpoint in ``work``; returns the log's rows."""
    estimates = Estimates(task.rates)

    def build(step: Planned) -> Batch:
        tokens = collate([task.corpus.rows[index] for index in step.responses])
        of = {"ratio": task.target.ratio, "tilt": task.target.tilt, "level": task.target.level}
        values = of | {"reference": task.reference}
        return tokens._asdict() | {
            **{name: torch.from_numpy(column[step.responses]).float() for name, column in values.items()},
            "pairs": torch.from_numpy(step.pairs),
            "unit": torch.from_numpy(step.unit),
            "responses": torch.from_numpy(step.responses),
        }

    def loss(network: PreTrainedModel, batch: Batch) -> Tensor:
        tokens = TokenBatch(batch["tokens"], batch["targets"], batch["start"])
        log_probability = response_log_probabilities(network, tokens)
        log_ratio = log_probability - batch["reference"]
        estimates.add(log_ratio.detach(), batch["unit"], batch["responses"])
        if task.kind == "weighted-bc":
            return mean_by_prompt(weighted_bc_loss(log_probability, batch["ratio"]), batch["unit"]).mean()
        pairs = Pairs(batch["pairs"][:, 0], batch["pairs"][:, 1])
        total = mean_by_prompt(pairwise_loss(log_ratio, batch["tilt"], pairs), batch["unit"][pairs.first]).mean()
        if task.anchor:
            total = total + task.anchor * level_loss(log_ratio, batch["level"], batch["unit"]).mean()
        return total

    whole = Task(plan=task.plan, build=build, loss=loss, measures=estimates.take)
    return optimise(model, whole, settings, work, line)  # type: ignore[arg-type]


def save_adapter(model: PeftModel, base_name: str, directory: Path) -> None:
    """Write the adapter to ``directory``, replacing one there; it names ``base_name`` as its base model."""
    shutil.rmtree(directory, ignore_errors=True)
    config: Any = model.peft_config["default"]
    config.base_model_name_or_path = base_name
    model.save_pretrained(str(directory), save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def unwrap(model: PeftModel) -> PreTrainedModel:
    """The base model without the adapter, as it was before `new_adapter`."""
    base: Any = model
    plain: PreTrainedModel = base.unload()
    return plain
