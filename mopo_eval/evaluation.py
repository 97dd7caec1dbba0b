"""The directory of one evaluation, ``FAMILY/evaluation/<run>/``: its name, tables and summary.

``run.json`` is written last, by rename: where it exists, the evaluation is whole. Reads and writes; decides nothing.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mopo_eval.answer_store import ROWS_AT_ONCE
from mopo_eval.answers import Answer, Sampling
from mopo_eval.figures import Figure
from mopo_eval.prompts import EvaluationPrompt
from mopo_eval.reliability import Reliability
from mopo_eval.stances import StanceRates
from mopo_train.errors import FamilyError
from mopo_train.family import ObjectiveName, PolicyFamily, UnitScore, first_problem, write_whole

if TYPE_CHECKING:
    import pyarrow as pa

Item = TypeVar("Item")
RESPONSES, JUDGEMENTS = "responses.parquet", "judgements.parquet"
SPOOL = "answers.jsonl"
"""Answers of a run that is not finished."""
LOCK = "lock"
"""Held by the command that writes the run; an empty file."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Hypervolume(_Model):
    """How much of the objectives' space the family covers, in judge scores."""

    value: float
    """Share of the box from ``reference_point`` to 1 in every objective that some policy's means reach."""
    reference_point: dict[ObjectiveName, float]
    ideal_point: dict[ObjectiveName, float] = {}
    """The other corner of the box that normalises the volume: the best judge scores there are."""
    low: float = 0.0
    """Bootstrap over prompts, at the run's confidence; wider where they are too few for it."""
    high: float = 1.0


class CategoryMean(_Model):
    """Judge score of one policy on the prompts of one category."""

    policy: str
    category: str
    objective: ObjectiveName
    mean: UnitScore
    n: int
    """Prompts."""


class RunSummary(_Model):
    """The contents of ``run.json``."""

    run: str
    created_at: str
    """ISO 8601, UTC."""
    engine: str
    """Kinds of the engines that gave the answers, joined by ``+``."""
    prompts: int
    policies: list[str]
    judges: dict[ObjectiveName, str]
    """Empty where only answers were collected; there are no scorecards of such a run."""
    fingerprints: dict[ObjectiveName, str] = {}
    """What each judge was when it judged (``judges.fingerprint``); empty in runs of earlier versions."""
    reliability: dict[ObjectiveName, Reliability] = {}
    """Held-out accuracy and calibration of the judges that were fitted on this machine."""
    sampling: Sampling
    confidence: float
    conservative: bool = False
    """Intervals that cover at least as often as they say for every sample size: Clopper and Pearson's, and betting."""
    front: list[str]
    """Policies whose measured means no other policy dominates."""
    front_probability: dict[str, float] = {}
    """Per policy, the share of resamples of the prompts in which no other policy dominates it."""
    hypervolume: Hypervolume | None
    """None where nothing was judged."""
    answers: int = 0
    prompts_from: str = ""
    """File that the prompts were read from."""
    seconds: float = 0.0
    """Wall clock of the command that finished the run."""
    cut: dict[str, int] = {}
    """Answers per policy that the token limit ended."""
    empty: dict[str, int] = {}
    """Answers per policy without text."""
    categories: list[CategoryMean] = []
    doubtful: dict[ObjectiveName, dict[str, int]] = {}
    """Judgements without a verdict (``unparseable``: score 0, or a tie) or with another one in the other order
    (``flipped``: a tie), where there are any."""
    stances: list[StanceRates] = []
    """Harmful compliance, refusal and over-refusal, where a judge tells them."""
    figures: list[Figure] = []
    """Other shares that judges tell beside their scores: abstentions, supported claims, MC1 and MC2."""
    counted: int = 0
    """Policies that share the error of the certified bounds: those measured, and those that a search on these prompts
    could have tried. 0: those measured."""
    withheld: list[str] = []
    """Interpolated policies that others dominate: they get no scorecard, so no profile selects them."""


class JudgementRow(NamedTuple):
    """One judge's word on one answer."""

    policy: str
    prompt_id: str
    sample: int
    objective: str
    judge: str
    score: float
    label: str | None
    evidence: str | None


def run_name(  # noqa: PLR0913 - all that decides a run
    family: PolicyFamily,
    weights: Mapping[str, str],
    prompts: Sequence[EvaluationPrompt],
    sampling: Sampling,
    judges: Mapping[str, str],
) -> str:
    """``<answers>-<judges>``, so that the same command finds its run again.

    Runs that ask the same share the first part. ``weights``: digest per policy; ``judges``: fingerprint per objective.
    """
    asked = [
        family.model_dump(mode="json"),
        dict(weights),
        [[prompt.id, prompt.prompt, prompt.category] for prompt in prompts],
        sampling.model_dump(),
    ]
    truth = [prompt[3:] for prompt in prompts if any(part not in ((), None) for part in prompt[3:])]
    scored = [dict(judges), truth] if truth else dict(judges)
    return f"{_digest(asked)[:10]}-{_digest(scored)[:6]}"


def read_responses(directory: Path) -> list[Answer]:
    """The answers in ``responses.parquet``; none if the run has not got that far. Raises FamilyError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = directory / RESPONSES
    if not path.is_file():
        return []
    try:
        return [Answer(**row) for row in pq.read_table(path, columns=list(Answer._fields)).to_pylist()]
    except (pa.ArrowException, OSError, TypeError) as error:
        raise FamilyError(f"cannot read '{path}': {error}; delete '{directory}' to measure again.") from error


class TableWriter:
    """A Parquet file that is written a row group at a time and takes its name when it is whole."""

    def __init__(self, path: Path, schema: "pa.Schema") -> None:
        """Writes beside ``path`` until ``finish``."""
        import pyarrow.parquet as pq

        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._schema = path, schema
        self._partial = path.with_name(path.name + ".partial")
        self._writer = pq.ParquetWriter(self._partial, schema)

    def write(self, rows: list[dict[str, Any]]) -> None:
        """One row group."""
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))

    def finish(self) -> None:
        """Give the file its name."""
        self._writer.close()
        self._partial.replace(self._path)

    def drop(self) -> None:
        """Leave nothing behind."""
        self._writer.close()
        self._partial.unlink(missing_ok=True)


@contextmanager
def table_writer(directory: Path, name: str) -> Iterator[TableWriter]:
    """Writes ``RESPONSES`` or ``JUDGEMENTS``, whole or not at all."""
    writer = TableWriter(directory / name, _schema(name))
    try:
        yield writer
    except BaseException:
        writer.drop()
        raise
    writer.finish()


def _schema(name: str) -> "pa.Schema":
    import pyarrow as pa

    texts, counts = pa.string(), pa.int64()
    key = {"policy": texts, "prompt_id": texts, "sample": counts}
    if name == JUDGEMENTS:
        return pa.schema(
            key | {"objective": texts, "judge": texts, "score": pa.float64(), "label": texts, "evidence": texts}
        )
    response = {"prompt": texts, "category": texts, "response": texts, "finish_reason": texts}
    return pa.schema(key | response | {"prompt_tokens": counts, "completion_tokens": counts, "engine": texts})


def write_tables(
    directory: Path, prompts: Sequence[EvaluationPrompt], answers: Iterable[Answer], judgements: Iterable[JudgementRow]
) -> None:
    """Write ``responses.parquet`` and ``judgements.parquet``, each by rename, ``ROWS_AT_ONCE`` rows at a time."""
    asked = {prompt.id: {"prompt": prompt.text, "category": prompt.category} for prompt in prompts}
    with table_writer(directory, RESPONSES) as responses:
        for some in batched(answers):
            responses.write([answer._asdict() | asked[answer.prompt_id] for answer in some])
    with table_writer(directory, JUDGEMENTS) as judged:
        for rows in batched(judgements):
            judged.write([row._asdict() for row in rows])


def batched(rows: Iterable[Item]) -> Iterator[list[Item]]:
    """``rows`` in lists of ``ROWS_AT_ONCE``; an empty one where there are none, so that a table has its columns."""
    waiting, any_yet = iter(rows), False
    while (some := list(islice(waiting, ROWS_AT_ONCE))) or not any_yet:
        any_yet = True
        yield some


def read_summary(path: Path) -> RunSummary:
    """The ``run.json`` at ``path``. Raises FamilyError."""
    try:
        return RunSummary.model_validate_json(path.read_bytes())
    except OSError as error:
        raise FamilyError(f"no finished evaluation at '{path.parent}'; measure with 'mopo-eval run FAMILY'.") from error
    except ValidationError as error:
        raise FamilyError(f"'{path}' is not a run's summary: {first_problem(error)}") from error


def write_summary(directory: Path, summary: RunSummary) -> None:
    """Write ``run.json``, and drop the spool that it replaces."""
    write_whole(directory / "run.json", summary.model_dump_json(indent=2) + "\n")
    (directory / SPOOL).unlink(missing_ok=True)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
