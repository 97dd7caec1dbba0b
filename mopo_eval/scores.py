"""The judge scores of a finished run, read back as arrays."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mopo_eval.estimates import ScoreTable
from mopo_train.errors import FamilyError

if TYPE_CHECKING:
    from mopo_eval.evaluation import RunSummary


class RunScores(NamedTuple):
    """What a run measured."""

    table: ScoreTable
    prompts: list[str]
    """(N,) ids of the prompts, in the order of the table."""


def read_scores(directory: Path, summary: "RunSummary") -> RunScores:
    """The judgements of the run in ``directory``, which ``summary`` describes.

    Raises FamilyError where nothing was judged or the table does not hold what the summary says.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = directory / "judgements.parquet"
    objectives = list(summary.judges)
    if not objectives:
        raise FamilyError(f"'{directory}' holds answers without judgements; measure with judges: 'mopo-eval run'.")
    try:
        rows = pq.read_table(path, columns=["policy", "prompt_id", "sample", "objective", "score"]).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise FamilyError(f"cannot read '{path}': {error}; measure again with 'mopo-eval run'.") from error
    prompts = list(dict.fromkeys(rows["prompt_id"]))
    samples = range(summary.sampling.samples)
    wanted = pd.MultiIndex.from_product([summary.policies, objectives, prompts, samples])
    keyed = rows.set_index(["policy", "objective", "prompt_id", "sample"])["score"]
    if len(prompts) != summary.prompts or len(keyed) != len(wanted) or not wanted.isin(keyed.index).all():
        raise FamilyError(f"'{path}' does not hold one score per policy, prompt, sample and objective; measure again.")
    shape = (len(summary.policies), len(objectives), len(prompts), len(samples))
    values = keyed.reindex(wanted).to_numpy(dtype=np.float64).reshape(shape)
    return RunScores(ScoreTable(summary.policies, objectives, values), prompts)
