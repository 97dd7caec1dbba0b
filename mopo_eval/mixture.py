"""The mixture of policies that holds floors on average: a small linear program over certified bounds.

Pure. A mixture keeps a floor on average over conversations, not in each of them: whoever always meets the same
component may always be below. Floors that must hold in every conversation restrict ``policies`` beforehand.
"""

import bisect
import hashlib
import itertools
from collections.abc import Mapping, Sequence

NEGLIGIBLE = 1e-6
"""Shares below this are the solver's rounding (its feasibility tolerance is 1e-7)."""


def best_mixture(
    primary: Mapping[str, float], bounds: Mapping[str, Mapping[str, float]], floors: Mapping[str, float]
) -> dict[str, float] | None:
    """Shares, per policy and summing to 1, that maximise the primary with every floor held on average.

        maximise  sum_i share_i mean_i   subject to  sum_i share_i bound_i,k >= floor_k for every k, share >= 0

    ``primary``: measured mean per policy; ``bounds``: certified lower bound per floor name and policy, each policy of
    ``primary`` among them. None if no mixture holds the floors. At most one policy more than there are floors gets a
    share (a vertex of the program).
    """
    from scipy.optimize import linprog  # a second to import; families without mixtures never need it

    policies = sorted(primary)
    if not policies:
        return None
    found = linprog(
        [-primary[policy] for policy in policies],
        A_ub=[[-bounds[name][policy] for policy in policies] for name in floors] or None,
        b_ub=[-floor for floor in floors.values()] or None,
        A_eq=[[1.0] * len(policies)],
        b_eq=[1.0],
        method="highs-ds",
    )
    if found.status == 2:
        return None
    if not found.success:
        raise RuntimeError(f"the mixture's linear program failed: {found.message}")
    kept = {policy: float(share) for policy, share in zip(policies, found.x, strict=True) if share > NEGLIGIBLE}
    total = sum(kept.values())
    return {policy: share / total for policy, share in kept.items()}


def draw(weights: Mapping[str, float], conversation: str, salt: str) -> str:
    """The policy of ``conversation``: always the same one, and over conversations in proportion to ``weights``."""
    policies = sorted(weights)
    ends: Sequence[float] = list(itertools.accumulate(weights[policy] for policy in policies))
    place = unit_interval(conversation, salt) * ends[-1]
    return policies[min(bisect.bisect_right(ends, place), len(policies) - 1)]


def unit_interval(text: str, salt: str) -> float:
    """A number in [0, 1) that depends on ``text`` and ``salt`` alone, spread evenly over texts."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=salt.encode()[:64], digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / (1 << 53)
