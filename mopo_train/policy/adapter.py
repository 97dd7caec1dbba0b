"""Train one LoRA adapter on a frozen reference so that it follows a density ratio."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from mopo_train.console import ProgressLine
from mopo_train.policy.batches import Planned, shares
from mopo_train.policy.corpus import Corpus, log_probabilities
from mopo_train.policy.distributed import Group, from_leader, group, summed
from mopo_train.policy.estimates import Estimates
from mopo_train.policy.followed import Followed, Refresh
from mopo_train.policy.loop import Batch, LoopSettings, Task, optimise, whole_tensors
from mopo_train.policy.lora import fuse
from mopo_train.policy.losses import (
    Pairs,
    forward_kl,
    length_scale,
    level_loss,
    mean_by_prompt,
    pairwise_logistic_loss,
    pairwise_loss,
    weighted_bc_loss,
)
from mopo_train.policy.packing import TokenBatch, collate
from mopo_train.policy.scoring import response_log_probabilities, traits
from mopo_train.policy.tokens import Encoded
from mopo_train.winrates import FloatArray, WinRates

StepKind = Literal["pairwise", "pairwise-logistic", "weighted-bc"]
OWN_PER_STEP = 4
"""A batch has one of the reference's own samples for so many responses of the data."""


class OwnSamples(NamedTuple):
    """Answers that the reference wrote itself: what keeps mass on text that the data does not hold."""

    rows: Sequence[Encoded]
    reference: FloatArray
    """(samples,) log pi_ref in nats."""
    weight: float
    """Of `losses.forward_kl` beside the loss of the step."""


class AdapterTask(NamedTuple):
    """Everything that the training of one adapter reads."""

    kind: StepKind
    first: Followed
    """What the policy follows; from the first refresh on something else, with ``refresh``."""
    corpus: Corpus
    rates: WinRates
    plan: Sequence[Planned]
    anchor: float
    """Weight of the level term of the pairwise steps."""
    tau: float
    length_normalised: bool = False
    """Log-probabilities scaled by `losses.length_scale`."""
    own: OwnSamples | None = None
    refresh: Refresh | None = None


class _Step(NamedTuple):
    """One entry of the loop's plan."""

    planned: Planned
    own: list[int]
    """Samples of the reference in the batch, after the responses of the data."""
    weight: float = 1.0
    """Of the loss on the data's responses; 0: they only stand in (`batches.Share`)."""
    own_weight: float = 1.0


class _Trainee:
    """The state of one training: what is followed now, and the estimates since the last row of the log."""

    def __init__(self, task: AdapterTask, worth: float) -> None:
        """``worth``: see `packing.sharing_pays`."""
        self.task, self.worth = task, worth
        self.estimates = Estimates(task.rates)
        self.scale = torch.ones(len(task.corpus.rows))
        if task.length_normalised:
            self.scale = length_scale(torch.from_numpy(task.corpus.response_lengths())).float()
        self.own_kl: list[float] = []
        self.told: Mapping[str, float] = {}
        self.follow(task.first)

    def follow(self, followed: Followed) -> None:
        """From the next step on."""
        self.columns = followed.columns()
        self.values = {
            "ratio": followed.target.ratio,
            "tilt": followed.target.tilt,
            "level": followed.target.level,
            "reference": followed.reference,
        }
        self.estimates.follow(followed.mass)

    def build(self, step: _Step) -> Batch:
        """Tokens only: batches are made ahead of their step, which a refresh may precede."""
        rows = [self.task.corpus.rows[index] for index in step.planned.responses]
        if self.task.own is not None:
            rows += [self.task.own.rows[index] for index in step.own]
        return collate(rows, self.worth)._asdict() | {
            "pairs": torch.from_numpy(step.planned.pairs),
            "unit": torch.from_numpy(step.planned.unit),
            "planned": torch.from_numpy(step.planned.responses),
            "own": torch.tensor(step.own, dtype=torch.long),
            "weights": (step.weight, step.own_weight),
        }

    def share(self, step: _Step, us: Group) -> _Step:
        """What the process ``us`` takes of a step."""
        mine = shares(step.planned, self.task.corpus.lengths, us.size)[us.rank]
        own = step.own[us.rank :: us.size]
        if not own:  # a stand-in, as in `shares`
            return _Step(mine.planned, step.own[:1], mine.weight, 0.0)
        return _Step(mine.planned, own, mine.weight, us.size * len(own) / len(step.own))

    def loss(self, network: PreTrainedModel, batch: Batch) -> Tensor:
        tokens = TokenBatch(*(batch[name] for name in TokenBatch._fields))
        every = response_log_probabilities(network, tokens)
        responses, unit = batch["planned"].cpu(), batch["unit"]
        log_probability, own = every[: len(responses)], every[len(responses) :]
        self.told = self.columns
        of = {
            name: torch.from_numpy(column[responses.numpy()]).float().to(every.device)
            for name, column in self.values.items()
        }
        log_ratio = log_probability - of["reference"]
        weight, own_weight = batch["weights"]
        if weight:
            self.estimates.add(log_ratio.detach(), unit, responses)
        scale = self.scale[responses].to(every.device)
        if self.task.kind == "weighted-bc":
            total = mean_by_prompt(weighted_bc_loss(scale * log_probability, of["ratio"]), unit).mean()
        else:
            pairs = Pairs(batch["pairs"][:, 0], batch["pairs"][:, 1])
            of_pair = pairwise_loss if self.task.kind == "pairwise" else pairwise_logistic_loss
            each = of_pair(scale * log_ratio, of["tilt"], pairs)
            total = mean_by_prompt(each, unit[pairs.first]).mean()
            if self.task.anchor:
                total = total + self.task.anchor * level_loss(scale * log_ratio, of["level"], unit).mean()
        total = float(weight) * total
        if self.task.own is not None:
            reference = torch.from_numpy(self.task.own.reference[batch["own"].cpu().numpy()]).float()
            divergence = own_weight * forward_kl(own, reference.to(own.device)).mean()
            self.own_kl.append(float(divergence.detach()))
            total = total + self.task.own.weight * divergence
        return total

    def measures(self) -> dict[str, float]:
        """What the log says beside step and loss; of the steps since the last row, and of the last of them."""
        found = {**self.estimates.take(), **self.told}
        if self.own_kl:
            found["own_kl"] = float(summed(np.array(self.own_kl)).mean()) / group().size
            self.own_kl.clear()
        return found

    def begin(self, step: int) -> None:
        if self.task.refresh is not None:
            self.follow(self.task.refresh.at(step, self.task.first, self.task.rates, self.task.tau))

    def after_step(self, model: PreTrainedModel, step: int) -> None:
        refresh = self.task.refresh
        if refresh is None or step % refresh.lag.every or step >= len(self.task.plan):
            return
        found = log_probabilities(model, self.task.corpus.rows)
        from_leader(lambda: refresh.keep(step, found))
        model.train()
        self.begin(step)


def new_adapter(base: PreTrainedModel, *, rank: int, seed: int, start: Path | None) -> PeftModel:
    """A trainable LoRA adapter on all linear layers of ``base``, which it wraps; ``start`` holds one to begin with."""
    wrapped: Any
    if start is not None:
        wrapped = PeftModel.from_pretrained(base, str(start), is_trainable=True)
        # The saved name is relative to the family: PEFT would look it up on the hub whenever it saves a checkpoint.
        wrapped.peft_config["default"].base_model_name_or_path = base.name_or_path
    else:
        torch.manual_seed(seed)
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        wrapped = get_peft_model(base, config)
    fuse(wrapped)
    adapter: PeftModel = wrapped
    return adapter


def train_adapter(
    model: PeftModel, task: AdapterTask, settings: LoopSettings, work: Path, line: ProgressLine
) -> list[dict[str, float]]:
    """Train ``model`` in place, continuing from the last checkpoint in ``work``; returns the log's rows."""
    trainee = _Trainee(task, traits(model).worth)  # type: ignore[arg-type]
    own = _own_plan(task, settings.seed)
    whole = Task(
        plan=[_Step(planned, samples) for planned, samples in zip(task.plan, own, strict=True)],
        build=trainee.build,
        loss=trainee.loss,
        measures=trainee.measures,
        begin=trainee.begin,
        after_step=trainee.after_step,
        share=trainee.share,
    )
    return optimise(model, whole, settings, work, line)  # type: ignore[arg-type]


def _own_plan(task: AdapterTask, seed: int) -> list[list[int]]:
    """Which of the reference's samples each step sees: all of them in turn, in an order drawn by ``seed``."""
    if task.own is None:
        return [[] for _ in task.plan]
    order = np.random.default_rng(seed).permutation(len(task.own.rows))
    found, at = [], 0
    for planned in task.plan:
        size = max(1, len(planned.responses) // OWN_PER_STEP)
        found.append([int(order[(at + index) % len(order)]) for index in range(size)])
        at += size
    return found


def save_adapter(model: PeftModel, base_name: str, directory: Path) -> None:
    """Write the adapter to ``directory``, replacing one there; it names ``base_name`` as its base model."""
    shutil.rmtree(directory, ignore_errors=True)
    config: Any = model.peft_config["default"]
    config.base_model_name_or_path = base_name
    model.save_pretrained(str(directory), state_dict=whole_tensors(model), save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def unwrap(model: PeftModel) -> PreTrainedModel:
    """The base model without the adapter, as it was before `new_adapter`."""
    base: Any = model
    plain: PreTrainedModel = base.unload()
    return plain
