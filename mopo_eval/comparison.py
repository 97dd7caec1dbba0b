"""Two finished runs compared: every policy that both measured, every objective that both judged alike.

Paired where the runs share prompts, otherwise unpaired; p-values are adjusted for all comparisons (Holm). The
hypervolumes are of all policies of a run, from one reference point. Pure: no files.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mopo_eval import reliability
from mopo_eval.bootstrap import TINY, reflected, resampled_means
from mopo_eval.bounds import FloatArray
from mopo_eval.differences import (
    Difference,
    holm,
    paired_difference,
    prompts_to_separate,
    prompts_to_separate_unpaired,
    unpaired_difference,
)
from mopo_eval.evaluation import RunSummary
from mopo_eval.front import covered, sure_volume
from mopo_eval.intervals import LEAST_FOR_BOOTSTRAP, enough_for_bootstrap
from mopo_eval.results import RunResults
from mopo_train.errors import FamilyError
from mopo_train.family import PolicyFamily

LEAST_SHARED = 0.5
"""Share of the smaller run's prompts that must be shared for a paired comparison, which leaves out all others."""


class PolicyDifference(NamedTuple):
    """One policy on one objective: the second run minus the first, in judge score."""

    policy: str
    objective: str
    first: float
    """Mean over the prompts that are compared."""
    second: float
    difference: Difference
    p_adjusted: float
    """Holm, over all comparisons."""
    distinguishable: bool
    """True if ``p_adjusted`` is at most 1 - confidence."""
    prompts_needed: int | None
    """Shared prompts (unpaired: on each side) at which a difference like this would show with chance 0.8, after
    correction; more than there are where it did not show. None where no difference was seen, or too few prompts."""


class Volume(NamedTuple):
    """A hypervolume as a share of the box, with an interval over prompts: `bootstrap.reflected`."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """The second run against the first."""

    names: tuple[str, str]
    confidence: float
    paired: bool
    shared: int
    """Prompts that both asked."""
    prompts: tuple[int, int]
    """That each asked."""
    differences: list[PolicyDifference]
    reference_point: dict[str, float]
    volumes: tuple[Volume, Volume]
    volume_difference: Volume
    notes: list[str]
    """What could not be compared, and what else differs between the runs: sentences."""

    @property
    def used(self) -> str:
        """Which prompts are compared, in words."""
        if self.paired:
            return f"paired on the {self.shared} prompts that both runs asked"
        few = f"only {self.shared}" if self.shared else "none"
        return f"unpaired: {few} of the prompts ({self.prompts[0]} and {self.prompts[1]}) were asked in both runs"


def compare_runs(
    first: RunResults,
    second: RunResults,
    names: tuple[str, str],
    confidence: float | None = None,
    *,
    common_judges: bool = False,
) -> Comparison:
    """``second`` minus ``first``; ``confidence``: by default the first run's.

    Raises FamilyError where an objective was scored by different judges, unless ``common_judges`` leaves those out, and
    where no objective was scored by the same judge in both.
    """
    level = first.summary.confidence if confidence is None else confidence
    objectives, notes = _common_objectives(first, second, leave_out=common_judges)
    shared = _shared(first, second)
    paired = len(shared) >= max(2, LEAST_SHARED * min(len(first.prompts), len(second.prompts)))
    both = (_values(first, objectives), _values(second, objectives))  # (policies, objectives, prompts)
    if paired:
        places = np.array(shared)  # (shared, 2)
        both = (both[0][:, :, places[:, 0]], both[1][:, :, places[:, 1]])
    differences = _differences((first, second), both, objectives, paired=paired, confidence=level)
    point = _reference_point(first, second, objectives)
    volumes, change = _volumes(both, list(point.values()), paired=paired, confidence=level)
    known = {name: each for name, each in first.summary.reliability.items() if name in objectives}
    return Comparison(
        names=names,
        confidence=level,
        paired=paired,
        shared=len(shared),
        prompts=(len(first.prompts), len(second.prompts)),
        differences=differences,
        reference_point=point,
        volumes=volumes,
        volume_difference=change,
        notes=[*notes, *_unlike(first, second), *reliability.sentences(known)],
    )


def sentences(comparison: Comparison) -> list[str]:
    """What the comparison found, in plain words: what differs, what does not, and how many prompts would tell."""
    found, change = comparison.differences, comparison.volume_difference
    clear = [each for each in found if each.distinguishable]
    told = []
    if clear:
        words = ", ".join(f"{each.policy} {each.objective} {each.difference.mean:+.3f}" for each in clear)
        told.append(f"{len(clear)} of {len(found)} differences are distinguishable from zero: {words}.")
    elif found:
        told.append(f"None of the {len(found)} differences is distinguishable from zero.")
    else:
        told.append("No policy was measured in both runs.")
    needed = [each for each in found if not each.distinguishable and each.prompts_needed is not None]
    if needed:
        nearest = min(needed, key=lambda each: each.prompts_needed or 0)
        told.append(
            f"Of the others, {nearest.policy} on {nearest.objective} is the nearest: {power_sentence(nearest)}."
        )
    verdict = "grew" if change.low > 0 else "shrank" if change.high < 0 else "did not change distinguishably"
    told.append(
        f"The hypervolume {verdict}: {change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}], {comparison.used}."
    )
    return told


def power_sentence(difference: PolicyDifference) -> str:
    """How many prompts would tell the two apart; empty where they are told apart already."""
    if difference.distinguishable:
        return ""
    if difference.prompts_needed is None and abs(difference.difference.mean) > TINY:
        return f"{difference.difference.n} prompts are too few to say how many would tell"
    if difference.prompts_needed is None:
        return "no difference was seen, so no number of prompts can be named"
    return f"to separate these two you need about {_roughly(difference.prompts_needed):,} prompts"


def _roughly(number: int) -> int:
    """``number`` rounded up to two digits: it is a guess from a guess."""
    step: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // step) * step


def trained_unlike(first: PolicyFamily, second: PolicyFamily) -> list[str]:
    """A note on policies of equal id that were trained otherwise in the two families; none where there is nothing."""
    theirs = {policy.id: policy for policy in second.policies}
    both = [(policy, theirs[policy.id]) for policy in first.policies if policy.id in theirs]
    unlike = [ours.id for ours, other in both if (ours.kind, ours.floors) != (other.kind, other.floors)]
    if not unlike:
        return []
    return [f"Equal by name only, since the two families were trained for other floors there: {', '.join(unlike)}."]


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as a program reads it."""
    return {
        "first": comparison.names[0],
        "second": comparison.names[1],
        "unit": "judge score; second minus first",
        "confidence": comparison.confidence,
        "paired": comparison.paired,
        "prompts": {"shared": comparison.shared, "first": comparison.prompts[0], "second": comparison.prompts[1]},
        "correction": "holm",
        "comparisons": [
            {"policy": each.policy, "objective": each.objective, "first": each.first, "second": each.second}
            | {"difference": each.difference.mean, "low": each.difference.low, "high": each.difference.high}
            | {"p_value": each.difference.p_value, "p_adjusted": each.p_adjusted, "n": each.difference.n}
            | {"distinguishable": each.distinguishable, "prompts_to_separate": each.prompts_needed}
            for each in comparison.differences
        ],
        "hypervolume": {
            "reference_point": comparison.reference_point,
            "ideal_point": dict.fromkeys(comparison.reference_point, 1.0),
            "first": comparison.volumes[0]._asdict(),
            "second": comparison.volumes[1]._asdict(),
            "difference": comparison.volume_difference._asdict(),
        },
        "summary": sentences(comparison),
        "notes": comparison.notes,
    }


def judged_unlike(first: RunSummary, second: RunSummary) -> dict[str, str]:
    """Why scores of the two runs do not compare, a sentence per objective that different judges scored."""
    found = {}
    for name, ours in first.judges.items():
        theirs = second.judges.get(name, ours)
        was, now = first.fingerprints.get(name), second.fingerprints.get(name)
        if ours != theirs:
            found[name] = f"{name} was judged by {ours} and then by {theirs}, whose scores do not compare."
        elif was and now and was != now:
            found[name] = (
                f"{name} was judged by {ours} as it was ({was}) and as it is since ({now}): its code, model or data "
                "changed under the same name, so that the scores do not compare."
            )
    return found


def _common_objectives(first: RunResults, second: RunResults, *, leave_out: bool) -> tuple[list[str], list[str]]:
    """Objectives that the same judge scored in both runs, and why others are left out. Raises FamilyError."""
    ours, theirs = first.summary.judges, second.summary.judges
    unlike = judged_unlike(first.summary, second.summary)
    notes = [*unlike.values()]
    notes += [
        f"{name} was measured in one of the runs only."
        for name in (*ours, *theirs)
        if (name in ours) != (name in theirs)
    ]
    common = [name for name in ours if name in theirs and name not in unlike]
    if not common:
        raise FamilyError(f"the runs have no objective that the same judge scored: {' '.join(notes)}")
    if unlike and not leave_out:
        raise FamilyError(
            f"the runs were judged differently: {' '.join(unlike.values())} Judge both alike ('mopo-eval run' with one "
            "judges.yaml asks the engine nothing again), or compare the other objectives alone with --common-judges."
        )
    return common, notes


def _shared(first: RunResults, second: RunResults) -> list[tuple[int, int]]:
    """Places of the prompts that both asked."""
    theirs = {prompt.identity: place for place, prompt in enumerate(second.prompts)}
    pairs = ((place, theirs.get(prompt.identity)) for place, prompt in enumerate(first.prompts))
    return [(ours, other) for ours, other in pairs if other is not None]


def _values(results: RunResults, objectives: Sequence[str]) -> FloatArray:
    """(P, K, N) mean over samples, of the ``objectives`` alone."""
    return results.table.values[:, [list(results.table.objectives).index(name) for name in objectives]]


def _differences(
    runs: tuple[RunResults, RunResults],
    both: tuple[FloatArray, FloatArray],
    objectives: Sequence[str],
    *,
    paired: bool,
    confidence: float,
) -> list[PolicyDifference]:
    """Second minus first for every policy in both ``runs``; ``both``: their values (P, K, N)."""
    before, after = (list(run.table.policies) for run in runs)
    cells = [(policy, k) for policy in before if policy in after for k in range(len(objectives))]
    # Power is told for the strictest of the corrected comparisons, so that no number is too small.
    strict = 1 - (1 - confidence) / max(1, len(cells))
    separate = prompts_to_separate if paired else prompts_to_separate_unpaired
    found = []
    for policy, k in cells:
        old, new = both[0][before.index(policy), k], both[1][after.index(policy), k]
        difference = (paired_difference if paired else unpaired_difference)(new, old, confidence)
        found.append((policy, k, old, new, difference))
    adjusted = holm([each[-1].p_value for each in found])
    shown = [p <= 1 - confidence + 1e-12 for p in adjusted]
    return [
        PolicyDifference(
            policy,
            objectives[k],
            float(old.mean()),
            float(new.mean()),
            difference,
            p,
            clear,
            _needed(separate(new, old, confidence=strict), difference.n, clear=clear),
        )
        for (policy, k, old, new, difference), p, clear in zip(found, adjusted, shown, strict=True)
    ]


def _needed(guess: int | None, n: int, *, clear: bool) -> int | None:
    """``guess`` of the prompts that separate two policies, which ``n`` prompts did unless not ``clear``."""
    if guess is None or n < LEAST_FOR_BOOTSTRAP:
        return None
    return guess if clear else max(guess, n + 1)


def _reference_point(first: RunResults, second: RunResults, objectives: Sequence[str]) -> dict[str, float]:
    """The lower of the two runs' own reference points, so that neither loses volume to the choice."""
    points = [run.summary.hypervolume.reference_point if run.summary.hypervolume else {} for run in (first, second)]
    return {name: min(point.get(name, 0.0) for point in points) for name in objectives}


def _volumes(
    both: tuple[FloatArray, FloatArray], point: Sequence[float], *, paired: bool, confidence: float
) -> tuple[tuple[Volume, Volume], Volume]:
    """Of both sides and of their difference; shared prompts are drawn alike for both sides."""
    seeds = (0, 0) if paired else (0, 1)
    values, drawn = [], []
    for side, seed in zip(both, seeds, strict=True):
        means = resampled_means(side.reshape(-1, side.shape[2]), seed=seed).reshape(-1, *side.shape[:2])
        values.append(covered(side.mean(axis=2), point))
        drawn.append(np.array([covered(each, point) for each in means]))
    n = min(side.shape[2] for side in both)
    first, second = (_volume(value, some, confidence, n) for value, some in zip(values, drawn, strict=True))
    if not all(any(enough_for_bootstrap(row) for row in side.reshape(-1, side.shape[2])) for side in both):
        each = (1 + confidence) / 2
        (a, b), (c, d) = (sure_volume(side, point, each) for side in both)
        return (Volume(values[0], a, b), Volume(values[1], c, d)), Volume(values[1] - values[0], c - b, d - a)
    return (first, second), _volume(values[1] - values[0], drawn[1] - drawn[0], confidence, n)


def _volume(value: float, resampled: FloatArray, confidence: float, prompts: int) -> Volume:
    return Volume(value, *reflected(resampled, value, confidence, max(2, prompts)))


def _unlike(first: RunResults, second: RunResults) -> list[str]:
    """Other things in which the runs differ: each may be the cause of a difference."""
    ours, theirs = first.summary, second.summary
    told = []
    for name in type(ours.sampling).model_fields:
        old, new = getattr(ours.sampling, name), getattr(theirs.sampling, name)
        if old != new:
            told.append(f"{name.replace('_', ' ')} was {old}, then {new}")
    if ours.engine != theirs.engine:
        told.append(f"the engine was {ours.engine}, then {theirs.engine}")
    notes = [f"The runs differ in more than the policies: {'; '.join(told)}."] if told else []
    for old_run, new_run, words in ((ours, theirs, "first"), (theirs, ours, "second")):
        if alone := [policy for policy in old_run.policies if policy not in new_run.policies]:
            notes.append(f"Only in the {words} run: {', '.join(alone)}.")
    return notes
