"""One more policy for a finished family: other multipliers, begun from a member's adapter (``mopo-eval refine``).

Trained on the same data, model and settings as the family; nothing in the family's own files changes.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from mopo_train.cache import cache_root
from mopo_train.console import progress
from mopo_train.dual import Solution, tilt
from mopo_train.errors import DataError, FamilyError, FloorError
from mopo_train.execution import HERE
from mopo_train.family import REFERENCE, Policy, PolicyFamily, base_model_path
from mopo_train.members import member
from mopo_train.optimism import with_bounds
from mopo_train.policy.corpus import Prompts, corpus_log_probabilities, encode_corpus
from mopo_train.policy.models import context_length, fingerprint, load_model, load_tokenizer
from mopo_train.policy.own_text import Speaker
from mopo_train.policy.training import PlannedPolicy, Training, train_policy
from mopo_train.policy.workspace import WORK, Workspace
from mopo_train.preferences import read_preferences
from mopo_train.run import RunConfig, fitted_view, formulation, plan_policies
from mopo_train.winrates import WinRates, win_rates


def extend_family(
    root: Path, family: PolicyFamily, name: str, multipliers: Mapping[str, float], *, start: Policy, adapter: Path
) -> Policy:
    """Train a policy for ``multipliers`` from the adapter of ``start`` and write it to ``adapter``, whole or absent.

    Its log lies beside the adapter, as ``<adapter>.parquet``. The same call continues a killed one. Raises DataError
    where the training data are gone or changed, FamilyError for a family that `run_family` did not train.
    """
    config = _config(root, family)
    data = read_preferences(family.data.source, objectives=family.objectives)
    if data.summary.sha256 != family.data.sha256:
        raise DataError(
            f"the data of this family ({', '.join(family.data.source)}) have changed since it was trained, so no "
            "policy can be added by training. Restore them, or refine with --trainings 0."
        )
    radius = formulation(config).epsilon
    if config.source == "labels":
        rates = win_rates(data)
        point = _tilted(rates, config, multipliers)
        (point,) = with_bounds(data, rates, [point], config.tau, radius, independent=config.independent_labels)
    else:
        view = fitted_view(data, config)
        rates = view.rates
        (point,) = view.bounded([_tilted(rates, config, multipliers)], radius)
    model = base_model_path(root, family)
    where = str(adapter.relative_to(root))  # beside the others once the search has chosen it
    described = member(name, config.method, point).model_copy(update={"adapter": where})
    if adapter.is_dir():
        return described
    tokenizer, base = load_tokenizer(model), load_model(model, precision=config.precision)
    limit = min(config.max_length, context_length(model))
    corpus = encode_corpus(data, tokenizer, limit)
    neighbours = config.model_copy(update={"chains": 1})
    _, plan = plan_policies(data, corpus, neighbours, 2)  # as the second of a family: begun from a neighbour
    workspace = Workspace(root, adapter.parent / WORK, model, family.base_model)
    every = np.arange(len(corpus.rows))
    reference = corpus_log_probabilities(base, corpus, every, cache_root(), fingerprint(model), title=REFERENCE)
    speaker = Speaker(tokenizer, Prompts(corpus.rows, rates.starts), limit, config.seed)
    own = speaker.own_samples(base, workspace.work, config.own_anchor) if config.own_anchor else None
    training = Training(config, formulation(config), workspace, rates, corpus, reference, own, HERE)
    begun = root / start.adapter if start.adapter and config.lag is None else None
    planned = PlannedPolicy(name, point, plan, begun, adapter, adapter.with_name(f"{name}.parquet"))
    with progress(name, len(plan)) as line:
        train_policy(training, base, planned, line)
    shutil.rmtree(workspace.work, ignore_errors=True)
    return described


def _tilted(rates: WinRates, config: RunConfig, multipliers: Mapping[str, float]) -> Solution:
    """The tilt; without a robust radius where that leaves no solution for such multipliers: scores will decide."""
    form = formulation(config)
    try:
        return tilt(rates, primary=form.primary, multipliers=multipliers, tau=form.tau, epsilon=form.epsilon)
    except FloorError:
        return tilt(rates, primary=form.primary, multipliers=multipliers, tau=form.tau, epsilon=0.0)


def _config(root: Path, family: PolicyFamily) -> RunConfig:
    try:
        return RunConfig.model_validate(family.config)
    except ValidationError as error:
        raise FamilyError(
            f"'{root}' was not trained by 'mopo-train run' of this version, so no policy can be added by training; "
            "refine with --trainings 0, which only interpolates."
        ) from error
