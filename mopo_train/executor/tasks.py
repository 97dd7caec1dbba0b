"""What a worker does: score the data under the reference, or train one policy and measure its divergence.

Where it sees the family directory it works there as a local run does, so that a task whose worker was lost goes on
from the last checkpoint, wherever it is begun again. Elsewhere it works in a directory of its machine and sends files.
Plain functions: no Ray here.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from mopo_train.cache import cache_root, used
from mopo_train.console import ProgressLine
from mopo_train.executor.cluster import check_version
from mopo_train.executor.parcel import Parcel, kept, pack, unpack
from mopo_train.family import REFERENCE
from mopo_train.policy.adapter import OwnSamples
from mopo_train.policy.corpus import Corpus, corpus_log_probabilities
from mopo_train.policy.models import Precision, load_model
from mopo_train.policy.own_text import Speaker
from mopo_train.policy.training import PlannedPolicy, Training, train_policy
from mopo_train.policy.workspace import Workspace
from mopo_train.winrates import FloatArray, IntArray

Fetch = Callable[[], dict[str, bytes]]
"""Brings the base model's files from the driver's machine."""
MARK = "cluster"
"""File in the work directory that tells a worker whether it sees the same directory as the driver."""


class Site(NamedTuple):
    """Where a task works, as the driver sees it."""

    workspace: Workspace
    token: str
    """What the file `MARK` holds."""
    version: str
    """Of the package."""
    model_fingerprint: str
    base: str | None
    """Digest of the base model's files where machines share no file system, empty for a name on the hub; None where
    they do."""
    cpus: float
    gpus: float
    """Of each task."""

    @contextmanager
    def here(self, fetch: Fetch) -> Iterator[Workspace]:
        """The workspace on this machine: the driver's, or one that goes when the block ends.

        Its base model stays in the cache of this machine, so that it comes once for all tasks.
        """
        torch.set_num_threads(max(1, int(self.cpus)))
        if 0 < self.gpus < 1 and torch.cuda.is_available():  # so that a greedy policy fails itself, not its neighbours
            torch.cuda.set_per_process_memory_fraction(self.gpus)
        check_version(self.version)
        if self.sees_the_drivers():
            yield self.workspace
            return
        with tempfile.TemporaryDirectory(prefix="mopo-") as directory:
            root, base = Path(directory), self.workspace.base
            if self.base:
                place = kept(cache_root() / f"base-{self.base[:32]}", fetch)
                used(place)
                base = str(place)
            (root / ".work").mkdir()
            yield Workspace(root, root / ".work", base, self.workspace.base_name)

    def sees_the_drivers(self) -> bool:
        """Whether the family directory is the driver's."""
        mark = self.workspace.work / MARK
        return mark.is_file() and mark.read_text(encoding="utf-8") == self.token


class Scoring(NamedTuple):
    """What the reference's log-probabilities need."""

    site: Site
    corpus: Corpus
    needed: IntArray
    speaker: Speaker
    own_anchor: float
    precision: Precision


class Job(NamedTuple):
    """What every policy's task needs."""

    site: Site
    training: Training
    policies: Sequence[PlannedPolicy]
    speaker: Speaker
    kl_prompts: int


class Scored(NamedTuple):
    """What `score` gives."""

    reference: FloatArray
    own: OwnSamples | None


class Told(ProgressLine):
    """A progress line that is shown elsewhere."""

    def __init__(self, tell: Callable[[int, str], None]) -> None:
        super().__init__("", 0, 0)
        self.tell = tell

    def advance(self, pieces: int = 1, note: str = "") -> None:
        """Tell what is done."""
        self.done += pieces
        self.tell(self.done, note)


def score(task: Scoring, fetch: Fetch) -> Scored:
    """The reference's log-probabilities of the data, and its own samples if they are asked for."""
    with task.site.here(fetch) as workspace:
        base, key = load_model(workspace.base, precision=task.precision), task.site.model_fingerprint
        reference = corpus_log_probabilities(base, task.corpus, task.needed, cache_root(), key, title=REFERENCE)
        own = task.speaker.own_samples(base, workspace.work, task.own_anchor) if task.own_anchor else None
    return Scored(reference, own)


def train(job: Job, index: int, before: Parcel | None, tell: Callable[[int, str], None], fetch: Fetch) -> Parcel | None:
    """Train policy ``index``; ``before``: the files of the one that it begins from, where these are not on disk.

    Returns its files, or None where they are in the family directory already.
    """
    policy = job.policies[index]
    with job.site.here(fetch) as workspace:
        away = workspace is not job.site.workspace
        if away:
            policy = _moved(policy, job.site.workspace.root, workspace.root)
            unpack(before or {}, workspace.root)
        base = load_model(workspace.base, precision=job.training.config.precision)
        if not policy.adapter.is_dir():
            base = train_policy(job.training._replace(workspace=workspace), base, policy, Told(tell))
        if job.kl_prompts:
            job.speaker.divergences(base, {policy.name: policy.adapter}, workspace.work, job.kl_prompts)
        if not away:
            return None
        measured = workspace.work.glob(f"divergence-{policy.name}.json")
        return pack(workspace.root, [policy.adapter, policy.log, *measured])


def _moved(policy: PlannedPolicy, old: Path, new: Path) -> PlannedPolicy:
    """``policy`` with its files in another directory."""
    start = new / policy.start.relative_to(old) if policy.start else None
    return policy._replace(
        start=start, adapter=new / policy.adapter.relative_to(old), log=new / policy.log.relative_to(old)
    )
