"""The judge scores of a finished run, read back as arrays."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mopo_eval.answer_store import ROWS_AT_ONCE
from mopo_eval.estimates import ScoreTable
from mopo_train.errors import FamilyError

if TYPE_CHECKING:
    from mopo_eval.evaluation import RunSummary


KEY = ("policy", "objective", "prompt_id", "sample")


class RunScores(NamedTuple):
    """What a run measured."""

    table: ScoreTable
    prompts: list[str]
    """(N,) ids of the prompts, in the order of the table."""


def read_scores(directory: Path, summary: "RunSummary") -> RunScores:
    """The judgements of the run in ``directory``, which ``summary`` describes.

    Raises FamilyError where nothing was judged or the table does not hold what the summary says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = directory / "judgements.parquet"
    if not summary.judges:
        raise FamilyError(f"'{directory}' holds answers without judgements; measure with judges: 'mopo-eval run'.")
    policies, objectives, prompts = _places(summary.policies), _places(summary.judges), _places(())
    shape = (len(policies), len(objectives), summary.prompts, summary.sampling.samples)
    values, seen = np.full(shape, np.nan), 0
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(ROWS_AT_ONCE, columns=[*KEY, "score"]):
                names = {column: batch.column(column).to_pylist() for column in KEY}
                for name in names["prompt_id"]:
                    prompts.setdefault(name, len(prompts))
                known = zip((policies, objectives, prompts), KEY[:3], strict=True)
                cells = [[places.get(name, -1) for name in names[column]] for places, column in known]
                cell = np.array([*cells, names["sample"]])  # (4, rows)
                if ((cell < 0) | (cell >= np.array(shape)[:, None])).any():
                    raise _unfit(path)
                values[tuple(cell)] = batch.column("score").to_numpy()
                seen += batch.num_rows
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        raise FamilyError(f"cannot read '{path}': {error}; measure again with 'mopo-eval run'.") from error
    if len(prompts) != summary.prompts or seen != values.size or np.isnan(values).any():
        raise _unfit(path)
    return RunScores(ScoreTable(list(policies), list(objectives), values), list(prompts))


def _places(names: Iterable[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def _unfit(path: Path) -> FamilyError:
    return FamilyError(f"'{path}' does not hold one score per policy, prompt, sample and objective; measure again.")
