"""Certificates: which policies hold the floors of a profile, with everything that is needed to check it.

Floors registered before the evaluation are tested in a fixed sequence along the planned front, from the policy that
the plan holds safest: each policy's p-value is the largest over its floors, and the first failure stops the sequence,
so that with probability ``confidence`` every certified policy holds every floor (Pareto Testing, Laufer-Goldshtein et
al., arXiv 2210.07913; the order is fixed by the plan, not by the scores). Any other floors are tested with the error
shared among all bounds of the family, as ``certified_low`` is: valid for floors chosen after seeing the scores.

Pure: no files. ``certify`` makes a certificate, ``problems`` checks one from its own contents.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from mopo_eval.bounds import FloatArray, p_value
from mopo_eval.estimates import ScoreTable, bounds_certified
from mopo_eval.intervals import is_binary
from mopo_eval.profiles import FloorName, Floors
from mopo_eval.reliability import Reliability
from mopo_train.family import REFERENCE, ObjectiveName, PolicyId, UnitScore

Method = Literal["fixed-sequence", "simultaneous"]
SCHEMA_VERSION = 1
ROUNDING = 1e-9
"""Relative; p-values and means that differ by less are the same number."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FloorTest(_Model):
    """The test of one floor on one policy."""

    floor_name: FloorName
    """Judge score of an objective, or ``objective.win_rate`` against the reference."""
    floor: UnitScore
    mean: UnitScore
    p_value: UnitScore
    """Of the hypothesis that the true mean is below the floor."""
    binary: bool
    """Values can only be 0 or 1: the binomial test; otherwise bets."""
    known: bool
    """The reference's win rate against itself, 0.5 by definition: nothing to test."""
    values: list[tuple[UnitScore, Annotated[int, Field(ge=1)]]]
    """(value, prompts with it), by rising value: one value per prompt, the mean over its samples."""


class PolicyTest(_Model):
    """The tests of one policy."""

    policy: PolicyId
    planned: dict[ObjectiveName, float]
    """Data win rates that the plan predicted, which fix the order; empty for a policy without a plan."""
    primary_mean: UnitScore
    """Judge score on the profile's primary objective."""
    floors: list[FloorTest]
    p_value: UnitScore
    """The largest of its floors' p-values; 0 without floors."""
    certified: bool


class Evidence(_Model):
    """Where the values come from."""

    run: str
    prompts: int
    judges: dict[ObjectiveName, str]
    family_sha256: str
    """Of ``family.json``."""
    run_sha256: str
    """Of ``evaluation/<run>/run.json``."""
    judgements_sha256: str
    """Of ``evaluation/<run>/judgements.parquet``."""
    reliability: dict[ObjectiveName, Reliability] = {}
    """Of judges that were fitted to data: read it before their scores. Absent where there are none."""

    @model_serializer(mode="wrap")
    def _without_nothing(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        told: dict[str, Any] = plain(self)
        return {name: value for name, value in told.items() if name != "reliability" or value}


class Certificate(_Model):
    """A certificate as written."""

    schema_version: int = SCHEMA_VERSION
    created_at: str
    """ISO 8601, UTC."""
    package_version: str
    profile: str | None
    primary: ObjectiveName
    floors: Floors
    """Effective floors: the largest of the organisation's, the profile's and the request's."""
    method: Method
    registration: str
    """Why the floors count as registered, or why not."""
    confidence: float = Field(gt=0, lt=1)
    bounds: int = Field(ge=1)
    """Tests that share the error: 1 in a fixed sequence."""
    policies: list[PolicyTest]
    """In the order of the tests."""
    serves: PolicyId | None
    """The certified policy with the greatest mean on the primary, ties by id."""
    statement: str
    evidence: Evidence
    sha256: str = ""
    """Of this document without this field, as JSON with sorted keys and no spaces."""

    @property
    def level(self) -> float:
        """Largest p-value that certifies."""
        return (1 - self.confidence) / self.bounds


class Question(NamedTuple):
    """What to certify."""

    profile: str | None
    primary: str
    floors: Floors
    confidence: float
    registration: str
    registered: bool
    counted: int = 0
    """Policies that the error is shared among where floors are not registered; 0: those of the table."""


def certify(
    question: Question, table: ScoreTable, planned: Mapping[str, Mapping[str, float]], evidence: Evidence, **made: str
) -> Certificate:
    """Test every policy of ``table``; ``planned``: predicted data win rates per policy. ``made``: when and by what.

    Raises ValueError for a floor on an objective that was not measured.
    """
    if question.registered:
        method: Method = "fixed-sequence"
        bounds = 1
    else:
        method, bounds = (
            "simultaneous",
            bounds_certified(question.counted or len(table.policies), len(table.objectives)),
        )
    level = (1 - question.confidence) / bounds
    floors = _floors(question.floors, table)
    means = table.values[:, _place(question.primary, table)].mean(axis=1)  # (P,)
    places = {policy: p for p, policy in enumerate(table.policies)}
    tests = [
        _tested(policy, places[policy], floors, float(means[places[policy]]), dict(planned[policy]), level)
        for policy in sequence(planned, question.floors)
    ]
    tests = decided(tests, method, level)
    best = min((test for test in tests if test.certified), key=lambda t: (-t.primary_mean, t.policy), default=None)
    draft = Certificate(
        profile=question.profile,
        primary=question.primary,
        floors=question.floors,
        method=method,
        registration=question.registration,
        confidence=question.confidence,
        bounds=bounds,
        policies=tests,
        serves=best.policy if best else None,
        statement=statement(question.floors, question.confidence, tests, evidence),
        evidence=evidence,
        **made,
    )
    return draft.model_copy(update={"sha256": digest(draft.model_dump(mode="json"))})


def sequence(planned: Mapping[str, Mapping[str, float]], floors: Floors) -> list[str]:
    """The policies of ``planned``, from the one that the plan holds safest for ``floors``; those without a plan last.

    Safest: the greatest worst value over the objectives with a floor, each scaled to its range over the family, since
    planned values are data win rates and floors are not. With one such objective this is the order along the front.
    """
    objectives = sorted({name.partition(".")[0] for name in floors})
    known = [policy for policy in planned if all(name in planned[policy] for name in objectives)]
    span = {name: [planned[policy][name] for policy in known] for name in objectives}

    def safety(policy: str) -> float:
        scaled = [
            (planned[policy][name] - min(span[name])) / ((max(span[name]) - min(span[name])) or 1.0)
            for name in objectives
        ]
        return min(scaled, default=0.0)

    return [*sorted(known, key=lambda policy: (-safety(policy), policy)), *sorted(set(planned) - set(known))]


def decided(tests: Sequence[PolicyTest], method: Method, level: float) -> list[PolicyTest]:
    """``tests`` with their decisions: p-values at most ``level``, in a fixed sequence up to the first that is not."""
    going, found = True, []
    for test in tests:
        passes = test.p_value <= level * (1 + ROUNDING)
        going = going and passes
        found.append(test.model_copy(update={"certified": going if method == "fixed-sequence" else passes}))
    return found


def statement(floors: Floors, confidence: float, tests: Sequence[PolicyTest], evidence: Evidence) -> str:
    """The certificate in a sentence."""
    if not floors:
        return f"The profile asks for no floor: any policy of run {evidence.run} may serve, and nothing is promised."
    asked = ", ".join(f"{name} >= {floor:g}" for name, floor in floors.items())
    certified = [test.policy for test in tests if test.certified]
    subject = (
        f"{', '.join(certified)} hold{'s' if len(certified) == 1 else ''}"
        if certified
        else "No policy is shown to hold"
    )
    return (
        f"{subject} {asked} with confidence {confidence:g}, for prompts like the {evidence.prompts} of run "
        f"{evidence.run} and the judges named; all that is certified holds at once with that confidence."
    )


def problems(certificate: Certificate) -> list[str]:
    """What does not follow from the certificate's own contents; empty for a sound one."""
    found = []
    document = certificate.model_dump(mode="json")
    if digest(document) != certificate.sha256:
        found.append("the contents are not those that its sha256 was taken of")
    for test in certificate.policies:
        found += [f"{test.policy}: {problem}" for problem in _wrong(test, certificate)]
    order = sequence({test.policy: test.planned for test in certificate.policies}, certificate.floors)
    if order != [test.policy for test in certificate.policies]:
        found.append(f"the planned values put the policies in another order: {', '.join(order)}")
    if certificate.schema_version != SCHEMA_VERSION:
        found.append(f"its schema_version is {certificate.schema_version}; this program knows {SCHEMA_VERSION}")
    shown = sum(not floor.known for test in certificate.policies for floor in test.floors)
    if certificate.method != "fixed-sequence" and certificate.bounds < shown:
        found.append(f"it shares the error among {certificate.bounds} tests and shows {shown}")
    if (certificate.method == "fixed-sequence") != (certificate.bounds == 1):
        found.append(f"{certificate.method} does not share the error among {certificate.bounds} tests")
    if decided(certificate.policies, certificate.method, certificate.level) != list(certificate.policies):
        found.append(f"the decisions do not follow from the p-values at level {certificate.level:.3g}")
    certified = [test for test in certificate.policies if test.certified]
    best = min(certified, key=lambda test: (-test.primary_mean, test.policy), default=None)
    if certificate.serves != (best.policy if best else None):
        found.append(
            f"it serves {certificate.serves}, but the best certified policy is {best.policy if best else None}"
        )
    said = statement(certificate.floors, certificate.confidence, certificate.policies, certificate.evidence)
    if certificate.statement != said:
        found.append(f"its statement is not what its tests show: {said.rstrip('.')}")
    return found


def digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of the certificate's ``document`` without its field ``sha256``."""
    rest = {name: value for name, value in document.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _Floor(NamedTuple):
    """One floor and what it is held against."""

    name: str
    floor: float
    values: FloatArray
    """(P policies, N prompts)"""
    binary: bool
    """The values, but for the reference's win rate against itself, can only be 0 or 1."""
    known: int | None
    """Place of the policy whose value is known, the reference, where the floor is on the win rate."""


def _floors(floors: Floors, table: ScoreTable) -> list[_Floor]:
    """Raises ValueError for a floor on an objective that was not measured."""
    reference = list(table.policies).index(REFERENCE) if REFERENCE in table.policies else None
    found = []
    for name, floor in floors.items():
        objective, _, metric = name.partition(".")
        values = (table.wins if metric == "win_rate" else table.values)[:, _place(objective, table)]
        known = reference if metric == "win_rate" else None
        others = values if known is None else np.delete(values, known, axis=0)
        found.append(_Floor(name, floor, values, is_binary(others), known))
    return found


def _place(objective: str, table: ScoreTable) -> int:
    if objective not in table.objectives:
        raise ValueError(f"no judge measured '{objective}', which the profile names")
    return list(table.objectives).index(objective)


def _tested(
    policy: str, p: int, floors: Sequence[_Floor], primary_mean: float, planned: dict[str, float], level: float
) -> PolicyTest:
    """The tests of ``policy``, in place ``p``."""
    tests = []
    for name, floor, of_all, binary, known_place in floors:
        known = p == known_place
        values = np.full(of_all.shape[1], 0.5) if known else of_all[p]
        tests.append(_floor_test(name, floor, values, level, binary=binary and not known, known=known))
    return PolicyTest(
        policy=policy,
        planned=planned,
        primary_mean=primary_mean,
        floors=tests,
        p_value=max((test.p_value for test in tests), default=0.0),
        certified=False,
    )


def _floor_test(name: str, floor: float, values: FloatArray, level: float, *, binary: bool, known: bool) -> FloorTest:
    distinct, counts = np.unique(values, return_counts=True)
    return FloorTest(
        floor_name=name,
        floor=floor,
        mean=float(values.mean()),
        p_value=_p_value(values, floor, level, binary=binary, known=known),
        binary=binary,
        known=known,
        values=list(zip(distinct.tolist(), counts.tolist(), strict=True)),
    )


def _p_value(values: FloatArray, floor: float, level: float, *, binary: bool, known: bool) -> float:
    if known:
        return 0.0 if float(values[0]) >= floor else 1.0
    return p_value(values, floor, level, binary=binary)


def _wrong(test: PolicyTest, certificate: Certificate) -> list[str]:
    """What is wrong with one policy's tests."""
    found = []
    if {floor.floor_name: floor.floor for floor in test.floors} != certificate.floors:
        found.append("its floors are not the certificate's")
    if not _same(test.p_value, max((floor.p_value for floor in test.floors), default=0.0)):
        found.append("its p-value is not the largest of its floors'")
    for floor in test.floors:
        distinct = np.array([value for value, _ in floor.values])
        values = np.repeat(distinct, [count for _, count in floor.values])
        sound_kind = not floor.binary or is_binary(values)
        sound_known = not floor.known or (
            test.policy == REFERENCE and floor.floor_name.endswith(".win_rate") and set(distinct.tolist()) == {0.5}
        )
        if len(values) != certificate.evidence.prompts or not (sound_kind and sound_known):
            found.append(f"{floor.floor_name}: the values are not those of {certificate.evidence.prompts} prompts")
            continue
        again = _p_value(values, floor.floor, certificate.level, binary=floor.binary, known=floor.known)
        if not (_same(again, floor.p_value) and _same(float(values.mean()), floor.mean)):
            found.append(f"{floor.floor_name}: its values give mean {values.mean():.6g} and p-value {again:.6g}")
    return found


def alike(one: Any, other: Any) -> bool:
    """Whether two JSON values say the same; numbers may differ by the rounding of another machine's vector units."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return _same(one, other)
    return bool(one == other)


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=1e-300)
