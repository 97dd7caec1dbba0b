"""A finished run read back whole: summary, scorecards, judge scores and the prompts that were asked."""

import json
from pathlib import Path
from typing import NamedTuple

from mopo_eval.answer_store import ROWS_AT_ONCE
from mopo_eval.estimates import ScoreTable, make_scorecards
from mopo_eval.evaluation import RunSummary, read_summary
from mopo_eval.prompts import Conversation, prompt_hash
from mopo_eval.scorecards import Scorecard, read_scorecards, with_reliability
from mopo_eval.scores import read_scores
from mopo_train.errors import FamilyError
from mopo_train.family import PolicyFamily
from mopo_train.rows import RowError, read_prompt


class AskedPrompt(NamedTuple):
    """One prompt of a run."""

    id: str
    prompt: Conversation
    category: str | None

    @property
    def text(self) -> str:
        """For people: the prompt itself, or ``role: content`` per message."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in self.prompt)

    @property
    def identity(self) -> str:
        """Equal for equal prompts of different runs, whatever ids they have there."""
        return prompt_hash(self.prompt)


class RunResults(NamedTuple):
    """What a run measured."""

    directory: Path
    summary: RunSummary
    cards: dict[str, Scorecard]
    """Per policy, in the order of the run: those in ``scorecards/`` where they are of this run, else made again."""
    table: ScoreTable
    prompts: list[AskedPrompt]
    """(N,) in the order of the table."""


def read_results(root: Path, family: PolicyFamily, run: str | None = None) -> RunResults:
    """The run called ``run`` of the family in ``root``, by default that of its scorecards.

    Raises FamilyError where nothing was measured, there is no such run, or its files do not fit together.
    """
    known = read_scorecards(root, family)
    latest = next(iter(known.values())).run if known else None
    name = run or latest
    if name is None:
        raise FamilyError(f"no policy of '{root}' was measured; measure them with 'mopo-eval run {root}'.")
    directory = root / "evaluation" / name
    if not (directory / "run.json").is_file():
        there = ", ".join(summary.run for summary in judged_runs(root)) or "none"
        raise FamilyError(f"no finished run '{name}' in '{root}'; it has: {there}.")
    summary = read_summary(directory / "run.json")
    scores = read_scores(directory, summary)
    if name == latest:
        cards = {policy: known[policy] for policy in summary.policies if policy in known}
        if missing := sorted(set(summary.policies) - set(cards) - set(summary.withheld)):
            raise FamilyError(
                f"'{root}' has no scorecards of {', '.join(missing)}, which run {name} measured; measure again."
            )
    else:
        made = make_scorecards(
            scores.table,
            summary.judges,
            run=summary.run,
            confidence=summary.confidence,
            conservative=summary.conservative,
            counted=summary.counted,
        )
        trusted = [with_reliability(card, summary.reliability) for card in made if card.policy not in summary.withheld]
        cards = {card.policy: card for card in trusted}
    return RunResults(directory, summary, cards, scores.table, _prompts(directory, scores.prompts))


def judged_runs(root: Path) -> list[RunSummary]:
    """The finished runs in ``root`` that judged something, newest first. Raises FamilyError for a damaged one."""
    found = [read_summary(path) for path in (root / "evaluation").glob("*/run.json")]
    return sorted((run for run in found if run.judges), key=lambda run: (run.created_at, run.run), reverse=True)


def _prompts(directory: Path, ids: list[str]) -> list[AskedPrompt]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = directory / "responses.parquet"
    try:
        asked: dict[str, AskedPrompt] = {}
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(ROWS_AT_ONCE, columns=["prompt_id", "prompt", "category"]):
                for at, name in enumerate(batch.column("prompt_id").to_pylist()):
                    if name not in asked:
                        text, category = (batch.column(column)[at].as_py() for column in ("prompt", "category"))
                        asked[name] = AskedPrompt(name, _conversation(text), category)
    except (pa.ArrowException, OSError) as error:
        raise FamilyError(f"cannot read '{path}': {error}; measure again with 'mopo-eval run'.") from error
    if missing := [name for name in ids if name not in asked]:
        raise FamilyError(f"'{path}' does not hold the prompt '{missing[0]}', which was judged; measure again.")
    return [asked[name] for name in ids]


def _conversation(text: str) -> Conversation:
    """What ``EvaluationPrompt.text`` was made of: a JSON list of messages, or any other text as it stands."""
    if not text.startswith("["):
        return text
    try:
        found = json.loads(text)
        read_prompt(found)
    except (json.JSONDecodeError, RecursionError, RowError):
        return text
    return found  # type: ignore[no-any-return]
