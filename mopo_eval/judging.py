"""Judging the answers of a run, some at a time, so that their number does not matter to memory."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from mopo_eval.answer_store import ROWS_AT_ONCE
from mopo_eval.answers import Answer
from mopo_eval.choice_scores import ChoiceTable
from mopo_eval.evaluation import JudgementRow
from mopo_eval.judges import Case, Judge
from mopo_eval.judges.scoring import scoring
from mopo_eval.prompts import EvaluationPrompt
from mopo_train.errors import JudgeError


class Answers(Protocol):
    """Answers by their place: a list of them, or an ``AnswerStore``."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, place: int, /) -> Answer:
        """That at ``place``."""


class Docket(NamedTuple):
    """Answers with all that judges may see beside them."""

    answers: Answers
    prompts: Mapping[str, EvaluationPrompt]
    """By id."""
    baseline: Callable[[int], str | None]
    """The reference policy's answer to the same prompt, by the place of an answer."""
    choices: ChoiceTable
    """Log-probabilities of given answers, by policy and prompt id."""

    def case(self, place: int) -> Case:
        """The answer at ``place``."""
        answer = self.answers[place]
        prompt = self.prompts[answer.prompt_id]
        return Case(
            prompt.prompt,
            answer.response,
            f"prompt '{prompt.id}' ({answer.policy})",
            prompt.references,
            prompt.incorrect,
            prompt.harmful,
            self.baseline(place),
            self.choices.get((answer.policy, answer.prompt_id)),
        )


def judged(docket: Docket, judges: Mapping[str, Judge], directory: Path) -> Iterator[tuple[int, list[JudgementRow]]]:
    """Every judge on every answer: one judge after the other, ``ROWS_AT_ONCE`` answers at a time, with their place.

    Raises JudgeError.
    """
    total = len(docket.answers)
    for objective, judge in judges.items():
        try:
            with scoring(judge, total, directory) as score:
                for begin in range(0, total, ROWS_AT_ONCE):
                    places = range(begin, min(total, begin + ROWS_AT_ONCE))
                    found = score([docket.case(place) for place in places])
                    keys = (docket.answers[place].key for place in places)
                    yield begin, [JudgementRow(*k, objective, judge.name, *j) for k, j in zip(keys, found, strict=True)]
        except JudgeError as error:
            told = str(error).rstrip(".")
            raise JudgeError(f"{told}. All {total} answers are kept; correct the judge and repeat.") from error
