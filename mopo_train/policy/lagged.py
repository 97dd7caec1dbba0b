"""The lagged reference and the adaptive floors of arXiv 2505.10892, Algorithm 1, on the responses of the data.

Every t0 steps the reference becomes the policy of t0 steps ago. Expectations under it are the old ones reweighted by
pi_lag / pi_ref, self-normalised over the responses of each prompt, and the dual is solved anew with that mass. At the
first refresh the policy of t0 steps ago is the reference itself, so nothing changes before step 2 t0: with every
segment trained to its optimum under fixed multipliers, the policy after m refreshes is pi_ref exp(n s / tau),
normalised, with n = 1 + floor(m / 2).

Pure: no model here. `mopo_train.policy.adapter` supplies the log-probabilities.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from mopo_train.tilting import values_by_prompt
from mopo_train.winrates import FloatArray, WinRates, max_by_prompt, sum_by_prompt

FloorSchedule = Literal["fixed", "adaptive"]
LEAST_MASS = 1e-12
"""Share of a prompt that every response keeps under a lagged reference, which may have given it up."""


class Lag(NamedTuple):
    """How the reference follows the policy."""

    every: int
    """t0, in steps."""
    schedule: FloorSchedule = "fixed"
    beta: float = 0.9995
    """Share of its own values that the lagged policy's successor must hold, in the ``adaptive`` schedule."""


def reweighted(rates: WinRates, log_ratio: FloatArray) -> WinRates:
    """``rates`` with the mass of another reference; ``log_ratio`` (Y,) is log[pi_lag / pi_ref] in nats.

    Within a prompt only differences of ``log_ratio`` matter: the mass is self-normalised.
    """
    sizes = np.diff(rates.starts)
    top = np.repeat(max_by_prompt(log_ratio, rates.starts), sizes)
    weight = rates.mass * np.exp(log_ratio - top)
    share = weight / np.repeat(sum_by_prompt(weight, rates.starts), sizes)
    kept = np.maximum(share, LEAST_MASS)
    return rates._replace(mass=kept / np.repeat(sum_by_prompt(kept, rates.starts), sizes))


def reference_values(rates: WinRates) -> dict[str, float]:
    """G_k of the policy whose mass ``rates`` carries: data win rate per objective, over its labelled prompts."""
    by_prompt = values_by_prompt(rates, rates.mass)  # (K, P)
    return {
        name: float(by_prompt[k, rates.labelled[:, k]].mean())
        for k, name in enumerate(rates.objectives)
        if rates.labelled[:, k].any()
    }


def next_floors(rates: WinRates, floors: Mapping[str, float], lag: Lag) -> dict[str, float]:
    """Floors of the segment whose reference has the mass of ``rates``; ``floors`` are those that were asked for.

    ``adaptive``: b_k = beta G_k(pi_lag), beta once per refresh.
    """
    if lag.schedule == "fixed":
        return dict(floors)
    values = reference_values(rates)
    return {name: lag.beta * values[name] for name in floors}


def lagged_step(step: int, lag: Lag) -> int:
    """Step at which the reference that holds from ``step`` on was the policy; 0: the first reference."""
    return max(0, step // lag.every - 1) * lag.every
