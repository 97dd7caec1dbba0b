"""The worst answers of a run, per objective, for people to read."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mopo_eval.bounds import FloatArray
from mopo_eval.results import AskedPrompt, RunResults
from mopo_train.errors import FamilyError

MOST = 5


class Place(NamedTuple):
    """Where an answer stands in the scores of an objective."""

    policy: int
    prompt: int
    sample: int


class Example(NamedTuple):
    """One answer with what a judge said of it."""

    objective: str
    policy: str
    prompt: AskedPrompt
    sample: int
    response: str
    cut: bool
    """True where the token limit ended it."""
    score: float
    label: str
    evidence: str


def lowest(scores: FloatArray, most: int = MOST) -> list[Place]:
    """The ``most`` lowest of ``scores`` (P, N, S), a prompt once; among equals the policies take turns, then in order.

    Shorter where there are fewer prompts.
    """
    policies, _, samples = scores.shape
    candidates = []
    for p in range(policies):
        order = np.argsort(scores[p], axis=None, kind="stable")[: most * samples]  # so many hold ``most`` prompts
        candidates += [Place(p, *divmod(flat, samples)) for flat in order.tolist()]
    found: list[Place] = []
    while candidates and len(found) < most:
        turns = Counter(place.policy for place in found)
        best = min(candidates, key=lambda place: (scores[place], turns[place.policy], place))
        found.append(best)
        candidates = [place for place in candidates if place.prompt != best.prompt]
    return found


def worst_answers(results: RunResults, policies: Sequence[str], most: int = MOST) -> dict[str, list[Example]]:
    """The worst answers of ``policies`` per objective, worst first. Raises FamilyError where an answer is missing."""
    table = results.table
    rows = [list(table.policies).index(policy) for policy in policies]
    places = {
        objective: [place._replace(policy=rows[place.policy]) for place in lowest(table.scores[rows, k], most)]
        for k, objective in enumerate(table.objectives)
    }
    keys = {_key(results, place) for found in places.values() for place in found}
    answers = _read(results, "responses", ["response", "finish_reason"], keys)
    verdicts = _read(results, "judgements", ["objective", "label", "evidence"], keys)
    examples: dict[str, list[Example]] = {}
    for k, (objective, found) in enumerate(places.items()):
        examples[objective] = []
        for place in found:
            key = _key(results, place)
            if key not in answers:
                raise FamilyError(f"'{results.directory}' lacks the answer of {key[0]} to '{key[1]}'; measure again.")
            answer = answers[key][0]
            said = next((row for row in verdicts.get(key, []) if row["objective"] == objective), {})
            examples[objective].append(
                Example(
                    objective=objective,
                    policy=key[0],
                    prompt=results.prompts[place.prompt],
                    sample=place.sample,
                    response=answer["response"] or "",
                    cut=answer["finish_reason"] == "length",
                    score=float(table.scores[place.policy, k, place.prompt, place.sample]),
                    label=said.get("label") or "",
                    evidence=said.get("evidence") or "",
                )
            )
    return examples


Key = tuple[str, str, int]


def _key(results: RunResults, place: Place) -> Key:
    return results.table.policies[place.policy], results.prompts[place.prompt].id, place.sample


def _read(results: RunResults, name: str, columns: list[str], keys: set[Key]) -> dict[Key, list[dict[str, str | None]]]:
    """Rows of ``<name>.parquet`` by key, only those of ``keys``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = results.directory / f"{name}.parquet"
    prompts = sorted({key[1] for key in keys})
    try:
        rows = pq.read_table(
            path, columns=["policy", "prompt_id", "sample", *columns], filters=[("prompt_id", "in", prompts)]
        )
    except (pa.ArrowException, OSError) as error:
        raise FamilyError(f"cannot read '{path}': {error}; measure again with 'mopo-eval run'.") from error
    found: dict[Key, list[dict[str, str | None]]] = {}
    for row in rows.to_pylist():
        key = (row["policy"], row["prompt_id"], row["sample"])
        if key in keys:
            found.setdefault(key, []).append({column: row[column] for column in columns})
    return found
