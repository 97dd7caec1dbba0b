"""Collecting the answers that an evaluation lacks: open the engine, ask, keep each answer at once, close."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from mopo_eval.answers import Answer, Question, Refusal, Sampling, ask
from mopo_eval.endpoint import Endpoint, Patience
from mopo_eval.engine import Engine, open_engine
from mopo_eval.engine.process import last_words
from mopo_eval.fleet import Asker, Fleet, LocalAsker
from mopo_eval.ray_askers import Assignment, ray_askers
from mopo_eval.spool import open_spool
from mopo_train.console import ProgressLine, progress
from mopo_train.errors import EngineError
from mopo_train.executor.cluster import Cluster
from mopo_train.family import PolicyFamily


class EngineChoice(NamedTuple):
    """Which engine answers, and how it is asked."""

    name: str = "auto"
    """``auto``, ``vllm``, ``embedded`` or the URL of a running engine."""
    concurrency: int = 32
    patience: Patience = Patience()
    more: tuple[str, ...] = ()
    """URLs of further running engines, which share the questions."""
    cluster: Cluster | None = None
    """Ask from workers of a Ray cluster, one for each engine; None: from here."""
    workers: int = 1
    """On a cluster, that start an engine each where ``name`` is no URL."""

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
                _opened(root, family, sampling, choice, log) as engines,
                progress(f"answers ({engines.kind})", missing.total) as line,
            ):
                clock = _Clock(line)

                def keep(answer: Answer) -> None:
                    nonlocal given
                    missing.on_kept(answer, spool.append(answer))
                    given += 1
                    line.advance(note=clock.note(answer.policy))

                refused = engines.ask(missing.questions, keep)
        except EngineError as error:
            raise EngineError(f"{error} {_kept(given, missing)}") from error
    if refused:
        raise EngineError(f"{_refused_prompts(refused)} {_kept(given, missing)}")


class _Engines(NamedTuple):
    """What answers."""

    kind: str
    """For the progress line."""
    ask: Callable[[Iterable[Question], Callable[[Answer], None]], list[Refusal]]
    """As `answers.ask`."""


@contextmanager
def _opened(
    root: Path, family: PolicyFamily, sampling: Sampling, choice: EngineChoice, log: Path
) -> Iterator[_Engines]:
    """The engine or engines of ``choice``, ready. Raises EngineError, ClusterError."""
    names = [choice.name, *choice.more]
    if choice.cluster is not None:
        if not choice.name.startswith("http"):
            names *= choice.workers
        about = (root.resolve(), family, sampling, choice.concurrency, choice.patience)
        with ray_askers(choice.cluster, [Assignment(name, *about) for name in names]) as askers:
            yield _Engines(f"{len(askers)} engines", lambda asked, keep: _shared(askers, choice, asked, keep))
        return
    with ExitStack() as stack:
        engines = [stack.enter_context(open_engine(name, root, family, log=log)) for name in names]
        places = [Endpoint(engine.url, engine.kind, choice.concurrency, choice.patience) for engine in engines]
        if len(places) > 1:
            several = [LocalAsker(place, sampling) for place in places]
            yield _Engines(f"{len(several)} engines", lambda asked, keep: _shared(several, choice, asked, keep))
            return

        def alone(asked: Iterable[Question], keep: Callable[[Answer], None]) -> list[Refusal]:
            try:
                return asyncio.run(ask(places[0], asked, sampling, keep))
            except EngineError as error:
                raise EngineError(f"{error}{_log_end(engines[0], log)}") from error

        yield _Engines(engines[0].kind, alone)


def _shared(
    askers: Sequence[Asker], choice: EngineChoice, asked: Iterable[Question], keep: Callable[[Answer], None]
) -> list[Refusal]:
    return asyncio.run(Fleet(askers, choice.concurrency, keep).ask(asked))


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
