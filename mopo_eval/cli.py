"""The command ``mopo-eval``. Heavy imports happen inside the commands, so that ``--help`` is quick."""

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mopo_eval import cli_calibrate, cli_results
from mopo_eval.profiles import asked_profiles
from mopo_eval.reliability import column, sentences
from mopo_train import __version__
from mopo_train.console import CommandGroup, FiniteRange, floor_option, print_json, print_table, say
from mopo_train.errors import EngineError, FamilyError
from mopo_train.executor.cluster import Cluster
from mopo_train.family import PolicyFamily, check_adapters, read_family

if TYPE_CHECKING:
    from mopo_eval.engine_choice import EngineChoice
    from mopo_eval.evaluation import RunSummary
    from mopo_eval.figures import Rate
    from mopo_eval.measure import Measurement, Plan

EXECUTOR = "Where engines are asked from; ray: a worker of a cluster for each URL, or --workers that start engines."
PATH = click.Path(path_type=Path)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Measure every policy of a family offline."""
    if os.getcwd() not in sys.path:  # judges may lie in the user's own directory, which a console script does not see
        sys.path.append(os.getcwd())


for command in (
    cli_results.report,
    cli_results.gate,
    cli_results.compare,
    cli_results.card,
    cli_results.export,
    cli_calibrate.calibrate,
    cli_calibrate.select_pairs,
):
    main.add_command(command)


@main.command()
@click.argument("root", metavar="FAMILY", type=PATH)
@click.option("--prompts", type=PATH, help="JSON Lines or Parquet.  [default: prompts.jsonl beside the training data]")
@click.option(
    "--engine", "engines", default=("auto",), show_default="auto", multiple=True, help="auto, vllm, embedded, or URLs."
)
@click.option("--api-key-variable", metavar="NAME", help="Environment variable with the key of engines by URL.")
@click.option("--judges", type=PATH, help="YAML.  [default: judges.yaml beside the training data]")
@click.option("--answers-only", is_flag=True, help="Collect answers without judging them; no scorecards.")
@click.option("--max-prompts", type=click.IntRange(min=1), help="Use so many prompts, drawn by --seed.  [default: all]")
@click.option("--temperature", type=click.FloatRange(min=0), default=1.0, show_default=True)
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Per answer.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Answers per prompt.")
@click.option("--confidence", type=click.FloatRange(0.5, 1, max_open=True), default=0.95, show_default=True)
@click.option("--conservative", is_flag=True, help="Wider intervals that never cover less often than they say.")
@click.option("--concurrency", type=click.IntRange(min=1), default=32, show_default=True, help="Requests in flight.")
@click.option("--executor", default="local", show_default=True, type=click.Choice(["local", "ray"]), help=EXECUTOR)
@click.option("--ray-address", metavar="ADDRESS", help="Of a Ray cluster.  [default: RAY_ADDRESS, or this machine]")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1), help="That start engines on Ray.")
@click.option("--gpus-per-engine", type=FiniteRange(min=0), help="With ray.  [default: 1 if any; 0 with URLs]")
@click.option("--cpus-per-engine", default=1.0, show_default=True, type=FiniteRange(min=0.1), help="With ray.")
@click.option("--allow-trained", is_flag=True, help="Measure even on prompts that the family was trained on.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def run(root: Path, as_json: bool, **options: Any) -> None:
    """Measure every policy of FAMILY and write its evaluation and scorecards.

    A run that was stopped continues when the command is repeated; a finished one is judged again without asking the
    engine. Several --engine URLs share the questions; one that fails leaves its own to the others. Starter profiles are
    proposed where FAMILY has no profiles.yaml.
    """
    from mopo_eval.measure import measure

    began = time.monotonic()
    family = read_family(root)
    check_adapters(root, family)
    measurement = measure(root, family, _plan(family, options))
    _warn(measurement.summary)
    if as_json:
        more = {"reused": measurement.reused, "directory": str(root / "evaluation" / measurement.summary.run)}
        took = {"seconds": round(time.monotonic() - began, 3)}
        print_json(measurement.summary.model_dump(mode="json") | took | more)
    else:
        _print(measurement)


@main.command()
@click.argument("file", type=PATH)
@click.option(
    "--judge", "name", required=True, help="package.module.function, a built-in judge, or judges.yaml:OBJECTIVE."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per row on stdout.")
def judge(file: Path, name: str, as_json: bool) -> None:
    """Score rows of {prompt, response} in FILE (JSON Lines or Parquet) with a judge; rows count from 0."""
    from mopo_eval.judges import named_judge
    from mopo_eval.judges.scoring import read_cases, score_cases

    judged = score_cases(named_judge(name), list(read_cases(file)))
    if as_json:
        for row, judgement in enumerate(judged):
            line = {"row": row} | {key: value for key, value in judgement._asdict().items() if value is not None}
            click.echo(json.dumps(line, ensure_ascii=False))
        return
    rows = [
        [str(row), f"{found.score:.3f}", found.label or "", (found.evidence or "")[:80]]
        for row, found in enumerate(judged)
    ]
    print_table(["row", "judge score", "label", "evidence"], rows, title=name)


@main.command()
@click.argument("root", metavar="[FAMILY]", type=PATH, required=False)
@click.option("--profile", "name", help="A profile of FAMILY/profiles.yaml.")
@click.option("--profiles", "path", type=PATH, help="Another file of profiles.")
@floor_option("Instead of a profile: judge score, or NAME.win_rate.")
@click.option("--run", help="Name of the evaluation.  [default: the latest]")
@click.option("--registered", metavar="WHERE", help="The floors were fixed before the evaluation, in this document.")
@click.option("--out", type=PATH, help="[default: FAMILY/certificates/PROFILE.json]")
@click.option(
    "--verify", "check", type=PATH, metavar="FILE", help="Check this certificate, also against FAMILY if given."
)
@click.option("--json", "as_json", is_flag=True, help="The certificate, or what is wrong with it, on stdout.")
def certify(root: Path | None, check: Path | None, as_json: bool, **options: Any) -> None:
    """Certify which policies of FAMILY hold a profile's floors, in a JSON file that anybody can check.

    Floors that stood in profiles.yaml before the evaluation are tested in a fixed sequence along the planned front,
    with more power; others with the error shared among all bounds, as certified_low.
    """
    from mopo_eval.certification import Request, certify_family, write_certificate

    if check is not None:
        _verify(check, root, as_json)
        return
    if root is None:
        raise click.UsageError("name a FAMILY to certify, or a certificate to check with --verify.")
    name = options["name"]
    if (name is None) == (not options["floors"]):
        raise click.UsageError("give either --profile or --floor.")
    family = read_family(root)
    names = () if name is None else (name,)
    asked, organisation = asked_profiles(root, family, names, path=options["path"], floors=options["floors"])
    (profile,) = asked.values()
    request = Request(profile, name, organisation, options["run"], options["registered"])
    made = certify_family(root, family, request)
    target = options["out"] or root / "certificates" / f"{name or 'floors'}.json"
    write_certificate(target, made)
    if as_json:
        click.echo(made.model_dump_json(indent=1))
        return
    rows = [
        [
            test.policy,
            *(f"{floor.mean:.3f} (p {floor.p_value:.2g})" for floor in test.floors),
            f"{test.primary_mean:.3f}",
            "certified" if test.certified else "not shown",
        ]
        for test in made.policies
    ]
    columns = ["policy, in order", *(f"{floor} >= {value:g}" for floor, value in made.floors.items()), made.primary, ""]
    print_table(columns, rows, title=f"{made.method} tests at level {made.level:.2g}; judge scores")
    for sentence in sentences(made.evidence.reliability):
        click.echo(sentence)
    click.echo(
        f"{made.statement}\nMethod: {made.method}; {made.registration}.\nServes: {made.serves or 'none'}. {target}"
    )


@main.command()
@click.argument("root", metavar="FAMILY", type=PATH)
@click.argument("sources", metavar="DATA...", nargs=-1, required=True)
@click.option("--objective", "objectives", multiple=True, help="Name of labels that have none, or those to keep.")
@click.option("--confidence", type=click.FloatRange(0.5, 1, max_open=True), default=0.95, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def pairs(
    root: Path,
    sources: tuple[str, ...],
    objectives: tuple[str, ...],
    confidence: float,
    as_json: bool,
) -> None:
    """Share of DATA's labelled pairs that log [policy / reference] ranks as the label does.

    0.5 is chance. Give held-out pairs, as in heldout.jsonl of mopo-train split: training has moved policies to rank its
    own pairs. Intervals are clustered by prompt.
    Every policy is compared with the first on the same pairs; p-values are adjusted for all these comparisons (Holm).
    """
    from mopo_eval.pairs import compare_with_first, pair_accuracies, policy_log_ratios, say_trained
    from mopo_train.preferences import read_preferences

    family = read_family(root)
    data = read_preferences(sources, objectives=objectives, at_least=1)
    for note in data.notes():
        say(note)
    say_trained(family, data)
    ratios = policy_log_ratios(root, family, data)
    found = {policy: pair_accuracies(data, ratio, confidence) for policy, ratio in ratios.items()}
    against = compare_with_first(data, ratios, confidence)
    if as_json:
        print_json(
            {
                policy: {
                    name: score._asdict()
                    | ({"difference": against[policy][name]._asdict()} if policy in against else {})
                    for name, score in scores.items()
                }
                for policy, scores in found.items()
            }
        )
        return
    columns = ["policy", *(f"{name} (n = {score.n})" for name, score in next(iter(found.values()), {}).items())]
    rows = [
        [policy, *(f"{score.accuracy:.3f} [{score.low:.3f}, {score.high:.3f}]" for score in scores.values())]
        for policy, scores in found.items()
    ]
    print_table(columns, rows, title=f"pairs ranked as labelled: share [{confidence:.0%} interval]; 0.5 is chance")
    if against:
        rows = [
            [policy, *(f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}] p {d.p_value:.2g}" for d in scores.values())]
            for policy, scores in against.items()
        ]
        title = (
            f"minus {next(iter(found))} on the same pairs; p adjusted for {sum(map(len, against.values()))} comparisons"
        )
        print_table(["policy", *next(iter(against.values()))], rows, title=title)


@main.command()
@click.argument("root", metavar="FAMILY", type=PATH)
@floor_option("Judge score, or NAME.win_rate.", required=True)
@click.option("--prompts", type=PATH, help="Of the last run.  [default: the file that it names]")
@click.option("--judges", type=PATH, help="Of the last run.  [default: judges.yaml beside the training data]")
@click.option("--rounds", type=click.IntRange(1, 5), default=3, show_default=True, help="Halvings of a gap.")
@click.option("--trainings", type=click.IntRange(0, 4), default=2, show_default=True, help="New policies beyond.")
@click.option("--engine", default="auto", show_default=True, help="auto, vllm or embedded.")
@click.option("--concurrency", type=click.IntRange(min=1), default=32, show_default=True, help="Requests in flight.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def refine(root: Path, floors: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Find a policy of FAMILY whose certified_low just clears the floors, or add one.

    Policies between neighbours and, beyond the family, newly trained ones are measured on the prompts of the last run.
    All certified bounds then share their error among every policy that this search could have tried. A killed search
    continues; floors that are out of reach are an error that names the best attained value.
    """
    from mopo_eval.engine_choice import EngineChoice
    from mopo_eval.refine.command import Request, refinement_json
    from mopo_eval.refine.command import refine as find
    from mopo_train.family import parse_floors

    if options["engine"] not in ("auto", "vllm", "embedded"):
        raise click.UsageError("a running engine has no new policies; --engine takes auto, vllm or embedded.")
    engine = EngineChoice(options.pop("engine"), options.pop("concurrency"))
    asked = parse_floors(floors)
    found = find(root, Request(asked, engine=engine, **options))
    if as_json:
        print_json(refinement_json(found, asked))
        return
    held = ", ".join(f"{name} {low:.3f} (floor {asked[name]:g})" for name, low in found.certified.items())
    what = "joined the family" if found.new else "was there already"
    click.echo(f"{found.policy} {what}: certified {held}; primary {found.primary:.3f}; evaluation/{found.run}")
    for sentence in sentences(found.reliability):
        click.echo(sentence)
    click.echo(f"Certified bounds hold at once for {found.counted} policies, those that were only possible included.")


def _verify(path: Path, root: Path | None, as_json: bool) -> None:
    """Print what is wrong with the certificate at ``path``. Raises FamilyError if anything is."""
    from mopo_eval.certification import STATED, read_certificate, verify

    certificate = read_certificate(path)
    wrong = verify(certificate, root, read_family(root) if root else None)
    if as_json:
        print_json({"valid": not wrong, "problems": wrong, "against_family": root is not None})
    if wrong:
        raise FamilyError(f"'{path}' does not hold: {'; '.join(wrong)}.")
    if not as_json:
        if root is None:
            told = (
                "itself alone. Not checked: the scores, the means of the primary, how many tests the evaluation has to "
                "share the error among, and what was registered; name the FAMILY for these"
            )
        else:
            told = f"itself and the files of '{root}'"
            if certificate.registration.startswith(STATED):
                told += f", but that its floors stood before the run is somebody's word: {certificate.registration!r}"
        click.echo(f"{certificate.statement}\nChecked against {told}.")


def _plan(family: PolicyFamily, options: dict[str, Any]) -> "Plan":
    """What the options of ``run`` ask for, with the files beside the training data where none are named."""
    from mopo_eval.answers import Sampling
    from mopo_eval.judges import judges_path, load_judges, read_judges
    from mopo_eval.measure import Plan
    from mopo_eval.prompts import choose, prompts_path, read_prompts

    prompts = prompts_path(family, options["prompts"])
    judges: dict[str, str] = {}
    if not options["answers_only"]:
        path = judges_path(family, options["judges"])
        judges = read_judges(path, family.objectives)
        say(f"prompts: {prompts}; judges: {path}")
        if unjudged := [name for name in family.objectives if name not in judges]:
            say(f"warning: no judge for {', '.join(unjudged)}; not measured, and no floor on it can hold")
    return Plan(
        prompts=choose(read_prompts(prompts), options["max_prompts"], options["seed"]),
        judges=load_judges(judges),
        sampling=Sampling(**{name: options[name] for name in ("temperature", "max_tokens", "seed", "samples")}),
        prompts_from=str(prompts),
        engine=_engine(options),
        confidence=options["confidence"],
        conservative=options["conservative"],
        allow_trained=options["allow_trained"],
    )


def _engine(options: dict[str, Any]) -> "EngineChoice":
    """The engines that the options of ``run`` ask for.

    Raises click.UsageError for a mixture of kinds, EngineError for a key that is not there.
    """
    from mopo_eval.engine_choice import EngineChoice

    name, *more = options["engines"]
    running = [engine.startswith(("http://", "https://")) for engine in options["engines"]]
    if more and not all(running):
        raise click.UsageError("several --engine are URLs of running engines; to start several, see --executor ray.")
    key, variable = None, options["api_key_variable"]
    if variable and not (key := os.environ.get(variable)):
        raise EngineError(f"there is no key in the environment variable {variable}, which --api-key-variable names.")
    choice = EngineChoice(name, options["concurrency"], more=tuple(more), key=key)
    if options["executor"] == "local":
        return choice
    gpus = 0.0 if running[0] and options["gpus_per_engine"] is None else options["gpus_per_engine"]
    cluster = Cluster(options["ray_address"], gpus, options["cpus_per_engine"])
    return choice._replace(cluster=cluster, workers=options["workers"])


def _warn(summary: "RunSummary") -> None:
    """Say which policies' answers were cut or empty: their scores are about something else."""
    each = summary.prompts * summary.sampling.samples
    for counts, what in (
        (summary.cut, f"were cut at {summary.sampling.max_tokens} tokens"),
        (summary.empty, "are empty"),
    ):
        told = ", ".join(f"{policy} {count}" for policy, count in counts.items())
        if told:
            say(f"warning: of {each} answers per policy, so many {what}: {told}")
    for objective, labels in summary.doubtful.items():
        told = ", ".join(f"{count} {label} ({count / summary.answers:.1%})" for label, count in labels.items())
        say(f"warning: {objective}: of {summary.answers} judgements by {summary.judges[objective]}, {told}")


def _print(measurement: "Measurement") -> None:
    """The scores of every policy as a table."""
    summary = measurement.summary
    told = f"{summary.answers} answers ({measurement.reused} reused) by {summary.engine} in evaluation/{summary.run}"
    if summary.hypervolume is None:
        click.echo(f"{told}; nothing was judged, so there are no scorecards")
        return
    rows = []
    for card in measurement.cards:
        scores = [
            f"{score.mean:.3f} [{score.low:.3f}, {score.high:.3f}] {score.certified_low:.3f}"
            for score in card.objectives.values()
        ]
        on_front = "yes" if card.policy in summary.front else "dominated"
        on_front = "withheld: dominated" if card.policy in summary.withheld else on_front
        rows.append([card.policy, *scores, f"{on_front} ({summary.front_probability[card.policy]:.2f})"])
    title = f"Judge scores: mean [{summary.confidence:.0%} interval] certified low, {summary.prompts} prompts"
    heads = [column(name, summary.reliability) for name in summary.judges]
    print_table(["policy", *heads, "front (probability)"], rows, title=title)
    if summary.stances:
        _print_stances(summary)
    if summary.figures:
        _print_figures(summary)
    point = ", ".join(f"{name} {value:g}" for name, value in summary.hypervolume.reference_point.items())
    volume = summary.hypervolume
    click.echo(f"hypervolume {volume.value:.4f} [{volume.low:.4f}, {volume.high:.4f}] (share; reference point {point})")
    click.echo(told)


def _print_figures(summary: "RunSummary") -> None:
    """The other shares that judges tell, a table per objective."""
    for objective in dict.fromkeys(figure.objective for figure in summary.figures):
        rates = {(each.policy, each.name): each.rate for each in summary.figures if each.objective == objective}
        names = list(dict.fromkeys(name for _, name in rates))
        rows = [
            [policy, *(_rate(rates.get((policy, name))) for name in names)]
            for policy in dict.fromkeys(policy for policy, _ in rates)
        ]
        title = f"{column(objective, summary.reliability)}: shares [{summary.confidence:.0%} interval]"
        print_table(["policy", *names], rows, title=title)


def _rate(rate: "Rate | None") -> str:
    return "too few prompts" if rate is None else f"{rate.mean:.3f} [{rate.low:.3f}, {rate.high:.3f}] n {rate.n}"


def _print_stances(summary: "RunSummary") -> None:
    """Harmful compliance, refusal and over-refusal of every policy as a table."""
    rows = [
        [one.policy, one.objective, _rate(one.harmful_compliance), _rate(one.refusal), _rate(one.over_refusal)]
        for one in summary.stances
    ]
    columns = ["policy", "objective", "harmful compliance", "refusal of harmful", "over-refusal of harmless"]
    print_table(columns, rows, title=f"Shares of prompts [{summary.confidence:.0%} interval]")
