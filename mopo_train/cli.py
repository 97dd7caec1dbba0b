"""The command ``mopo-train``. Heavy imports happen inside the commands, so that ``--help`` is quick."""

from pathlib import Path
from typing import Any

import click

from mopo_train import __version__
from mopo_train.console import CommandGroup, FiniteRange, floor_option, launched, print_json, print_table, say, speaks
from mopo_train.errors import MopoError

STEPS = ["pairwise", "pairwise-logistic", "weighted-bc"]
OWN_ANCHOR = "Weight of staying close to the reference on answers that it writes itself."
ON_POLICY = "Rounds of training on the policy's own answers, labelled by a preference model."
INTERPOLATE = (
    "Members between each two neighbours, free of training; profiles select one only if measured and not dominated."
)
KL_PROMPTS = "Prompts that each policy answers to measure its divergence; 0: not measured."
GLOBAL = "Of density ratios; 'global' is the paper's Eq. 3, to compare with."
INDEPENDENT = "Labellers erred on each objective by itself (not the same person in a hurry): sharper lower bounds."
PRECISIONS = ["auto", "float32", "bfloat16"]
PRECISION = "Of the frozen base; auto: bfloat16 where CUDA supports it, else float32."
REPORTS = ["tensorboard", "wandb", "mlflow"]
REPORT = "Also send the log there, while it trains; several times."
SOURCES = ["labels", "preference-model"]
CROSS_FIT = "Beside the labels' values, a preference model's.  [default: where labels are few and it takes seconds]"
OBJECTIVES = click.option(
    "--objective", "objectives", multiple=True, help="Name of labels that have none, or those to keep; repeatable."
)
FSDP = "Started by torchrun: spread the base model over the processes, where one GPU cannot hold it."
CHAINS = (
    "Parts of the family that begin from the reference each.  [default: 1; with ray or --interpolate: one per policy]"
)
EXECUTOR = "Where policies are trained; ray: as tasks of a cluster, as many at once as there are --chains."
TOGETHER = {"run", "reference"}
"""Commands that several processes may run together."""
ENCODER = "Directory or hub name for the preference model.  [default: a small one from scratch]"


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.pass_context
def main(context: click.Context) -> None:
    """Train a family of policies along the Pareto front from pairwise preferences."""
    if launched() > 1 and context.invoked_subcommand not in TOGETHER:
        if not speaks():
            context.exit(0)  # not before the one that speaks: torchrun ends the others when one fails
        raise MopoError(f"'{context.invoked_subcommand}' runs in one process; start it without torchrun or accelerate.")


@main.command()
@click.argument("sources", metavar="DATA...", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory for the three files.")
@click.option("--share", default=0.1, show_default=True, help="Part of the prompts to hold out.")
@click.option("--seed", default=0, show_default=True, help="Another seed holds out other prompts.")
@OBJECTIVES
@click.option(
    "--near-duplicates",
    "near",
    default="apart",
    show_default=True,
    type=click.Choice(["apart", "together"]),
    help="Whether prompts that nearly repeat each other may be put on both sides.",
)
@click.option("--force", is_flag=True, help="Overwrite a split that is there.")
def split(sources: tuple[str, ...], out: Path, near: str, force: bool, **options: Any) -> None:
    """Hold out prompts of DATA: OUT/train.jsonl, OUT/heldout.jsonl and the held-out prompts, OUT/prompts.jsonl.

    Rows of one prompt, or of one `group`, stay on one side. A source whose labels have no name (HH-RLHF, TRL) is
    written OBJECTIVE=DATA, for example safety=harmless.jsonl.gz.
    """
    from mopo_train.preferences import read_preferences
    from mopo_train.split import held_out, nearly_on_both_sides, with_near_duplicates, write_split

    data = read_preferences(sources, objectives=options["objectives"], at_least=1)
    for note in data.notes():
        say(note)
    if near == "together":
        data = with_near_duplicates(data)
    held = held_out(data, options["share"], options["seed"])
    if near == "apart" and (both := nearly_on_both_sides(data, held)):
        say(
            f"warning: {both} of the held-out prompts nearly repeat a prompt to train on; "
            "--near-duplicates together keeps such prompts on one side"
        )
    done = write_split(data, out, held, force=force)
    say(f"{out}: {done.train_rows} rows on {done.train_prompts} prompts to train on (train.jsonl)")
    say(f"{out}: {done.heldout_rows} rows on {done.heldout_prompts} prompts held out (heldout.jsonl, prompts.jsonl)")


@main.command()
@click.argument("sources", metavar="DATA...", nargs=-1, required=True)
@OBJECTIVES
@click.option("--held-out", multiple=True, metavar="FILE", help="Prompts that must not be in DATA, also not nearly.")
@click.option("--tokenizer", metavar="MODEL", help="Count tokens with this model's tokenizer: what does not fit?")
@click.option("--max-length", default=512, show_default=True, type=click.IntRange(min=2), help="With --tokenizer.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Also write one page with pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(sources: tuple[str, ...], html: Path | None, as_json: bool, **options: Any) -> None:
    """Say what DATA hold and what they cannot support: labels, agreement, conflicts, biases, repetitions, leaks.

    Problems are findings, not errors: the exit status is 0. Intervals are at 99 %, clustered by prompt. A source whose
    labels have no name (HH-RLHF, TRL) is written OBJECTIVE=DATA, for example safety=harmless.jsonl.gz.
    """
    from mopo_train.check.report import Beside, check_tables
    from mopo_train.check.report import check as check_data
    from mopo_train.preferences import read_preferences

    held_out, context = None, None
    if options["held_out"]:
        from mopo_train.check.heldout import read_held_out

        held_out = read_held_out(options["held_out"])
    data = read_preferences(sources, objectives=options["objectives"], at_least=1)
    if options["tokenizer"]:
        from mopo_train.check.context import context_use
        from mopo_train.policy.models import load_tokenizer

        context = context_use(data, load_tokenizer(options["tokenizer"]), options["max_length"])
    document = check_data(data, Beside(held_out, context))
    if html is not None:
        from mopo_train.check.page import check_page
        from mopo_train.family import write_whole

        write_whole(html, check_page(document, ", ".join(Path(source).name for source in sources)))
        say(f"wrote {html}")
    if as_json:
        print_json(document)
        return
    for title, columns, rows in check_tables(document):
        print_table(columns, rows, title=title)
    for problem in document["problems"]:
        click.echo(f"- {problem['kind']}: {problem['message']}")
    click.echo(document["verdict"])


@main.command()
@click.argument("sources", metavar="DATA...", nargs=-1, required=True)
@OBJECTIVES
@click.option("--model", required=True, help="Directory or hub name to begin with; 'scratch' makes a small Llama.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Directory for model and tokenizer.")
@click.option("--steps", default=400, show_default=True, type=click.IntRange(min=1))
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(min=1), help="Responses per step.")
@click.option("--learning-rate", type=FiniteRange(min=0, min_open=True), help="[default: 3e-3 scratch, else 2e-5]")
@click.option("--max-length", default=512, show_default=True, type=click.IntRange(min=2), help="Prompt and response.")
@click.option("--hidden-size", default=256, show_default=True, type=click.IntRange(min=8), help="Only from scratch.")
@click.option("--layers", default=4, show_default=True, type=click.IntRange(min=1), help="Only from scratch.")
@click.option("--heads", default=4, show_default=True, type=click.IntRange(min=1), help="Only from scratch.")
@click.option("--vocab-size", default=2048, show_default=True, type=click.IntRange(min=300), help="Only from scratch.")
@click.option("--report-to", multiple=True, type=click.Choice(REPORTS), help=REPORT)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
def reference(
    sources: tuple[str, ...],
    objectives: tuple[str, ...],
    model: str,
    out: Path,
    report_to: tuple[str, ...],
    **options: Any,
) -> None:
    """Train the reference policy: supervised, on every distinct response of DATA.

    Needed where the model at hand did not write the responses of DATA itself, or is no chat model. Only texts count:
    labels need no names here, and may be missing. Killed and repeated, it continues. On several GPUs: torchrun
    --nproc-per-node N -m mopo_train reference ...
    """
    from mopo_train.policy.distributed import is_sharded, joined
    from mopo_train.policy.reporting import check_integrations
    from mopo_train.reference import ReferenceConfig, fit_reference, reference_examples

    check_integrations(report_to)
    if is_sharded(False):
        raise MopoError("the reference's weights are trained whole in every process; start it without --use_fsdp.")
    given = None if model == "scratch" else model
    with joined():
        examples = reference_examples(sources, out, model=model, objectives=objectives)
        fit_reference(examples, out, ReferenceConfig(**options), model=given, report_to=report_to)
    say(f"{out}: the reference model, trained on {len(examples)} responses")


@main.command()
@click.argument("sources", metavar="DATA...", nargs=-1, required=True)
@OBJECTIVES
@click.option("--model", required=True, help="Directory or hub name of the reference model.")
@click.option("--out", required=True, metavar="FAMILY", type=click.Path(path_type=Path), help="Directory to make.")
@click.option("--primary", required=True, metavar="OBJECTIVE", help="Objective to maximise.")
@click.option("--policies", required=True, type=click.IntRange(min=1), help="How many.")
@floor_option("Data win rate that all must hold.", "OBJECTIVE=RATE")
@click.option("--method", default="mopo", show_default=True, type=click.Choice(["mopo"]))
@click.option("--step", default="pairwise", show_default=True, type=click.Choice(STEPS))
@click.option("--tau", default=0.15, show_default=True, type=FiniteRange(min=0, min_open=True), help="KL weight.")
@click.option("--epsilon", type=FiniteRange(min=0), help="Radius of robust floors.  [default: by confidence, prompts]")
@click.option("--confidence", default=0.95, show_default=True, type=FiniteRange(0.5, 1, True, True), help="Of bounds.")
@click.option("--source", default="labels", show_default=True, type=click.Choice(SOURCES), help="Of win rates.")
@click.option("--encoder", metavar="MODEL", help=ENCODER)
@click.option("--variant", default="lagrangian", show_default=True, type=click.Choice(["lagrangian", "log-barrier"]))
@click.option("--normaliser", default="prompt", show_default=True, type=click.Choice(["prompt", "global"]), help=GLOBAL)
@click.option("--independent-labels", is_flag=True, help=INDEPENDENT)
@click.option("--steps", default=160, show_default=True, type=click.IntRange(min=1), help="From a neighbour half.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(min=2), help="Responses per step.")
@click.option("--learning-rate", default=2e-3, show_default=True, type=FiniteRange(min=0, min_open=True))
@click.option("--rank", default=8, show_default=True, type=click.IntRange(min=1), help="Of the LoRA adapters.")
@click.option("--own-anchor", default=1.0, show_default=True, type=FiniteRange(min=0), help=OWN_ANCHOR)
@click.option("--length-normalised", is_flag=True, help="Mean log-probabilities of tokens, not sums.")
@click.option(
    "--t0", type=click.IntRange(min=1), help="Steps between refreshes of a lagged reference.  [default: none]"
)
@click.option("--floor-schedule", default="fixed", show_default=True, type=click.Choice(["fixed", "adaptive"]))
@click.option("--beta", default=0.9995, show_default=True, type=FiniteRange(0, 1, True), help="Of adaptive floors.")
@click.option("--on-policy-rounds", default=0, show_default=True, type=click.IntRange(min=0), help=ON_POLICY)
@click.option("--on-policy-answers", default=4, show_default=True, type=click.IntRange(min=2), help="Per prompt.")
@click.option("--interpolate", default=0, show_default=True, type=click.IntRange(0, 9), help=INTERPOLATE)
@click.option("--kl-prompts", default=64, show_default=True, type=click.IntRange(min=0), help=KL_PROMPTS)
@click.option("--max-length", default=512, show_default=True, type=click.IntRange(min=2), help="Prompt and response.")
@click.option("--precision", default="auto", show_default=True, type=click.Choice(PRECISIONS), help=PRECISION)
@click.option("--report-to", multiple=True, type=click.Choice(REPORTS), help=REPORT)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--chains", type=click.IntRange(min=1), help=CHAINS)
@click.option("--executor", default="local", show_default=True, type=click.Choice(["local", "ray"]), help=EXECUTOR)
@click.option("--ray-address", metavar="ADDRESS", help="Of a Ray cluster.  [default: RAY_ADDRESS, or this machine]")
@click.option("--gpus-per-policy", type=FiniteRange(min=0), help="With ray; may be 0.25.  [default: 1 if any]")
@click.option("--cpus-per-policy", default=1.0, show_default=True, type=FiniteRange(min=0.1), help="With ray.")
@click.option("--fsdp", is_flag=True, help=FSDP)
@click.option("--force", is_flag=True, help="Train again what is there.")
def run(sources: tuple[str, ...], model: str, out: Path, floors: tuple[str, ...], **options: Any) -> None:
    """Train a family of policies along the front that DATA predicts.

    Floors and predictions are data win rates: 0.5 is parity with the responses of DATA. Without --floor the policies
    spread over the whole front; with it the first holds exactly these floors and the others spread beyond. Killed and
    repeated, it continues. Algorithm 1 of the paper (arXiv 2505.10892) as published: --step weighted-bc --t0 500
    --floor-schedule adaptive --beta 0.9995 --tau 0.08 --epsilon 0.15 --steps 10000 --batch-size 8 --own-anchor 0. To
    train each policy on several GPUs: torchrun --nproc-per-node N -m mopo_train run ...
    """
    from mopo_train.execution import Execution
    from mopo_train.executor.cluster import Cluster
    from mopo_train.family import parse_floors
    from mopo_train.policy.distributed import is_sharded, joined
    from mopo_train.policy.reporting import check_integrations
    from mopo_train.run import read_config, run_family

    report_to = options.pop("report_to")
    check_integrations(report_to)
    force, shard, on_ray = options.pop("force"), is_sharded(options.pop("fsdp")), options.pop("executor") == "ray"
    asked = Cluster(*(options.pop(name) for name in ("ray_address", "gpus_per_policy", "cpus_per_policy")))
    execution = Execution(report_to=report_to, shard=shard, cluster=asked if on_ray else None)
    if options["chains"] is None:
        options["chains"] = options["policies"] if on_ray or options["interpolate"] else 1
    config = read_config(parse_floors(floors), **options)
    with joined():
        family = run_family(sources, out, config, model=model, force=force, execution=execution)
    if not speaks():
        return
    names = family.objectives
    rows = [
        [policy.id, *(_value(values.get(name)) for values in (policy.floors, policy.predicted) for name in names)]
        for policy in family.policies
    ]
    columns = [f"{kind} {name}" for kind in ("floor", "predicted") for name in names]
    print_table(["policy", *columns], rows, title=f"{out} (data win rates)")


@main.command()
@click.argument("sources", metavar="DATA...", nargs=-1, required=True)
@OBJECTIVES
@click.option("--model", required=True, help="Directory or hub name of the reference model.")
@click.option("--out", required=True, metavar="FAMILY", type=click.Path(path_type=Path), help="Directory to make.")
@click.option(
    "--method",
    required=True,
    type=click.Choice(["dpo", "soup", "scalarised-dpo", "modpo", "grpo"]),
    help="One policy per objective, mixtures of those, or weighted objectives.",
)
@click.option("--primary", metavar="OBJECTIVE", help="Named by the family; MODPO's own loss.  [default: the first]")
@click.option("--policies", type=click.IntRange(min=1), help="How many.  [default: 6; dpo: one per objective]")
@click.option("--beta", default=0.1, show_default=True, type=FiniteRange(min=0, min_open=True), help="KL weight.")
@click.option("--steps", default=160, show_default=True, type=click.IntRange(min=1), help="Half from a neighbour on.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(min=2), help="Answers; 2 per pair.")
@click.option("--learning-rate", type=FiniteRange(min=0, min_open=True), help="[default: 2e-3; grpo: 3e-4]")
@click.option("--rank", default=8, show_default=True, type=click.IntRange(min=1), help="Of the trained adapters.")
@click.option("--max-length", default=512, show_default=True, type=click.IntRange(min=2), help="Prompt and response.")
@click.option("--report-to", multiple=True, type=click.Choice(REPORTS), help=REPORT)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--force", is_flag=True, help="Train again what is there.")
def baseline(sources: tuple[str, ...], model: str, out: Path, force: bool, **options: Any) -> None:
    """Train a family by another method (with TRL: pip install 'mopo-suite[baselines]'), to compare with.

    dpo: one policy per objective. soup: weighted means of those (arXiv 2306.04488). scalarised-dpo: DPO on a weighted
    sum of the objectives' losses. modpo: DPO with the other objectives as margins (arXiv 2310.03708). grpo: RLHF with
    rewards fitted on DATA. Killed and repeated, it continues with the policy that it was training.
    """
    from mopo_train.baselines.run import read_config, train_baseline
    from mopo_train.policy.reporting import check_integrations

    report_to = options.pop("report_to")
    check_integrations(report_to)
    config = read_config(**options)
    family = train_baseline(sources, out, config, model=model, force=force, report_to=report_to)
    weights = family.config["weights"]
    rows = [
        [name, *(_value(given.get(objective)) for objective in family.objectives)] for name, given in weights.items()
    ]
    print_table(["policy", *(f"weight {name}" for name in family.objectives)], rows, title=str(out))


def _value(number: float | None) -> str:
    return "" if number is None else f"{number:.3f}"


@main.command()
@click.argument("sources", metavar="DATA...", nargs=-1, required=True)
@OBJECTIVES
@click.option("--primary", metavar="OBJECTIVE", help="Objective to maximise.  [default: the first]")
@click.option("--policies", default=6, show_default=True, type=click.IntRange(min=1), help="Points to propose.")
@floor_option("Data win rate; plans this one point.", "OBJECTIVE=RATE")
@click.option("--tau", default=0.15, show_default=True, type=FiniteRange(min=0, min_open=True), help="KL weight.")
@click.option("--epsilon", type=FiniteRange(min=0), help="Radius of robust floors.  [default: by confidence, prompts]")
@click.option("--confidence", default=0.95, show_default=True, type=FiniteRange(0.5, 1, True, True), help="Of bounds.")
@click.option("--variant", default="lagrangian", show_default=True, type=click.Choice(["lagrangian", "log-barrier"]))
@click.option("--normaliser", default="prompt", show_default=True, type=click.Choice(["prompt", "global"]), help=GLOBAL)
@click.option("--independent-labels", is_flag=True, help=INDEPENDENT)
@click.option("--source", default="labels", show_default=True, type=click.Choice(SOURCES), help="Of win rates.")
@click.option("--cross-fit/--no-cross-fit", default=None, help=CROSS_FIT)
@click.option("--encoder", metavar="MODEL", help=ENCODER)
@click.option("--out", type=click.Path(path_type=Path), help="Directory for plan.json and plan.html.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(sources: tuple[str, ...], floors: tuple[str, ...], out: Path | None, as_json: bool, **options: Any) -> None:
    """Predict the front from DATA and propose floors, before any model is trained.

    Floors and predictions are data win rates: 0.5 is parity with the responses of DATA.
    """
    from mopo_train.family import parse_floors
    from mopo_train.plan import PlanRequest, check_out, make_plan, plan_table, write_plan
    from mopo_train.preferences import read_preferences

    if out is not None:
        check_out(out)
    data = read_preferences(sources, objectives=options.pop("objectives"))
    made = make_plan(data, PlanRequest(floors=parse_floors(floors), **options))
    for note in (*data.notes(), *made.warnings):
        say(note)
    if out is not None:
        write_plan(out, made.document)
        say(f"{out}: plan.json and plan.html")
    if as_json:
        print_json(made.document)
    else:
        print_table(*plan_table(made.document), title="predicted front (data win rates)")
        for step in made.document["steps"]:
            click.echo(step["text"])


@main.command()
@click.argument("sources", metavar="DATA...", nargs=-1, required=True)
@OBJECTIVES
@click.option("--model", required=True, help="Directory or hub name of the reference model; its name at --engine.")
@click.option("--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="Rows {prompt, response}.")
@click.option("--engine", metavar="URL", help="OpenAI-compatible server (vLLM), as http://HOST/v1.  [default: none]")
@click.option("--per-prompt", default=8, show_default=True, type=click.IntRange(min=2), help="Answers to each prompt.")
@click.option("--max-tokens", default=256, show_default=True, type=click.IntRange(min=1), help="Of an answer.")
@click.option("--temperature", default=1.0, show_default=True, type=FiniteRange(min=0), help="1: the reference itself.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Without --engine.")
def candidates(sources: tuple[str, ...], model: str, out: Path, engine: str | None, **options: Any) -> None:
    """Sample answers of the reference to the prompts of DATA, for 'mopo-train label'.

    Killed and repeated, it continues.
    """
    from mopo_train.candidates import SampleSettings, write_candidates
    from mopo_train.preferences import read_preferences

    data = read_preferences(sources, objectives=options.pop("objectives"), at_least=0)
    written = write_candidates(data, out, SampleSettings(**options), model=model, engine=engine)
    say(f"{out}: {written} answers to {len(data.group)} prompts")


@main.command()
@click.argument("sources", metavar="DATA...", nargs=-1, required=True)
@OBJECTIVES
@click.option("--candidates", required=True, metavar="FILE", help="Rows {prompt, response}, several per prompt.")
@click.option("--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="Preference data to write.")
@click.option("--encoder", metavar="MODEL", help=ENCODER)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
def label(
    sources: tuple[str, ...], objectives: tuple[str, ...], candidates: str, out: Path, encoder: str | None, seed: int
) -> None:
    """Label all pairs of candidates by a preference model that is fitted to DATA: data for 'plan' and 'run'.

    Labels are probabilities. A prompt of DATA is labelled by a model that was fitted without it.
    """
    from mopo_train.preference_model.labelling import label_candidates
    from mopo_train.preference_model.settings import FitSettings
    from mopo_train.preferences import read_preferences

    data = read_preferences(sources, objectives=objectives)
    pairs, prompts = label_candidates(data, candidates, out, FitSettings(encoder=encoder), seed=seed)
    say(f"{out}: {pairs} labelled pairs of answers to {prompts} prompts")


@main.command()
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Directory to write.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Decides everything random.")
@click.option("--prompts", default=500, show_default=True, type=click.IntRange(min=1), help="Training prompts.")
@click.option("--held-out", default=200, show_default=True, type=click.IntRange(min=1), help="Evaluation prompts.")
@click.option("--tau", default=0.15, show_default=True, type=FiniteRange(0, 10, True), help="Of the exact front.")
@click.option("--texts", default=24_000, show_default=True, type=click.IntRange(min=1), help="For the base model.")
@click.option("--model/--no-model", "base", default=True, help="Train the base model, or write the data alone.")
@click.option("--force", is_flag=True, help="Replace a sandbox that is there.")
def sandbox(out: Path, force: bool, **options: Any) -> None:
    """Write a small world with known truth: preference data, held-out prompts, judges, a base model, the exact front.

    It stands in for a labelled data set and a hub model: the other commands take DIR/preferences.jsonl,
    DIR/base, DIR/prompts.jsonl and DIR/judges.yaml.
    """
    from mopo_train.sandbox.build import SandboxConfig, build_sandbox

    made = build_sandbox(out, SandboxConfig(**options), force=force)
    say(f"{out}: {made.pairs} labelled pairs, {made.config.held_out} held-out prompts")
    scores = [(name, f"{score:.3f}") for name, score in made.reference_scores.items()]
    print_table(("mean judge score", "world's writer"), scores)
