"""Biases of labels: towards the first place, towards the longer answer."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mopo_train.check.agreement import CONFIDENCE, TIE
from mopo_train.rates import clustered_rate
from mopo_train.winrates import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from mopo_train.preferences import PreferenceData


class Share(NamedTuple):
    """A share of comparisons with its interval at ``CONFIDENCE``, clustered by prompt."""

    value: float
    low: float
    high: float
    rows: int
    """Of how many."""

    def far_from_half(self, distance: float) -> bool:
        """Whether the whole interval lies more than ``distance`` away from a half."""
        return self.low > TIE + distance or self.high < TIE - distance


def share(held: BoolArray, prompt: IntArray) -> Share | None:
    """Of rows (N,) that belong to prompts (N,); None without rows."""
    if len(held) == 0:
        return None
    low, high = clustered_rate(held.astype(np.float64), prompt, CONFIDENCE)
    return Share(float(held.mean()), low, high, len(held))


def first_preferred(labels: FloatArray, prompt: IntArray) -> Share | None:
    """How often response_a is preferred among the strict ``labels`` (R,); ``prompt`` (R,)."""
    strict = (labels > TIE) | (labels < TIE)
    return share(labels[strict] > TIE, prompt[strict])


def longer_preferred(labels: FloatArray, lengths: IntArray, prompt: IntArray) -> Share | None:
    """How often the longer response is preferred, among strict labels on responses (R, 2) of different length."""
    sign = np.nan_to_num(labels - TIE) * (lengths[:, 0] - lengths[:, 1])
    return share(sign[sign != 0] > 0, prompt[sign != 0])


def chosen_first(data: "PreferenceData") -> BoolArray:
    """(R,) rows of formats that write the preferred response first: their order shows no bias of annotators."""
    found: BoolArray = data.rows.data.column("chosen_first").to_numpy()
    return found


def response_lengths(data: "PreferenceData") -> IntArray:
    """(R, 2) characters of response_a and response_b; the texts themselves are not read."""
    sides = [data.rows.data.column(name).to_numpy() for name in ("length_a", "length_b")]
    lengths: IntArray = np.stack(sides, axis=1)
    return lengths
