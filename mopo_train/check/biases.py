"""Biases of labels: towards the first place, towards the longer answer."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.stats

from mopo_train.check.agreement import TIE
from mopo_train.winrates import FloatArray, IntArray

if TYPE_CHECKING:
    from mopo_train.preferences import PreferenceData

CONFIDENCE = 0.99


class Share(NamedTuple):
    """A share of comparisons with its Wilson interval at ``CONFIDENCE``; rows are taken as independent."""

    value: float
    low: float
    high: float
    rows: int
    """Of how many."""

    def far_from_half(self, distance: float) -> bool:
        """Whether the whole interval lies more than ``distance`` away from a half."""
        return self.low > TIE + distance or self.high < TIE - distance


def share(successes: int, rows: int) -> Share | None:
    """None without rows."""
    if rows == 0:
        return None
    interval = scipy.stats.binomtest(successes, rows).proportion_ci(CONFIDENCE, method="wilson")
    return Share(successes / rows, float(interval.low), float(interval.high), rows)


def first_preferred(labels: FloatArray) -> Share | None:
    """How often response_a is preferred among the strict ``labels`` (R,)."""
    return share(int((labels > TIE).sum()), int(((labels > TIE) | (labels < TIE)).sum()))


def longer_preferred(labels: FloatArray, lengths: IntArray) -> Share | None:
    """How often the longer response is preferred, among strict labels on responses (R, 2) of different length."""
    sign = np.nan_to_num(labels - TIE) * (lengths[:, 0] - lengths[:, 1])
    return share(int((sign > 0).sum()), int((sign != 0).sum()))


def response_lengths(data: "PreferenceData") -> IntArray:
    """(R, 2) characters of response_a and response_b, from the memory map."""
    import pyarrow.compute as pc

    sides = [pc.utf8_length(data.rows.data.column(name)).to_numpy() for name in ("response_a", "response_b")]
    return np.stack(sides, axis=1).astype(np.int64)
