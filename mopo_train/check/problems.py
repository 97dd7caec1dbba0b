"""What data cannot support, or should be looked at, each with the rows that it concerns and what to do."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mopo_train.check.biases import Share
from mopo_train.check.structure import Pairing, annotators, contradicted, cyclic, repeated
from mopo_train.winrates import BoolArray

if TYPE_CHECKING:
    from mopo_train.check.context import ContextUse
    from mopo_train.check.heldout import Leak
    from mopo_train.preferences import PreferenceData

FEW_COMPARISONS = 5
"""Per response: below this, win rates from labels promise too much (`mopo_train.plan`)."""
FEW_SHARE = 0.1
"""Of the prompts may have so few, where the average has more."""
FEW_PROMPTS = 100
"""Per objective: below this, the bound of a floor lies more than about 0.08 under its mean."""
LOW_ALPHA = 0.4
"""Krippendorff advises 0.667 for tentative conclusions; preferences between good answers rarely reach it."""
POSITION, LENGTH = 0.02, 0.1
"""Distance from one half beyond which a bias is worth a warning."""
AGREEING = 0.8
"""Rank correlation of two objectives from which on they ask for the same answers."""
AGREEING_AT_LEAST = 0.5
"""What the lower end of that correlation's interval must exceed."""
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


def row_problems(data: "PreferenceData", pairs: Pairing) -> Iterator[Problem]:
    """Rows left out, repetitions, contradictions, cycles."""
    if (count := sum(data.skipped.values())) > 0:
        reasons = ", ".join(f"{reason} ({rows})" for reason, rows in data.skipped.items())
        yield Problem("left-out", count, _told(count, f"was|were left out, as no comparison: {reasons}."), [])
    yield from _problem(
        "duplicate",
        repeated(pairs, annotators(data)),
        "repeats|repeat an earlier comparison with the same labels by the same (or no) annotator: copies count twice. "
        "Remove them, or name the annotators.",
    )
    for k, name in enumerate(data.objectives):
        both_ways = contradicted(pairs, k)[pairs.number] & ~np.isnan(data.labels[:, k])
        yield from _problem(
            "contradiction",
            both_ways,
            f"labels|label the same pair both ways on {name}: annotators differ, or copies were mixed up.",
        )
        circle = cyclic(pairs, k, data.weight, len(data.response_prompt))
        inside = circle[data.first] & circle[data.second] & ~np.isnan(data.labels[:, k])
        yield from _problem(
            "cycle",
            inside,
            f"joins|join responses of {_prompts(data, circle)} in a preference cycle on {name} (a over b over c over "
            "a): no pointwise reward explains these; win rates do.",
        )


def near_problems(data: "PreferenceData", cluster: "np.ndarray[Any, np.dtype[np.int64]]") -> Iterator[Problem]:
    """Prompts of the data that nearly repeat each other without sharing a split group; ``cluster`` (P,)."""
    order = np.lexsort((data.group, cluster))
    held, group = cluster[order], data.group[order]
    apart = np.zeros(len(cluster), dtype=bool)  # (cluster,) has prompts of two groups or more
    apart[held[1:][(held[1:] == held[:-1]) & (group[1:] != group[:-1])]] = True
    inside = apart[cluster]
    yield from _problem(
        "near-duplicate",
        inside[data.prompt],
        f"belongs|belong to {int(inside.sum())} prompts that nearly repeat another one: a split by prompt may "
        "put them on both sides. Hold out with 'mopo-train split --near-duplicates together', or mark them by 'group'.",
    )


def leak_problems(leak: "Leak", held: int) -> Iterator[Problem]:
    """Held-out prompts, of ``held``, that are in the data."""
    if len(leak.same) or len(leak.near):
        message = (
            f"has|have a prompt that is held out, word for word or nearly ({len(leak.same)} of the {held} held-out "
            f"prompts are here word for word, {len(leak.near)} nearly): what is measured on these was trained on. Take "
            "these rows or these held-out prompts away, or split again with 'mopo-train split --near-duplicates "
            "together'."
        )
        yield from _problem("leakage", leak.rows, message)


def context_problems(use: "ContextUse", rows: int) -> Iterator[Problem]:
    """Comparisons that do not fit into the context; extrapolated to all ``rows`` where only some were tokenised."""
    part = "" if use.checked == rows else f" (of {use.checked} drawn at random)"
    for count, told in (
        (
            use.no_room,
            f"has|have a prompt that fills {use.limit} tokens alone: training refuses that. Take it out, or",
        ),
        (
            use.cut,
            f"has|have a response over {use.limit} tokens with its prompt: its end is cut off; shorten it, or",
        ),
    ):
        if count:
            estimate = round(count / use.checked * rows)
            message = f"{_told(count, told, part)} raise --max-length."
            yield Problem("context-overflow", estimate, message, use.examples)


def objective_problems(objectives: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """Too few prompts or comparisons, disagreement, biases."""
    for name, facts in objectives.items():
        rows = facts["labelled"]
        if facts["prompts"] < FEW_PROMPTS:
            told = (
                f"{name} is labelled on {facts['prompts']} prompt{'' if facts['prompts'] == 1 else 's'} only: bounds "
                "of its floors will be wide. Label more."
            )
            yield Problem("few-prompts", rows, told, [])
        if rows and facts["ties"] == rows:
            yield Problem("only-ties", rows, f"every label on {name} is a tie: there is nothing to learn from.", [])
        if facts["comparisons_per_response"] >= FEW_COMPARISONS and facts["few_compared"] > FEW_SHARE:
            told = (
                f"{name} has {facts['comparisons_per_response']:.1f} comparisons per response on average, but fewer "
                f"than {FEW_COMPARISONS} on {facts['few_compared']:.0%} of its prompts: predictions from labels alone, "
                "where prompts count alike, are optimistic there."
            )
            yield Problem("few-comparisons", rows, told, [])
        if facts["comparisons_per_response"] < FEW_COMPARISONS:
            told = (
                f"{name} has {facts['comparisons_per_response']:.1f} comparisons per response, "
                f"below {FEW_COMPARISONS}: predictions from labels alone are optimistic."
            )
            yield Problem("few-comparisons", rows, told, [])
        if facts["agreement"] is not None and facts["agreement"] < LOW_ALPHA:
            told = (
                f"labels of the same pair agree little on {name}: Krippendorff's alpha {facts['agreement']:.2f} over "
                f"the {facts['labelled_twice']} pairs that were labelled twice or more."
            )
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


def relation_problems(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Pairs of objectives that agree, or that no prompt shows together."""
    for key, rows in document["labelled_on_both"].items():
        first, second = key.split("|")
        kind = relation(document, key)
        if kind == "unseen":
            told = (
                f"no prompt carries labels on both {first} and {second} that could be compared: their trade-off "
                "cannot be seen in this data, each is learned on its own prompts."
            )
            yield Problem("no-overlap", 0, told, [])
        elif kind == "agree":
            yield Problem("objectives-agree", rows, _agreement(document, key), [])


def relation(document: Mapping[str, Any], key: str) -> str:
    """How two objectives relate: ``apart``, ``agree``, ``unknown`` for too little evidence, ``unseen`` for none.

    By the labels of many comparisons where hardly any conflict, since ties lower a correlation without a conflict. Else
    by the win rates within prompts with their interval, and so where these run against each other: data that are joined
    may hold both labels on few of their rows only.
    """
    correlation, share = document["rank_correlation"][key], document["conflict"].get(key)
    many = document["labelled_on_both"][key] >= FEW_PROMPTS
    low, high = document["rank_correlation_interval"][key] if correlation is not None else (0.0, 1.0)
    agreeing = share is not None and many and share <= (1 - AGREEING) / 2  # one pair per prompt: 1 - 2 share
    if agreeing and high > 0:
        return "agree"
    if correlation is not None:
        if high < AGREEING:
            return "apart"
        return "agree" if correlation >= AGREEING and low > AGREEING_AT_LEAST else "unknown"
    if share is None:
        facts = [document["objectives"][name] for name in key.split("|")]
        return "unknown" if any(each["labelled"] == each["ties"] for each in facts) else "unseen"
    return "apart" if many else "unknown"


def _agreement(document: Mapping[str, Any], key: str) -> str:
    first, second = key.split("|")
    correlation, share = document["rank_correlation"][key], document["conflict"].get(key)
    facts = []
    if correlation is not None:
        low, high = document["rank_correlation_interval"][key]
        facts.append(f"rank correlation within prompts {correlation:.2f} [{low:.2f}, {high:.2f}]")
    if share is not None:
        rows = document["labelled_on_both"][key]
        facts.append(f"labels disagree in {share:.1%} of {rows} comparison{'' if rows == 1 else 's'}")
    return (
        f"{first} and {second} agree ({'; '.join(facts)}): raising one raises the other, so floors between them will "
        "not bind, and a family adds little to optimising one of them."
    )


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def _prompts(data: "PreferenceData", chosen: BoolArray) -> str:
    count = len(np.unique(data.response_prompt[chosen]))
    return f"{count} prompt{'' if count == 1 else 's'}"


def _problem(kind: str, rows: BoolArray, message: str) -> Iterator[Problem]:
    found = np.flatnonzero(rows)
    if len(found):
        yield Problem(kind, len(found), _told(len(found), message), found[:EXAMPLES].tolist())


def _told(count: int, message: str, part: str = "") -> str:
    """How many rows do what ``message`` says, which begins with its verb, "does|do"."""
    one, _, rest = message.partition("|")
    many, _, rest = rest.partition(" ")
    return f"{_rows(count)}{part} {one if count == 1 else many} {rest}"
