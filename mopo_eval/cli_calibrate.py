"""The commands of ``mopo-eval`` that work with people's labels: calibrate and select-pairs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mopo_train.console import floor_option, print_json, print_table, say
from mopo_train.errors import DataError
from mopo_train.family import read_family, write_whole

if TYPE_CHECKING:
    from mopo_eval.agreement import Figure
    from mopo_eval.calibration import Calibration, RunCalibration

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("sources", metavar="[LABELS]...", nargs=-1)
@click.option("--judge", "name", help="package.module.function, safety, ..., or FILE.yaml:OBJECTIVE.")
@click.option("--objective", help="Of preference data with several.")
@click.option("--repeat", is_flag=True, help="Ask the judge twice, for how often it agrees with itself.")
@click.option("--family", "root", type=PATH, help="LABELS are about the answers of a run of this family.")
@click.option("--run", help="Name of the evaluation.  [default: the latest]")
@click.option("--ask", type=click.IntRange(min=1), metavar="N", help="Draw the answers to N random prompts to label.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw.")
@click.option("--out", type=PATH, help="Where to write the rows of --ask.")
@click.option("--confidence", type=click.FloatRange(0.5, 1, max_open=True), default=0.95, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def calibrate(sources: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Compare a judge with people: accuracy, kappa, calibration, bias by length and position, repeatability.

    LABELS are rows {prompt, response, human}, human in [0, 1], or preference data in any format that 'mopo-train check'
    reads. With --family they are rows {policy, prompt_id, objective, human} on a random part of a run's answers
    ('--ask 100 --out FILE' draws them), which also correct what the judge measured (prediction-powered inference).
    """
    if options["root"] is not None:
        _calibrate_run(sources, options, as_json)
        return
    if options["ask"] is not None:
        raise click.UsageError("--ask draws from a run: name its --family.")
    if not sources or options["name"] is None:
        raise click.UsageError("give LABELS and a --judge, or LABELS and a --family.")
    found = _calibration(sources, options)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print({"": found})


@click.command("select-pairs")
@click.argument("root", metavar="FAMILY", type=PATH)
@click.option("--pairs", type=click.IntRange(min=1), default=100, show_default=True, help="About so many.")
@click.option("--profile", "name", help="Label where its floors are in doubt.")
@floor_option("Likewise: judge score, or NAME.win_rate.")
@click.option("--run", help="Name of the evaluation.  [default: the latest]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw.")
@click.option("--out", type=PATH, required=True, help="JSON Lines, with null in place of the labels.")
def select_pairs(root: Path, pairs: int, name: str | None, floors: tuple[str, ...], **options: Any) -> None:
    """Choose which pairs of FAMILY's answers people should compare next: where a label tells most.

    That is where the judges are unsure of the winner, and where it is open whether a policy holds a floor (without
    floors: whether it is on the front). Labelled, the rows are preference data for 'mopo-train', and
    'mopo-eval calibrate FILE --family FAMILY' makes win rates of them that stay unbiased.
    """
    from mopo_eval.profiles import asked_profiles
    from mopo_eval.results import read_results
    from mopo_eval.select_pairs import select_pairs as select

    if name is not None and floors:
        raise click.UsageError("give either --profile or --floor.")
    family = read_family(root)
    asked = {}
    if name is not None or floors:
        names = None if name is None else (name,)
        found, organisation = asked_profiles(root, family, names, path=None, floors=floors)
        (profile,) = found.values()
        asked = {**organisation, **profile.floors}
    results = read_results(root, family, options["run"])
    rows = [json.dumps(row, ensure_ascii=False) for row in select(results, asked, pairs, options["seed"])]
    write_whole(options["out"], "\n".join(rows) + "\n")
    say(f"wrote {len(rows)} pairs to {options['out']}; give each objective 1 (a is better), 0 (b) or 0.5")


def _calibration(sources: tuple[str, ...], options: dict[str, Any]) -> "Calibration":
    from mopo_eval.calibration import calibrate_answers, calibrate_pairs
    from mopo_eval.judges import named_judge
    from mopo_eval.rows import read_rows

    judge = named_judge(options["name"])
    path = Path(sources[0])
    if len(sources) == 1 and path.is_file() and "human" in next(read_rows(path), (0, {}))[1]:
        return calibrate_answers(path, judge, options["confidence"], repeat=options["repeat"])
    from mopo_train.preferences import read_preferences

    wanted = [options["objective"]] if options["objective"] else None
    data = read_preferences(sources, objectives=wanted, at_least=1)
    for note in data.notes():
        say(note)
    if len(data.objectives) > 1:
        raise DataError(f"these data label {', '.join(data.objectives)}; say which the judge is about: --objective.")
    return calibrate_pairs(data, data.objectives[0], judge, options["confidence"], repeat=options["repeat"])


def _calibrate_run(sources: tuple[str, ...], options: dict[str, Any], as_json: bool) -> None:
    from mopo_eval.calibration import calibrate_run, to_label, write_calibration
    from mopo_eval.results import read_results

    root: Path = options["root"]
    results = read_results(root, read_family(root), options["run"])
    if options["ask"] is not None:
        if sources or options["out"] is None:
            raise click.UsageError("--ask writes rows to --out FILE and takes no LABELS.")
        rows = [json.dumps(row, ensure_ascii=False) for row in to_label(results, options["ask"], options["seed"])]
        write_whole(options["out"], "\n".join(rows) + "\n")
        say(
            f"wrote {len(rows)} rows to {options['out']}, in random order: all policies' answers to {options['ask']} "
            'prompts, on every objective; fill in "human" with numbers in [0, 1], or in the first and drop the rest'
        )
        return
    if len(sources) != 1 or options["name"] is not None:
        raise click.UsageError("with --family, give one file of LABELS and no --judge: the run's judges are rated.")
    found = calibrate_run(results, Path(sources[0]), options["confidence"])
    path = write_calibration(results, found)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    if found.objectives:
        _print(dict(found.objectives))
    if found.corrected:
        _print_corrected(found)
    if found.win_rates:
        _print_win_rates(found)
    say(f"wrote {path}")


def _print(found: "dict[str, Calibration]") -> None:
    rows = []
    for objective, one in found.items():
        agreed = one.agreement
        rows.append(
            [
                objective or one.judge,
                f"{agreed.n} {one.unit}, {agreed.prompts} prompts",
                *map(_shown, (agreed.accuracy, agreed.kappa, agreed.calibration_error, agreed.bias)),
                _shown(agreed.length_bias),
                _shown(one.repeatability),
                "–" if one.flipped is None else f"{one.flipped:.1%}",
                _shown(one.position_bias),
                f"{one.unparseable:.1%}",
            ]
        )
    columns = ["judge", "labels", "accuracy", "kappa", "calibration error", "bias", "long - short", "repeats", "flips"]
    columns += ["first place", "no verdict"]
    confidence = next(iter(found.values())).agreement.confidence
    print_table(columns, rows, title=f"Judge against people [{confidence:.0%} interval]")


def _print_corrected(found: "RunCalibration") -> None:
    objectives = list(found.objectives)
    rows = []
    for policy, means in found.corrected.items():
        shown = [
            f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}] n {one.labelled}, weight {one.weight:.2f}"
            if (one := means.get(objective))
            else "too few labels"
            for objective in objectives
        ]
        rows.append([policy, *shown])
    title = f"Means corrected by people's labels [{found.confidence:.0%} interval]; weight of the judge"
    print_table(["policy", *objectives], rows, title=title)


def _print_win_rates(found: "RunCalibration") -> None:
    objectives = sorted({objective for rates in found.win_rates.values() for objective in rates})
    rows = []
    for policy, rates in found.win_rates.items():
        shown = [
            f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}] n {one.labelled}"
            if (one := rates.get(objective))
            else "too few labels"
            for objective in objectives
        ]
        rows.append([policy, *shown])
    title = f"Win rates against the reference in people's eyes [{found.confidence:.0%} interval]"
    print_table(["policy", *objectives], rows, title=title)


def _shown(figure: "Figure | None") -> str:
    return "–" if figure is None else f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
