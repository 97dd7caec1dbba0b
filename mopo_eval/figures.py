"""Shares that a judge tells beside its score: abstentions, claims that are supported, multiple choice scores.

One value per prompt: samples of a prompt, as far as a share is told of them, are averaged first.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from mopo_eval.bounds import FloatArray
from mopo_eval.intervals import interval
from mopo_train.family import ObjectiveName, UnitScore

LEAST_PROMPTS = 2


class Rate(BaseModel):
    """A mean over the prompts of which it is told, with an interval of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: UnitScore
    low: UnitScore
    high: UnitScore
    n: int
    """Prompts."""


class Figure(BaseModel):
    """A share that the judge of an objective tells of a policy's answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str
    objective: ObjectiveName
    name: str
    """As the judge calls it, for example ``abstained``."""
    rate: Rate | None
    """None where it is told of fewer than two prompts."""


class Shares:
    """Collects values in [0, 1] by policy, objective, name and prompt: sixteen bytes for each, however many samples."""

    def __init__(self, prompts: Sequence[str]) -> None:
        """``prompts``: their ids."""
        self._place = {prompt: place for place, prompt in enumerate(prompts)}
        self._sums: dict[tuple[str, str, str], FloatArray] = {}

    def add(self, policy: str, objective: str, name: str, prompt: str, value: float) -> None:
        """One value of one answer."""
        key = (policy, objective, name)
        if key not in self._sums:
            self._sums[key] = np.zeros((2, len(self._place)))
        self._sums[key][:, self._place[prompt]] += (value, 1.0)

    @property
    def subjects(self) -> list[tuple[str, str]]:
        """Policies and objectives of which anything was told, in that order."""
        return list(dict.fromkeys((policy, objective) for policy, objective, _ in self._sums))

    def rate(self, policy: str, objective: str, name: str, confidence: float) -> Rate | None:
        """Mean over prompts; None with fewer than two of which it was told."""
        found = self._sums.get((policy, objective, name))
        if found is None:
            return None
        sums, counts = found[:, found[1] > 0]
        if len(sums) < LEAST_PROMPTS:
            return None
        values = np.clip(sums / counts, 0, 1)
        low, high = interval(values, confidence)
        return Rate(mean=float(values.mean()), low=low, high=high, n=len(values))

    def figures(self, confidence: float) -> list[Figure]:
        """All of them, in the order in which they were first told."""
        return [
            Figure(policy=policy, objective=objective, name=name, rate=self.rate(policy, objective, name, confidence))
            for policy, objective, name in self._sums
        ]
