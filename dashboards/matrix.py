"""Judge scores of a finished or unfinished evaluation as an array: policies by objectives by prompts.

Read column by column, so that hundreds of thousands of judgements take a fraction of a second.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dashboards.answers import read_columns

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class ScoreMatrix(NamedTuple):
    """Mean scores over the samples of a prompt; NaN where nothing was judged."""

    policies: list[str]
    objectives: list[str]
    prompts: list[str]
    """Ids, in the order of the file."""
    values: FloatArray
    """(P policies, K objectives, N prompts), in [0, 1] or NaN."""
    source: str = ""
    """Which state of which file this is, for caches."""

    def of(self, policy: str, objective: str) -> FloatArray:
        """(N,) the scores of one policy on one objective; all NaN for unknown ones."""
        if policy not in self.policies or objective not in self.objectives:
            return np.full(len(self.prompts), np.nan)
        found: FloatArray = self.values[self.policies.index(policy), self.objectives.index(objective)]
        return found

    def complete(self, policies: list[str], objectives: list[str]) -> FloatArray:
        """(P, K, n) of the given ones, on the prompts where none of them is missing."""
        values = np.stack([[self.of(policy, name) for name in objectives] for policy in policies])
        kept: FloatArray = values[:, :, ~np.isnan(values).any(axis=(0, 1))]
        return kept


def read_matrix(directory: Path) -> ScoreMatrix | None:
    """The judgements in ``directory``; None where there are none. Raises EvaluationError for a damaged file."""
    path = directory / "judgements.parquet"
    if not path.is_file():
        return None
    table = read_columns(path, ["policy", "prompt_id", "objective", "score"], optional=set())
    policies, policy = _coded(table, "policy")
    objectives, objective = _coded(table, "objective")
    prompts, prompt = _coded(table, "prompt_id")
    score = table.column("score").to_numpy().astype(np.float64)
    shape = (len(policies), len(objectives), len(prompts))
    place = np.ravel_multi_index((policy, objective, prompt), shape)
    judged = ~np.isnan(score)
    size = int(np.prod(shape))
    total = np.bincount(place[judged], score[judged], size)
    count = np.bincount(place[judged], minlength=size)
    means = np.divide(total, count, out=np.full(size, np.nan), where=count > 0)
    state = path.stat()
    source = f"{path} {state.st_mtime_ns} {state.st_size}"
    return ScoreMatrix(policies, objectives, prompts, means.reshape(shape), source)


def _coded(table: pa.Table, name: str) -> tuple[list[str], IntArray]:
    """The different values of a column in order of appearance, and the number of each row's."""
    coded = pc.dictionary_encode(table.column(name)).combine_chunks()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.chunk(0) if coded.num_chunks else pa.array([], pa.dictionary(pa.int32(), pa.string()))
    return coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
