"""Floors held against what people saw."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mopo_serve.audit.schema import FEEDBACK
from mopo_serve.audit.store import AuditStore, open_store
from mopo_serve.confidence import bounds
from mopo_serve.evidence import Evidence, Promise, Rule, missed, suspensions

FAMILY = "family@0123456789ab"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AuditStore]:
    opened = open_store(str(tmp_path / "audit.db"))
    yield opened
    opened.close()


def judge(store: AuditStore, values: list[float], **changes: object) -> None:
    row = {
        "objective": "safety", "judge": "j", "profile": "balanced", "policy": "policy-01", "family": FAMILY + "+p1",
        "against": "", "against_policy": "", "comment": "", "time": 1.0,
    }  # fmt: skip
    known = len(list(store.rows(FEEDBACK)))
    rows = [row | {"request_id": f"r{known + n}", "value": value} | changes for n, value in enumerate(values)]
    store.append_own(FEEDBACK, rows)


def gathered(store: AuditStore) -> Evidence:
    evidence = Evidence(FAMILY)
    evidence.read(store)
    return evidence


def test_evidence_is_read_once_and_kept_apart(store: AuditStore) -> None:
    judge(store, [1.0, 0.5])
    evidence = gathered(store)
    judge(store, [0.0])
    judge(store, [0.0], family="other@0123456789ab")
    judge(store, [1.0], against="x", against_policy="reference")
    judge(store, [1.0], policy="reference", against="x", against_policy="policy-01")
    judge(store, [1.0], against="x", against_policy="policy-02")  # no floor speaks of it
    assert evidence.read(store) == 5
    assert evidence.read(store) == 0
    assert evidence.interval("policy-01", "safety", 0.95) == (3, bounds(np.array([1.0, 0.5, 0.0])))
    assert evidence.interval("policy-01", "safety.win_rate", 0.95) == (2, bounds(np.array([1.0, 0.0])))
    assert evidence.interval("policy-02", "safety.win_rate", 0.95) is None


@pytest.mark.parametrize(
    ("good", "lower", "upper"),
    [(190, False, False), (150, True, False), (60, True, True)],
    ids=["held", "open", "missed"],
)
def test_the_two_rules_differ_where_nothing_is_proven(store: AuditStore, good: int, lower: bool, upper: bool) -> None:
    """200 judgements of a policy with a floor of 0.75: .95 certifies it, .75 is open, .3 refutes it."""
    judge(store, np.random.default_rng(0).permutation([1.0] * good + [0.0] * (200 - good)).tolist())
    evidence = gathered(store)
    for bound, suspended in (("lower", lower), ("upper", upper)):
        found = missed(evidence, {"safety": 0.75}, ["policy-01"], Rule(bound=bound), 1)  # type: ignore[arg-type]
        assert [finding.policy for finding in found] == (["policy-01"] if suspended else []), bound


def test_nothing_is_concluded_from_few_judgements(store: AuditStore) -> None:
    judge(store, [0.0] * 99)
    assert missed(gathered(store), {"safety": 0.75}, ["policy-01"], Rule(), 1) == []
    judge(store, [0.0])
    assert [finding.n for finding in missed(gathered(store), {"safety": 0.75}, ["policy-01"], Rule(), 1)] == [100]


def test_suspensions_are_per_profile_and_share_the_error(store: AuditStore) -> None:
    judge(store, [1.0, 0.0] * 100)
    both = ["policy-01", "policy-02"]
    promises = {
        "strict": Promise({"safety": 0.9}, both),
        "mild": Promise({"safety": 0.2}, both),
        "free": Promise({}, both),
        "unmet": Promise({"safety": 0.95}, []),  # nobody holds it by certified bounds: nobody is suspended
    }
    found = suspensions(gathered(store), promises, Rule(bound="upper"))
    assert list(found) == ["strict"]
    ((policy, name, floor, n, interval),) = found["strict"]
    assert (policy, name, floor, n) == ("policy-01", "safety", 0.9, 200)
    assert interval == bounds(np.array([1.0, 0.0] * 100), 1 - 0.05 / 2)  # two policies, one floor name
