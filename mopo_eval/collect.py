"""Collecting the answers that an evaluation lacks: ask the engines, and keep each answer at once."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mopo_eval.answers import Answer, Question, Refusal, Sampling
from mopo_eval.engine_choice import Engines
from mopo_eval.fleet import Fleet
from mopo_eval.spool import open_spool
from mopo_train.console import ProgressLine, progress
from mopo_train.errors import EngineError


class Missing(NamedTuple):
    """Answers to get."""

    questions: Iterable[Question]
    total: int
    """How many they are."""
    on_kept: Callable[[Answer, int], None] = lambda answer, place: None
    """Told of each answer when it is in the spool, and of its place there."""


def collect(engines: Engines, missing: Missing, sampling: Sampling, spool_path: Path) -> None:
    """Get the ``missing`` answers; each is in the spool at ``spool_path`` as soon as it came.

    Raises EngineError, which says how many answers are kept, if no engine is left or one refuses a question for good.
    """
    given = 0
    with open_spool(spool_path) as spool:
        try:
            askers = engines.askers(sampling)
            who = askers[0].name if len(askers) == 1 else f"{len(askers)} engines"
            with progress(f"answers ({who})", missing.total) as line:
                clock = _Clock(line)

                def keep(answer: Answer) -> None:
                    nonlocal given
                    missing.on_kept(answer, spool.append(answer))
                    given += 1
                    line.advance(note=clock.note(answer.policy))

                refused = _ask(engines, Fleet(askers, engines.choice.concurrency, keep), missing)
        except EngineError as error:
            raise EngineError(f"{error} {_kept(given, missing)}") from error
    if refused:
        raise EngineError(f"{_refused_prompts(refused)} {_kept(given, missing)}")


def _ask(engines: Engines, fleet: Fleet, missing: Missing) -> list[Refusal]:
    try:
        return asyncio.run(fleet.ask(missing.questions))
    except EngineError as error:
        raise EngineError(f"{error}{engines.last_words()}") from error


def _refused_prompts(refused: Sequence[Refusal]) -> str:
    ids = sorted({refusal.key.prompt_id for refusal in refused})
    shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
    return (
        f"the engine refused {len(ids)} prompts ({shown}): {refused[0].message.rstrip('.')}. "
        "Remove or shorten them, or lower --max-tokens."
    )


def _kept(given: int, missing: Missing) -> str:
    return f"{given} of the {missing.total} answers that were missing came and are kept; repeat to continue."


class _Clock:
    """Time left, from the pace so far."""

    def __init__(self, line: ProgressLine) -> None:
        self._line, self._began = line, time.monotonic()

    def note(self, policy: str) -> str:
        """``policy`` and the seconds that are left, before the line counts one more answer."""
        done = self._line.done + 1
        left = (time.monotonic() - self._began) / done * (self._line.total - done)
        return f"{policy}, about {left:.0f} s left" if left >= 1 else policy
