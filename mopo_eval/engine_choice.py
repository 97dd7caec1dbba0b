"""Which engines answer, opened once for all that is asked of them: answers, and log-probabilities of given ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mopo_eval.answers import Sampling
from mopo_eval.drawn import weights
from mopo_eval.endpoint import Endpoint, Patience
from mopo_eval.engine import open_engine
from mopo_eval.engine.process import last_words
from mopo_eval.fleet import Asker, LocalAsker
from mopo_eval.ray_askers import Assignment, ray_askers
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
    key: str | None = None
    """Bearer token of running engines."""

    def accepts(self, kind: str) -> bool:
        """True if an answer that an engine of this ``kind`` gave earlier will do: not if another one is asked for."""
        started = ("vllm", "embedded")
        return self.name not in started or kind not in started or self.name == kind


class Engines:
    """The engines of a choice, serving every policy of a family; use ``chosen_engines``."""

    def __init__(self, root: Path, family: PolicyFamily, choice: EngineChoice, log: Path) -> None:
        """``log``: where an engine that is started here writes, in a directory that exists when it is opened."""
        self.root, self.family, self.choice = root, family, choice
        self._log, self._stack = log, ExitStack()
        self._opened: list[Endpoint] = []

    def endpoints(self) -> list[Endpoint]:
        """As they are asked from here; opened when they are needed first. Raises EngineError."""
        if not self._opened:
            for name in (self.choice.name, *self.choice.more):
                key, log = self.choice.key, self._log
                before = {} if name.startswith("http") else weights(self.root, self.family)
                engine = self._stack.enter_context(open_engine(name, self.root, self.family, log=log, key=key))
                about = (engine.url, engine.kind, self.choice.concurrency, self.choice.patience, key)
                restart = None if engine.restart is None else partial(self._restart, engine.restart, before)
                self._opened.append(Endpoint(*about, restart))
        return self._opened

    def _restart(self, restart: Callable[[], None], before: Mapping[str, str]) -> None:
        """``restart`` an engine that loaded the weights ``before``. Raises EngineError, also where there are others."""
        now = weights(self.root, self.family)
        if changed := [policy for policy in before if before[policy] != now[policy]]:
            raise EngineError(
                f"the weights of {', '.join(changed)} changed while they were asked; repeat to ask the new ones"
            )
        restart()

    def askers(self, sampling: Sampling) -> Sequence[Asker]:
        """What asks each of them, from here or from the cluster. Raises EngineError, ClusterError."""
        choice = self.choice
        if choice.cluster is None:
            return [LocalAsker(endpoint, sampling) for endpoint in self.endpoints()]
        names = [choice.name, *choice.more]
        if not choice.name.startswith("http"):
            names *= choice.workers
        about = (self.root.resolve(), self.family, sampling, choice.concurrency, choice.patience, choice.key)
        return self._stack.enter_context(ray_askers(choice.cluster, [Assignment(name, *about) for name in names]))

    def last_words(self) -> str:
        """How the message that they failed ends: with the log of one that was started here."""
        if all(endpoint.kind == "attached" for endpoint in self._opened):
            return "."
        return f"; its log ({self._log}) ends:\n{last_words(self._log)}\n"

    def close(self) -> None:
        """End those that were started here."""
        self._stack.close()


@contextmanager
def chosen_engines(root: Path, family: PolicyFamily, choice: EngineChoice, log: Path) -> Iterator[Engines]:
    """The engines of ``choice``, which are opened when they are first asked and closed with the block."""
    engines = Engines(root, family, choice, log)
    try:
        yield engines
    finally:
        engines.close()
