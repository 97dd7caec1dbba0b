"""What the policy in training does on the data's responses, estimated from the batches that it sees anyway."""

import numpy as np
import torch
from torch import Tensor

from mopo_train.policy.distributed import summed
from mopo_train.winrates import FloatArray, WinRates


class Estimates:
    """Means since the last `take`, over the prompts of the batches, of all processes that train together.

    Within a prompt the policy's share of a response is its mass under the reference x pi_theta / reference, normalised
    over the responses in the batch, which stand for the reference. Mass on text outside the data is not seen: measure
    that on generated answers.
    """

    def __init__(self, rates: WinRates) -> None:
        self._rates = torch.from_numpy(rates.rates)
        self.follow(rates.mass)
        self._labelled = torch.from_numpy(rates.labelled[rates.prompt_of()])
        self._objectives = rates.objectives
        self._reset()

    def _reset(self) -> None:
        self._values = np.zeros(len(self._objectives))  # sums over prompts that carry the label
        self._counts = np.zeros(len(self._objectives))
        self._prompts, self._kl, self._ess = 0, 0.0, 0.0

    def follow(self, mass: FloatArray) -> None:
        """The reference's probabilities (Y,) from now on."""
        self._mass = torch.from_numpy(mass)

    def add(self, log_ratio: Tensor, unit: Tensor, responses: Tensor) -> None:
        """A batch: log[pi_theta / reference] (B,), the unit of each response (B,), its index in the data (B,)."""
        ratio, unit, responses = log_ratio.double().cpu(), unit.cpu(), responses.cpu()
        units = int(unit.max()) + 1
        zeros = torch.zeros(units, dtype=torch.float64)
        mass = self._mass[responses]
        mass = mass / zeros.index_add(0, unit, mass)[unit]  # of the responses in the batch
        top = torch.full((units,), -torch.inf, dtype=torch.float64).scatter_reduce(0, unit, ratio, "amax")
        weight = mass * torch.exp(ratio - top[unit])
        share = weight / zeros.index_add(0, unit, weight)[unit]  # sums to 1 over each unit
        values = torch.zeros(units, len(self._objectives), dtype=torch.float64)
        values = values.index_add(0, unit, share[:, None] * self._rates[responses])
        carries = torch.zeros(units, len(self._objectives), dtype=torch.bool)
        carries[unit] = self._labelled[responses]  # the same for all responses of a prompt
        self._values += (values * carries).sum(0).numpy()
        self._counts += carries.sum(0).numpy()
        self._kl += float(torch.xlogy(share, share / mass).sum())
        self._ess += float((1 / zeros.index_add(0, unit, share**2 / mass)).sum())
        self._prompts += units

    def take(self) -> dict[str, float]:
        """``kl`` (nats), ``ess``, ``estimated.<objective>`` (data win rate; absent without a labelled prompt)."""
        own = np.array([self._prompts, self._kl, self._ess, *self._values, *self._counts])
        prompts, kl, ess, *rest = summed(own).tolist()
        if not prompts:
            return {}
        found = {"kl": kl / prompts, "ess": ess / prompts}
        values, counts = np.split(np.array(rest), 2)
        for name, value, count in zip(self._objectives, values, counts, strict=True):
            if count:
                found[f"estimated.{name}"] = float(value / count)
        self._reset()
        return found
