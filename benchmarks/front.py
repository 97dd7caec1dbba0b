"""How close each method comes to the true front at the same cost.

    python -m benchmarks.front --world sandbox --seeds 0 1 2 3 4 --policies 8 --out runs/front
    python -m benchmarks.front --world pairs --data ../shared/data --seeds 0 1 2 3 4 --out runs/front-pairs

Every method trains with the same data, reference model, LoRA rank, learning rate schedule and total of optimiser steps;
`--equal pairs` gives a step of the pairwise methods as many pairs as a step of MOPO has, `--equal sequences` (default)
as many sequences through the model. Every method has three strengths of its KL penalty to choose from, by the
hypervolume on validation prompts, seed by seed. Sandbox: judge scores of sampled answers on held-out prompts, reference
point at the nadir of the exact front, worth as a ratio to the best subset of that front. Pairs: accuracy on held-out
pairs, reference point at chance. Intervals: bootstrap over seeds and prompts, the same draws for all methods.

A finished cell (method, strength, seed) is a file under OUT and is not computed again. Sandbox seeds 100 to 104 are for
final runs only, once. Not part of the tests.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.front_statistics import (
    Front,
    at_divergence,
    hypervolume,
    interval,
    mean_hypervolume,
    policy_means,
    resampled,
    share_of_floors_met,
)
from benchmarks.front_worlds import Measured, PairsWorld, Ready, SandboxWorld, Truth, World
from mopo_train.baselines.config import LATER, BaselineConfig, total_steps
from mopo_train.baselines.run import train_baseline
from mopo_train.console import print_table, say
from mopo_train.family import write_whole
from mopo_train.run import RunConfig, run_family, steps_of_policies

STRENGTHS: dict[str, tuple[float, ...]] = {
    "mopo": (0.06, 0.1, 0.15),
    "dpo": (0.3, 1.0, 3.0),
    "soup": (0.3, 1.0, 3.0),
    "scalarised-dpo": (0.3, 1.0, 3.0),
    "modpo": (0.3, 1.0, 3.0),
    "grpo": (0.01, 0.03, 0.1),
}
"""Weights of the KL penalty to choose from, each in its method's unit."""
PAIRS_OF_MOPO = 3
"""Pairs per two responses of a planned step where all four responses to a prompt are compared (the sandbox)."""


FORMATS = (("worth", ""), ("ahead", "+"))
"""Intervals of the table, and how their numbers are signed."""


class Cell(NamedTuple):
    """One method with one strength on one seed."""

    measured: Measured
    seconds: float
    """CPU time of training."""
    steps: int


class Chosen(NamedTuple):
    """What a method showed on a seed with the strength that validation chose."""

    strength: float
    front: Front
    kl: float
    """Mean over policies."""
    floors: float
    """Share met; NaN without floors."""
    seconds: float
    steps: int
    curve: list[tuple[float, float]]
    """(mean KL, worth) of every strength on the test prompts."""


def main() -> None:
    """Compute what is missing, then print the table and draw the picture."""
    options = arguments()
    torch.set_num_threads(1)
    world = make_world(options)
    chosen: dict[str, list[Chosen]] = {method: [] for method in options.methods}
    strengths = STRENGTHS | dict(given_strengths(text) for text in options.strengths)
    for seed in options.seeds:
        ready = world.ready(seed)
        split = world.validation(seed)
        truths = [world.truth(seed, part, options.policies) for part in (split, ~split)]
        for method in options.methods:
            cells = {at: cell(world, ready, seed, method, at, options) for at in strengths[method]}
            chosen[method].append(
                choose(cells, split, truths[0], truths[1], list(world.objectives).index(ready.primary))
            )
    document = report(chosen, options, world.objectives)
    write_whole(options.out / "front.json", json.dumps(document, indent=1) + "\n")
    draw(chosen, options, world)


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=["sandbox", "pairs"], default="sandbox")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=list(STRENGTHS), default=list(STRENGTHS))
    parser.add_argument("--strengths", nargs="+", default=[], metavar="METHOD=A,B", help="instead of its own three")
    parser.add_argument("--policies", type=int, default=8)
    parser.add_argument("--steps", type=int, default=160, help="of the first of a chain; sets the total of all")
    parser.add_argument("--equal", choices=["sequences", "pairs"], default="sequences", help="per step")
    parser.add_argument("--prompts", type=int, default=500, help="of the sandbox, to train on")
    parser.add_argument("--held-out", type=int, default=300, help="of the sandbox; a third validates")
    parser.add_argument("--samples", type=int, default=2, help="answers per held-out prompt")
    parser.add_argument("--mopo", type=json.loads, default={}, help="further settings of mopo-train run, as JSON")
    parser.add_argument("--data", type=Path, help="directory of the real data sets, for --world pairs")
    parser.add_argument("--quick", action="store_true", help="tiny reference model, for --world pairs")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.world == "pairs" and options.data is None:
        parser.error("--world pairs needs --data")
    return options


def given_strengths(text: str) -> tuple[str, tuple[float, ...]]:
    """A method and its strengths, from METHOD=A,B."""
    method, _, values = text.partition("=")
    if method not in STRENGTHS:
        sys.exit(f"--strengths {text}: write METHOD=A,B with a method of {', '.join(STRENGTHS)}")
    return method, tuple(float(value) for value in values.split(","))


def make_world(options: argparse.Namespace) -> World:
    """The world that was asked for."""
    if options.world == "pairs":
        return PairsWorld(options.out, options.data, quick=options.quick)
    return SandboxWorld(options.out, prompts=options.prompts, held_out=options.held_out, samples=options.samples)


def cell(world: World, ready: Ready, seed: int, method: str, strength: float, options: argparse.Namespace) -> Cell:
    """Train and measure, or read what was measured."""
    place = options.out / f"seed-{seed}" / f"{method}-{strength:g}"
    kept = place / "cell.npz"
    asked = settings(method, strength, seed, ready, world.objectives, options)
    told = asked.model_dump_json()
    if kept.exists():
        with np.load(kept) as found:
            if str(found["settings"]) != told:
                sys.exit(f"'{kept}' was measured with other settings; give another --out, or delete it.")
            return Cell(Measured(found["values"], found["kl"]), float(found["seconds"]), int(found["steps"]))
    say(f"{method} {strength:g}, seed {seed}")
    began = time.process_time()
    family = place / "family"
    if isinstance(asked, RunConfig):
        run_family(ready.sources, family, asked, model=str(ready.model))
        steps = sum(steps_of_policies(asked, asked.policies))
    else:
        train_baseline(ready.sources, family, asked, model=str(ready.model))
        steps = total_steps(asked, world.objectives)
    seconds = time.process_time() - began
    measured = world.measure(seed, family)
    if len(measured.values) > options.policies:
        sys.exit(f"'{family}' has {len(measured.values)} policies, more than --policies {options.policies}")
    partial = kept.with_name("partial.npz")
    np.savez(partial, values=measured.values, kl=measured.kl, seconds=seconds, steps=steps, settings=told)
    partial.rename(kept)
    shutil.rmtree(family / "base", ignore_errors=True)  # the same in every cell
    return Cell(measured, seconds, steps)


def settings(
    method: str, strength: float, seed: int, ready: Ready, objectives: Sequence[str], options: argparse.Namespace
) -> RunConfig | BaselineConfig:
    """The configuration of a method with the same total of steps as MOPO."""
    later = 1 + LATER * (options.policies - 1)  # policies' steps in units of the first one's
    if method == "mopo":
        size = between(options.policies, round(options.steps * later))
        own = {"primary": ready.primary, "seed": seed, "tau": strength, "kl_prompts": 0}
        return RunConfig(**(own | size | options.mopo))
    begun = {"dpo": len(objectives), "soup": len(objectives), "modpo": later + len(objectives) - 1}
    steps = round(options.steps * later / begun.get(method, later))
    wider = PAIRS_OF_MOPO if options.equal == "pairs" and method != "grpo" else 1
    given = {
        "method": method,
        "beta": strength,
        "policies": None if method == "dpo" else options.policies,
        "steps": steps,
        "batch_size": 32 * wider,
        "primary": ready.primary,
        "seed": seed,
    }
    return BaselineConfig.model_validate(given).resolved(objectives)


def between(policies: int, steps: int) -> dict[str, int]:
    """Settings of a family of at most ``policies`` with so many ``steps``: some trained, one more in each gap."""
    trained = (policies + 1) // 2
    return {"policies": trained, "chains": trained, "interpolate": 1, "steps": round(steps / trained)}


def choose(cells: Mapping[float, Cell], split: Any, valid: Truth, test: Truth, primary: int) -> Chosen:
    """The cell with the most hypervolume on the validation prompts, measured on the others."""
    scale = test.best or 1.0

    def worth(cell: Cell, prompts: Any, truth: Truth) -> float:
        return hypervolume(policy_means(cell.measured.values[..., prompts]), truth.nadir)

    strength = max(cells, key=lambda at: worth(cells[at], split, valid))
    best = cells[strength]
    front = Front(best.measured.values[..., ~split], test.nadir, scale)
    means = [policy_means(best.measured.values[..., part]) for part in (split, ~split)]
    floors = share_of_floors_met(means[0], means[1], test.floors, primary) if len(test.floors) else float("nan")
    curve = [(float(one.measured.kl.mean()), worth(one, ~split, test) / scale) for one in cells.values()]
    return Chosen(strength, front, float(best.measured.kl.mean()), floors, best.seconds, best.steps, curve)


def report(
    chosen: Mapping[str, Sequence[Chosen]], options: argparse.Namespace, objectives: Sequence[str]
) -> dict[str, Any]:
    """Print the table; returns what it says. Methods are compared with the first one."""
    fronts = {method: [one.front for one in each] for method, each in chosen.items()}
    draws = resampled(fronts)
    first, *_ = options.methods
    told: dict[str, dict[str, Any]] = {}
    for method, each in chosen.items():
        mean = mean_hypervolume(fronts[method])
        ahead = mean_hypervolume(fronts[first]) - mean
        matched = [at_divergence(one.curve, mine.kl) for one, mine in zip(each, chosen[first], strict=True)]
        told[method] = {
            "strengths": [one.strength for one in each],
            "worth": interval(mean, draws[method]),
            "ahead": interval(ahead, draws[first] - draws[method]),
            "matched": float(np.mean(matched)),
            "kl": float(np.mean([one.kl for one in each])),
            "floors": float(np.mean([one.floors for one in each])),
            "steps": each[0].steps,
            "seconds": float(np.median([one.seconds for one in each])),
            "nadirs": [one.front.nadir.tolist() for one in each],
            "means": [policy_means(one.front.values).tolist() for one in each],
            "curves": [one.curve for one in each],
        }
    unit = "hypervolume" if chosen[first][0].front.scale == 1 else "hypervolume / best subset of the exact front"
    columns = ["method", "strength", unit, f"{first} is ahead by", f"at {first}'s KL", "KL nats", "floors met", "steps"]
    rows = [_row(method, values, method == first) for method, values in told.items()]
    print_table([*columns, "CPU s"], rows, title=f"{options.world}, K = {options.policies}, seeds {options.seeds}")
    points = [np.round(nadir, 3).tolist() for nadir in told[first]["nadirs"]]
    print(f"reference points ({', '.join(objectives)}): {points}")
    return {"world": options.world, "seeds": options.seeds, "policies": options.policies, "methods": told}


def _row(method: str, values: Mapping[str, Any], first: bool) -> list[str]:
    worth, ahead = (f"{{:{sign}.3f}} [{{:{sign}.3f}}, {{:{sign}.3f}}]".format(*values[name]) for name, sign in FORMATS)
    return [
        method,
        " ".join(f"{strength:g}" for strength in sorted(set(values["strengths"]))),
        worth,
        "" if first else ahead,
        f"{values['matched']:.3f}",
        f"{values['kl']:.2f}",
        f"{values['floors']:.2f}",
        str(values["steps"]),
        f"{values['seconds']:.0f}",
    ]


def draw(chosen: Mapping[str, Sequence[Chosen]], options: argparse.Namespace, world: World) -> None:
    """OUT/front.html: the policies of the first seed, a panel for each pair of objectives, and the curves."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    names = list(world.objectives)
    pairs = [(0, 1), (0, 2), (1, 2)]
    titles = [f"{names[a]} against {names[b]}" for a, b in pairs] + ["worth by divergence"]
    figure = make_subplots(rows=2, cols=2, subplot_titles=titles)
    palette = ["#1b6ca8", "#d1495b", "#edae49", "#66a182", "#8d6a9f", "#555555"]
    for colour, (method, each) in zip(palette, chosen.items(), strict=False):
        means = policy_means(each[0].front.values)
        style = {"mode": "markers", "name": method, "legendgroup": method, "marker": {"color": colour, "size": 9}}
        for place, (a, b) in enumerate(pairs):
            trace = go.Scatter(x=means[:, a], y=means[:, b], showlegend=place == 0, **style)
            figure.add_trace(trace, row=1 + place // 2, col=1 + place % 2)
        curve = sorted(np.mean([one.curve for one in each], axis=0).tolist())
        x, y = zip(*curve, strict=True)
        line = {"color": colour}
        figure.add_trace(go.Scatter(x=x, y=y, name=method, showlegend=False, line=line), row=2, col=2)
    truth = world.truth(options.seeds[0], ~world.validation(options.seeds[0]), options.policies)
    figure.update_layout(
        width=1100, height=900, title=f"{options.world}: seed {options.seeds[0]}, curves over all seeds"
    )
    figure.add_annotation(
        text=f"reference point {np.round(truth.nadir, 3).tolist()}",
        showarrow=False,
        x=0,
        y=-0.08,
        xref="paper",
        yref="paper",
    )
    figure.write_html(str(options.out / "front.html"), include_plotlyjs=True)
    say(f"{options.out}: front.json and front.html")


if __name__ == "__main__":
    main()
