"""Pairs of answers of a measured run for people to compare: drawn where a label tells most, read back when labelled.

Every pair is a policy's answer beside the reference policy's answer to the same prompt, in random order. The rows are
preference rows that ``mopo-train`` reads once they carry labels; ``active`` has the mathematics.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from mopo_eval.active import WinRate, draw, floor_doubt, inclusion, unbiased_terms, win_probability, win_rate
from mopo_eval.bootstrap import standard_error
from mopo_eval.bounds import FloatArray
from mopo_eval.profiles import Floors
from mopo_eval.results import RunResults
from mopo_train.errors import DataError
from mopo_train.family import REFERENCE

LEAST_INTEREST = 0.05
"""What a policy counts whose place nothing hangs on, where one at its floor counts 1."""


class Pairs(NamedTuple):
    """Every pair of a run, policies but the reference (Q) by prompts (N); the first sample of each."""

    policies: list[str]
    guess: FloatArray
    """(Q, K, N) the judge's guess that the policy's answer beats the reference's."""
    responses: list[list[str]]
    """(Q, N)"""
    reference: list[str]
    """(N,)"""

    def different(self, q: int) -> np.ndarray:
        """(N,) True where the two answers are not the same text."""
        return np.array([ours != theirs for ours, theirs in zip(self.responses[q], self.reference, strict=True)])


def read_pairs(results: RunResults) -> Pairs:
    """The pairs of a run. Raises DataError for one without the reference policy."""
    import pyarrow.parquet as pq

    table = results.table
    if REFERENCE not in table.policies:
        raise DataError(f"run {results.summary.run} has no answers of '{REFERENCE}' to compare with.")
    columns = ["policy", "prompt_id", "sample", "response"]
    rows = pq.read_table(results.directory / "responses.parquet", columns=columns).to_pylist()
    text = {(row["policy"], row["prompt_id"]): row["response"] for row in rows if row["sample"] == 0}
    ids = [prompt.id for prompt in results.prompts]
    policies = [policy for policy in table.policies if policy != REFERENCE]
    first = table.scores[..., 0]  # (P, K, N)
    ours = first[[table.policies.index(policy) for policy in policies]]
    theirs = np.broadcast_to(first[table.policies.index(REFERENCE)], ours.shape)
    guess = np.stack([win_probability(ours[:, k], theirs[:, k]) for k in range(len(table.objectives))], axis=1)
    responses = [[text[policy, prompt] for prompt in ids] for policy in policies]
    return Pairs(policies, guess, responses, [text[REFERENCE, prompt] for prompt in ids])


def interest(results: RunResults, policies: Iterable[str], floors: Floors) -> FloatArray:
    """(Q, K) how much hangs on knowing each policy and objective better, in [`LEAST_INTEREST`, 1].

    With ``floors``: how open it is whether the policy holds them. Without: how open it is whether it is on the front.
    """
    table, summary = results.table, results.summary
    measured = {"": table.values, "win_rate": table.wins}
    found = np.full((len(table.policies), len(table.objectives)), LEAST_INTEREST)
    for name, floor in floors.items():
        objective, _, metric = name.partition(".")
        if objective not in table.objectives:
            raise DataError(f"floor on '{name}': run {summary.run} judged {', '.join(table.objectives)}.")
        k = table.objectives.index(objective)
        values = measured[metric][:, k]  # (P, N)
        doubt = floor_doubt(values.mean(axis=1), standard_error(values), np.full(len(values), floor))
        found[:, k] = np.maximum(found[:, k], doubt)
    if not floors:
        chance = np.array([summary.front_probability.get(policy, 0.5) for policy in table.policies])
        found = np.maximum(found, (4 * chance * (1 - chance))[:, None])
    chosen: FloatArray = found[[table.policies.index(policy) for policy in policies]]
    return chosen


def select_pairs(results: RunResults, floors: Floors, labels: int, seed: int) -> Iterator[dict[str, Any]]:
    """About ``labels`` rows to compare, in random order. Raises DataError where there are not so many pairs."""
    pairs, rng = read_pairs(results), np.random.default_rng(seed)
    matters = interest(results, pairs.policies, floors)  # (Q, K)
    doubt = np.sqrt(pairs.guess * (1 - pairs.guess))  # (Q, K, N)
    different = np.stack([pairs.different(q) for q in range(len(pairs.policies))])  # (Q, N)
    importance = np.einsum("qk,qkn->qn", matters, doubt)[different]
    probability = np.zeros(different.shape)
    probability[different] = inclusion(importance, labels)
    drawn = np.argwhere(draw(probability, rng))
    for q, n in rng.permutation(drawn):
        ours, theirs = (pairs.policies[q], pairs.responses[q][n]), (REFERENCE, pairs.reference[n])
        first, second = (ours, theirs) if rng.random() < 0.5 else (theirs, ours)
        prompt = results.prompts[n]
        yield {
            "prompt": prompt.prompt,
            "response_a": first[1],
            "response_b": second[1],
            "preferences": dict.fromkeys(results.table.objectives),
            "policy_a": first[0],
            "policy_b": second[0],
            "prompt_id": prompt.id,
            "probability": float(probability[q, n]),
        }


def people_win_rates(
    results: RunResults, rows: Iterable[tuple[str, Mapping[str, Any]]], confidence: float
) -> dict[str, dict[str, WinRate]]:
    """Per policy and objective with enough labels, its win rate against the reference in people's eyes.

    ``rows`` are (where, row) of `select_pairs` with labels; several labels of one pair are averaged. Raises DataError.
    """
    pairs = read_pairs(results)
    places = {prompt.id: n for n, prompt in enumerate(results.prompts)}
    told: dict[tuple[int, int, int], list[float]] = {}
    probability = np.ones((len(pairs.policies), len(places)))
    for where, row in rows:
        names = [row.get("policy_a"), row.get("policy_b")]
        swapped = names[0] == REFERENCE
        policy, chance = names[1 if swapped else 0], row.get("probability")
        if REFERENCE not in names or policy not in pairs.policies or row.get("prompt_id") not in places:
            raise DataError(
                f"{where}: not a pair of run {results.summary.run}; draw pairs with 'mopo-eval select-pairs'."
            )
        if not isinstance(chance, int | float) or not 0 < chance <= 1:
            raise DataError(
                f"{where}: 'probability' must be as 'mopo-eval select-pairs' wrote it, found {chance!r:.40}."
            )
        q, n = pairs.policies.index(policy), places[row["prompt_id"]]
        probability[q, n] = chance
        for objective, label in (row.get("preferences") or {}).items():
            if label is None:
                continue
            if objective not in results.table.objectives or not isinstance(label, int | float) or not 0 <= label <= 1:
                raise DataError(f"{where}: {objective!r:.40}: {label!r:.40} is no label on an objective of this run.")
            k = results.table.objectives.index(objective)
            told.setdefault((q, k, n), []).append(1 - label if swapped else float(label))
    found: dict[str, dict[str, WinRate]] = {}
    for q, policy in enumerate(pairs.policies):
        different = pairs.different(q)
        for k, objective in enumerate(results.table.objectives):
            labels = np.array([np.mean(told.get((q, k, n), [np.nan])) for n in range(len(places))])[different]
            terms = unbiased_terms(pairs.guess[q, k, different], probability[q, different], labels)
            everything = np.concatenate([terms, np.full(int((~different).sum()), 0.5)])
            try:
                made = win_rate(everything, int((~np.isnan(labels)).sum()), confidence)
            except DataError:
                continue  # too few labels of this policy
            found.setdefault(policy, {})[objective] = made
    return found
