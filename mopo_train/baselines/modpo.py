"""MODPO (Zhou et al., arXiv 2310.03708) as DPO against another reference.

Its loss for a pair of the primary objective p, with margins r_j and weights that sum to 1:

    -log sigmoid( 1/w_p [ beta (log pi/pi_ref(y) - log pi/pi_ref(y')) - sum_j w_j (r_j(y) - r_j(y')) ] )

is DPO's with beta / w_p in place of beta and log pi_ref + sum_j w_j r_j / beta in place of log pi_ref. The margins here
are the implicit rewards of DPO policies for the other objectives, r_j = beta log pi_j/pi_ref, so beta cancels.
"""

from collections.abc import Mapping
from typing import NamedTuple

from mopo_train.winrates import FloatArray


class Shifted(NamedTuple):
    """What DPO needs to be MODPO."""

    beta: float
    reference: FloatArray
    """(Y,) what stands for log pi_ref of each response, in nats."""


def as_dpo(
    beta: float,
    reference: FloatArray,
    weights: Mapping[str, float],
    primary: str,
    margins: Mapping[str, FloatArray],
) -> Shifted:
    """The DPO problem of MODPO for ``weights``; ``margins`` hold (Y,) log pi_j of the other objectives' policies.

    Raises ValueError for a weight of the primary that is not positive.
    """
    if weights[primary] <= 0:
        raise ValueError(f"MODPO divides by the weight of '{primary}', which is {weights[primary]}")
    shift = sum((weights[name] * (margins[name] - reference) for name in margins), start=0 * reference)
    return Shifted(beta / weights[primary], reference + shift)
