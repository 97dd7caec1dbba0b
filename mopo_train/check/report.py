"""What ``mopo-train check`` says: the document of ``check --json``, the problems in it, and the verdict in words."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mopo_train.check.agreement import TIE, conflict, krippendorff_alpha
from mopo_train.check.biases import Share, first_preferred, longer_preferred, response_lengths
from mopo_train.check.structure import Pairing, contradicted, cyclic, pairing, repeated
from mopo_train.winrates import BoolArray, IntArray, comparisons_per_response, win_rates

if TYPE_CHECKING:
    from mopo_train.preferences import PreferenceData

FEW_COMPARISONS = 5
"""Per response: below this, win rates from labels promise too much (`mopo_train.plan`)."""
FEW_PROMPTS = 100
"""Per objective: below this, the bound of a floor lies more than about 0.08 under its mean."""
LOW_ALPHA = 0.4
"""Krippendorff advises 0.667 for tentative conclusions; preferences between good answers rarely reach it."""
POSITION, LENGTH = 0.02, 0.1
"""Distance from one half beyond which a bias is worth a warning."""
AGREEING = 0.1
"""Conflict below which two objectives ask for the same answers."""
EXAMPLES = 5
"""Rows named per problem."""


class Problem(NamedTuple):
    """Something that the data cannot support, or that should be looked at."""

    kind: str
    rows: int
    """How many comparisons it concerns."""
    message: str
    """What it means and what to do."""
    examples: list[int]
    """Numbers of some of these rows, from 0, over all sources in order."""


def check(data: "PreferenceData") -> dict[str, Any]:
    """The object of ``check --json``: counts and shares per objective and pair of objectives, problems, verdict."""
    pairs, rates = pairing(data), win_rates(data)
    lengths, compared = response_lengths(data), comparisons_per_response(data)
    objectives: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(data.objectives):
        label = data.labels[:, k]
        known = ~np.isnan(label)
        objectives[name] = {
            "labelled": int(known.sum()),
            "ties": int((label == TIE).sum()),
            "a_preferred": int((label > TIE).sum()),
            "prompts": int(rates.labelled[:, k].sum()),
            "first_preferred": _shown(first_preferred(label)),
            "longer_preferred": _shown(longer_preferred(label, lengths)),
            "agreement": _number(pair_agreement(pairs, k)),
            "comparisons_per_response": compared[name].mean,
        }
    relations = {
        f"{data.objectives[k]}|{data.objectives[other]}": conflict(data.labels, rates, k, other)
        for k, other in itertools.combinations(range(len(data.objectives)), 2)
    }
    document = {
        "rows": len(data.prompt),
        "prompts": len(data.group),
        "responses": len(data.response_prompt),
        "objectives": objectives,
        "conflict": {key: found.share for key, found in relations.items() if found.rows},
        "rank_correlation": {key: _number(found.correlation) for key, found in relations.items()},
        "labelled_on_both": {key: found.rows for key, found in relations.items()},
        "skipped": data.skipped,
    }
    problems = [*_row_problems(data, pairs), *_objective_problems(objectives), *_relation_problems(document)]
    document["problems"] = [problem._asdict() for problem in problems]
    return document | {"verdict": verdict(document)}


def pair_agreement(pairs: Pairing, k: int) -> float:
    """Krippendorff's alpha of the labels on the same pair of responses; NaN where no pair was labelled twice.

    Every label counts in both directions, so that it does not matter which response of a pair is called the first.
    """
    known = ~np.isnan(pairs.labels[:, k])
    label, unit = pairs.labels[known, k], pairs.number[known]
    return krippendorff_alpha(np.r_[unit, unit + len(pairs.ends)], np.r_[label, 1 - label])


def annotators(data: "PreferenceData") -> IntArray:
    """(R,) number of each row's annotator, the same one for all rows without."""
    import pyarrow.compute as pc

    column = data.rows.data.column("annotator")
    codes = pc.index_in(column, value_set=pc.unique(pc.drop_null(column)))
    numbers: IntArray = pc.fill_null(codes, -1).to_numpy().astype(np.int64)
    return numbers


def _row_problems(data: "PreferenceData", pairs: Pairing) -> Iterator[Problem]:
    if (count := sum(data.skipped.values())) > 0:
        reasons = ", ".join(f"{reason} ({rows})" for reason, rows in data.skipped.items())
        yield Problem("left-out", count, f"rows that hold no comparison were left out: {reasons}.", [])
    yield from _problem(
        "duplicate",
        repeated(pairs, annotators(data)),
        "rows repeat an earlier comparison with the same labels by the same (or no) annotator: copies count twice. "
        "Remove them, or name the annotators.",
    )
    for k, name in enumerate(data.objectives):
        both_ways = contradicted(pairs, k)[pairs.number] & ~np.isnan(data.labels[:, k])
        yield from _problem(
            "contradiction",
            both_ways,
            f"rows label the same pair both ways on {name}: annotators differ, or copies were mixed up.",
        )
        circle = cyclic(pairs, k, data.weight, len(data.response_prompt))
        inside = circle[data.first] & circle[data.second] & ~np.isnan(data.labels[:, k])
        yield from _problem(
            "cycle",
            inside,
            f"rows join responses of {_prompts(data, circle)} in a preference cycle on {name} (a over b over c over "
            "a): no pointwise reward explains these; win rates do.",
        )


def _prompts(data: "PreferenceData", chosen: BoolArray) -> str:
    count = len(np.unique(data.response_prompt[chosen]))
    return f"{count} prompt{'' if count == 1 else 's'}"


def _problem(kind: str, rows: BoolArray, message: str) -> Iterator[Problem]:
    found = np.flatnonzero(rows)
    if len(found):
        yield Problem(kind, len(found), f"{len(found)} {message}", found[:EXAMPLES].tolist())


def _objective_problems(objectives: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    for name, facts in objectives.items():
        rows = facts["labelled"]
        if facts["prompts"] < FEW_PROMPTS:
            told = (
                f"{name} is labelled on {facts['prompts']} prompts only: bounds of its floors will be wide. Label more."
            )
            yield Problem("few-prompts", rows, told, [])
        if facts["comparisons_per_response"] < FEW_COMPARISONS:
            told = (
                f"{name} has {facts['comparisons_per_response']:.1f} comparisons per response, "
                f"below {FEW_COMPARISONS}: predictions from labels alone are optimistic."
            )
            yield Problem("few-comparisons", rows, told, [])
        if facts["agreement"] is not None and facts["agreement"] < LOW_ALPHA:
            told = f"labels of the same pair agree little on {name}: Krippendorff's alpha {facts['agreement']:.2f}."
            yield Problem("low-agreement", rows, told, [])
        for kind, key, distance, told in (
            ("position-bias", "first_preferred", POSITION, "the first response is preferred"),
            ("length-bias", "longer_preferred", LENGTH, "the longer response is preferred"),
        ):
            found = facts[key]
            if found is not None and Share(**found).far_from_half(distance):
                advice = "Swap positions at random before anything sees the order." if kind == "position-bias" else (
                    "A policy may learn length instead of quality; watch the length of its answers."
                )  # fmt: skip
                told = f"{told} on {name} in {found['value']:.1%} of {found['rows']} strict comparisons. {advice}"
                yield Problem(kind, found["rows"], told, [])


def _relation_problems(document: Mapping[str, Any]) -> Iterator[Problem]:
    for key, rows in document["labelled_on_both"].items():
        first, second = key.split("|")
        share = document["conflict"].get(key)
        correlation = document["rank_correlation"][key]
        if share is None:
            if correlation is None:
                told = (
                    f"no prompt carries labels on both {first} and {second}: their trade-off cannot be seen in this "
                    "data, each is learned on its own prompts."
                )
                yield Problem("no-overlap", 0, told, [])
        elif share < AGREEING:
            told = (
                f"{first} and {second} disagree in only {share:.1%} of {rows} comparisons: "
                "raising one raises the other, so a floor will hardly bind."
            )
            yield Problem("objectives-agree", rows, told, [])


def verdict(document: Mapping[str, Any]) -> str:
    """The data in plain words: what they support, and what to look at first."""
    names, kinds = list(document["objectives"]), {problem["kind"] for problem in document["problems"]}
    if len(names) < 2:
        return (
            f"Only {names[0]} is labelled: there is nothing to trade off. Add data with labels on a second objective."
        )
    trade = [key for key in document["labelled_on_both"] if _pulls_apart(document, key)]
    told = [
        f"{document['rows']} comparisons on {document['prompts']} prompts; "
        + (
            "objectives that pull apart: " + ", ".join(key.replace("|", " and ") for key in trade) + "."
            if trade
            else "no two objectives were seen to pull apart."
        )
    ]
    if "few-comparisons" in kinds:
        told.append("Trust a plan's shape, not its heights: few comparisons per response.")
    if kinds & {"duplicate", "contradiction", "low-agreement"}:
        told.append("Look at repeated and contradicting labels before training.")
    if "position-bias" in kinds:
        told.append("Positions are biased; training here does not see the order, other tools may.")
    return " ".join(told)


def _pulls_apart(document: Mapping[str, Any], key: str) -> bool:
    """By the labels on the same comparisons, or, where no row carries both, by the win rates on the same prompts."""
    share, correlation = document["conflict"].get(key), document["rank_correlation"][key]
    if share is not None:
        return bool(share >= AGREEING)
    return correlation is not None and bool(correlation < 1 - 2 * AGREEING)


def check_tables(document: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, column titles and rows of the tables for a terminal."""
    columns = ["objective", "labelled", "prompts", "ties", "a preferred", "longer preferred", "α", "per response"]
    rows = []
    for name, facts in document["objectives"].items():
        shares = [_percent(facts[key]) for key in ("first_preferred", "longer_preferred")]
        alpha = "-" if facts["agreement"] is None else f"{facts['agreement']:.2f}"
        counts = [str(facts[key]) for key in ("labelled", "prompts", "ties")]
        rows.append([name, *counts, *shares, alpha, f"{facts['comparisons_per_response']:.1f}"])
    yield f"{document['rows']} comparisons, {document['prompts']} prompts", columns, rows
    relations = [
        [key.replace("|", " and "), str(count), *(_plain(document[field].get(key)) for field in _RELATION_FIELDS)]
        for key, count in document["labelled_on_both"].items()
    ]
    if relations:
        yield "objectives", ["objectives", "strict on both", "conflict", "rank correlation"], relations


_RELATION_FIELDS = ("conflict", "rank_correlation")


def _shown(found: Share | None) -> dict[str, Any] | None:
    return found._asdict() if found else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(found: Mapping[str, Any] | None) -> str:
    return f"{found['value']:.1%} [{found['low']:.1%}, {found['high']:.1%}]" if found else "-"
