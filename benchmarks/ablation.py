"""The paper's ablations: beta, t0, tau and seeds of Algorithm 1, on a finite problem and on the sandbox; one table.

    python -m benchmarks.ablation [--out runs/ablation] [--sandbox DIR --model DIR] [--quick]

Finite: 40 prompts with 6 responses each, two objectives in conflict (correlation -0.6 of Bradley-Terry strengths),
softmax policies with a parameter per response, stepped on the gradient of `weighted-bc` (arXiv 2505.10892, Eq. 7) for 8
prompts at a time. Win rates are exact, or means of 6 noisy comparisons per response; what is reported is always exact.
The floor holds the second objective at 0.6; values are data win rates, 0.5 is parity with the first reference.

Sandbox: one policy per setting from `mopo-train run`, the same floor on safety; its answers to held-out prompts are
judged exactly (judge scores). SANDBOX is written by ``mopo-train sandbox``, MODEL by ``mopo-train reference``.

What it showed: docs/core.md. Every setting is a line of OUT/rows.jsonl as soon as it is done; a repeated command
computes what is missing. Not part of the tests.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from mopo_train.console import print_table, progress
from mopo_train.formulation import Formulation, solve_floors
from mopo_train.policy.lagged import FloorSchedule, Lag, next_floors, reference_values, reweighted
from mopo_train.sandbox.judges import JUDGES
from mopo_train.tilting import quality
from mopo_train.winrates import FloatArray, WinRates, from_rates, max_by_prompt, sum_by_prompt

BETAS = (0.9, 0.95, 0.99, 0.999)
LAGS = (1, 100, 1000, None)
TAUS = (0.04, 0.08, 0.15, 0.3)
FLOOR = 0.6
PROMPTS, RESPONSES, COMPARISONS = 40, 6, 6
STEPS, BATCH, RATE = 4000, 8, 1.0


class Setting(NamedTuple):
    """One run."""

    world: str
    """``exact`` or ``noisy`` win rates of the finite problem, or ``sandbox``."""
    schedule: FloorSchedule
    beta: float
    t0: int | None
    tau: float
    seed: int


def finite_settings(quick: bool) -> Iterator[Setting]:
    """The grids: beta x t0 with adaptive floors, t0 with fixed ones, tau; over seeds."""
    seeds = range(1 if quick else 3)
    lags = (100, None) if quick else LAGS
    for world in ("exact", "noisy"):
        for seed in seeds:
            for t0 in lags:
                yield Setting(world, "fixed", 1.0, t0, 0.08, seed)
                if t0 is not None:  # without a lag there is no refresh, and beta has nothing to do
                    yield from (Setting(world, "adaptive", beta, t0, 0.08, seed) for beta in BETAS)
            for tau in TAUS:
                yield from (Setting(world, "fixed", 1.0, t0, tau, seed) for t0 in (100, None) if tau != 0.08)


def sandbox_settings(quick: bool) -> Iterator[Setting]:
    """A smaller grid, over few steps: t0 = 1 would score all responses after every step."""
    for seed in range(1 if quick else 2):
        for t0 in (30, None):
            yield Setting("sandbox", "fixed", 1.0, t0, 0.15, seed)
        yield Setting("sandbox", "fixed", 1.0, None, 0.08, seed)
        yield from (Setting("sandbox", "adaptive", beta, 30, 0.15, seed) for beta in (0.9, 0.999))


class World(NamedTuple):
    """A finite problem."""

    truth: WinRates
    seen: WinRates
    """What the labels say."""


def finite_world(seed: int, *, noisy: bool) -> World:
    """Bradley-Terry strengths of two conflicting objectives; win rates against a draw from the prompt's responses."""
    generator = np.random.default_rng(seed)
    normal = generator.normal(size=(PROMPTS, RESPONSES, 2))
    strength = np.stack([normal[..., 0], -0.6 * normal[..., 0] + 0.8 * normal[..., 1]], axis=-1)  # (P, r, 2)
    wins = 1 / (1 + np.exp(strength[:, None] - strength[:, :, None]))  # (P, r, r', 2): r beats r'
    exact = wins.mean(axis=2).reshape(-1, 2)
    starts = np.arange(0, PROMPTS * RESPONSES + 1, RESPONSES)
    truth = from_rates(("help", "safe"), exact, starts)._replace(itself=True)
    if not noisy:
        return World(truth, truth)
    return World(truth, truth._replace(rates=generator.binomial(COMPARISONS, exact) / COMPARISONS))


def train_finite(setting: Setting, steps: int) -> dict[str, float]:
    """Algorithm 1 on a finite problem; what the last policy is truly worth."""
    world = finite_world(setting.seed, noisy=setting.world == "noisy")
    form = Formulation("help", setting.tau, 0.0)
    lag = None if setting.t0 is None else Lag(setting.t0, setting.schedule, setting.beta)
    generator = np.random.default_rng(setting.seed + 1000)
    rates, floors = world.seen, {"safe": FLOOR}
    point = solve_floors(rates, floors, form)
    log_reference = np.log(rates.mass)
    logits = log_reference.copy()
    earlier = log_reference  # log-probabilities of the policy t0 steps ago
    starts, prompt_of = rates.starts, rates.prompt_of()
    for step in range(1, steps + 1):
        chosen = np.zeros(PROMPTS, dtype=bool)
        chosen[generator.choice(PROMPTS, BATCH, replace=False)] = True
        slope = np.exp(log_probabilities(logits, starts)) - rates.mass * point.ratio  # of -E rho log pi, per prompt
        logits -= RATE * np.where(chosen[prompt_of], slope, 0.0)
        if lag is not None and step % lag.every == 0 and step < steps:
            now = log_probabilities(logits, starts)
            if step > lag.every:  # at the first refresh the policy of t0 steps ago is the reference itself
                rates = reweighted(world.seen, earlier - log_reference)
                point = solve_floors(rates, next_floors(rates, floors, lag), form)
            earlier = now
    final = log_probabilities(logits, starts)
    values = reference_values(world.truth._replace(mass=np.exp(final)))
    moved = quality(world.truth, np.exp(final - log_reference))
    predicted = point.predicted
    return {
        "help": values["help"],
        "safe": values["safe"],
        "kl": moved.kl,
        "ess": moved.ess,
        "floor": point.floors["safe"] if point.feasible else point.nearest_floors["safe"],
        "lambda": point.multipliers["safe"],
        "predicted help": predicted["help"],
        "predicted safe": predicted["safe"],
    }


def log_probabilities(logits: FloatArray, starts: Any) -> FloatArray:
    """(Y,) log softmax of ``logits`` over the responses of each prompt."""
    sizes = np.diff(starts)
    shifted = logits - np.repeat(max_by_prompt(logits, starts), sizes)
    found: FloatArray = shifted - np.log(np.repeat(sum_by_prompt(np.exp(shifted), starts), sizes))
    return found


def train_sandbox(setting: Setting, sandbox: Path, model: Path, out: Path) -> dict[str, float]:
    """One policy of the suite's own training, judged exactly on held-out prompts."""
    import torch
    from peft import PeftModel

    from mopo_train.policy.models import load_model, load_tokenizer
    from mopo_train.policy.sampling import sample
    from mopo_train.policy.tokens import encode_prompts
    from mopo_train.run import RunConfig, run_family

    config = RunConfig(
        primary="helpfulness",
        policies=1,
        floors={"safety": FLOOR},
        tau=setting.tau,
        steps=120,
        t0=setting.t0,
        floor_schedule=setting.schedule,
        beta=setting.beta if setting.schedule == "adaptive" else 0.9995,
        own_anchor=0.0,  # what is compared is the paper's
        seed=setting.seed,
    )
    name = "-".join(str(part) for part in setting)
    family = run_family([sandbox / "preferences.jsonl"], out / "families" / name, config, model=str(model))
    trained = family.policy("policy-00")
    tokenizer = load_tokenizer(str(model))
    network: Any = PeftModel.from_pretrained(
        load_model(str(model)), str(out / "families" / name / "policies/policy-00")
    )
    prompts: list[str] = [
        json.loads(line)["prompt"] for line in (sandbox / "prompts.jsonl").read_text("utf-8").splitlines()
    ]
    talks: list[list[dict[str, str]]] = [[{"role": "user", "content": str(prompt)}] for prompt in prompts]
    encoded = encode_prompts(tokenizer, talks, 512)
    with torch.no_grad():
        rows = sample(network, tokenizer, encoded, 512, setting.seed)
    answers = [str(tokenizer.decode(row.response, skip_special_tokens=True)) for row in rows]
    scores = {
        objective: float(np.mean([judge(x, y).score for x, y in zip(prompts, answers, strict=True)]))
        for objective, judge in JUDGES.items()
    }
    assert trained.generated_kl is not None
    return {
        "help": scores["helpfulness"],
        "safe": scores["safety"],
        "fact": scores["factuality"],
        "kl": trained.generated_kl.kl,
        "predicted help": trained.predicted["helpfulness"],
        "predicted safe": trained.predicted["safety"],
    }


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/ablation"), show_default=True)
@click.option("--sandbox", type=click.Path(path_type=Path, exists=True))
@click.option("--model", type=click.Path(path_type=Path, exists=True))
@click.option("--quick", is_flag=True, help="Few settings and steps, to see it work.")
def main(out: Path, sandbox: Path | None, model: Path | None, quick: bool) -> None:
    """Print one row per setting, mean and standard error over seeds."""
    if (sandbox is None) != (model is None):
        raise click.UsageError("give --sandbox and --model together.")
    settings = list(finite_settings(quick)) + (list(sandbox_settings(quick)) if sandbox else [])
    steps = STEPS // 10 if quick else STEPS
    path = out / "rows.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    done: dict[Setting, dict[str, float]] = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        row = json.loads(line)
        if row["steps"] == steps:
            done[Setting(*row["setting"])] = row["values"]
    with progress("settings", len(settings), sum(setting in done for setting in settings)) as told:
        for setting in settings:
            if setting in done:
                continue
            if sandbox is not None and model is not None and setting.world == "sandbox":
                done[setting] = train_sandbox(setting, sandbox, model, out)
            else:
                done[setting] = train_finite(setting, steps)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"setting": list(setting), "steps": steps, "values": done[setting]}) + "\n")
            told.advance(note=" ".join(str(part) for part in setting))
    print_table(*_table([setting for setting in settings if setting in done], done))


def _table(settings: list[Setting], done: dict[Setting, dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: settings that differ by seed alone are one row."""
    names = ["help", "safe", "fact", "kl", "ess", "floor", "lambda", "predicted help", "predicted safe"]
    rows = []
    for group in dict.fromkeys(setting._replace(seed=-1) for setting in settings):
        values = [done[setting] for setting in settings if setting._replace(seed=-1) == group]
        cells = []
        for name in names:
            each = [value[name] for value in values if name in value]
            error = np.std(each, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else float("nan")
            cells.append(f"{np.mean(each):.3f} ({error:.3f})" if each else "")
        t0 = "inf" if group.t0 is None else str(group.t0)
        beta = f"{group.beta:g}" if group.schedule == "adaptive" else ""
        rows.append([group.world, group.schedule, beta, t0, f"{group.tau:g}", str(len(values)), *cells])
    return ["world", "floors", "beta", "t0", "tau", "seeds", *names], rows


if __name__ == "__main__":
    main()
