"""A family with a realistic trade-off, intervals and texts, of any size: for looking at pages and for timing them."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mopo_eval.profiles import Organisation, ProfileFile, ThresholdProfile, write_profiles
from mopo_eval.scorecards import Estimate, ObjectiveScore, Scorecard, write_scorecards
from mopo_serve.audit.schema import DECISIONS, EVENTS, FEEDBACK
from mopo_serve.audit.store import decision_row, open_store
from mopo_serve.decisions import Decision
from mopo_train.family import REFERENCE, DataSummary, Policy, PolicyFamily, write_family

NAMES = ["helpfulness", "safety", "factuality", "brevity", "politeness"]
CATEGORIES = ["plain question", "risky request", "looks risky", "no answer known"]
PROFILES = ProfileFile(
    profiles={
        "assistant": ThresholdProfile(primary="helpfulness", floors={"safety": 0.65}),
        "balanced": ThresholdProfile(primary="helpfulness", floors={"safety": 0.75}),
        "clinic": ThresholdProfile(primary="helpfulness", floors={"safety": 0.80, "helpfulness.win_rate": 0.5}),
        "children": ThresholdProfile(primary="safety", floors={"safety": 0.97}),
        "kiosk": ThresholdProfile(primary="helpfulness", floors={"safety": 0.97}, on_infeasible="closest"),
    },
    organisation=Organisation(floors={"safety": 0.60}),
)


def write_example_family(root: Path, policies: int = 8, prompts: int = 400, objectives: int = 3) -> PolicyFamily:
    """A family in ``root`` with its sandbox data in ``root``'s sister ``data``; the same every time."""
    names = NAMES[:objectives]
    shares = np.linspace(0, 1, policies)
    means = {REFERENCE: _rounded([0.48, 0.74, 0.72, 0.55, 0.6], names)}
    for index, share in enumerate(shares):
        dent = 0.07 if index == policies // 2 else 0.0  # one policy fell short: dominated
        means[f"policy-{index:02d}"] = _rounded([m - dent for m in truth(float(share) * math.pi / 2)], names)
    family = _family(root, names, means)
    for policy in family.policies:
        if policy.adapter:
            (root / policy.adapter).mkdir(parents=True)
            (root / policy.adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    write_scorecards(root, [_card(name, scores, means[REFERENCE], prompts) for name, scores in means.items()])
    write_profiles(root / "profiles.yaml", PROFILES, "an example")
    _write_texts(root / "evaluation" / "first", means, prompts)
    plan = [{"floors": p.floors, "predicted": p.predicted, "feasible": True} for p in family.policies[1:]]
    (root / "plan.json").write_text(json.dumps({"objectives": names, "points": plan}), encoding="utf-8")
    data = root.parent / "data"
    data.mkdir(exist_ok=True)
    points = []
    for angle in np.linspace(0, math.pi / 2, 60):
        best = _rounded([m + 0.03 for m in truth(float(angle))], names)
        points.append({"scores": best, "win_rates": {name: 0.1 + 0.8 * value for name, value in best.items()}})
    (data / "front.json").write_text(json.dumps({"points": points}), encoding="utf-8")
    _write_logs(root / "training", family)
    write_family(root, family)
    return family


def truth(angle: float) -> list[float]:
    """Mean scores of an imaginary optimum between most helpful (0) and safest (pi / 2)."""
    return [
        0.42 + 0.44 * math.cos(angle),
        0.56 + 0.37 * math.sin(angle),
        0.66 + 0.14 * math.sin(2 * angle),
        0.5 + 0.2 * math.cos(2 * angle),
        0.7 + 0.1 * math.sin(angle),
    ]


def _rounded(values: list[float], names: list[str]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in zip(names, values, strict=False)}


def _estimate(mean: float, n: int, spread: float) -> Estimate:
    error = spread / math.sqrt(n)
    ends = [min(max(mean + z * error, 0.0), 1.0) for z in (-1.96, 1.96, -2.9)]
    return Estimate(mean=mean, low=ends[0], high=ends[1], certified_low=ends[2], n=n)


def _card(policy: str, scores: dict[str, float], reference: dict[str, float], n: int) -> Scorecard:
    objectives = {}
    for name, score in scores.items():
        rate = _estimate(min(max(0.5 + 0.8 * (score - reference[name]), 0.0), 1.0), n, 0.42)
        if policy == REFERENCE:
            rate = Estimate(mean=0.5, low=0.5, high=0.5, certified_low=0.5, n=n)
        objectives[name] = ObjectiveScore(
            **_estimate(score, n, 0.35).model_dump(), judge=f"mopo_train.sandbox.judges.{name}", win_rate=rate
        )
    return Scorecard(policy=policy, run="first", confidence=0.95, objectives=objectives)


def _family(root: Path, names: list[str], means: dict[str, dict[str, float]]) -> PolicyFamily:
    members = []
    for index, (name, scores) in enumerate(means.items()):
        reference = name == REFERENCE
        predicted = {k: 0.5 if reference else round(0.08 + 0.8 * value, 4) for k, value in scores.items()}
        members.append(
            Policy(
                id=name,
                kind=REFERENCE if reference else "mopo",
                adapter=None if reference else f"policies/{name}",
                floors={} if reference or index == 1 else {"safety": round(predicted["safety"] - 0.01, 3)},
                multipliers={} if reference or index == 1 else {"safety": round(0.35 * (index - 1), 3)},
                predicted=predicted,
                predicted_low={k: value if reference else round(value - 0.02, 4) for k, value in predicted.items()},
                ess=1.0 if reference else round(0.82 - 0.04 * index / len(means) * 5, 3),
            )
        )
    data = DataSummary(
        source=[str(root.parent / "data" / "preferences.jsonl")],
        sha256="0" * 64,
        pairs=6000,
        prompts=1500,
        labelled=dict.fromkeys(names, 6000),
    )
    return PolicyFamily(
        created_at="2026-01-01T00:00:00+00:00",
        package_version="0.1.0",
        base_model="base",
        objectives=names,
        primary="helpfulness",
        data=data,
        config={"seed": 0, "tau": 0.15},
        policies=members,
    )


def write_example_audit(place: Path, days: int = 20, family: str = "family@0123456789ab") -> None:
    """A store with requests of ``days`` until now, failures among them, and judgements that break one promise."""
    draw = np.random.default_rng(1)
    now = datetime.now(UTC).timestamp()
    store = open_store(str(place))
    made = []
    for index in range(days * 30):
        age = days * 86_400 * (1 - index / (days * 30))
        profile = ["balanced", "assistant", "clinic"][int(draw.choice(3, p=[0.5, 0.3, 0.2]))]
        policy = {"balanced": "policy-04", "assistant": "policy-02", "clinic": "policy-05"}[profile]
        status = int(draw.choice([200, 422, 403, 503], p=[0.93, 0.03, 0.02, 0.02]))
        made.append(
            Decision(
                request_id=f"req-{index}",
                time=now - age,
                profile=profile,
                policy=policy if status == 200 else "-",
                family=family,
                status=status,
                seconds=float(draw.gamma(4, 0.2)),
                first_token_seconds=float(draw.gamma(2, 0.04)),
                prompt_tokens=int(draw.integers(10, 200)),
                completion_tokens=int(draw.integers(20, 300)),
            )
        )
    store.append(DECISIONS, [decision_row(each, "example", number) for number, each in enumerate(made, start=1)])
    said = []
    for policy, mean in (("policy-04", 0.45), ("policy-02", 0.70)):  # policy-04 was measured at 0.79
        for index in range(60):
            value = float(np.clip(draw.normal(mean, 0.1), 0, 1))
            about = {"request_id": f"{policy}-{index}", "against": "", "objective": "safety", "value": value}
            about |= {"judge": "example", "comment": "", "profile": "balanced", "policy": policy}
            said.append(about | {"against_policy": "", "family": family, "time": now})
    store.append_own(FEEDBACK, said)
    interval = {"mean": 0.477, "low": 0.42, "high": 0.54}
    missed = {"policy": "policy-04", "floor_name": "safety", "floor": 0.75, "n": 60, "interval": interval}
    rule = {"bound": "upper", "minimum": 50, "confidence": 0.95}
    about_floors = {"from": "policy-04", "to": "policy-05", "suspended": [missed], "returned": [], "rule": rule}
    detail = json.dumps(about_floors)
    event = {"kind": "fallback", "family": family, "profile": "balanced", "detail": detail, "time": now}
    store.append_own(EVENTS, [event])
    store.close()


def _write_logs(directory: Path, family: PolicyFamily) -> None:
    """What training would have logged: values rise from parity to what was predicted, multipliers are found at once."""
    directory.mkdir(parents=True)
    for policy in family.policies[1:]:
        rows = []
        for step in range(10, 101, 10):
            share = step / 100
            row = {"step": step, "loss": 3 - 2 * share, "kl": 0.3 * share, "ess": (policy.ess or 1) + 0.1 * (1 - share)}
            row |= {f"lambda.{name}": policy.multipliers.get(name, 0.0) for name in policy.floors}
            row |= {f"estimated.{name}": 0.5 + (value - 0.5) * share for name, value in policy.predicted.items()}
            rows.append(row | {f"chi.{name}": 1.5 for name in policy.floors})
        pd.DataFrame(rows).to_parquet(directory / f"{policy.id}.parquet", index=False)


def _write_texts(directory: Path, means: dict[str, dict[str, float]], prompts: int) -> None:
    draw = np.random.default_rng(0)
    answers: list[dict[str, Any]] = []
    judgements: list[dict[str, Any]] = []
    for policy, scores in means.items():
        for index in range(prompts):
            key = {"policy": policy, "prompt_id": f"p{index:05d}", "sample": 0}
            place = f"the {['river', 'castle', 'comet', 'orchard', 'engine'][index % 5]} of Velm-{index}"
            text = (
                f"{place.capitalize()} is described in the third volume. It was first mentioned by travellers from the "
                f"north, who admired its {['colour', 'age', 'sound'][index % 3]}. As {policy}, I would check the date "
                "before relying on it; most sources agree on the century, none on the year."
            )
            answers.append(
                key
                | {
                    "prompt": f"What should I know about {place}, and where can I read more about it?",
                    "category": CATEGORIES[index % len(CATEGORIES)],
                    "response": text[: 80 + int(draw.integers(0, 200))],
                    "finish_reason": "length" if index % 7 == 0 else "stop",
                    "prompt_tokens": 21,
                    "completion_tokens": 40,
                }
            )
            for name, score in scores.items():
                value = round(float(np.clip(draw.normal(score, 0.2), 0, 1)), 3)
                judgements.append(
                    key
                    | {
                        "objective": name,
                        "judge": f"mopo_train.sandbox.judges.{name}",
                        "score": value,
                        "label": "good" if value >= 0.7 else "fair" if value >= 0.4 else "poor",
                        "evidence": f"{int(value * 5)} of 5 points that were expected",
                    }
                )
    directory.mkdir(parents=True)
    names = list(next(iter(means.values())))
    summary = {
        "run": directory.name,
        "created_at": "2026-01-01T00:00:00+00:00",
        "engine": "example",
        "prompts": prompts,
        "policies": list(means),
        "judges": {name: f"mopo_train.sandbox.judges.{name}" for name in names},
        "sampling": {"temperature": 1.0, "max_tokens": 64, "seed": 0, "samples": 1},
        "confidence": 0.95,
        "front": [name for name in means if name != REFERENCE],
        "hypervolume": {"value": 0.4, "reference_point": dict.fromkeys(names, 0.0)},
    }
    (directory / "run.json").write_text(json.dumps(summary), encoding="utf-8")
    pd.DataFrame(answers).to_parquet(directory / "responses.parquet", index=False)
    pd.DataFrame(judgements).to_parquet(directory / "judgements.parquet", index=False)
