"""Model cards: what somebody who is handed one policy has to know, as Markdown with the front matter of the hub.

Everything in a card comes from the family's files; what they do not say is called unknown or not measured.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mopo_eval.breakdown import POOR
from mopo_eval.calibration import Calibration, read_calibration
from mopo_eval.markdown import bullets, plain, table
from mopo_eval.plain_text import one_line
from mopo_eval.reliability import column
from mopo_eval.scorecards import Estimate
from mopo_eval.subject import Subject
from mopo_train.errors import FamilyError
from mopo_train.family import REFERENCE, write_whole

MARK = "<!-- made by mopo-eval card -->"
FEW_PROMPTS = 30
"""A category with fewer is called small."""


def write_cards(directory: Path, found: Sequence[Subject]) -> list[Path]:
    """Write ``<directory>/<policy>/README.md`` for each. Raises FamilyError, and writes nothing, over others' files."""
    paths = [directory / subject.policy.id / "README.md" for subject in found]
    for path in paths:
        if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
            raise FamilyError(
                f"'{path}' was not made by this command and may be somebody's work; "
                "move it away, or name another directory with --out."
            )
    for path, subject in zip(paths, found, strict=True):
        write_whole(path, model_card(subject))
    return paths


def model_card(subject: Subject) -> str:
    """The card: YAML front matter and Markdown."""
    front = yaml.safe_dump(front_matter(subject), sort_keys=False, allow_unicode=True, width=10**6)
    sections = {
        "Purpose": _purpose(subject),
        "Measured": _measured(subject),
        "What it was trained for": _trained(subject),
        "Failures by category": _failures(subject),
        "Profiles": _profiles(subject),
        "Judges": _judges(subject),
        "Data and model": _origin(subject),
        "Limits": bullets(_limits(subject)),
    }
    body = "\n\n".join(f"## {title}\n\n{content}" for title, content in sections.items())
    return f"---\n{front}---\n\n{MARK}\n\n# {subject.policy.id}\n\n{body}\n"


def front_matter(subject: Subject) -> dict[str, Any]:
    """The hub's metadata (huggingface.co/docs/hub/model-cards). Strings are single lines, so none can end the block."""
    family, policy, summary = subject.family, subject.policy, subject.results.summary
    adapted = policy.adapter is not None
    found: dict[str, Any] = {"base_model": one_line(_without_directory(family.base_model), 4096)} if adapted else {}
    found["library_name"] = "peft" if adapted else "transformers"
    if subject.license:
        found["license"] = subject.license
    found |= {"pipeline_tag": "text-generation", "tags": ["mopo-suite", one_line(policy.kind)]}
    dataset = Path(summary.prompts_from).name or "held-out prompts"
    metrics = []
    for name, score in subject.card.objectives.items():
        metrics.append(_metric(f"{name}_judge_score", f"{name}: judge score", score, subject, judge=score.judge))
        if policy.id != REFERENCE:
            title = f"{name}: win rate against the reference"
            metrics.append(_metric(f"{name}_win_rate", title, score.win_rate, subject, judge=score.judge))
    result = {
        "task": {"type": "text-generation"},
        "dataset": {"type": "evaluation-prompts", "name": one_line(dataset), "revision": summary.run},
        "metrics": metrics,
    }
    return found | {"model-index": [{"name": policy.id, "results": [result]}]}


def _metric(kind: str, title: str, score: Estimate, subject: Subject, *, judge: str) -> dict[str, Any]:
    """One entry of the model index, in the unit that its title names."""
    ends = {"low": score.low, "high": score.high, "certified_low": score.certified_low}
    args = ends | {"confidence": subject.card.confidence, "prompts": score.n, "judge": one_line(judge)}
    return {"type": kind, "name": title, "value": score.mean, "args": args}


def _purpose(subject: Subject) -> str:
    family, policy = subject.family, subject.policy
    if policy.adapter is None:
        what = "The base model of the family without an adapter: what all its other policies are measured against."
    else:
        floors = ", ".join(f"{name} ≥ {floor:.3f}" for name, floor in policy.floors.items())
        held = f" while holding floors in data win rate ({floors})" if floors else ", without floors"
        what = (
            f"An adapter of {_source(family.base_model)}, of kind {plain(policy.kind)}, made from pairwise preferences "
            f"to raise {family.primary}{held}."
        )
    summary = subject.results.summary
    chance = summary.front_probability.get(policy.id)
    likely = f" (on {chance:.0%} of resamples of the prompts it is)" if chance is not None else ""
    on_front = policy.id in summary.front
    place = (
        f"It is {'' if on_front else 'not '}on the measured front{likely}: {'no other' if on_front else 'another'} is "
        "at least as good on every objective and better on one."
    )
    return (
        f"{what}\n\nIt is one of {len(family.policies)} policies of a family, each with another balance of "
        f"{', '.join(family.objectives)}. {place}"
    )


def _measured(subject: Subject) -> str:
    summary, card = subject.results.summary, subject.card
    sampling = summary.sampling
    rows = []
    for name, score in card.objectives.items():
        rate = "0.5 by definition" if subject.policy.id == REFERENCE else _with_interval(score.win_rate)
        bound = "" if subject.policy.id == REFERENCE else f"{score.win_rate.certified_low:.3f}"
        known = {name: score.reliability} if score.reliability else {}
        rows.append(
            [column(name, known), _with_interval(score), f"{score.certified_low:.3f}", rate, bound, str(score.n)]
        )
    columns = ["objective", "judge score", "certified low", "win rate", "certified low", "prompts"]
    return (
        f"Run {summary.run} of {plain(summary.created_at)}: {summary.prompts} prompts of "
        f"{_source(summary.prompts_from)}, answers to each: {sampling.samples}, temperature {sampling.temperature:g}, "
        f"at most {sampling.max_tokens} tokens, seed {sampling.seed}, engine {plain(summary.engine)}.\n\n"
        f"{table(columns, rows)}\n\n"
        f"Mean and two-sided {card.confidence:.0%} interval, each for itself, clustered by prompt. A judge score is in "
        "[0, 1]; the win rate is the share of prompts on which the judge scored the policy above the reference, ties "
        f"counted half. The certified lower bounds hold with {card.confidence:.0%} confidence for all policies and "
        "objectives of the family at once."
    )


def _trained(subject: Subject) -> str:
    policy = subject.policy
    names = [name for name in subject.family.objectives if name in {*policy.predicted, *policy.floors}]
    if policy.adapter is None or not names:
        return "Nothing is recorded: it was not trained towards floors."
    rows = []
    for name in names:
        floor, robust = policy.floors.get(name), policy.predicted_low.get(name)
        slack = None if floor is None or robust is None else robust - floor
        cells = [
            floor,
            policy.multipliers.get(name),
            policy.predicted.get(name),
            robust,
            policy.bound.get(name),
        ]
        rows.append([name, *map(_number, cells), "–" if slack is None else f"{slack:+.4f}"])
    columns = ["objective", "floor", "multiplier", "predicted", "predicted, robust", "lower bound", "slack"]
    size = "" if policy.ess is None else f" Effective sample size of the solution: {policy.ess:.3f} (1 is uniform)."
    return (
        f"{table(columns, rows)}\n\n"
        "In data win rate: how often an answer is preferred to the answers in the data; 0.5 is parity. That is another "
        "unit than the judge scores above. Slack is the robust prediction minus the floor; a floor that binds has a "
        "multiplier above 0. The lower bound is net of the noise of the labels, from which the predictions themselves "
        f"come.{size}"
    )


def _failures(subject: Subject) -> str:
    """Answers that a judge scored below one half, counted; the whole run first."""
    scores_of = subject.results.table.scores[subject.place]  # (K, N, S)
    samples = scores_of.shape[2]
    rows = []
    for scores, name in zip(scores_of, subject.results.table.objectives, strict=True):  # (N, S)
        whole = subject.card.objectives[name]
        poor = int(np.count_nonzero(scores < POOR))
        rows.append(["all prompts", name, _with_interval(whole), f"{poor} of {scores.size}"])
    for each in subject.categories:
        answers = each.n * samples
        interval = f"{each.mean:.3f} [{each.low:.3f}, {each.high:.3f}]"
        rows.append([plain(each.category), each.objective, interval, f"{round(each.poor * answers)} of {answers}"])
    none = "" if subject.categories else "\n\nThe prompts name no categories."
    columns = ["category", "objective", "judge score", f"answers below {POOR:g}"]
    return f"{table(columns, rows)}{none}\n\nIntervals as above, for each category alone."


def _profiles(subject: Subject) -> str:
    mine = [verdict for verdict in subject.verdicts if verdict.selection.policy == subject.policy.id]
    if not mine:
        return "No threshold profile of the family selects this policy."
    told = []
    for verdict in mine:
        floors = ", ".join(f"{check.objective} ≥ {check.floor:g} ({check.unit})" for check in verdict.checks)
        how = "held" if verdict.outcome == "held" else "not held; this policy is its fallback"
        told.append(f"{verdict.name}: greatest {verdict.primary}; floors: {floors or 'none'}; {how}.")
    return f"Threshold profiles that select it, by its certified lower bounds:\n\n{bullets(told)}"


def _judges(subject: Subject) -> str:
    scores, wins = subject.results.table.scores, subject.results.table.wins[subject.place]  # (P, K, N, S), (K, N)
    known = read_calibration(subject.results.directory)
    rows = []
    for k, name in enumerate(subject.results.table.objectives):
        judge, different = subject.results.summary.judges[name], len(np.unique(scores[:, k]))
        ties = float((wins[k] == 0.5).mean())
        shown = "–" if subject.policy.id == REFERENCE else f"{ties:.0%}"
        rows.append([name, plain(judge), str(different), shown, *_trust(known.objectives.get(name) if known else None)])
    columns = ["objective", "judge", "different scores given", "prompts without a winner against the reference"]
    return table([*columns, "agreement with people", "calibration error"], rows)


def _trust(calibration: Calibration | None) -> list[str]:
    """What people's labels say of a judge: share of equal sides with Cohen's kappa, and the calibration error."""
    if calibration is None:
        return ["not measured", "not measured"]
    agreed, error = calibration.agreement, calibration.agreement.calibration_error
    told = f"{error.value:.2f} [{error.low:.2f}, {error.high:.2f}]"
    if agreed.accuracy is None:
        return ["people took no side", told]
    kappa = "" if agreed.kappa is None else f", kappa {agreed.kappa.value:.2f}"
    share = f"{agreed.accuracy.value:.0%} [{agreed.accuracy.low:.0%}, {agreed.accuracy.high:.0%}]"
    return [f"{share}{kappa} (n = {agreed.n})", told]


def _origin(subject: Subject) -> str:
    family, training = subject.family, subject.training
    data = family.data
    labelled = ", ".join(f"{name} {count:,}" for name, count in data.labelled.items())
    told = [
        f"Family: made {plain(family.created_at)} with mopo-suite {plain(family.package_version)}.",
        f"Data: {', '.join(map(_source, data.source))}; {data.pairs:,} pairs on {data.prompts:,} prompts.",
        f"Labelled pairs: {labelled}.",
        f"SHA-256 of the data's rows: {plain(data.sha256)}.",
        f"Base model: {_source(family.base_model)}.",
    ]
    if training is not None:
        told.append(f"Trained from {_source(training.model)}, fingerprint {plain(training.model_fingerprint)}.")
    elif not any(path.startswith(f"{family.base_model}/") for path in subject.hashes):
        told.append("Hash of the base model: not known.")
    told += [f"SHA-256 of {plain(path)}: `{digest}`." for path, digest in subject.hashes.items()]
    told.append(f"License: {subject.license or 'not known'}.")
    settings = ", ".join(f"{plain(name)} {plain(json.dumps(value))}" for name, value in family.config.items())
    return bullets([*told, f"Settings of the training: {settings or 'not recorded'}."])


def _limits(subject: Subject) -> list[str]:
    summary, policy = subject.results.summary, subject.policy.id
    told = [
        "The scores are about prompts like those that were asked, answered with the settings above, and about these "
        "judges. Nothing else was measured: neither other languages and uses nor attacks.",
    ]
    known = read_calibration(subject.results.directory)
    if unrated := [name for name in summary.judges if known is None or name not in known.objectives]:
        told.append(f"How well the judges of {', '.join(unrated)} agree with people was not measured.")
    if unjudged := [name for name in subject.family.objectives if name not in summary.judges]:
        told.append(f"Not measured: {', '.join(unjudged)}. No floor on it can hold.")
    small = dict.fromkeys(each.category for each in subject.categories if each.n < FEW_PROMPTS)
    if small:
        told.append(f"Fewer than {FEW_PROMPTS} prompts in: {', '.join(plain(name) for name in small)}.")
    answers = summary.prompts * summary.sampling.samples
    if cut := summary.cut.get(policy):
        told.append(f"{cut} of {answers} answers were cut at {summary.sampling.max_tokens} tokens and scored as cut.")
    if empty := summary.empty.get(policy):
        told.append(f"{empty} of {answers} answers were empty.")
    if policy != REFERENCE:
        told.append("Floors that it was trained for are in data win rate and say nothing about judge scores.")
    return told


def _with_interval(score: Estimate) -> str:
    return f"{score.mean:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _source(source: str) -> str:
    """A file, model or data set, as Markdown."""
    return plain(_without_directory(source))


def _without_directory(source: str) -> str:
    """A file's name for its full path on the machine that made it, also after ``objective=``; else as it is."""
    return re.sub(r"^([a-z0-9_-]+=)?(?:[\\/~]|[A-Za-z]:[\\/]).*[\\/]", r"\1", source.rstrip("/\\"))
