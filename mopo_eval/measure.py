"""Measuring a family: every policy answers every prompt, judges score the answers, scorecards are written.

Orchestrates the other modules and owns the order in which things become durable: each answer as it comes, tables and
``run.json`` when all are there, then scorecards, then proposed profiles.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mopo_eval.answers import Answer, AnswerKey, Sampling, questions
from mopo_eval.collect import EngineChoice, collect
from mopo_eval.estimates import ScoreTable, make_scorecards
from mopo_eval.evaluation import (
    SPOOL,
    CategoryMean,
    Hypervolume,
    JudgementRow,
    RunSummary,
    kept_answers,
    run_name,
    write_summary,
    write_tables,
)
from mopo_eval.front import measured_front, resampled_front
from mopo_eval.judges import UNREADABLE, Case, Judge
from mopo_eval.judges.llm import FLIPPED
from mopo_eval.judges.scoring import score_cases
from mopo_eval.profiles import write_profiles
from mopo_eval.prompts import EvaluationPrompt, check_unseen, trained_prompts
from mopo_eval.propose import COMMENT, propose_profiles
from mopo_eval.registration import register, runs_that_scored
from mopo_eval.scorecards import Scorecard, write_scorecards
from mopo_eval.stances import stance_rates
from mopo_train.console import say
from mopo_train.errors import JudgeError
from mopo_train.family import INTERPOLATED, REFERENCE, PolicyFamily


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


class Measurement(NamedTuple):
    """A finished evaluation."""

    summary: RunSummary
    cards: list[Scorecard]
    reused: int
    """Answers that an earlier run had given already."""


def measure(root: Path, family: PolicyFamily, plan: Plan) -> Measurement:
    """Measure every policy of ``family`` in ``root`` and write its evaluation and scorecards.

    Repeating it continues where it stopped; a finished run only judges again. Raises DataError, EngineError and
    JudgeError; answers that were given stay on disk.
    """
    began = time.monotonic()
    judges = {objective: judge.name for objective, judge in plan.judges.items()}
    run = run_name(family, plan.prompts, plan.sampling, plan.fingerprints)
    register(root, family, run, plan.prompts)
    answers, reused = _answers(root, family, plan, run)
    judgements = judge_answers(answers, plan, root / "evaluation" / run)
    policies = [policy.id for policy in family.policies]
    scores = _score_table(judgements, policies, plan)
    counted = counted_policies(root, family, {prompt.text for prompt in plan.prompts})
    cards: list[Scorecard] = []
    front, volume, probability = None, None, {}
    if judges:
        cards = make_scorecards(
            scores,
            judges,
            run=run,
            confidence=plan.confidence,
            conservative=plan.conservative,
            counted=counted,
        )
        front = measured_front(cards)
        likely = resampled_front(scores.values, list(front.reference_point.values()), plan.confidence)
        probability = dict(zip(policies, likely.probability, strict=True))
        volume = Hypervolume(
            value=front.hypervolume,
            reference_point=front.reference_point,
            ideal_point=dict.fromkeys(front.reference_point, 1.0),
            low=min(likely.low, front.hypervolume),
            high=max(likely.high, front.hypervolume),
        )
    summary = RunSummary(
        run=run,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        engine="+".join(sorted({answer.engine for answer in answers})),
        prompts=len(plan.prompts),
        policies=policies,
        judges=judges,
        fingerprints=plan.fingerprints,
        sampling=plan.sampling,
        confidence=plan.confidence,
        conservative=plan.conservative,
        front_probability=probability,
        front=front.policies if front else [],
        hypervolume=volume,
        answers=len(answers),
        prompts_from=plan.prompts_from,
        seconds=round(time.monotonic() - began, 3),
        cut=dict(Counter(answer.policy for answer in answers if answer.finish_reason == "length")),
        empty=dict(Counter(answer.policy for answer in answers if not answer.response.strip())),
        categories=_category_means(scores, plan.prompts),
        doubtful=_doubtful(judgements),
        stances=stance_rates(judgements, plan.confidence),
        counted=counted,
        withheld=_withheld(family, front.policies) if front else [],
    )
    directory = root / "evaluation" / run
    write_tables(directory, plan.prompts, answers, judgements)
    write_summary(directory, summary)
    write_scorecards(root, [card for card in cards if card.policy not in summary.withheld], summary.withheld)
    if summary.withheld:
        say(f"interpolated and dominated, so withheld from every profile: {', '.join(summary.withheld)}")
    if front:
        _propose(root, family, cards, front.policies)
    return Measurement(summary, cards, reused)


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


def _answers(root: Path, family: PolicyFamily, plan: Plan, run: str) -> tuple[list[Answer], int]:
    """Every answer in the order of policies, prompts and samples, and how many were there already."""
    policies = [policy.id for policy in family.policies]
    planned = list(questions(policies, plan.prompts, plan.sampling))
    kept = kept_answers(root, run, plan.engine.accepts)
    reused = [kept[question.key] for question in planned if question.key in kept]
    missing = [question for question in planned if question.key not in kept]
    answers: dict[AnswerKey, Answer] = {found.answer.key: found.answer for found in reused}
    if reused:
        kinds = "+".join(sorted({found.answer.engine for found in reused}))
        where = ", ".join(sorted({f"evaluation/{found.run}" for found in reused}))
        say(f"reusing {len(reused)} of {len(planned)} answers, which an earlier run got ({kinds}; {where})")
    if missing:
        if not plan.allow_trained:
            _refuse_trained(family, plan.prompts)
        spool = root / "evaluation" / run / SPOOL
        answers |= collect(root, family, missing=missing, sampling=plan.sampling, choice=plan.engine, spool_path=spool)
    return [answers[question.key] for question in planned], len(reused)


def _refuse_trained(family: PolicyFamily, prompts: Sequence[EvaluationPrompt]) -> None:
    trained = trained_prompts(family)
    if trained is None:
        say(f"training data {', '.join(family.data.source)} is not here: not checked that the prompts are held out")
    else:
        check_unseen(prompts, trained)


def judge_answers(answers: Sequence[Answer], plan: Plan, directory: Path) -> list[JudgementRow]:
    """Every judge on every answer, in the order of answers and objectives. Raises JudgeError."""
    prompts = {prompt.id: prompt for prompt in plan.prompts}
    baselines = {(answer.prompt_id, answer.sample): answer.response for answer in answers if answer.policy == REFERENCE}
    cases = []
    for answer in answers:
        prompt = prompts[answer.prompt_id]
        truth = (prompt.references, prompt.incorrect, prompt.harmful)
        where = f"prompt '{prompt.id}' ({answer.policy})"
        baseline = baselines.get((answer.prompt_id, answer.sample))
        cases.append(Case(prompt.prompt, answer.response, where, *truth, baseline))
    try:
        judged = {name: score_cases(judge, cases, directory) for name, judge in plan.judges.items()}
    except JudgeError as error:
        told = str(error).rstrip(".")
        raise JudgeError(f"{told}. All {len(answers)} answers are kept; correct the judge and repeat.") from error
    return [
        JudgementRow(*answer.key, objective, judge.name, *judged[objective][index])
        for index, answer in enumerate(answers)
        for objective, judge in plan.judges.items()
    ]


def _doubtful(judgements: Sequence[JudgementRow]) -> dict[str, dict[str, int]]:
    """How many judgements of each objective are no verdicts, by label."""
    found = Counter((row.objective, row.label) for row in judgements if row.label in (UNREADABLE, FLIPPED))
    counts: dict[str, dict[str, int]] = {}
    for (objective, label), count in found.items():
        counts.setdefault(objective, {})[str(label)] = count
    return counts


def _score_table(judgements: Sequence[JudgementRow], policies: Sequence[str], plan: Plan) -> ScoreTable:
    """The scores as an array; judgements are in the order of policies, prompts, samples, objectives."""
    shape = (len(policies), len(plan.prompts), plan.sampling.samples, len(plan.judges))
    scores = np.array([row.score for row in judgements], dtype=np.float64).reshape(shape)
    return ScoreTable(policies, list(plan.judges), scores.transpose(0, 3, 1, 2))


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
