"""What decides a baseline family, and which adapters its method trains one after the other.

Steps are counted as in ``mopo-train run``: an adapter that begins from the reference takes ``steps``, one that begins
from its neighbour's adapter `LATER` times as many.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from mopo_train.baselines.simplex import spread_weights
from mopo_train.errors import DataError, FloorError
from mopo_train.family import ObjectiveName

Method = Literal["dpo", "soup", "scalarised-dpo", "modpo", "grpo"]
METHODS: tuple[Method, ...] = ("dpo", "soup", "scalarised-dpo", "modpo", "grpo")
LATER = 0.5
POLICIES = 6
LEARNING_RATE = 2e-3
GRPO_LEARNING_RATE = 3e-4
"""At 2e-3 GRPO ran away on the sandbox: 200 nats from the reference after 200 steps."""


class BaselineConfig(BaseModel):
    """What decides the policies of a baseline family, besides the data and the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method
    primary: ObjectiveName | None = None
    """What the family names as its primary; MODPO's own loss is on its pairs. None: the data's first objective."""
    objectives: tuple[ObjectiveName, ...] = ()
    """Names of labels that have none, or those to read (`read_preferences`); empty: all there are."""
    policies: int | None = Field(default=None, ge=1)
    """How many; None: 6, or as many as objectives for ``dpo``, which takes no other number."""
    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """Weight of the KL penalty, in the method's own unit."""
    steps: int = Field(default=160, ge=1)
    batch_size: int = Field(default=32, ge=2)
    """Sequences per step: two for each pair, or the generated answers of GRPO."""
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """None: `LEARNING_RATE`, or `GRPO_LEARNING_RATE`."""
    rank: int = Field(default=8, ge=1)
    """Of the trained adapters; a soup of K adapters has K times this rank."""
    generations: int = Field(default=8, ge=2)
    """Answers per prompt in GRPO."""
    max_answer: int = Field(default=64, ge=1)
    """Tokens of an answer that GRPO generates."""
    max_length: int = Field(default=512, ge=2)
    """Tokens of prompt and response together; the end of a longer response is cut off."""
    seed: int = Field(default=0, ge=0)

    def resolved(self, objectives: Sequence[str]) -> "BaselineConfig":
        """With nothing left open. Raises FloorError for an unknown primary, DataError for a number for ``dpo``."""
        primary = self.primary or objectives[0]
        if primary not in objectives:
            raise FloorError(f"'{primary}' is not an objective of this data; known: {', '.join(objectives)}")
        usual = len(objectives) if self.method == "dpo" else POLICIES
        policies = self.policies or usual
        if self.method == "dpo" and policies != usual:
            raise DataError(
                f"--policies {policies}: dpo trains one policy per objective, which is {usual} here; leave the option "
                "out, or use scalarised-dpo."
            )
        return self.model_copy(update={"primary": primary, "policies": policies, "learning_rate": self.rate})

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.learning_rate or (GRPO_LEARNING_RATE if self.method == "grpo" else LEARNING_RATE)


class Adapter(NamedTuple):
    """One adapter to train."""

    id: str
    weights: dict[str, float]
    """Of the objectives; they sum to 1."""
    start: str | None
    """The adapter to begin from; None: the reference."""
    steps: int
    member: bool
    """Whether it is a policy of the family, not only an ingredient."""


def adapters_to_train(config: BaselineConfig, objectives: Sequence[str]) -> list[Adapter]:
    """In order. Errors as `BaselineConfig.resolved`."""
    config = config.resolved(objectives)
    corners = {name: {other: float(other == name) for other in objectives} for name in objectives}
    if config.method == "dpo":
        return [Adapter(f"dpo-{name}", corners[name], None, config.steps, True) for name in objectives]
    if config.method == "soup":
        return [Adapter(f"expert-{name}", corners[name], None, config.steps, False) for name in objectives]
    margins = [name for name in objectives if name != config.primary] if config.method == "modpo" else []
    trained = [Adapter(f"margin-{name}", corners[name], None, config.steps, False) for name in margins]
    for index, weights in enumerate(mixtures(config, objectives)):
        start = member_id(config, index - 1) if index else None
        steps = max(1, round(config.steps * LATER)) if index else config.steps
        trained.append(Adapter(member_id(config, index), weights, start, steps, True))
    return trained


def mixtures(config: BaselineConfig, objectives: Sequence[str]) -> list[dict[str, float]]:
    """The weights of the members of a method that mixes objectives, neighbours one after the other."""
    config = config.resolved(objectives)
    assert config.primary is not None and config.policies is not None
    spread = spread_weights(len(objectives), config.policies, list(objectives).index(config.primary))
    return [dict(zip(objectives, row, strict=True)) for row in spread.round(6).tolist()]


def member_id(config: BaselineConfig, index: int) -> str:
    """Id of the policy at place ``index``."""
    return f"{config.method}-{index:02d}"


def total_steps(config: BaselineConfig, objectives: Sequence[str]) -> int:
    """Optimiser steps of the whole family."""
    return sum(adapter.steps for adapter in adapters_to_train(config, objectives))
