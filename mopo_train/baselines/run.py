"""From preference data to a family trained by another method, in the format of ``mopo-train run``.

A killed run continues with the adapter that it was training, from that adapter's first step. Not covered: several
machines.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from peft import PeftModel
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from mopo_train.baselines.config import Adapter, BaselineConfig, adapters_to_train, member_id, mixtures
from mopo_train.baselines.modpo import as_dpo
from mopo_train.baselines.pairs import draw_pairs
from mopo_train.baselines.soup import mix_adapters
from mopo_train.baselines.trl_extra import require_trl
from mopo_train.cache import cache_root
from mopo_train.console import ProgressLine, progress, say
from mopo_train.errors import FloorError
from mopo_train.family import REFERENCE, Policy, PolicyFamily, first_problem, read_family, write_family
from mopo_train.members import describe
from mopo_train.policy.adapter import new_adapter, save_adapter
from mopo_train.policy.corpus import Corpus, corpus_log_probabilities, encode_corpus
from mopo_train.policy.loop import LoopSettings
from mopo_train.policy.models import (
    context_length,
    directory_digest,
    find_model,
    load_model,
    load_tokenizer,
)
from mopo_train.policy.reporting import Report
from mopo_train.policy.workspace import (
    RunRecord,
    Workspace,
    begin,
    check_place,
    clear_finished,
    is_finished,
    only_writer,
    open_workspace,
)
from mopo_train.preferences import PreferenceData, read_preferences
from mopo_train.room import check_baseline_room
from mopo_train.winrates import FloatArray

if TYPE_CHECKING:
    from mopo_train.baselines.dpo import DpoTask


def read_config(**options: Any) -> BaselineConfig:
    """The configuration that a command line gives. Raises FloorError for names that no objective can have."""
    try:
        return BaselineConfig(**options)
    except ValidationError as error:
        raise FloorError(first_problem(error)) from error


class _Run(NamedTuple):
    """What all adapters of a family share."""

    config: BaselineConfig
    model: str
    workspace: Workspace
    data: PreferenceData
    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    key: str
    """The model's fingerprint."""
    report_to: tuple[str, ...]

    def place(self, adapter: Adapter) -> Path:
        """Where the finished adapter lies."""
        return (
            self.workspace.root / "policies" if adapter.member else self.workspace.work / "ingredients"
        ) / adapter.id


def train_baseline(
    sources: Sequence[str | Path],
    out: Path,
    config: BaselineConfig,
    *,
    model: str,
    force: bool = False,
    report_to: Sequence[str] = (),
) -> PolicyFamily:
    """Train the family of ``config`` on ``sources`` and write it to ``out``; the same call continues a killed run.

    Everything that can be wrong with data, model and place is found before training. A finished family of the same
    call is returned as it is. ``report_to``: integrations that the log goes to (`policy.reporting`). Raises DataError,
    FloorError, ModelError (also without TRL), FamilyError, RoomError.
    """
    check_place(out, sources, model)
    find_model(model)
    require_trl()
    data = read_preferences(sources, objectives=config.objectives)
    for note in data.notes():
        say(note)
    config = config.resolved(data.objectives)
    record = RunRecord.of(config, data.summary, model)
    if not force and is_finished(out, record):
        say(f"this family is already in '{out}'; --force trains it again")
        return read_family(out)
    adapters = adapters_to_train(config, data.objectives)
    tokenizer = load_tokenizer(model, add_template=find_model(model) is not None)
    corpus = encode_corpus(data, tokenizer, min(config.max_length, context_length(model)))
    check_baseline_room(config, out, model, [adapter.id for adapter in adapters], corpus.lengths)
    with only_writer(out):
        begin(out, record, force=force)  # last of what can fail: with ``force`` it deletes an earlier family
        workspace = open_workspace(out, model)
        run = _Run(config, model, workspace, data, tokenizer, corpus, record.model_fingerprint, tuple(report_to))
        _train_all(run, adapters)
        members = _members(run, adapters)
        if config.method == "soup":
            _mix(run, adapters, members)
        family = _describe(run, members)
        write_family(out, family)
        clear_finished(run.workspace)
    return family


def _train_all(run: _Run, adapters: Sequence[Adapter]) -> None:
    """Train every adapter that is not whole yet, in order."""
    done = [run.place(adapter).is_dir() for adapter in adapters]
    if any(done):
        say(f"{sum(done)} of {len(done)} adapters are trained already")
    start = sum(adapter.steps for adapter, whole in zip(adapters, done, strict=True) if whole)
    places = {adapter.id: run.place(adapter) for adapter in adapters}
    with progress(run.config.method, sum(adapter.steps for adapter in adapters), start) as line:
        for index, adapter in enumerate(adapters):
            if done[index]:
                continue
            seed = int(np.random.SeedSequence([run.config.seed, index]).generate_state(1)[0])
            begin_from = places[adapter.start] if adapter.start else None
            model = new_adapter(load_model(run.model), rank=run.config.rank, seed=run.config.seed, start=begin_from)
            rows = _train(run, adapter, model, seed, line)
            _keep(run, adapter, model, rows)


def _train(run: _Run, adapter: Adapter, model: PeftModel, seed: int, line: ProgressLine) -> list[dict[str, float]]:
    """Train ``model`` as ``adapter``; returns the log's rows."""
    report = Report(run.report_to, adapter.id, run.workspace.root)
    settings = LoopSettings(learning_rate=run.config.rate, seed=seed, report=report)
    work = run.workspace.work / adapter.id
    if run.config.method == "grpo":
        from mopo_train.baselines.grpo import GrpoTask, train_grpo
        from mopo_train.baselines.reward import fitted_rewards

        rewards = fitted_rewards(run.data, run.workspace.work, run.config.seed)
        task = GrpoTask(run.data, rewards, _normalised(run, adapter.weights), run.config, adapter.steps)
        return train_grpo(model, run.tokenizer, task, settings, work, line)
    from mopo_train.baselines.dpo import train_dpo

    return train_dpo(model, run.tokenizer, _dpo_task(run, adapter, seed), settings, work, line)


def _dpo_task(run: _Run, adapter: Adapter, seed: int) -> "DpoTask":
    """What DPO is to do for ``adapter``; a member of MODPO sees pairs of the primary alone."""
    from mopo_train.baselines.dpo import DpoTask

    config, weights = run.config, adapter.weights
    beta, reference = config.beta, _log_probabilities(run, None)
    if config.method == "modpo" and adapter.member:
        primary = str(config.primary)
        margins = {name: _log_probabilities(run, place) for name, place in _margin_places(run).items()}
        beta, reference = as_dpo(beta, reference, weights, primary, margins)
        weights = {name: float(name == primary) for name in weights}
    pairs = config.batch_size // 2
    drawn = draw_pairs(run.data, _normalised(run, weights), adapter.steps * pairs, np.random.default_rng(seed))
    return DpoTask(drawn, adapter.steps, run.corpus, reference, beta)


def _normalised(run: _Run, weights: Mapping[str, float]) -> FloatArray:
    """(K,) in the order of the data's objectives; rounded weights sum to 1 again."""
    found = np.array([weights[name] for name in run.data.objectives])
    normalised: FloatArray = found / found.sum()
    return normalised


def _margin_places(run: _Run) -> dict[str, Path]:
    adapters = adapters_to_train(run.config, run.data.objectives)
    return {
        next(name for name, weight in adapter.weights.items() if weight == 1): run.place(adapter)
        for adapter in adapters
        if not adapter.member
    }


def _log_probabilities(run: _Run, adapter: Path | None) -> FloatArray:
    """(Y,) log-probability of every response under the reference or under ``adapter`` on it, kept on disk."""
    network: Any = load_model(run.model)
    key, title = run.key, REFERENCE
    if adapter is not None:
        network = PeftModel.from_pretrained(network, str(adapter))
        key, title = f"{key} {directory_digest(adapter)}", adapter.name
    every = np.arange(len(run.corpus.rows))
    kept = cache_root() if adapter is None else run.workspace.work
    return corpus_log_probabilities(network, run.corpus, every, kept, key, title=title)


def _keep(run: _Run, adapter: Adapter, model: PeftModel, rows: Sequence[Mapping[str, float]]) -> None:
    """Write the log, then the adapter by rename."""
    work, whole = run.workspace.work / adapter.id, run.place(adapter)
    _write_log(run.workspace.root / "training" / f"{adapter.id}.parquet", rows, adapter.weights)
    save_adapter(model, run.workspace.base_name, work / "adapter")
    whole.parent.mkdir(parents=True, exist_ok=True)
    (work / "adapter").rename(whole)
    shutil.rmtree(work)


def _write_log(path: Path, rows: Sequence[Mapping[str, float]], weights: Mapping[str, float]) -> None:
    """One row per logged step: step, loss, the objectives' weights (``weight.k``) and TRL's measures."""
    log = pd.DataFrame([{**row, **{f"weight.{name}": value for name, value in weights.items()}} for row in rows])
    log = log[["step", "loss", *sorted(set(log.columns) - {"step", "loss", "epoch"})]]
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    log.to_parquet(partial, index=False)
    partial.replace(path)


def _members(run: _Run, adapters: Sequence[Adapter]) -> dict[str, dict[str, float]]:
    """The weights of the objectives by policy."""
    if run.config.method == "soup":
        mixed = mixtures(run.config, run.data.objectives)
        return {member_id(run.config, index): weights for index, weights in enumerate(mixed)}
    return {adapter.id: adapter.weights for adapter in adapters if adapter.member}


def _mix(run: _Run, adapters: Sequence[Adapter], members: Mapping[str, Mapping[str, float]]) -> None:
    """Write every soup that is not there yet."""
    experts = {name: run.place(adapter) for name, adapter in zip(run.data.objectives, adapters, strict=True)}
    base: Any = load_model(run.model)
    for policy, weights in members.items():
        whole = run.workspace.root / "policies" / policy
        if not whole.is_dir():
            partial = run.workspace.work / policy
            base = mix_adapters(base, experts, weights, partial, run.workspace.base_name)
            whole.parent.mkdir(exist_ok=True)
            partial.rename(whole)


def _describe(run: _Run, members: Mapping[str, Mapping[str, float]]) -> PolicyFamily:
    policies = [Policy(id=policy, kind=run.config.method, adapter=f"policies/{policy}") for policy in members]
    config = run.config.model_dump(mode="json") | {"weights": members}
    return describe(str(run.config.primary), config, run.workspace, run.data, policies)
