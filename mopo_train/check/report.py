"""What ``mopo-train check`` says: the document of ``check --json``, the verdict in words, tables for a terminal."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mopo_train.check import problems
from mopo_train.check.agreement import CONFIDENCE, TIE, conflict, krippendorff_alpha
from mopo_train.check.biases import Share, chosen_first, first_preferred, longer_preferred, response_lengths
from mopo_train.check.heldout import HeldOut, PromptTexts, leaked
from mopo_train.check.similar import clusters, near_duplicates
from mopo_train.check.structure import Pairing, annotators, pairing
from mopo_train.winrates import IntArray, comparisons_per_response, win_rates

if TYPE_CHECKING:
    from mopo_train.check.context import ContextUse
    from mopo_train.preferences import PreferenceData


class Beside(NamedTuple):
    """What to hold the data against."""

    held_out: HeldOut | None = None
    context: "ContextUse | None" = None


def check(data: "PreferenceData", beside: Beside = Beside()) -> dict[str, Any]:  # noqa: B008 - immutable
    """The object of ``check --json``: counts and shares per objective and pair of objectives, problems, verdict."""
    pairs, rates, counts = pairing(data), win_rates(data), comparisons_per_response(data)
    lengths, who = response_lengths(data), annotators(data)
    objectives = {
        name: _objective(data, k, lengths) | _agreement(pairs, who, k) | {"prompts": int(rates.labelled[:, k].sum())}
        for k, name in enumerate(data.objectives)
    }
    for name, facts in objectives.items():
        facts["comparisons_per_response"] = counts[name].mean
        facts["few_compared"] = _few_compared(data, data.objectives.index(name))
    relations = {
        f"{data.objectives[k]}|{data.objectives[other]}": conflict(data.labels, rates, k, other)
        for k, other in itertools.combinations(range(len(data.objectives)), 2)
    }
    held = beside.held_out
    near = near_duplicates(PromptTexts(data, held.texts if held else ()))
    cluster = clusters(len(data.group), near[near[:, 1] < len(data.group)])
    document = {
        "rows": len(data.prompt),
        "prompts": len(data.group),
        "responses": len(data.response_prompt),
        "annotators": len(np.unique(who[who >= 0])),
        "objectives": objectives,
        "conflict": {key: found.share for key, found in relations.items() if found.rows},
        "rank_correlation": {key: _number(found.correlation.value) for key, found in relations.items()},
        "rank_correlation_interval": {
            key: [found.correlation.low, found.correlation.high]
            for key, found in relations.items()
            if not math.isnan(found.correlation.value)
        },
        "labelled_on_both": {key: found.rows for key, found in relations.items()},
        "near_duplicate_prompts": int((np.bincount(cluster)[cluster] > 1).sum()),
        "distributions": _distributions(data, lengths),
        "confidence": CONFIDENCE,
        "skipped": data.skipped,
    }
    found = [*problems.row_problems(data, pairs), *problems.near_problems(data, cluster)]
    if held is not None:
        leak = leaked(data, held, near)
        document["held_out"] = {"prompts": len(held.texts), "same": len(leak.same), "near": len(leak.near)}
        found += problems.leak_problems(leak, len(held.texts))
    if beside.context is not None:
        document["context"] = beside.context._asdict()
        found += problems.context_problems(beside.context, len(data.prompt))
    found += [*problems.objective_problems(objectives), *problems.relation_problems(document)]
    document["problems"] = [problem._asdict() for problem in found]
    return document | {"verdict": verdict(document)}


def _objective(data: "PreferenceData", k: int, lengths: IntArray) -> dict[str, Any]:
    label = data.labels[:, k]
    return {
        "labelled": int((~np.isnan(label)).sum()),
        "ties": int((label == TIE).sum()),
        "a_preferred": int((label > TIE).sum()),
        "first_preferred": _shown(first_preferred(np.where(chosen_first(data), np.nan, label), data.prompt)),
        "longer_preferred": _shown(longer_preferred(label, lengths, data.prompt)),
    }


def _few_compared(data: "PreferenceData", k: int) -> float:
    """Share of the prompts labelled on objective ``k`` with fewer than `problems.FEW_COMPARISONS` per response."""
    known = ~np.isnan(data.labels[:, k])
    rows = np.bincount(data.prompt[known], minlength=len(data.group))
    seen = np.unique(np.concatenate([data.first[known], data.second[known]]))
    responses = np.bincount(data.response_prompt[seen], minlength=len(data.group))
    labelled = rows > 0
    few = 2 * rows[labelled] < problems.FEW_COMPARISONS * responses[labelled]
    return float(few.mean()) if len(few) else 0.0


def _agreement(pairs: Pairing, who: IntArray, k: int) -> dict[str, Any]:
    """Krippendorff's alpha of the labels on the same pair of responses, and how many pairs were labelled twice or more.

    Every label counts in both directions, so that it does not matter which response of a pair is called the first. An
    annotator's labels of one pair are one value, their mean; rows without an annotator are by different ones.
    """
    known = np.flatnonzero(~np.isnan(pairs.labels[:, k]))
    nobody = np.where(who[known] < 0, -1 - np.arange(len(known)), who[known])
    _, code = np.unique(np.stack([pairs.number[known], nobody], axis=1), axis=0, return_inverse=True)
    label = np.bincount(code, pairs.labels[known, k]) / np.maximum(np.bincount(code), 1)
    unit = np.zeros(len(label), dtype=np.int64)
    unit[code] = pairs.number[known]
    alpha = krippendorff_alpha(np.r_[unit, unit + len(pairs.ends)], np.r_[label, 1 - label])
    return {"agreement": _number(alpha), "labelled_twice": int((np.bincount(unit) > 1).sum()) if len(unit) else 0}


def _distributions(data: "PreferenceData", lengths: IntArray) -> dict[str, Any]:
    """Counts for pictures: rows per prompt, labelled comparisons per response, characters per response."""
    responses = len(data.response_prompt)
    per_response = {}
    for k, name in enumerate(data.objectives):
        known = ~np.isnan(data.labels[:, k])
        times = np.bincount(data.first[known], minlength=responses) + np.bincount(
            data.second[known], minlength=responses
        )
        per_response[name] = _counted(times[times > 0])
    characters = np.zeros(responses, dtype=np.int64)
    characters[data.first], characters[data.second] = lengths[:, 0], lengths[:, 1]
    edges = np.unique(np.geomspace(1, max(2, int(characters.max()) + 1), 31).round().astype(int))
    return {
        "rows_per_prompt": _counted(np.bincount(data.prompt)),
        "comparisons_per_response": per_response,
        "response_characters": {"edges": edges.tolist(), "counts": np.histogram(characters, edges)[0].tolist()},
    }


def _counted(values: IntArray) -> dict[str, int]:
    """How often each value occurs."""
    found, times = np.unique(values, return_counts=True)
    return {str(value): count for value, count in zip(found.tolist(), times.tolist(), strict=True)}


def verdict(document: Mapping[str, Any]) -> str:
    """The data in plain words: what they support, and what to look at first."""
    names, kinds = list(document["objectives"]), {problem["kind"] for problem in document["problems"]}
    told = [f"{_count(document['rows'], 'comparison')} on {_count(document['prompts'], 'prompt')}"]
    if len(names) < 2:
        told[0] += f", labelled on {names[0]} only: there is nothing to trade off. Join data that label another one."
    else:
        told[0] += _trades(document)
    if "leakage" in kinds:
        told.append("Held-out prompts are in the data: do not trust what is measured on them.")
    if "few-prompts" in kinds:
        told.append("So few prompts support no floor with confidence.")
    if "few-comparisons" in kinds:
        told.append("Trust a plan's shape, not its heights: few comparisons per response.")
    if kinds & {"duplicate", "contradiction", "low-agreement"}:
        told.append("Look at repeated and contradicting labels before training.")
    if "near-duplicate" in kinds:
        told.append("Keep prompts that nearly repeat each other on one side of a split.")
    if "context-overflow" in kinds:
        told.append("Part of the text does not fit into the context.")
    if "position-bias" in kinds:
        told.append("Positions are biased; training here does not see the order, other tools may.")
    if "length-bias" in kinds:
        told.append("Length goes with preference: watch the length of the answers.")
    return " ".join(told)


def _trades(document: Mapping[str, Any]) -> str:
    """Which objectives conflict."""
    kinds: dict[str, list[str]] = {}
    for key in document["labelled_on_both"]:
        kinds.setdefault(problems.relation(document, key), []).append(key.replace("|", " and "))
    parts = [] if "apart" in kinds else ["no two objectives were seen to pull apart"]
    for kind, words in (
        ("apart", "objectives that pull apart"),
        ("agree", "that agree, so that floors will not bind"),
        ("unknown", "too little data to say whether they pull apart"),
        ("unseen", "never seen on the same prompt"),
    ):
        parts += [f"{words}: {', '.join(kinds[kind])}"] if kind in kinds else []
    return f"; {'; '.join(parts)}."


def check_tables(document: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, column titles and rows of the tables for a terminal."""
    columns = ["objective", "labelled", "prompts", "ties", "a preferred", "longer preferred", "α", "per response"]
    rows = []
    for name, facts in document["objectives"].items():
        shares = [_percent(facts[key]) for key in ("first_preferred", "longer_preferred")]
        alpha = "-" if facts["agreement"] is None else f"{facts['agreement']:.2f}"
        coverage = f"{facts['labelled']} ({facts['labelled'] / document['rows']:.0%})"
        counts = [coverage, str(facts["prompts"]), str(facts["ties"])]
        rows.append([name, *counts, *shares, alpha, f"{facts['comparisons_per_response']:.1f}"])
    yield f"{_count(document['rows'], 'comparison')}, {_count(document['prompts'], 'prompt')}", columns, rows
    relations = []
    for key, count in document["labelled_on_both"].items():
        share, correlation = document["conflict"].get(key), document["rank_correlation"][key]
        ends = document["rank_correlation_interval"].get(key)
        shown = "-" if correlation is None else f"{correlation:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]"
        relations.append([key.replace("|", " and "), str(count), "-" if share is None else f"{share:.1%}", shown])
    if relations:
        yield "objectives", ["objectives", "strict on both", "conflict", "rank correlation"], relations


def _shown(found: Share | None) -> dict[str, Any] | None:
    return found._asdict() if found else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _percent(found: Mapping[str, Any] | None) -> str:
    return f"{found['value']:.1%} [{found['low']:.1%}, {found['high']:.1%}]" if found else "-"
