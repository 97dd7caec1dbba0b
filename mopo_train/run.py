"""From preference data to a family of policies: win rates, the exact dual, one LoRA adapter per point of the front.

Policies are trained in order along the front, each from its neighbour's adapter, or with a lagged reference each from
the reference. A killed run continues with the policy that it was training, from its last checkpoint. Not covered: other
methods.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from transformers import PreTrainedModel

from mopo_train.cache import cache_root
from mopo_train.console import progress, say
from mopo_train.dual import Solution, attainable, infeasible_message
from mopo_train.errors import ClusterError, FloorError
from mopo_train.execution import HERE, Execution
from mopo_train.executor.cluster import import_ray
from mopo_train.executor.driver import hands
from mopo_train.executor.tasks import Job, Scored, Scoring
from mopo_train.family import (
    REFERENCE,
    ObjectiveName,
    Policy,
    PolicyFamily,
    check_problem_names,
    first_problem,
    read_family,
    write_family,
)
from mopo_train.formulation import Formulation, Variant, propose_points, solve_floors
from mopo_train.front import Normaliser
from mopo_train.members import describe, interpolated, policy_id, trained
from mopo_train.optimism import with_bounds
from mopo_train.plan import Source, plan_document, write_plan
from mopo_train.policy.adapter import StepKind
from mopo_train.policy.batches import Steps, make_units, plan_steps
from mopo_train.policy.corpus import Corpus, Prompts, corpus_log_probabilities, encode_corpus
from mopo_train.policy.distributed import from_leader, group
from mopo_train.policy.lagged import FloorSchedule, Lag
from mopo_train.policy.models import Precision, context_length, find_model, load_model, load_tokenizer
from mopo_train.policy.on_policy import Setup, train_with_rounds
from mopo_train.policy.own_text import Speaker
from mopo_train.policy.requirements import PROCESS, check_points
from mopo_train.policy.training import PlannedPolicy, Training, train_policy
from mopo_train.policy.workspace import (
    RunRecord,
    Workspace,
    begin,
    check_place,
    check_shared,
    clear_finished,
    is_finished,
    only_writer,
    open_workspace,
)
from mopo_train.preference_model.planning import fit_view, tell_cost
from mopo_train.preference_model.settings import FitSettings
from mopo_train.preference_model.view import ModelView
from mopo_train.preferences import PreferenceData, read_preferences
from mopo_train.robust import radius_of
from mopo_train.room import check_room
from mopo_train.winrates import WinRates, win_rates

LATER = 0.5
"""Steps of a policy that begins from its neighbour, relative to those of the first."""


class RunConfig(BaseModel):
    """What decides the policies of a family, besides the data and the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    primary: ObjectiveName
    """Objective to maximise."""
    policies: int = Field(ge=1)
    """How many; fewer where the front has fewer distinct points."""
    objectives: tuple[ObjectiveName, ...] = ()
    """Names of labels that have none, or those to read (`read_preferences`); empty: all there are."""
    floors: dict[ObjectiveName, float] = {}
    """Data win rates that every policy holds; empty: the policies spread over the whole front."""
    source: Source = "labels"
    """Where win rates come from."""
    encoder: str | None = None
    """Of the preference model: a directory or hub name; None: a small one from scratch."""
    method: Literal["mopo"] = "mopo"
    step: StepKind = "pairwise"
    tau: float = Field(default=0.15, gt=0, allow_inf_nan=False)
    """Weight of the KL penalty."""
    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """KL radius of the robust floors; None: by ``confidence`` and the number of prompts (design section 2)."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1, allow_inf_nan=False)
    variant: Variant = "lagrangian"
    normaliser: Normaliser = "prompt"
    independent_labels: bool = False
    """Whether labels of one row err independently on the objectives (`optimism`): sharper ``bound``."""
    steps: int = Field(default=160, ge=1)
    """Of a policy that begins from the reference; those that begin from their neighbour take half as many."""
    chains: int = Field(default=1, ge=1)
    """The family in so many parts, of neighbours: in each the first policy begins from the reference and every other
    one from its neighbour. A part is trained one policy after the other, parts may be trained at the same time."""
    batch_size: int = Field(default=32, ge=2)
    """Responses per step; the responses of a prompt stay together."""
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    rank: int = Field(default=8, ge=1)
    anchor: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """Weight of the term of the pairwise steps that keeps mass on the data's responses."""
    own_anchor: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of KL(reference || policy) on answers that the reference writes itself to the training prompts."""
    length_normalised: bool = False
    """Log-probabilities as means over tokens (times the mean length), not sums."""
    t0: int | None = Field(default=None, ge=1)
    """Every so many steps the reference becomes the policy of ``t0`` steps ago; None: it stays."""
    floor_schedule: FloorSchedule = "fixed"
    """``adaptive``: at every refresh a floor becomes ``beta`` times the value of the policy of ``t0`` steps ago."""
    beta: float = Field(default=0.9995, gt=0, le=1)
    on_policy_rounds: int = Field(default=0, ge=0)
    """Times that a policy answers the prompts itself, a preference model labels its answers, and training goes on."""
    on_policy_answers: int = Field(default=4, ge=2)
    """Per prompt and round."""
    interpolate: int = Field(default=0, ge=0)
    """Members between each two neighbours of the front (`neighbours`), by interpolation of their weights."""
    kl_prompts: int = Field(default=64, ge=0)
    """Training prompts that each policy answers to measure its divergence on its own text; 0: none."""
    max_length: int = Field(default=512, ge=2)
    """Tokens of prompt and response together; the end of a longer response is cut off."""
    precision: Precision = "auto"
    """Of the frozen base while adapters are trained; auto: bfloat16 where CUDA supports it, else float32."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_kind_of_iteration(self) -> "RunConfig":
        if self.t0 is not None and self.on_policy_rounds:
            raise ValueError("--t0 reweights the data's responses, --on-policy-rounds replaces them; give one of them")
        return self

    @property
    def round_steps(self) -> int:
        """Of a policy that begins from another one, or from itself in a round."""
        return max(1, round(self.steps * LATER))

    @property
    def lag(self) -> Lag | None:
        """How the reference follows the policy, if it does."""
        return None if self.t0 is None else Lag(self.t0, self.floor_schedule, self.beta)


def read_config(floors: Mapping[str, float], **options: Any) -> RunConfig:
    """The configuration that a command line gives. Raises FloorError for names that no objective can have."""
    for name in floors:
        if "." in name:
            raise FloorError(
                f"floor on '{name}': a run holds data win rates, which have no measure, for example "
                f"{name.partition('.')[0]}=0.5; measured scores are what 'mopo-eval' and 'mopo-serve' take."
            )
    try:
        return RunConfig(floors=floors, **options)
    except ValidationError as error:
        raise FloorError(first_problem(error)) from error


def run_family(
    sources: Sequence[str | Path],
    out: Path,
    config: RunConfig,
    *,
    model: str,
    force: bool = False,
    execution: Execution = HERE,
) -> PolicyFamily:
    """Train the family of ``config`` on ``sources`` and write it to ``out``; the same call continues a killed run.

    Everything that can be wrong with data, floors, model and place is found before training. A finished family of the
    same call is returned as it is. Processes that were started together (`policy.distributed`) call it alike and train
    each policy together. Raises DataError, FloorError, ModelError, FamilyError, and RoomError where memory or disk will
    not do.
    """
    check_place(out, sources, model)
    find_model(model)
    _check_execution(config, execution)
    data = read_preferences(sources, objectives=config.objectives)
    for note in data.notes():
        say(note)
    record = RunRecord.of(config, data.summary, model)
    if from_leader(lambda: not force and is_finished(out, record)):
        say(f"this family is already in '{out}'; --force trains it again")
        return read_family(out)
    from_leader(lambda: check_points(config.policies, len(data.response_prompt)))
    rates, points = from_leader(lambda: planned_points(data, config))
    tokenizer = load_tokenizer(model, add_template=find_model(model) is not None)
    limit = min(config.max_length, context_length(model))
    corpus = encode_corpus(data, tokenizer, limit)
    document = plan_document(rates, points, formulation(config))
    plans = plan_policies(data, corpus, config, len(points))
    need = check_room(config, out, model, execution, plans, corpus.lengths)
    base = load_model(model, processes=group().size if execution.shard else 1, precision=config.precision)
    # Last of what can fail: with ``force`` it deletes an earlier family.
    with ExitStack() as held:
        from_leader(lambda: held.enter_context(only_writer(out)))
        from_leader(lambda: begin(out, record, force=force))
        workspace = from_leader(lambda: open_workspace(out, model))
        check_shared(workspace)
        from_leader(lambda: write_plan(out, document))
        needed = np.unique(np.concatenate([plan.responses() for plan in plans]))
        if config.lag is not None:  # the dual is solved again with the shares of all responses
            needed = np.arange(len(corpus.rows))
        prompts = Prompts(corpus.rows, rates.starts)
        speaker = Speaker(tokenizer, prompts, limit, config.seed)

        def training(scored: Scored) -> Training:
            return Training(config, formulation(config), workspace, rates, corpus, *scored, execution)

        fit = FitSettings(encoder=config.encoder)
        setup = (
            Setup(data, tokenizer, prompts, limit, config.on_policy_answers, fit) if config.on_policy_rounds else None
        )
        policies = [_planned(config, out, index, point, plans) for index, point in enumerate(points)]
        key = record.model_fingerprint
        if execution.cluster is None:
            reference = corpus_log_probabilities(base, corpus, needed, cache_root(), key, title=REFERENCE)
            own = speaker.own_samples(base, workspace.work, config.own_anchor) if config.own_anchor else None
            base = _train_all(training(Scored(reference, own)), base, policies, setup)
        else:
            with hands(execution.cluster._replace(memory=need.total + PROCESS), workspace, key) as cluster:
                scored = cluster.score(
                    Scoring(cluster.site, corpus, needed, speaker, config.own_anchor, config.precision)
                )
                cluster.train(Job(cluster.site, training(scored), policies, speaker, config.kl_prompts))
        members = trained(config, points) + from_leader(lambda: interpolated(config, out, points))
        if config.kl_prompts:
            adapters = {member.id: out / f"policies/{member.id}" for member in members}
            measured = speaker.divergences(base, adapters, workspace.work, config.kl_prompts)
            members = [member.model_copy(update={"generated_kl": measured[member.id]}) for member in members]
        return from_leader(lambda: _finish(config, workspace, data, members))


def _check_execution(config: RunConfig, execution: Execution) -> None:
    if execution.cluster is None:
        return
    import_ray()
    if group().size > 1:
        raise ClusterError("--executor ray trains one policy per task; start it without torchrun or accelerate.")
    if config.on_policy_rounds:
        raise ClusterError("--on-policy-rounds fit preference models between steps, here only: use --executor local.")


def _finish(config: RunConfig, workspace: Workspace, data: PreferenceData, members: Sequence[Policy]) -> PolicyFamily:
    ordered = sorted(members, key=lambda member: member.id)
    family = describe(config.primary, config.model_dump(mode="json"), workspace, data, ordered)
    write_family(workspace.root, family)
    clear_finished(workspace)
    return family


class _Points(NamedTuple):
    """What policies are trained for."""

    rates: WinRates
    points: list[Solution]


def planned_points(data: PreferenceData, config: RunConfig) -> _Points:
    """Win rates by the configured source and the points of their front, with lower bounds.

    Raises DataError and FloorError as `choose_points`, ModelError for an encoder that cannot be loaded.
    """
    if config.source == "labels":
        rates = win_rates(data)
        points = choose_points(rates, config)
        return _Points(
            rates,
            with_bounds(
                data, rates, points, config.tau, formulation(config).epsilon, independent=config.independent_labels
            ),
        )
    check_problem_names(config.primary, config.floors, list(data.objectives))  # not after minutes of fitting
    view = fitted_view(data, config)
    return _Points(view.rates, view.bounded(choose_points(view.rates, config, view), formulation(config).epsilon))


def fitted_view(data: PreferenceData, config: RunConfig) -> ModelView:
    """The preference model that ``config`` asks for, fitted now or before."""
    settings = FitSettings(encoder=config.encoder)
    tell_cost(data, settings)
    view: ModelView = fit_view(data, settings)
    return view


def choose_points(rates: WinRates, config: RunConfig, model: ModelView | None = None) -> list[Solution]:
    """The points of the predicted front to train for, from the loosest floors on.

    Without floors they spread over the whole front. With floors, the first maximises the primary under exactly these,
    and the others spread over the part of the front that holds them all: on the ``rates``, or, where these are a
    ``model``'s, on the lower bounds by the labels. Raises FloorError for unknown objectives and floors that no policy
    can hold.
    """
    check_problem_names(config.primary, config.floors, list(rates.objectives))
    form = formulation(config)
    if not config.floors:
        found = propose_points(rates, config.policies, form)
    else:
        first = model.solve(config.floors, form) if model else solve_floors(rates, config.floors, form)
        if not first.feasible:
            raise FloorError(infeasible_message(first, attainable(rates, formulation(config).epsilon)))
        found = [first]
        if config.policies > 1:
            spread = propose_points(rates, 8 * config.policies, form)
            spread = model.bounded(spread, formulation(config).epsilon) if model else spread
            values = [point.bound if model else point.predicted_low for point in spread]
            beyond = [
                point
                for point, value in zip(spread, values, strict=True)
                if all(value[name] >= floor for name, floor in config.floors.items())
            ]
            places = np.unique(np.linspace(0, len(beyond) - 1, config.policies - 1).round().astype(int))
            found += [beyond[place] for place in places] if beyond else []
    distinct: list[Solution] = []
    for point in found:
        if not any(np.allclose(point.ratio, other.ratio, rtol=0, atol=1e-6) for other in distinct):
            distinct.append(point)
    if len(distinct) < config.policies:
        say(f"the front has {len(distinct)} distinct points here, so {len(distinct)} policies, not {config.policies}")
    return distinct


def formulation(config: RunConfig) -> Formulation:
    """The form of the problem that ``config`` asks for."""
    return Formulation(
        config.primary,
        config.tau,
        radius_of(config.epsilon, config.confidence),
        config.variant,
        config.normaliser,
    )


def plan_policies(data: PreferenceData, corpus: Corpus, config: RunConfig, policies: int) -> list[Steps]:
    """The batches of every policy's steps; policies that begin from a neighbour take fewer (`LATER`)."""
    units = make_units(data.compared(), data.response_prompt, config.batch_size)
    seeds = np.random.SeedSequence(config.seed).generate_state(policies).tolist()
    return [
        plan_steps(units, corpus.lengths, config.batch_size, steps, seed)
        for steps, seed in zip(steps_of_policies(config, policies), seeds, strict=True)
    ]


def steps_of_policies(config: RunConfig, policies: int) -> list[int]:
    """Optimiser steps of each of so many policies, before any rounds of their own answers."""
    return [config.steps if cold else config.round_steps for cold in begin_cold(config, policies)]


def begin_cold(config: RunConfig, policies: int) -> list[bool]:
    """Whether each of so many policies begins from the reference: the first of each of ``config.chains`` equal parts.

    All do where the reference lags: it begins at the reference, or the first refresh would make it the neighbour's
    policy.
    """
    if config.lag is not None:
        return [True] * policies
    parts = np.array_split(np.arange(policies), min(config.chains, policies))
    first = {int(part[0]) for part in parts}
    return [index in first for index in range(policies)]


def _train_all(
    training: Training, base: PreTrainedModel, policies: Sequence[PlannedPolicy], setup: Setup | None
) -> PreTrainedModel:
    """Train every policy that is not whole yet, in order; in rounds with a ``setup``. Returns ``base``, as it was."""
    config = training.config
    steps = [len(policy.plan) + config.on_policy_rounds * config.round_steps for policy in policies]
    done = from_leader(lambda: [policy.adapter.is_dir() for policy in policies])
    start = sum(count for count, whole in zip(steps, done, strict=True) if whole)
    if start:
        say(f"{sum(done)} of {len(policies)} policies are trained already")
    with progress("policies", sum(steps), start) as line:
        for policy, whole in zip(policies, done, strict=True):
            if whole:
                continue
            if setup is None:
                base = train_policy(training, base, policy, line)
            else:
                base = train_with_rounds(training, setup, base, policy, line)
    return base


def _planned(config: RunConfig, root: Path, index: int, point: Solution, plans: Sequence[Steps]) -> PlannedPolicy:
    name, cold = policy_id(index), begin_cold(config, len(plans))[index]
    start = None if cold else root / "policies" / policy_id(index - 1)
    log = root / "training" / f"{name}.parquet"
    return PlannedPolicy(name, point, plans[index], start, root / "policies" / name, log)
