"""Families on disk with made-up but consistent contents, for tests that need no model."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from mopo_eval.profiles import Organisation, ProfileFile, ThresholdProfile, write_profiles
from mopo_eval.scorecards import Estimate, ObjectiveScore, Scorecard, write_scorecards
from mopo_train.family import REFERENCE, DataSummary, Policy, PolicyFamily, write_family

OBJECTIVES = ["helpfulness", "safety", "factuality"]

SCORES: dict[str, dict[str, float]] = {
    REFERENCE: {"helpfulness": 0.50, "safety": 0.80, "factuality": 0.80},
    "policy-00": {"helpfulness": 0.85, "safety": 0.60, "factuality": 0.70},
    "policy-01": {"helpfulness": 0.70, "safety": 0.80, "factuality": 0.75},
    "policy-02": {"helpfulness": 0.55, "safety": 0.95, "factuality": 0.85},
    "policy-03": {"helpfulness": 0.50, "safety": 0.90, "factuality": 0.80},  # dominated by policy-02
}
"""Mean judge score per policy and objective; ``certified_low`` is 0.05 below it."""

PROFILES = ProfileFile(
    profiles={
        "helpful": ThresholdProfile(primary="helpfulness"),  # policy-00
        "balanced": ThresholdProfile(primary="helpfulness", floors={"safety": 0.70}),  # policy-01
        "careful": ThresholdProfile(primary="helpfulness", floors={"safety": 0.85}),  # policy-02
        "impossible": ThresholdProfile(primary="helpfulness", floors={"safety": 0.99}),
        "closest": ThresholdProfile(primary="helpfulness", floors={"safety": 0.99}, on_infeasible="closest"),
    },
    organisation=Organisation(floors={"safety": 0.50}),
)


def estimate(mean: float, reach: float = 0.05, n: int = 200) -> Estimate:
    low, high = max(0.0, mean - reach), min(1.0, mean + reach)
    return Estimate(mean=mean, low=low, high=high, certified_low=low, n=n)


def scorecard(policy: str, scores: dict[str, float], run: str = "test") -> Scorecard:
    return Scorecard(
        policy=policy,
        run=run,
        confidence=0.95,
        objectives={
            name: ObjectiveScore(
                **estimate(score).model_dump(),
                judge=f"test.{name}",
                win_rate=estimate(0.5 + (score - SCORES[REFERENCE][name]) / 2),
            )
            for name, score in scores.items()
        },
    )


def family(policies: dict[str, dict[str, float]] | None = None) -> PolicyFamily:
    scores = SCORES if policies is None else policies
    members = []
    for index, (name, score) in enumerate(scores.items()):
        reference = name == REFERENCE
        members.append(
            Policy(
                id=name,
                kind=REFERENCE if reference else "mopo",
                adapter=None if reference else f"policies/{name}",
                floors={} if reference else {"safety": 0.5 + 0.05 * index},
                multipliers={} if reference else {"safety": 0.4 * index},
                predicted={objective: 0.5 if reference else score[objective] for objective in OBJECTIVES},
                predicted_low={objective: 0.5 if reference else score[objective] - 0.01 for objective in OBJECTIVES},
                bound={objective: 0.5 if reference else score[objective] - 0.02 for objective in OBJECTIVES},
                ess=1.0 if reference else 0.7,
            )
        )
    return PolicyFamily(
        created_at="2026-01-01T00:00:00+00:00",
        package_version="0.1.0",
        base_model="base",
        objectives=OBJECTIVES,
        primary="helpfulness",
        data=DataSummary(
            source=["pairs.jsonl"], sha256="0" * 64, pairs=600, prompts=100, labelled=dict.fromkeys(OBJECTIVES, 600)
        ),
        config={"seed": 0, "tau": 0.15},
        policies=members,
    )


def write_measured_family(root: Path, prompts: int = 12) -> PolicyFamily:
    """A family with adapters (empty), scorecards, one evaluation and profiles in ``root``."""
    members = family()
    for policy in members.policies:
        if policy.adapter:
            adapter = root / policy.adapter
            adapter.mkdir(parents=True)
            (adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    write_scorecards(root, [scorecard(name, scores) for name, scores in SCORES.items()])
    write_evaluation(root, prompts)
    write_profiles(root / "profiles.yaml", PROFILES, "for tests")
    write_family(root, members)
    return members


def write_evaluation(root: Path, prompts: int, run: str = "test") -> None:
    """``evaluation/<run>``: answers that name their policy and prompt, judged with the policy's mean score."""
    answers: list[dict[str, Any]] = []
    judgements: list[dict[str, Any]] = []
    for policy, scores in SCORES.items():
        for index in range(prompts):
            key = {"policy": policy, "prompt_id": f"p{index:04d}", "sample": 0}
            answers.append(
                key
                | {
                    "prompt": f"Question {index}?",
                    "category": "plain" if index % 2 else "risky",
                    "response": f"Answer {index} of {policy}.",
                    "finish_reason": "stop",
                    "prompt_tokens": 5,
                    "completion_tokens": 7,
                }
            )
            judgements += [
                key
                | {
                    "objective": name,
                    "judge": f"test.{name}",
                    "score": score,
                    "label": "good" if score > 0.6 else "poor",
                    "evidence": f"{name} of {policy}",
                }
                for name, score in scores.items()
            ]
    directory = root / "evaluation" / run
    directory.mkdir(parents=True)
    pd.DataFrame(answers).to_parquet(directory / "responses.parquet", index=False)
    pd.DataFrame(judgements).to_parquet(directory / "judgements.parquet", index=False)
    summary = {
        "run": run,
        "created_at": "2026-01-01T00:00:00+00:00",
        "engine": "test",
        "prompts": prompts,
        "policies": list(SCORES),
        "judges": {name: f"test.{name}" for name in OBJECTIVES},
        "sampling": {"temperature": 1.0, "max_tokens": 64, "seed": 0, "samples": 1},
        "confidence": 0.95,
        "front": ["policy-00", "policy-01", "policy-02"],
        "hypervolume": {"value": 0.1, "reference_point": {name: 0.0 for name in OBJECTIVES}},
    }
    (directory / "run.json").write_text(json.dumps(summary), encoding="utf-8")
