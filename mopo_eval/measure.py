"""Measuring a family: every policy answers every prompt, judges score the answers, scorecards are written.

Orchestrates the other modules and owns the order in which things become durable: each answer as it comes, tables and
``run.json`` when all are there, then scorecards, then proposed profiles.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mopo_eval.answer_store import AnswerStore, Grid, Tally
from mopo_eval.answers import Sampling, question_of
from mopo_eval.choice_scores import choice_scores
from mopo_eval.collect import Missing, collect
from mopo_eval.drawn import Drawn, drawn, find_answers, write_drawn
from mopo_eval.engine_choice import EngineChoice, Engines, chosen_engines
from mopo_eval.estimates import ScoreTable, make_scorecards
from mopo_eval.evaluation import (
    JUDGEMENTS,
    LOCK,
    RESPONSES,
    SPOOL,
    CategoryMean,
    Hypervolume,
    RunSummary,
    batched,
    run_name,
    table_writer,
    write_summary,
)
from mopo_eval.figures import Shares
from mopo_eval.front import measured_front, resampled_front
from mopo_eval.judges import UNREADABLE, Judge
from mopo_eval.judges.case import Figured
from mopo_eval.judges.llm import FLIPPED
from mopo_eval.judging import Docket, judged
from mopo_eval.profiles import write_profiles
from mopo_eval.prompts import EvaluationPrompt, check_unseen, trained_prompts
from mopo_eval.propose import COMMENT, propose_profiles
from mopo_eval.registration import register, runs_that_scored
from mopo_eval.reliability import reliabilities
from mopo_eval.scorecards import Scorecard, with_reliability, write_scorecards
from mopo_eval.spool import held
from mopo_eval.stances import Stances
from mopo_train.console import say
from mopo_train.family import INTERPOLATED, REFERENCE, PolicyFamily
from mopo_train.judgement import Judgement


@dataclass(frozen=True)
class Plan:
    """What to measure, and how."""

    prompts: Sequence[EvaluationPrompt]
    judges: Mapping[str, Judge]
    """Per objective; objectives without one are left out. None at all: only answers are collected, nothing scored."""
    sampling: Sampling
    prompts_from: str = ""
    """File that the prompts were read from, for the record."""
    engine: EngineChoice = EngineChoice()
    confidence: float = 0.95
    conservative: bool = False
    """Intervals that never cover less often than they say, and are wider."""
    allow_trained: bool = False
    """Measure even on prompts that the family was trained on."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """What each judge is, by objective."""
        return {objective: judge.fingerprint for objective, judge in self.judges.items()}

    def drawn(self, root: Path, family: PolicyFamily) -> Drawn:
        """What decides the answers of ``family`` in ``root``."""
        return drawn(root, family, self.prompts, self.sampling)

    def run(self, root: Path, family: PolicyFamily) -> str:
        """Name of the run of ``family`` in ``root``."""
        weights = self.drawn(root, family).policies
        return run_name(family, weights, self.prompts, self.sampling, self.fingerprints)


class Measurement(NamedTuple):
    """A finished evaluation."""

    summary: RunSummary
    cards: list[Scorecard]
    reused: int
    """Answers that an earlier run had given already."""


def measure(root: Path, family: PolicyFamily, plan: Plan) -> Measurement:
    """Measure every policy of ``family`` in ``root`` and write its evaluation and scorecards.

    Repeating it continues where it stopped; a finished run only judges again. Raises DataError, EngineError and
    JudgeError; answers that were given stay on disk. Raises MopoError where another process measures the same.
    """
    run = plan.run(root, family)
    with held(root / "evaluation" / run / LOCK):
        return _measure(root, family, plan, run)


def _measure(root: Path, family: PolicyFamily, plan: Plan, run: str) -> Measurement:
    began, asked = time.monotonic(), plan.drawn(root, family)
    register(root, family, run, plan.prompts)
    directory, policies = root / "evaluation" / run, [policy.id for policy in family.policies]
    grid = Grid(policies, [prompt.id for prompt in plan.prompts], plan.sampling.samples)
    write_drawn(directory, asked)
    with closing(find_answers(root, run, grid, asked, plan.engine.accepts)) as store:
        with chosen_engines(root, family, plan.engine, directory / "engine.log") as engines:
            reused = _complete(store, engines, plan, directory)
            choices = choice_scores(engines, plan.prompts, plan.judges, directory)
        docket = Docket(
            store,
            {prompt.id: prompt for prompt in plan.prompts},
            lambda place: store[grid.place_of(REFERENCE, place)].response,
            choices,
        )
        judged = _judge(docket, plan, directory, grid)
        tally = _write_responses(store, plan, directory)
    counted = counted_policies(root, family, {prompt.text for prompt in plan.prompts})
    known = reliabilities(plan.judges)
    found = _scored(judged.scores, plan, run, counted) if plan.judges else None
    summary = RunSummary(
        run=run,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        engine="+".join(sorted(tally.engines)),
        prompts=len(plan.prompts),
        policies=policies,
        judges={objective: judge.name for objective, judge in plan.judges.items()},
        fingerprints=plan.fingerprints,
        reliability=known,
        sampling=plan.sampling,
        confidence=plan.confidence,
        conservative=plan.conservative,
        front_probability=found.probability if found else {},
        front=found.front if found else [],
        hypervolume=found.hypervolume if found else None,
        answers=grid.size,
        prompts_from=plan.prompts_from,
        seconds=round(time.monotonic() - began, 3),
        cut=tally.cut,
        empty=tally.empty,
        categories=_category_means(judged.scores, plan.prompts),
        doubtful=judged.doubtful,
        stances=judged.stances.rates(plan.confidence),
        figures=judged.shares.figures(plan.confidence),
        counted=counted,
        withheld=_withheld(family, found.front) if found else [],
    )
    cards = [with_reliability(card, known) for card in found.cards] if found else []
    write_summary(directory, summary)
    write_scorecards(root, [card for card in cards if card.policy not in summary.withheld], summary.withheld)
    if summary.withheld:
        say(f"interpolated and dominated, so withheld from every profile: {', '.join(summary.withheld)}")
    if found:
        _propose(root, family, cards, found.front)
    return Measurement(summary, cards, reused)


class _Scored(NamedTuple):
    """What follows from the scores."""

    cards: list[Scorecard]
    front: list[str]
    probability: dict[str, float]
    hypervolume: Hypervolume


def _scored(scores: ScoreTable, plan: Plan, run: str, counted: int) -> _Scored:
    cards = make_scorecards(
        scores,
        {objective: judge.name for objective, judge in plan.judges.items()},
        run=run,
        confidence=plan.confidence,
        conservative=plan.conservative,
        counted=counted,
    )
    front = measured_front(cards)
    likely = resampled_front(scores.values, list(front.reference_point.values()), plan.confidence)
    volume = Hypervolume(
        value=front.hypervolume,
        reference_point=front.reference_point,
        ideal_point=dict.fromkeys(front.reference_point, 1.0),
        low=min(likely.low, front.hypervolume),
        high=max(likely.high, front.hypervolume),
    )
    return _Scored(cards, front.policies, dict(zip(scores.policies, likely.probability, strict=True)), volume)


def counted_policies(root: Path, family: PolicyFamily, texts: set[str]) -> int:
    """Policies that share the error of bounds on the prompts ``texts``: members, and those that searches could try.

    Only searches that looked at scores on some of these prompts; one whose run is gone counts.
    """
    runs = {search.run for search in family.searches}
    used = {run for run in runs if not (root / "evaluation" / run / "run.json").is_file()}
    used |= runs.intersection(runs_that_scored(root, texts)) if runs else set()
    return len(family.policies) + sum(search.others for search in family.searches if search.run in used)


def _withheld(family: PolicyFamily, front: Sequence[str]) -> list[str]:
    """Interpolated policies that are not on the measured ``front``, but for those that a search found for a floor."""
    found = {search.policy for search in family.searches}
    return [
        policy.id
        for policy in family.policies
        if policy.kind == INTERPOLATED and policy.id not in front and policy.id not in found
    ]


def _complete(store: AnswerStore, engines: Engines, plan: Plan, directory: Path) -> int:
    """Get the answers that ``store`` lacks, and say how many were there already."""
    grid, reused = store.grid, store.count
    if reused:
        where, kinds = ", ".join(f"evaluation/{run}" for run in store.runs), "+".join(sorted(store.engines))
        say(f"reusing {reused} of {grid.size} answers, which an earlier run got ({kinds}; {where})")
    if not plan.allow_trained:
        _refuse_trained(engines.family, plan.prompts)
    if reused < grid.size:
        spool = directory / SPOOL
        note = store.add_spool(spool, directory.name, lambda key, kind: plan.engine.accepts(kind))
        prompts, places = {prompt.id: prompt for prompt in plan.prompts}, store.missing()
        asked = (question_of(grid.key(place), prompts, plan.sampling) for place in places)
        missing = Missing(asked, grid.size - reused, note)
        collect(engines, missing, plan.sampling, spool)
    return reused


def _refuse_trained(family: PolicyFamily, prompts: Sequence[EvaluationPrompt]) -> None:
    trained = trained_prompts(family)
    if trained is None:
        say(f"training data {', '.join(family.data.source)} is not here: not checked that the prompts are held out")
    else:
        check_unseen(prompts, trained)


class _Judged(NamedTuple):
    """Everything that judges said, added up."""

    scores: ScoreTable
    doubtful: dict[str, dict[str, int]]
    """How many judgements of each objective are no verdicts, by label."""
    stances: Stances
    shares: Shares


def _judge(docket: Docket, plan: Plan, directory: Path, grid: Grid) -> _Judged:
    """Judge every answer and write ``judgements.parquet``. Raises JudgeError."""
    objectives = list(plan.judges)
    flat = np.empty((len(objectives), grid.size))
    doubtful: dict[str, dict[str, int]] = {}
    stances, shares = Stances(grid.prompts), Shares(grid.prompts)
    with table_writer(directory, JUDGEMENTS) as table:
        for begin, rows in judged(docket, plan.judges, directory):
            table.write([row._asdict() for row in rows])
            judge = plan.judges[rows[0].objective]
            flat[objectives.index(rows[0].objective), begin : begin + len(rows)] = [row.score for row in rows]
            for row in rows:
                stances.add(row)
                if row.label in (UNREADABLE, FLIPPED):
                    counts = doubtful.setdefault(row.objective, {})
                    counts[str(row.label)] = counts.get(str(row.label), 0) + 1
                if isinstance(judge, Figured):
                    for name, value in judge.figures(Judgement(*row[5:])).items():
                        shares.add(row.policy, row.objective, name, row.prompt_id, value)
        if not plan.judges:
            table.write([])
    shape = (len(objectives), len(grid.policies), len(grid.prompts), grid.samples)
    scores = flat.reshape(shape).transpose(1, 0, 2, 3)  # (P, K, N, S)
    return _Judged(ScoreTable(grid.policies, objectives, scores), doubtful, stances, shares)


def _write_responses(store: AnswerStore, plan: Plan, directory: Path) -> Tally:
    """Write ``responses.parquet`` in the run's order."""
    asked = {prompt.id: {"prompt": prompt.text, "category": prompt.category} for prompt in plan.prompts}
    tally = Tally(set(), {}, {})
    with table_writer(directory, RESPONSES) as table:
        for some in batched(store[place] for place in range(len(store))):
            for answer in some:
                tally.add(answer)
            table.write([answer._asdict() | asked[answer.prompt_id] for answer in some])
    return tally


def _category_means(table: ScoreTable, prompts: Sequence[EvaluationPrompt]) -> list[CategoryMean]:
    values = table.values  # (P, K, N)
    found = []
    for category in sorted({prompt.category for prompt in prompts if prompt.category is not None}):
        chosen = np.array([prompt.category == category for prompt in prompts])
        means = values[:, :, chosen].mean(axis=2)  # (P, K)
        found += [
            CategoryMean(policy=policy, category=category, objective=name, mean=float(means[p, k]), n=int(chosen.sum()))
            for p, policy in enumerate(table.policies)
            for k, name in enumerate(table.objectives)
        ]
    return found


def _propose(root: Path, family: PolicyFamily, cards: Sequence[Scorecard], front: Sequence[str]) -> None:
    """Write starter profiles where there are none; never touch those that are there."""
    path = root / "profiles.yaml"
    if path.exists():
        return
    if family.primary not in cards[0].objectives:
        say(f"no profiles proposed: the primary objective {family.primary} has no judge")
        return
    write_profiles(path, propose_profiles({card.policy: card for card in cards}, front, family.primary), COMMENT)
    say(f"proposed starter profiles in '{path}'; floors are judge scores")
