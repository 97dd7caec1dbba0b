"""Families on disk whose scorecards, judgements and summaries really follow from the scores that a test gives."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mopo_eval.answers import Answer, Sampling
from mopo_eval.estimates import ScoreTable, make_scorecards
from mopo_eval.evaluation import Hypervolume, JudgementRow, RunSummary, write_summary, write_tables
from mopo_eval.front import measured_front
from mopo_eval.prompts import EvaluationPrompt
from mopo_eval.scorecards import write_scorecards
from mopo_train.family import PolicyFamily, write_family
from tests.families import OBJECTIVES, SCORES, family

Scores = npt.NDArray[np.float64]
CATEGORIES = ["plain", "risky", "looks risky"]
WHEN = "2026-01-01T00:00:00+00:00"


def trained_family(root: Path) -> PolicyFamily:
    """The family of ``tests.families`` with empty adapters, not measured."""
    made = family()
    for policy in made.policies:
        if policy.adapter:
            (root / policy.adapter).mkdir(parents=True)
            (root / policy.adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
            (root / policy.adapter / "adapter_model.safetensors").write_bytes(policy.id.encode())
    write_family(root, made)
    return made


def drawn_scores(prompts: int, seed: int = 0, shift: float = 0.0) -> Scores:
    """(5 policies, 3 objectives, prompts, 1): around ``tests.families.SCORES``, the prompts' luck shared."""
    rng = np.random.default_rng(seed)
    means = np.array([[scores[name] for name in OBJECTIVES] for scores in SCORES.values()])
    luck = rng.normal(0, 0.2, (1, len(OBJECTIVES), prompts)) + rng.normal(0, 0.1, (*means.shape, prompts))
    scores: Scores = np.clip(means[:, :, None] + luck + shift, 0, 1).round(3)[..., None]
    return scores


def asked(prompts: int, first: int = 0) -> list[EvaluationPrompt]:
    """``prompts`` of them, numbered from ``first``."""
    numbers = range(first, first + prompts)
    return [EvaluationPrompt(f"p{i}", f"Question {i}?", CATEGORIES[i % len(CATEGORIES)]) for i in numbers]


def write_run(
    root: Path,
    scores: Scores,
    prompts: Sequence[EvaluationPrompt],
    *,
    run: str = "run-1",
    created_at: str = WHEN,
    response: str = "Answer of {policy} to {prompt}.",
) -> None:
    """A finished run of ``scores`` (P, K, N, S); the scorecards are of the run that was written last."""
    judges = {name: f"test.{name}" for name in OBJECTIVES}
    policies, samples = list(SCORES), scores.shape[3]
    answers, judgements = [], []
    for p, policy in enumerate(policies):
        for n, prompt in enumerate(prompts):
            for s in range(samples):
                text = response.format(policy=policy, prompt=prompt.id)
                answers.append(Answer(policy, prompt.id, s, text, "stop", 5, 7, "test"))
                for k, name in enumerate(OBJECTIVES):
                    score = float(scores[p, k, n, s])
                    label = "good" if score >= 0.5 else "poor"
                    judgements.append(
                        JudgementRow(policy, prompt.id, s, name, judges[name], score, label, f"because {score}")
                    )
    table = ScoreTable(policies, OBJECTIVES, scores)
    cards = make_scorecards(table, judges, run=run, confidence=0.95)
    front = measured_front(cards)
    summary = RunSummary(
        run=run,
        created_at=created_at,
        engine="test",
        prompts=len(prompts),
        policies=policies,
        judges=judges,
        sampling=Sampling(samples=samples),
        confidence=0.95,
        front=front.policies,
        hypervolume=Hypervolume(value=front.hypervolume, reference_point=front.reference_point),
        answers=len(answers),
        prompts_from="prompts.jsonl",
    )
    write_tables(root / "evaluation" / run, prompts, answers, judgements)
    write_summary(root / "evaluation" / run, summary)
    write_scorecards(root, cards)
