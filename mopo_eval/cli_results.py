"""The commands of ``mopo-eval`` that read finished runs: report, gate, compare and card."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mopo_eval import reliability
from mopo_eval.profiles import ProfileFile, asked_profiles, read_profiles
from mopo_eval.reliability import column
from mopo_train.console import floor_option, print_json, print_table, say
from mopo_train.errors import FamilyError, MopoError
from mopo_train.family import PolicyFamily, read_family, write_whole

if TYPE_CHECKING:
    from mopo_eval.comparison import Comparison
    from mopo_eval.gate import Verdict
    from mopo_eval.reliability import Reliability
    from mopo_eval.report import Report
    from mopo_eval.scorecards import Scorecard

PATH = click.Path(path_type=Path)
MISSED = 3
"""Exit status of ``gate`` where a floor is missed."""
AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@click.command()
@click.argument("root", metavar="FAMILY", type=PATH)
@click.option("--run", help="Name of an evaluation.  [default: the latest]")
@click.option("--html", type=PATH, metavar="FILE", help="Write one HTML file that needs no network.")
@AS_JSON
def report(root: Path, run: str | None, html: Path | None, as_json: bool) -> None:
    """Report on a finished run of FAMILY: front, scores, profiles, categories, worst answers, changes.

    Without --html a summary is printed. The changes are those since the last run on the same prompts.
    """
    from mopo_eval.report import make_report, report_json

    family = read_family(root)
    found = make_report(root, family, _profiles(root, family), run)
    if html is not None:
        from mopo_eval.page.report_page import report_page

        write_whole(html, report_page(found))
        say(f"wrote {html}")
    if as_json:
        print_json(report_json(found))
    elif html is None:
        _print_report(found)


@click.command()
@click.argument("root", metavar="FAMILY", type=PATH)
@click.option("--profile", "names", multiple=True, help="A profile of FAMILY/profiles.yaml; repeatable.")
@click.option("--all", "every", is_flag=True, help="Every profile.")
@floor_option("Instead: judge score, or NAME.win_rate; repeatable.")
@click.option("--profiles", "path", type=PATH, help="Another file of profiles.")
@click.option("--junit", type=PATH, metavar="FILE", help="Also write JUnit XML: a suite per profile, a case per floor.")
@AS_JSON
def gate(  # noqa: PLR0913 - one parameter per option
    root: Path,
    names: tuple[str, ...],
    every: bool,
    floors: tuple[str, ...],
    path: Path | None,
    junit: Path | None,
    as_json: bool,
) -> None:
    """Exit 0 if FAMILY holds the profiles or floors, 3 if a floor is missed, 1 if that cannot be said.

    A floor is held where a policy's certified lower bound clears it; the organisation's floors count too. A fallback
    (on_infeasible) is told, but does not hold a floor that is missed.
    """
    from mopo_eval.gate import decide, verdict_json
    from mopo_eval.junit import junit_xml, undecided_xml
    from mopo_eval.scorecards import reliability_of

    if bool(names) + every + bool(floors) != 1:
        raise click.UsageError("give --profile (repeatable), --floor (repeatable) or --all.")
    if junit is not None and junit.is_file():
        junit.unlink()  # where this run decides nothing, an earlier one must not seem to
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    try:
        family = read_family(root)
        cards = _measured(root, family)
        profiles, organisation = asked_profiles(root, family, None if every else names, path=path, floors=floors)
    except MopoError as error:
        if junit is not None:
            write_whole(junit, undecided_xml(str(error), made_at=now))
        raise
    known = {policy.id: cards.get(policy.id) for policy in family.policies}
    if absent := [policy for policy, card in known.items() if card is None]:
        say(f"warning: not measured, so never selected: {', '.join(absent)}")
    verdicts = [decide(name, profile, known, organisation) for name, profile in profiles.items()]
    card, judged = next(iter(cards.values())), reliability_of(cards.values())
    if junit is not None:
        write_whole(junit, junit_xml(verdicts, judged, run=card.run, confidence=card.confidence, made_at=now))
    outcomes = [verdict.outcome for verdict in verdicts]
    if as_json:
        held = all(outcome == "held" for outcome in outcomes)
        document = {"held": held, "family": str(root), "run": card.run, "confidence": card.confidence}
        document |= {"profiles": [verdict_json(verdict) for verdict in verdicts]}
        print_json(document | reliability.as_json(judged))
    else:
        _print_verdicts(
            verdicts, judged, f"Floors against certified lower bounds, run {card.run} at {card.confidence:.0%}"
        )
    if unknown := [verdict for verdict in verdicts if verdict.outcome == "not measured"]:
        raise FamilyError(
            f"{', '.join(verdict.name for verdict in unknown)}: {unknown[0].selection.reason.partition(';')[0]}; "
            f"give it a judge and measure again with 'mopo-eval run {root}'."
        )
    if "missed" in outcomes:
        raise click.exceptions.Exit(MISSED)


@click.command()
@click.argument("roots", metavar="FAMILY [FAMILY]", type=PATH, nargs=-1, required=True)
@click.option("--run", "runs", multiple=True, help="Name of an evaluation; one per side.  [default: the latest]")
@click.option("--common-judges", is_flag=True, help="Leave out objectives that the runs judged differently.")
@AS_JSON
def compare(roots: tuple[Path, ...], runs: tuple[str, ...], common_judges: bool, as_json: bool) -> None:
    """Compare two families, or two runs of one: the second minus the first, policy by policy.

    Runs of different judges are refused: a difference would be the judges' as much as the policies'. On the same
    prompts the differences are paired. P-values are corrected for the number of comparisons (Holm), and both
    hypervolumes are measured from one reference point. Families are compared by their policies' ids.
    """
    from mopo_eval.comparison import compare_runs, comparison_json, trained_unlike
    from mopo_eval.results import read_results

    if len(roots) > 2 or len(runs) not in ({2} if len(roots) == 1 else {0, 2}):
        raise click.UsageError("give two families, or one family and --run twice; with two families --run is optional.")
    sides = [roots[0], roots[-1]]
    chosen: Sequence[str | None] = runs or (None, None)
    families = [read_family(root) for root in sides]
    first, second = (read_results(*side) for side in zip(sides, families, chosen, strict=True))
    names = (f"{sides[0]} ({first.summary.run})", f"{sides[1]} ({second.summary.run})")
    found = compare_runs(first, second, names, common_judges=common_judges)
    found = found._replace(notes=[*found.notes, *trained_unlike(*families)])
    if as_json:
        print_json(comparison_json(found))
    else:
        _print_comparison(found)


@click.command()
@click.argument("place", metavar="RUN", type=PATH)
@click.option("--format", "kind", type=click.Choice(["inspect", "lm-eval"]), required=True)
@click.option("--out", type=PATH, metavar="DIR", help="[default: export-FORMAT in the run's directory]")
@AS_JSON
def export(place: Path, kind: str, out: Path | None, as_json: bool) -> None:
    """Write a finished run as other harnesses log theirs, policy by policy, so that their viewers open it.

    RUN is FAMILY/evaluation/<run>, or a FAMILY for its latest run. inspect: logs for 'inspect view --log-dir DIR';
    lm-eval: samples_*.jsonl and results_*.json.
    """
    from mopo_eval.export import export_run
    from mopo_eval.results import read_results

    is_run = place.resolve().parent.name == "evaluation"
    root = place.resolve().parent.parent if is_run else place
    family = read_family(root)
    results = read_results(root, family, place.resolve().name if is_run else None)
    paths = export_run(root.resolve().name, results, kind, out or results.directory / f"export-{kind}")
    if as_json:
        print_json({"run": results.summary.run, "format": kind, "files": [str(path) for path in paths]})
        return
    for path in paths:
        click.echo(path)


@click.command()
@click.argument("root", metavar="FAMILY", type=PATH)
@click.option("--policy", help="Of this policy only.  [default: of every policy that was measured]")
@click.option("--out", type=PATH, metavar="DIR", help="Writes DIR/POLICY/README.md.  [default: FAMILY/cards]")
@click.option("--license", help="Identifier for the hub, such as apache-2.0; only you can know it.")
@AS_JSON
def card(root: Path, policy: str | None, out: Path | None, license: str | None, as_json: bool) -> None:
    """Write a model card per policy: purpose, hashes, floors, scores, failures, judges, limits.

    A card is Markdown with the front matter of the Hugging Face hub. With --out FAMILY/policies each lies beside its
    adapter, which can then be uploaded as it is.
    """
    from mopo_eval.card import write_cards
    from mopo_eval.results import read_results
    from mopo_eval.subject import subjects

    if license is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", license):
        raise click.UsageError("--license takes an identifier such as apache-2.0 or other.")
    family = read_family(root)
    results, profiles = read_results(root, family), _profiles(root, family)
    found = subjects(root, family, results, profiles, policy=policy, license=license)
    if absent := [each.id for each in family.policies if policy is None and each.id not in results.cards]:
        say(f"warning: not measured, so without a card: {', '.join(absent)}")
    paths = write_cards(out or root / "cards", found)
    if as_json:
        print_json({"cards": {each.policy.id: str(path) for each, path in zip(found, paths, strict=True)}})
        return
    for path in paths:
        click.echo(path)


def _measured(root: Path, family: PolicyFamily) -> dict[str, "Scorecard"]:
    """The scorecards by policy, after a look at the judgements that they rest on, where those are at hand.

    Raises FamilyError.
    """
    from mopo_eval.evaluation import read_summary
    from mopo_eval.scorecards import read_scorecards
    from mopo_eval.scores import read_scores

    cards = read_scorecards(root, family)
    if not cards:
        raise FamilyError(f"no policy of '{root}' was measured; measure them with 'mopo-eval run {root}'.")
    directory = root / "evaluation" / next(iter(cards.values())).run
    if directory.is_dir():
        read_scores(directory, read_summary(directory / "run.json"))
    else:
        say(f"warning: '{directory}' is not here, so the scorecards are taken at their word")
    return cards


def _profiles(root: Path, family: PolicyFamily) -> ProfileFile:
    """Those of profiles.yaml; none where there is no such file."""
    path = root / "profiles.yaml"
    if not path.exists():
        return ProfileFile()
    return read_profiles(path, family.objectives, [policy.id for policy in family.policies])


def _print_report(found: "Report") -> None:
    from mopo_eval.report import summary_sentences, warnings

    summary = found.results.summary
    rows = []
    for policy, card in found.cards.items():
        scores = [card.objectives[name] for name in found.objectives]
        rows.append(
            [policy]
            + [f"{score.mean:.3f} [{score.low:.3f}, {score.high:.3f}]" for score in scores]
            + [f"{score.win_rate.mean:.3f} [{score.win_rate.low:.3f}, {score.win_rate.high:.3f}]" for score in scores]
            + ["yes" if policy in summary.front else "no"]
        )
    units = [column(name, summary.reliability) for name in found.objectives]
    units += [f"{name} (win rate)" for name in found.objectives]
    title = (
        f"Run {summary.run}, {summary.prompts} prompts: judge scores and win rates against the reference, "
        f"mean [{summary.confidence:.0%} interval]"
    )
    print_table(["policy", *units, "front"], rows, title=title)
    for sentence in summary_sentences(found):
        click.echo(sentence)
    for warning in warnings(found):
        say(f"warning: {warning}")


def _print_verdicts(verdicts: Sequence["Verdict"], judged: Mapping[str, "Reliability"], title: str) -> None:
    rows = []
    for verdict in verdicts:
        shown = verdict.policy or verdict.selection.served or "none"
        if not verdict.checks:
            rows.append([verdict.name, shown, "no floor", "", "", "", verdict.outcome])
        for check in verdict.checks:
            low = "" if check.certified_low is None else f"{check.certified_low:.4f}"
            margin = "" if check.margin is None else f"{check.margin:+.4f}"
            rows.append(
                [verdict.name, shown, f"{check.objective} ({check.unit})", low, f"{check.floor:g}", margin]
                + [check.outcome]
            )
    print_table(["profile", "policy", "floor on", "certified low", "floor", "margin", ""], rows, title=title)
    for verdict in verdicts:
        click.echo(f"{verdict.name}: {verdict.outcome.upper()}. {verdict.selection.reason}")
    named = {name for verdict in verdicts for name in verdict.objectives}
    for sentence in reliability.sentences({name: each for name, each in judged.items() if name in named}):
        click.echo(sentence)


def _print_comparison(found: "Comparison") -> None:
    from mopo_eval.comparison import power_sentence, sentences

    rows = [
        [each.policy, each.objective, f"{each.first:.3f}", f"{each.second:.3f}"]
        + [f"{each.difference.mean:+.3f} [{each.difference.low:+.3f}, {each.difference.high:+.3f}]"]
        + [f"{each.p_adjusted:.2g}", "differs" if each.distinguishable else power_sentence(each)]
        for each in found.differences
    ]
    click.echo(f"first:  {found.names[0]}\nsecond: {found.names[1]}")
    title = f"Judge scores, {found.used}; intervals at {found.confidence:.0%}, p adjusted for {len(rows)} comparisons"
    columns = ["policy", "objective", "first", "second", "second minus first", "p (Holm)", ""]
    print_table(columns, rows, title=title)
    point = ", ".join(f"{name} {value:g}" for name, value in found.reference_point.items())
    for name, volume in zip(("first", "second"), found.volumes, strict=True):
        click.echo(f"hypervolume, {name}: {volume.value:.4f} [{volume.low:.4f}, {volume.high:.4f}]")
    click.echo(f"(share of the box from {point} to 1)")
    for sentence in [*sentences(found), *found.notes]:
        click.echo(sentence)
