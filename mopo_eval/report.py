"""What there is to say about a finished run, gathered for the page, the terminal and programs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mopo_eval.breakdown import CategoryScore, by_category, left_out
from mopo_eval.comparison import Comparison, compare_runs, comparison_json
from mopo_eval.examples import Example, worst_answers
from mopo_eval.gate import Verdict, decide, verdict_json
from mopo_eval.profiles import ProfileFile
from mopo_eval.results import RunResults, judged_runs, read_results
from mopo_eval.scorecards import Estimate, Scorecard
from mopo_train.errors import FamilyError
from mopo_train.family import REFERENCE, PolicyFamily

FEW_PROMPTS = 100
PARITY = 0.5
MOST_NAMED = 6
"""Policies that a sentence names; more are counted."""


class Report(NamedTuple):
    """A run, and what follows from it."""

    name: str
    """Of the family's directory."""
    family: PolicyFamily
    results: RunResults
    categories: list[CategoryScore]
    categories_left_out: int
    verdicts: list[Verdict]
    """Of every profile in profiles.yaml."""
    worst: dict[str, list[Example]]
    """Per objective, of the policies on the front."""
    changes: Comparison | None
    """This run minus the last comparable one before it."""
    no_changes: str
    """Why there are no ``changes``; empty where there are."""

    @property
    def cards(self) -> Mapping[str, Scorecard]:
        """Scorecard per policy, in the order of the run."""
        return self.results.cards

    @property
    def objectives(self) -> list[str]:
        """Those that were judged, in the family's order."""
        return [name for name in self.family.objectives if name in self.results.summary.judges]


def make_report(root: Path, family: PolicyFamily, profiles: ProfileFile, run: str | None = None) -> Report:
    """The report on ``run`` of the family in ``root``, by default the scorecards' run. Raises FamilyError."""
    results = read_results(root, family, run)
    known = {policy: results.cards.get(policy) for policy in results.summary.policies}
    organisation = profiles.organisation.floors
    changes, why = _changes(root, family, results)
    return Report(
        name=root.resolve().name,
        family=family,
        results=results,
        categories=by_category(results),
        categories_left_out=left_out(results),
        verdicts=[decide(name, profile, known, organisation) for name, profile in profiles.profiles.items()],
        worst=worst_answers(results, results.summary.front),
        changes=changes,
        no_changes=why,
    )


def pairs_that_matter(report: Report) -> list[tuple[str, str]]:
    """Objectives to draw against each other: the primary with each other one, and all pairs that no policy leads both.

    Where one policy has the greatest mean on both objectives, there is nothing to trade between them.
    """
    names = report.objectives
    first = [report.family.primary] if report.family.primary in names else []
    ordered = [*first, *(name for name in names if name not in first)]
    pairs = [(a, b) for i, a in enumerate(ordered) for b in ordered[i + 1 :]]
    return [pair for pair in pairs if pair[0] in first or not _leaders(report, pair[0]) & _leaders(report, pair[1])]


def summary_sentences(report: Report) -> list[str]:
    """The report in plain words, most important first."""
    summary = report.results.summary
    told = [
        f"{len(summary.policies)} policies answered {summary.prompts} prompts"
        + (f", {summary.sampling.samples} times each" if summary.sampling.samples > 1 else "")
        + f"; judges scored the answers on {_and(report.objectives)} from 0 to 1."
    ]
    dominated = [policy for policy in summary.policies if policy not in summary.front]
    told.append(
        f"No policy beats another on everything: all {len(summary.front)} are on the front."
        if not dominated
        else f"On the front (no policy is at least as good everywhere and better somewhere): {_some(summary.front)}. "
        f"Dominated: {_some(dominated)}."
    )
    told += [_range_sentence(report, objective) for objective in report.objectives]
    told += _against_reference(report)
    if report.verdicts:
        told.append(_profiles_sentence(report.verdicts))
    told.append(_changes_sentence(report))
    return told


def warnings(report: Report) -> list[str]:
    """What makes the numbers weaker than they look."""
    summary = report.results.summary
    told = []
    if unjudged := [name for name in report.family.objectives if name not in summary.judges]:
        told.append(f"No judge measured {_and(unjudged)}: no floor on it can hold.")
    for name, known in summary.reliability.items():
        told.append(f"The judge of {name} is a small model fitted on this machine: {known.sentence}.")
    if summary.prompts < FEW_PROMPTS:
        told.append(f"Only {summary.prompts} prompts: intervals are wide, and small differences cannot be seen.")
    each = summary.prompts * summary.sampling.samples
    for counts, what in (
        (summary.cut, f"were cut at {summary.sampling.max_tokens} tokens"),
        (summary.empty, "were empty"),
    ):
        if counts:
            words = ", ".join(f"{policy} {count}" for policy, count in counts.items())
            told.append(f"Of {each} answers per policy, so many {what}: {words}.")
    absent = [policy.id for policy in report.family.policies if policy.id not in summary.policies]
    if absent:
        told.append(f"Not measured in this run: {_and(absent)}.")
    return told


def report_json(report: Report) -> dict[str, Any]:
    """The report as a program reads it."""
    summary = report.results.summary
    return {
        "family": report.name,
        "run": summary.run,
        "created_at": summary.created_at,
        "prompts": summary.prompts,
        "confidence": summary.confidence,
        "reliability": {name: known.model_dump() for name, known in summary.reliability.items()},
        "figures": [figure.model_dump() for figure in summary.figures],
        "stances": [stance.model_dump() for stance in summary.stances],
        "units": {"mean": "judge score", "win_rate": "against the reference on the same prompts"},
        "summary": summary_sentences(report),
        "warnings": warnings(report),
        "front": summary.front,
        "front_probability": summary.front_probability,
        "hypervolume": summary.hypervolume.model_dump() if summary.hypervolume else None,
        "policies": {policy: card.model_dump(mode="json")["objectives"] for policy, card in report.cards.items()},
        "profiles": [verdict_json(verdict) for verdict in report.verdicts],
        "categories": [score._asdict() for score in report.categories],
        "worst": {
            objective: [
                {"policy": each.policy, "prompt_id": each.prompt.id, "prompt": each.prompt.text}
                | {"sample": each.sample, "response": each.response, "score": each.score}
                | {"label": each.label, "evidence": each.evidence}
                for each in examples
            ]
            for objective, examples in report.worst.items()
        },
        "changes": comparison_json(report.changes) if report.changes else None,
        "no_changes": report.no_changes,
    }


def _changes(root: Path, family: PolicyFamily, results: RunResults) -> tuple[Comparison | None, str]:
    """This run against the newest earlier one whose scores can be compared, or why there is none."""
    now = results.summary
    earlier = [run for run in judged_runs(root) if run.run != now.run and run.created_at <= now.created_at]
    if not earlier:
        return None, "There is no earlier run to compare with."
    why = ""
    for before in earlier:
        try:
            found = read_results(root, family, before.run)
            compared = compare_runs(found, results, (before.run, now.run), now.confidence)
        except FamilyError as error:
            why = why or f"The last run, {before.run}, cannot be compared: {error}"
            continue
        if compared.paired:
            return compared, ""
        why = why or f"The last run, {before.run}, asked other prompts ({compared.used}); see 'mopo-eval compare'."
    return None, why


def _leaders(report: Report, objective: str) -> set[str]:
    means = {policy: card.objectives[objective].mean for policy, card in report.cards.items()}
    best = max(means.values())
    return {policy for policy, mean in means.items() if mean == best}


def _range_sentence(report: Report, objective: str) -> str:
    ranked = sorted(report.cards.values(), key=lambda card: card.objectives[objective].mean)
    low, high = ranked[0], ranked[-1]
    if low.objectives[objective].mean == high.objectives[objective].mean:
        return f"All policies have the same mean {objective}, {_estimate(high.objectives[objective])}."
    return (
        f"{objective.capitalize()} runs from {_estimate(low.objectives[objective])} ({low.policy}) to "
        f"{_estimate(high.objectives[objective])} ({high.policy})."
    )


def _against_reference(report: Report) -> list[str]:
    """Who beats the reference, certified for all at once, and who loses to it, each by its own interval."""
    others = {policy: card for policy, card in report.cards.items() if policy != REFERENCE}
    if REFERENCE not in report.cards or not others:
        return []
    wins, losses = [], []
    for objective in report.objectives:
        rates = {policy: card.objectives[objective].win_rate for policy, card in others.items()}
        above = [policy for policy, rate in rates.items() if rate.certified_low > PARITY]
        below = [policy for policy, rate in rates.items() if rate.high < PARITY]
        wins += [f"on {objective} {_some(above)}"] if above else []
        losses += [f"on {objective} {_some(below)}"] if below else []
    told = [
        f"Certified to beat the reference (win rate above 0.5, all at once): {'; '.join(wins)}."
        if wins
        else "No policy is certified to beat the reference on any objective."
    ]
    if losses:
        told.append(
            f"Losing to the reference (interval of the win rate below 0.5, each for itself): {'; '.join(losses)}."
        )
    return told


def _profiles_sentence(verdicts: Sequence[Verdict]) -> str:
    held = [f"{verdict.name} ({verdict.policy})" for verdict in verdicts if verdict.outcome == "held"]
    missed = [verdict.name for verdict in verdicts if verdict.outcome != "held"]
    parts = [f"held: {', '.join(held)}"] if held else []
    parts += [f"not held: {', '.join(missed)}"] if missed else []
    return f"Of {len(verdicts)} profiles, {'; '.join(parts)}."


def _changes_sentence(report: Report) -> str:
    if report.changes is None:
        return report.no_changes
    clear = [each for each in report.changes.differences if each.distinguishable]
    since = f"Since run {report.changes.names[0]}"
    if not clear:
        return f"{since}, nothing changed that {report.changes.shared} shared prompts can show."
    words = ", ".join(f"{each.policy} {each.objective} {each.difference.mean:+.3f}" for each in clear[:MOST_NAMED])
    more = f" and {len(clear) - MOST_NAMED} more" if len(clear) > MOST_NAMED else ""
    return f"{since}, {len(clear)} of {len(report.changes.differences)} scores changed: {words}{more}."


def _estimate(score: Estimate) -> str:
    return f"{score.mean:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "none"


def _some(names: Sequence[str]) -> str:
    return _and(names) if len(names) <= MOST_NAMED else f"{len(names)} policies"
