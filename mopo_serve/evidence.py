"""Floors held against what people saw: live confidence sequences, and the policies that they suspend.

Two rules. ``lower``: a policy is suspended from a profile while the live *lower* bound of a floored objective is below
the floor: what people saw does not (any more) certify the floor. It acts early and is wrong about good policies until
enough judgements came; ``minimum`` says how many it waits for. ``upper``: while the live *upper* bound is below the
floor: people saw that the floor is missed. With the true mean at or above the floor it acts, ever, with probability at
most (1 - confidence) / 2 over all policies and objectives together. Between the two, nothing is proven either way.

A score that people give is held against a floor in judge score as it is, so the rules make sense only where people
score on the judges' scale; preferences against answers of ``reference`` are held against floors on ``.win_rate``.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from sqlalchemy import select

from mopo_eval.profiles import Floors
from mopo_serve.audit.schema import FEEDBACK
from mopo_serve.audit.store import AuditStore
from mopo_serve.confidence import LiveInterval, bounds
from mopo_train.family import REFERENCE


class Rule(NamedTuple):
    """When what people saw suspends a policy from a profile."""

    bound: Literal["lower", "upper"] = "lower"
    """Which end of the live interval must not be below the floor."""
    minimum: int = 100
    """Judgements before which nothing is concluded."""
    confidence: float = 0.95
    """For all policies and objectives of the family together (Bonferroni)."""


class Finding(NamedTuple):
    """A policy that misses a floor of a profile, by what people saw."""

    policy: str
    floor_name: str
    floor: float
    n: int
    interval: LiveInterval


class Evidence:
    """Judgements of one family's answers, by policy and floor name, in the order in which they were stored."""

    def __init__(self, family: str) -> None:
        self.family = family
        """Its identity; judgements of all its profile versions count."""
        self._values: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._intervals: dict[tuple[str, str], tuple[int, float, LiveInterval]] = {}
        self._seen = 0

    def read(self, store: AuditStore) -> int:
        """Add what was stored since the last call; gives how many judgements that were. Raises StoreUnavailable."""
        query = select(FEEDBACK).where(FEEDBACK.c.seq > self._seen).order_by(FEEDBACK.c.seq)
        with store.reading() as connection:
            rows = connection.execute(query).mappings().all()
        for row in rows:
            self._seen = row["seq"]
            if row["family"].startswith(self.family):
                for policy, name, value in units(dict(row)):
                    self._values[policy, name].append(value)
        return len(rows)

    def interval(self, policy: str, floor_name: str, confidence: float) -> tuple[int, LiveInterval] | None:
        """How many judgements there are, and the live interval; None without any."""
        values = self._values.get((policy, floor_name))
        if not values:
            return None
        kept = self._intervals.get((policy, floor_name))
        if kept is None or kept[:2] != (len(values), confidence):
            kept = (len(values), confidence, bounds(np.array(values), confidence))
            self._intervals[policy, floor_name] = kept
        return kept[0], kept[2]


def units(row: Mapping[str, Any]) -> Iterable[tuple[str, str, float]]:
    """(policy, floor name, value) of what a row of ``FEEDBACK`` says about policies of which floors speak."""
    policy, other, name, value = row["policy"], row["against_policy"], row["objective"], float(row["value"])
    if not other:
        yield policy, name, value
    elif other == REFERENCE != policy:
        yield policy, f"{name}.win_rate", value
    elif policy == REFERENCE != other:
        yield other, f"{name}.win_rate", 1 - value


def missed(evidence: Evidence, floors: Floors, policies: Iterable[str], rule: Rule, comparisons: int) -> list[Finding]:
    """The ``policies`` that by ``rule`` miss one of ``floors``, with the first such floor.

    ``comparisons``: pairs of policy and floor name among which the error is shared.
    """
    each = 1 - (1 - rule.confidence) / max(1, comparisons)
    found = []
    for policy in policies:
        for name, floor in floors.items():
            live = evidence.interval(policy, name, each)
            if live is None or live[0] < rule.minimum:
                continue
            n, interval = live
            if (interval.low if rule.bound == "lower" else interval.high) < floor:
                found.append(Finding(policy, name, floor, n, interval))
                break
    return found


class Promise(NamedTuple):
    """What a profile promises, and the policies that hold it by their certified bounds."""

    floors: Floors
    """Effective ones."""
    policies: Sequence[str]


def suspensions(evidence: Evidence, promises: Mapping[str, Promise], rule: Rule) -> dict[str, list[Finding]]:
    """By profile, what suspends which of its policies."""
    pairs = {(policy, name) for each in promises.values() for policy in each.policies for name in each.floors}
    found = {
        profile: missed(evidence, promise.floors, promise.policies, rule, len(pairs))
        for profile, promise in promises.items()
    }
    return {profile: findings for profile, findings in found.items() if findings}


def opinions(store: AuditStore, family: str, confidence: float = 0.95) -> dict[str, dict[str, float]]:
    """What people's scores say of the answers of one version (the ``family`` of its decisions), per objective.

    ``n``, ``mean`` and the ends of an interval that may be looked at at any time. Blocks. Raises StoreUnavailable.
    """
    query = select(FEEDBACK.c.objective, FEEDBACK.c.value).where(FEEDBACK.c.family == family, FEEDBACK.c.against == "")
    values: dict[str, list[float]] = defaultdict(list)
    with store.reading() as connection:
        for objective, value in connection.execute(query.order_by(FEEDBACK.c.seq)):
            values[objective].append(float(value))
    found = {}
    for objective, each in sorted(values.items()):
        interval = bounds(np.array(each), confidence)
        found[objective] = {"n": len(each), "mean": sum(each) / len(each), "low": interval.low, "high": interval.high}
    return found
