"""Judges against people: on labelled answers, on preference pairs, and on the answers of a measured run.

On a run, labels of a random part of its answers also correct what the judge measured (``prediction_powered``).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from mopo_eval.active import WinRate
from mopo_eval.agreement import LEAST_PROMPTS, Agreement, Figure, agreement, mean_figure, repeatability
from mopo_eval.judges.case import UNREADABLE, Case, Judge
from mopo_eval.judges.claims import LlmClaims
from mopo_eval.judges.llm import FLIPPED, LlmJudge, first_preferred
from mopo_eval.judges.scoring import read_cases, score_cases
from mopo_eval.prediction_powered import Corrected, corrected_mean
from mopo_eval.results import RunResults
from mopo_eval.rows import read_rows
from mopo_eval.select_pairs import people_win_rates
from mopo_train.errors import DataError, FamilyError
from mopo_train.family import ObjectiveName, first_problem, write_whole
from mopo_train.judgement import Judgement

if TYPE_CHECKING:
    from mopo_train.preferences import PreferenceData

FILE = "calibration.json"


class Calibration(BaseModel):
    """One judge against people on one objective."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    judge: str
    unit: str
    """What one label is about: ``answers``, or ``pairs`` (which of two answers is better)."""
    agreement: Agreement
    repeatability: Figure | None = None
    """Share of rows that the judge puts on the same side when asked again; None if it was asked once."""
    flipped: float | None = None
    """Share of pairs on which the judge changed its mind with the order; None where it never sees two answers."""
    position_bias: Figure | None = None
    """How far it prefers the answer that it sees first, before ties are made of it: 0.5 is always, -0.5 never. None for
    a judge that is not asked in both orders."""
    unparseable: float = 0.0
    """Share of rows without a usable verdict, which count as 0 or, of pairs, as ties."""


class RunCalibration(BaseModel):
    """The contents of ``evaluation/<run>/calibration.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    labels_from: str
    confidence: float
    objectives: dict[ObjectiveName, Calibration]
    corrected: dict[str, dict[ObjectiveName, Corrected]]
    """Per policy and objective with enough labels: its mean in people's units."""
    win_rates: dict[str, dict[ObjectiveName, WinRate]] = {}
    """Per policy and objective with enough labelled pairs: its win rate against the reference in people's eyes."""


class _Rated(NamedTuple):
    cases: list[Case]
    people: list[float]
    prompts: list[str]
    lengths: list[int]
    """Of the answer, or of the first answer of a pair minus the second."""
    unit: str


def calibrate_answers(path: Path, judge: Judge, confidence: float, *, repeat: bool = False) -> Calibration:
    """Of ``judge`` on the rows {"prompt", "response", "human", ...} in ``path``; ``human`` is a number in [0, 1].

    Raises DataError and JudgeError.
    """
    cases = list(read_cases(path))
    people = [_human(row, f"'{path}', row {position}") for position, row in read_rows(path)]
    prompts, lengths = [str(case.prompt) for case in cases], [len(case.response) for case in cases]
    return _calibrate(judge, _Rated(cases, people, prompts, lengths, "answers"), confidence, repeat)


def calibrate_pairs(
    data: "PreferenceData", objective: str, judge: Judge, confidence: float, *, repeat: bool = False
) -> Calibration:
    """Of ``judge`` on the labels of ``data`` on ``objective``: the probability that the first answer is the better one.

    A judge that compares is asked about both answers; any other scores each alone, and the higher score wins.
    Raises DataError and JudgeError.
    """
    column = data.objectives.index(objective)
    rows = np.flatnonzero(~np.isnan(data.labels[:, column]))
    people = data.labels[rows, column]
    prompts = [str(prompt) for prompt in data.prompt[rows]]
    texts = [(data.response(int(data.first[row])), data.response(int(data.second[row]))) for row in rows]
    lengths = [len(first) - len(second) for first, second in texts]
    conversations = [data.messages(int(data.prompt[row])) for row in rows]
    if judge.compares:
        cases = [
            Case(list(map(dict, talk)), first, f"row {row}", baseline=second)
            for row, talk, (first, second) in zip(rows, conversations, texts, strict=True)
        ]
        return _calibrate(judge, _Rated(cases, people.tolist(), prompts, lengths, "pairs"), confidence, repeat)
    alone = [
        Case(list(map(dict, talk)), text, f"row {row}")
        for row, talk, pair in zip(rows, conversations, texts, strict=True)
        for text in pair
    ]
    judged = score_cases(judge, alone)
    again = score_cases(_with_other_luck(judge), alone) if repeat else None
    won, code = _winners(judged), _codes(prompts)
    return Calibration(
        judge=judge.name,
        unit="pairs",
        agreement=agreement(won, people, np.array(lengths, dtype=np.float64), code, confidence),
        repeatability=None if again is None else repeatability(won, _winners(again), code, confidence),
        unparseable=_share(judged, UNREADABLE),
    )


def _winners(judged: Sequence[Judgement]) -> np.ndarray:
    """(pairs,) 1 where the first of two answers scores higher, 0 where the second does, 0.5 for a tie."""
    scores = _scores(judged).reshape(-1, 2)
    won: np.ndarray = 0.5 + 0.5 * np.sign(scores[:, 0] - scores[:, 1])
    return won


def calibrate_run(results: RunResults, path: Path, confidence: float) -> RunCalibration:
    """Of the judges of a run, by the rows {"policy", "prompt_id", "sample"?, "objective", "human"} in ``path``.

    Several labels of one answer are averaged. A policy's mean is corrected where enough of its prompts are labelled.
    Rows of `select_pairs` give win rates instead. Raises DataError.
    """
    compared: list[tuple[str, dict[str, Any]]] = []
    table = results.table
    labels: dict[tuple[int, int, int, int], list[float]] = {}
    places = [
        {name: index for index, name in enumerate(names)}
        for names in (table.policies, table.objectives, [prompt.id for prompt in results.prompts])
    ]
    for position, row in read_rows(path):
        where = f"'{path}', row {position}"
        if "policy_a" in row:
            compared.append((where, row))
            continue
        given = [row.get("policy"), row.get("objective"), row.get("prompt_id")]
        for name, known in zip(given, places, strict=True):
            if not isinstance(name, str) or name not in known:
                told = ", ".join(list(known)[:6])
                raise DataError(f"{where}: {name!r:.60} is not of run {results.summary.run}; known: {told}.")
        sample = row.get("sample", 0)
        if not isinstance(sample, int) or not 0 <= sample < table.scores.shape[3]:
            raise DataError(f"{where}: the run has no sample {sample!r:.40} of a prompt.")
        p, k, x = (known[str(name)] for name, known in zip(given, places, strict=True))
        labels.setdefault((p, k, x, sample), []).append(_human(row, where))
    if not labels and not compared:
        raise DataError(
            f"'{path}' has no labels; 'mopo-eval calibrate --family FAMILY --ask 100 --out FILE' draws answers."
        )
    lengths = _lengths(results)
    return RunCalibration(
        run=results.summary.run,
        labels_from=str(path),
        confidence=confidence,
        objectives=dict(_by_objective(results, labels, lengths, confidence)),
        corrected=_corrected(results, labels, confidence),
        win_rates=people_win_rates(results, compared, confidence) if compared else {},
    )


def write_calibration(results: RunResults, found: RunCalibration) -> Path:
    """Write calibration.json beside the run's tables."""
    path = results.directory / FILE
    write_whole(path, found.model_dump_json(indent=2) + "\n")
    return path


def read_calibration(directory: Path) -> RunCalibration | None:
    """That of the run in ``directory``; None if nobody labelled its answers. Raises FamilyError."""
    path = directory / FILE
    if not path.is_file():
        return None
    try:
        return RunCalibration.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise FamilyError(f"'{path}' is not a calibration: {first_problem(error)}; calibrate again.") from error


def to_label(results: RunResults, prompts: int, seed: int) -> Iterator[dict[str, Any]]:
    """Rows for people to fill in ``human``: every policy's answers to ``prompts`` random prompts, on every objective.

    The same prompts for all policies; the order of the rows is random too, so that nobody sees which policy it is by
    place. Raises DataError if the run has fewer prompts.
    """
    import pyarrow.parquet as pq

    if prompts > len(results.prompts):
        raise DataError(f"cannot draw {prompts} prompts: the run has {len(results.prompts)}.")
    rng = np.random.default_rng(seed)
    chosen = {results.prompts[place].id for place in rng.permutation(len(results.prompts))[:prompts]}
    columns = ["policy", "prompt_id", "sample", "prompt", "response"]
    rows = pq.read_table(results.directory / "responses.parquet", columns=columns).to_pylist()
    asked = [
        row | {"objective": objective, "human": None}
        for row in rows
        if row["prompt_id"] in chosen
        for objective in results.table.objectives
    ]
    for place in rng.permutation(len(asked)):
        yield asked[place]


def _calibrate(judge: Judge, rated: _Rated, confidence: float, repeat: bool) -> Calibration:
    judged = score_cases(judge, rated.cases)
    scores, code = _scores(judged), _codes(rated.prompts)
    lengths = np.array(rated.lengths, dtype=np.float64)
    found = agreement(scores, np.array(rated.people), lengths, code, confidence)
    again = None
    if repeat:
        second = _scores(score_cases(_with_other_luck(judge), rated.cases))
        again = repeatability(scores, second, code, confidence)
    return Calibration(
        judge=judge.name,
        unit=rated.unit,
        agreement=found,
        repeatability=again,
        flipped=_share(judged, FLIPPED) if judge.compares else None,
        position_bias=_position_bias(judged, code, confidence) if isinstance(judge, LlmJudge) else None,
        unparseable=_share(judged, UNREADABLE),
    )


def _position_bias(judged: Sequence[Judgement], code: np.ndarray, confidence: float) -> Figure | None:
    """None where too few pairs were judged in both orders."""
    preferred = [first_preferred(one) for one in judged]
    told = np.array([one is not None for one in preferred])
    if len(np.unique(code[told])) < LEAST_PROMPTS:
        return None
    return mean_figure(np.array([one - 0.5 for one in preferred if one is not None]), code[told], confidence)


def _share(judged: Sequence[Judgement], label: str) -> float:
    return sum(one.label == label for one in judged) / len(judged)


def _with_other_luck(judge: Judge) -> Judge:
    """The same judge with other seeds; judges without chance as they are."""
    if isinstance(judge, LlmClaims):
        return judge._replace(llm=_reseeded(judge.llm))
    return _reseeded(judge) if isinstance(judge, LlmJudge) else judge


def _reseeded(judge: LlmJudge) -> LlmJudge:
    return judge._replace(settings=judge.settings._replace(seed=judge.settings.seed + 1))


def _by_objective(
    results: RunResults, labels: dict[tuple[int, int, int, int], list[float]], lengths: np.ndarray, confidence: float
) -> Iterator[tuple[str, Calibration]]:
    for k, objective in enumerate(results.table.objectives):
        places = [place for place in labels if place[1] == k]
        if not places:
            continue
        p, _, x, s = np.array(places).T
        people = np.array([np.mean(labels[place]) for place in places])
        found = agreement(results.table.scores[p, k, x, s], people, lengths[p, x, s], x, confidence)
        yield objective, Calibration(judge=results.summary.judges[objective], unit="answers", agreement=found)


def _corrected(
    results: RunResults, labels: dict[tuple[int, int, int, int], list[float]], confidence: float
) -> dict[str, dict[str, Corrected]]:
    made: dict[str, dict[str, Corrected]] = {}
    for p, policy in enumerate(results.table.policies):
        for k, objective in enumerate(results.table.objectives):
            told: dict[int, list[tuple[float, float]]] = {}
            for (policy_place, objective_place, x, s), given in labels.items():
                if (policy_place, objective_place) == (p, k):
                    score = float(results.table.scores[p, k, x, s])
                    told.setdefault(x, []).append((float(np.mean(given)), score))
            if not told:
                continue
            pairs = np.array([np.mean(each, axis=0) for each in told.values()])  # (n, 2) people, judge
            elsewhere = np.delete(results.table.values[p, k], list(told))
            try:
                made.setdefault(policy, {})[objective] = corrected_mean(pairs[:, 0], pairs[:, 1], elsewhere, confidence)
            except DataError:
                continue  # too few labels of this policy
    return made


def _lengths(results: RunResults) -> np.ndarray:
    """(P, N, S) characters of every answer."""
    import pyarrow.parquet as pq

    path = results.directory / "responses.parquet"
    rows = pq.read_table(path, columns=["policy", "prompt_id", "sample", "response"]).to_pylist()
    policy = {name: index for index, name in enumerate(results.table.policies)}
    prompt = {asked.id: index for index, asked in enumerate(results.prompts)}
    lengths = np.zeros((len(policy), len(prompt), results.table.scores.shape[3]))
    for row in rows:
        if row["policy"] in policy and row["prompt_id"] in prompt:
            lengths[policy[row["policy"]], prompt[row["prompt_id"]], row["sample"]] = len(row["response"])
    return lengths


def _human(row: dict[str, Any], where: str) -> float:
    """The label of a row. Raises DataError."""
    given = row.get("human")
    if isinstance(given, int | float) and 0 <= given <= 1:
        return float(given)
    rest = "" if given is not None else "; of rows in random order, as --ask writes them, the last may be left out"
    raise DataError(f"{where}: 'human' must be a number in [0, 1] (or true, false), found {given!r:.60}{rest}.")


def _scores(judged: Sequence[Judgement]) -> np.ndarray:
    return np.array([one.score for one in judged], dtype=np.float64)


def _codes(names: Sequence[str]) -> np.ndarray:
    return np.unique(np.array(names), return_inverse=True)[1]
