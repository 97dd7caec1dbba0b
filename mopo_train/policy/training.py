"""Training one policy of a family: adapter, log and checkpoints, whole or absent."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from transformers import PreTrainedModel

from mopo_train import __version__
from mopo_train.console import ProgressLine
from mopo_train.dual import Solution
from mopo_train.execution import Execution
from mopo_train.formulation import Formulation, solve_floors
from mopo_train.policy.adapter import AdapterTask, OwnSamples, new_adapter, save_adapter, train_adapter, unwrap
from mopo_train.policy.batches import Planned
from mopo_train.policy.corpus import Corpus
from mopo_train.policy.distributed import from_leader
from mopo_train.policy.followed import Followed, Refresh, make_target
from mopo_train.policy.loop import LoopSettings
from mopo_train.policy.reporting import Report
from mopo_train.policy.workspace import Workspace
from mopo_train.winrates import FloatArray, WinRates

if TYPE_CHECKING:
    from mopo_train.run import RunConfig


class Training(NamedTuple):
    """What all policies of a run share."""

    config: "RunConfig"
    form: Formulation
    workspace: Workspace
    rates: WinRates
    corpus: Corpus
    reference: FloatArray
    """(Y,) log pi_ref of each response, in nats."""
    own: OwnSamples | None
    execution: Execution


class PlannedPolicy(NamedTuple):
    """One policy to train."""

    name: str
    point: Solution
    """What it follows."""
    plan: Sequence[Planned]
    """The batches of its steps."""
    start: Path | None
    """Adapter to begin with; None: the reference."""
    adapter: Path
    """Directory to write: where it exists, the policy is trained."""
    log: Path
    """Parquet file of the log, written before the adapter."""


def train_policy(
    training: Training, base: PreTrainedModel, policy: PlannedPolicy, line: ProgressLine
) -> PreTrainedModel:
    """Train ``policy``, continuing from its last checkpoint; its adapter is written by rename. Returns ``base``."""
    config, workspace = training.config, training.workspace
    work = workspace.work / policy.name
    target = make_target(policy.point.ratio, policy.point.score, config.tau, training.rates)
    task = AdapterTask(
        kind=config.step,
        first=Followed(target, training.reference, training.rates.mass, policy.point),
        corpus=training.corpus,
        rates=training.rates,
        plan=policy.plan,
        anchor=config.anchor,
        tau=config.tau,
        length_normalised=config.length_normalised,
        own=training.own,
        refresh=_refresh(training, work),
    )
    settings = LoopSettings(
        learning_rate=config.learning_rate,
        checkpoint_seconds=training.execution.checkpoint_seconds,
        seed=config.seed,
        precision=config.precision,
        report=Report(training.execution.report_to, policy.name, workspace.root),
        identity=_identity(training, policy),
    )
    model = new_adapter(base, rank=config.rank, seed=config.seed, start=policy.start)
    rows = train_adapter(model, task, settings, work, line)

    def keep() -> None:
        _write_log(policy.log, rows)
        save_adapter(model, workspace.base_name, work / "adapter")
        policy.adapter.parent.mkdir(parents=True, exist_ok=True)
        (work / "adapter").rename(policy.adapter)
        shutil.rmtree(work)

    from_leader(keep)
    return unwrap(model)


def _identity(training: Training, policy: PlannedPolicy) -> str:
    """Of version, settings, texts and place along the front; run.json says what labels and model are."""
    config = training.config.model_dump(mode="json")
    told = [__version__, config, training.corpus.digest, policy.name]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _refresh(training: Training, work: Path) -> Refresh | None:
    if training.config.lag is None:
        return None

    def again(rates: WinRates, floors: Mapping[str, float]) -> Solution:
        return solve_floors(rates, floors, training.form)

    return Refresh(training.config.lag, again, work)


def _write_log(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """One row per logged step: what the dual wanted (``lambda.k``, ``chi.k``, ``predicted.k``) and what came."""
    log = pd.DataFrame(rows)
    leading = ["step", "loss", "kl", "ess"]
    log = log[leading + sorted(set(log.columns) - {*leading, "epoch"})]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    log.to_parquet(partial, index=False)
    partial.replace(path)
