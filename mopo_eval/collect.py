"""Collecting the answers that an evaluation lacks: open the engine, ask, keep each answer at once, close."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mopo_eval.answers import Answer, Question, Refusal, Sampling, ask
from mopo_eval.endpoint import Endpoint, Patience
from mopo_eval.engine import Engine, open_engine
from mopo_eval.engine.process import last_words
from mopo_eval.spool import open_spool
from mopo_train.console import ProgressLine, progress
from mopo_train.errors import EngineError
from mopo_train.family import PolicyFamily


class EngineChoice(NamedTuple):
    """Which engine answers, and how it is asked."""

    name: str = "auto"
    """``auto``, ``vllm``, ``embedded`` or the URL of a running engine."""
    concurrency: int = 32
    patience: Patience = Patience()

    def accepts(self, kind: str) -> bool:
        """True if an answer that an engine of this ``kind`` gave earlier will do: not if another one is asked for."""
        started = ("vllm", "embedded")
        return self.name not in started or kind not in started or self.name == kind


class Missing(NamedTuple):
    """Answers to get."""

    questions: Iterable[Question]
    total: int
    """How many they are."""
    on_kept: Callable[[Answer, int], None] = lambda answer, place: None
    """Told of each answer when it is in the spool, and of its place there."""


def collect(
    root: Path,
    family: PolicyFamily,
    *,
    missing: Missing,
    sampling: Sampling,
    choice: EngineChoice,
    spool_path: Path,
) -> None:
    """Get the ``missing`` answers; each is in the spool at ``spool_path`` as soon as it came.

    Raises EngineError, which says how many answers are kept, if the engine fails or refuses a question for good.
    """
    given = 0
    log = spool_path.with_name("engine.log")
    with open_spool(spool_path) as spool:
        try:
            with (
                open_engine(choice.name, root, family, log=log) as engine,
                progress(f"answers ({engine.kind})", missing.total) as line,
            ):
                clock = _Clock(line)

                def keep(answer: Answer) -> None:
                    nonlocal given
                    missing.on_kept(answer, spool.append(answer))
                    given += 1
                    line.advance(note=clock.note(answer.policy))

                endpoint = Endpoint(engine.url, engine.kind, choice.concurrency, choice.patience)
                try:
                    refused = asyncio.run(ask(endpoint, missing.questions, sampling, keep))
                except EngineError as error:
                    raise EngineError(f"{error}{_log_end(engine, log)}") from error
        except EngineError as error:
            raise EngineError(f"{error} {_kept(given, missing)}") from error
    if refused:
        raise EngineError(f"{_refused_prompts(refused)} {_kept(given, missing)}")


def _log_end(engine: Engine, log: Path) -> str:
    """The last lines of an engine that we started, for the message that it failed."""
    return "." if engine.kind == "attached" else f"; its log ({log}) ends:\n{last_words(log)}\n"


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
