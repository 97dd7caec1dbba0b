"""Handing the tasks of a run to a Ray cluster and watching them.

A policy's task waits for the one whose adapter it begins from, so chains of warm starts run beside one another. Ray
begins a task again when its worker or machine is lost; an error of the user's ends the run.
"""

import pickle
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mopo_train import __version__
from mopo_train.console import ProgressLine, progress, say
from mopo_train.errors import ClusterError
from mopo_train.executor import tasks
from mopo_train.executor.cluster import RETRIES, Cluster, connected, import_ray, users_error
from mopo_train.executor.parcel import files_of, unpack
from mopo_train.executor.tasks import MARK, Job, Scored, Scoring, Site
from mopo_train.family import write_whole
from mopo_train.policy.models import directory_digest
from mopo_train.policy.workspace import Workspace

LOOK_SECONDS = 0.5
"""Between looks at the progress."""


class Board:
    """Where tasks say how far they are: an actor on the driver's machine."""

    def __init__(self) -> None:
        self._told: dict[int, tuple[int, str]] = {}

    def tell(self, index: int, done: int, note: str) -> None:
        """Policy ``index`` has done so many steps."""
        self._told[index] = (done, note)

    def read(self) -> dict[int, tuple[int, str]]:
        """The last word of each."""
        return self._told


class Hands(NamedTuple):
    """A cluster that works for one family."""

    ray: Any
    site: Site
    options: dict[str, Any]
    """What Ray gives each task."""
    base: list[Any]
    """Where Ray keeps the base model's files, once per machine, if they travel."""

    def score(self, scoring: Scoring) -> Scored:
        """The reference's log-probabilities, from one task."""
        say("the reference's log-probabilities are computed on the cluster")
        run = self.ray.remote(_score).options(**self.options)
        found: Scored = self._get(run.remote(pickle.dumps(scoring), self.base))
        return found

    def train(self, job: Job) -> None:
        """Train every policy of ``job`` that is not whole yet; their files come to the family directory."""
        ray, policies = self.ray, job.policies
        done = [policy.adapter.is_dir() for policy in policies]
        steps = [len(policy.plan) for policy in policies]
        start = sum(count for count, whole in zip(steps, done, strict=True) if whole)
        if start:
            say(f"{sum(done)} of {len(policies)} policies are trained already")
        board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=self._beside_the_driver()).remote()
        run, packed = ray.remote(_train).options(**self.options), ray.put(pickle.dumps(job))
        at = {policy.adapter: index for index, policy in enumerate(policies)}
        results: dict[int, Any] = {}
        for index, policy in enumerate(policies):
            if not done[index]:
                before = at[policy.start] if policy.start is not None else None
                results[index] = run.remote(packed, index, self._of(job, before, results), board, self.base)
        with progress("policies", sum(steps), start) as line:
            try:
                self._watch(job, results, board, line)
            except BaseException:
                for result in results.values():
                    ray.cancel(result, force=True)
                raise

    def _watch(self, job: Job, results: dict[int, Any], board: Any, line: ProgressLine) -> None:
        seen: dict[int, int] = {}
        waiting = {result: index for index, result in results.items()}
        while waiting:
            ready, _ = self.ray.wait(list(waiting), num_returns=1, timeout=LOOK_SECONDS)
            told = self.ray.get(board.read.remote())
            for result in ready:
                index = waiting.pop(result)
                files = self._get(result)
                if files is not None:
                    unpack(files, self.site.workspace.root)
                told[index] = (len(job.policies[index].plan), "")
            for index, (done, note) in told.items():
                if done > seen.get(index, 0):  # less after a worker was lost
                    line.advance(done - seen.get(index, 0), f"{job.policies[index].name}  {note}".rstrip())
                    seen[index] = done

    def _of(self, job: Job, index: int | None, results: dict[int, Any]) -> Any:
        """What the task that begins from policy ``index`` waits for: its result, or its files from an earlier run."""
        if index is None or index in results:
            return results.get(index) if index is not None else None
        adapter = job.policies[index].adapter
        name = adapter.relative_to(self.site.workspace.root).as_posix()
        return {name: files_of(adapter)} if self.site.base is not None else None

    def _beside_the_driver(self) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=False)

    def _get(self, result: Any) -> Any:
        """What a task gave. Raises the user's error that it raised, or ClusterError where its worker was lost."""
        from ray.exceptions import RayError, RayTaskError

        try:
            return self.ray.get(result)
        except RayTaskError as error:
            raise users_error(error) from None
        except RayError as error:
            reason = " ".join(str(error).split())[:300]
            raise ClusterError(
                f"a task lost its worker {RETRIES + 1} times ({reason}). Policies that are trained are kept; repeat "
                "the command to continue."
            ) from error


@contextmanager
def hands(cluster: Cluster, workspace: Workspace, model_fingerprint: str) -> Iterator[Hands]:
    """The cluster, ready to work for the family in ``workspace``. Raises ClusterError."""
    token = secrets.token_hex(8)
    write_whole(workspace.work / MARK, token)
    with connected(cluster) as found:
        ray = import_ray()
        site = Site(workspace, token, __version__, model_fingerprint, None, found.cpus, found.gpus or 0.0)
        options = {"num_cpus": found.cpus, "num_gpus": found.gpus, "memory": found.memory, "max_retries": RETRIES}
        shared = found.shared if found.shared is not None else all(_seen_by_all(ray, site))
        base = []
        if not shared:
            say("the machines do not share the family directory: files travel, and a lost policy begins anew")
            here = Path(workspace.base)
            site = site._replace(token=f"{token}-away", base=directory_digest(here) if here.is_dir() else "")
            base = [ray.put(files_of(here))] if here.is_dir() else []
        yield Hands(ray, site, options, base)


def _seen_by_all(ray: Any, site: Site) -> Sequence[bool]:
    """Whether each machine sees the family directory."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def look(site: Site) -> bool:
        return site.sees_the_drivers()

    asked = [
        ray.remote(look)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True))
        .remote(site)
        for node in ray.nodes()
        if node["Alive"]
    ]
    found: list[bool] = ray.get(asked)
    return found


def _score(packed: bytes, base: list[Any]) -> Scored:
    return tasks.score(pickle.loads(packed), lambda: _fetched(base))


def _train(packed: bytes, index: int, before: Any, board: Any, base: list[Any]) -> Any:
    def tell(done: int, note: str) -> None:
        board.tell.remote(index, done, note)

    return tasks.train(pickle.loads(packed), index, before, tell, lambda: _fetched(base))


def _fetched(base: list[Any]) -> dict[str, bytes]:
    """What Ray keeps, brought to this machine now: references in a list wait until they are asked for."""
    files: dict[str, bytes] = import_ray().get(base[0])
    return files
