"""Single answers and judgements of an evaluation, read column by column from Parquet.

Nothing here computes a score: means and intervals are in the scorecards.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dashboards.errors import EvaluationError
from mopo_train.rows import RowError, read_prompt

IntArray = npt.NDArray[np.intp]


class Judged(NamedTuple):
    """What a judge said about one answer."""

    objective: str
    judge: str
    score: float | None
    label: str
    evidence: str


class Answer(NamedTuple):
    """One policy's answer to one prompt."""

    policy: str
    sample: int
    response: str
    cut_off: bool
    """True if it ended at the token limit."""
    judgements: list[Judged]


def evaluation_runs(root: Path) -> list[str]:
    """Names of the evaluations in ``root`` that hold answers, newest first."""
    files = list((root / "evaluation").glob("*/responses.parquet"))
    return [path.parent.name for path in sorted(files, key=lambda path: (-path.stat().st_mtime_ns, path.parent.name))]


def read_prompts(directory: Path) -> pd.DataFrame:
    """The prompts of an evaluation, one row each in the order of the file: prompt_id, prompt, category."""
    path = directory / "responses.parquet"
    table = read_columns(path, ["prompt_id", "prompt", "category"], optional={"category"})
    ids = table.column("prompt_id").combine_chunks()
    first = pc.index_in(pc.unique(ids), value_set=ids)
    frame: pd.DataFrame = table.take(first).to_pandas()
    if "category" not in frame:
        frame["category"] = ""
    frame["prompt"] = frame["prompt"].map(prompt_text)
    frame["category"] = frame["category"].fillna("").astype(str)
    return frame


def find_prompts(prompts: pd.DataFrame, words: str = "", category: str = "") -> pd.DataFrame:
    """The prompts of ``category`` (any if empty) that contain every one of ``words``, ignoring case."""
    found = prompts[prompts["category"] == category] if category else prompts
    for word in words.split():
        found = found[found["prompt"].str.contains(word, case=False, regex=False)]
    return found


def prompt_titles(prompts: pd.DataFrame, size: int = 110) -> dict[str, str]:
    """One line per prompt id, all different: the start of the prompt, with the id where two start alike."""
    lines = {row["prompt_id"]: " ".join(row["prompt"].split())[:size] for row in prompts.to_dict("records")}
    seen = Counter(lines.values())
    return {name: line if seen[line] == 1 else f"{line} [{name}]" for name, line in lines.items()}


def evenly(names: list[str], count: int) -> list[str]:
    """At most ``count`` (at least 2) of ``names`` in order, spread evenly, with the first and the last."""
    if len(names) <= count:
        return names
    return [names[round(place * (len(names) - 1) / (count - 1))] for place in range(count)]


def prompt_text(prompt: Any) -> str:
    """A prompt as plain text: itself, or ``role: content`` per message of a conversation (also as JSON)."""
    if isinstance(prompt, str) and prompt.startswith("["):
        try:
            return prompt_text(read_prompt(json.loads(prompt)))
        except (ValueError, RecursionError, RowError):
            return str(prompt)
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


class AnswerStore:
    """Answers and judgements of one evaluation, found by prompt.

    Texts stay in Arrow's memory; only the rows of one prompt become Python objects.
    """

    def __init__(self, directory: Path) -> None:
        """Raises EvaluationError if the answers are missing or cannot be read; judgements may be missing."""
        columns = ["policy", "prompt_id", "sample", "response", "finish_reason", "prompt"]
        self._answers = read_columns(
            directory / "responses.parquet", columns, optional={"sample", "finish_reason", "prompt"}
        )
        self._answer_rows = _rows_by_prompt(self._answers)
        self._judgements: pa.Table | None = None
        self._judgement_rows: dict[str, IntArray] = {}
        path = directory / "judgements.parquet"
        if path.is_file():
            columns = ["policy", "prompt_id", "sample", "objective", "judge", "score", "label", "evidence"]
            self._judgements = read_columns(path, columns, optional={"sample", "judge", "label", "evidence"})
            self._judgement_rows = _rows_by_prompt(self._judgements)

    @property
    def judged(self) -> bool:
        """True if the evaluation holds judgements."""
        return self._judgements is not None

    @property
    def policies(self) -> list[str]:
        """Policies that gave an answer, in order of appearance."""
        found: list[str] = pc.unique(self._answers.column("policy")).to_pylist()
        return found

    def prompt(self, prompt_id: str) -> str:
        """A prompt as the evaluation keeps it; empty for an unknown one."""
        rows = _rows(self._answers, self._answer_rows, prompt_id)
        return str(rows[0].get("prompt") or "") if rows else ""

    def search(self, words: str) -> set[str]:
        """Ids of the prompts with an answer that contains every one of ``words``, ignoring case."""
        texts, ids = self._answers.column("response"), self._answers.column("prompt_id")
        for word in words.split():
            kept = pc.fill_null(pc.match_substring(texts, word, ignore_case=True), fill_value=False)
            texts, ids = texts.filter(kept), ids.filter(kept)
        return set(pc.unique(ids).to_pylist())

    def find(self, prompt_id: str) -> list[Answer]:
        """Every policy's answers to a prompt, each with its judgements; empty for an unknown prompt."""
        said: dict[tuple[str, int], list[Judged]] = {}
        if self._judgements is not None:
            for row in _rows(self._judgements, self._judgement_rows, prompt_id):
                key = row["policy"], row.get("sample") or 0
                said.setdefault(key, []).append(
                    Judged(
                        objective=row["objective"],
                        judge=row.get("judge") or "",
                        score=row["score"],
                        label=row.get("label") or "",
                        evidence=_plain(row.get("evidence")),
                    )
                )
        found = []
        for row in _rows(self._answers, self._answer_rows, prompt_id):
            key = row["policy"], row.get("sample") or 0
            cut_off = row.get("finish_reason") == "length"
            found.append(Answer(*key, row["response"] or "", cut_off, said.get(key, [])))
        return found


def _rows_by_prompt(table: pa.Table) -> dict[str, IntArray]:
    """Row numbers per prompt id."""
    ids = table.column("prompt_id").to_pandas()
    return {str(name): rows for name, rows in ids.groupby(ids, observed=True).indices.items()}


def _rows(table: pa.Table, places: dict[str, IntArray], prompt_id: str) -> list[dict[str, Any]]:
    """The rows of one prompt, none for an unknown one."""
    found = places.get(prompt_id)
    return [] if found is None else table.take(found).to_pylist()


def _plain(evidence: Any) -> str:
    return "" if evidence is None else str(evidence)


def read_columns(path: Path, columns: list[str], optional: set[str]) -> pa.Table:
    """The ``columns`` of a Parquet file; ``optional`` ones may be missing. Raises EvaluationError."""
    try:
        present = set(pq.read_schema(path).names)
        if missing := set(columns) - optional - present:
            raise EvaluationError(f"'{path}' has no column {sorted(missing)}; it has {sorted(present)}.")
        return pq.read_table(path, columns=[name for name in columns if name in present])
    except FileNotFoundError as error:
        raise EvaluationError(f"'{path}' is missing; measure the family with 'mopo-eval run'.") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise EvaluationError(f"cannot read '{path}': {error}. Measure again with 'mopo-eval run'.") from error
