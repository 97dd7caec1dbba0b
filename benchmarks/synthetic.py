"""How near plans come to the true front of finite response sets, with exact and with sampled preferences.

    python -m benchmarks.synthetic [--seeds 3] [--responses 10 ...] [--objectives 2 ...] [--out runs/synthetic]

For every kind of preferences (`synthetic_worlds.KINDS`), size and number of objectives:

- With exact win rates, random floors are solved and compared with cvxpy's Clarabel on the primal, where that ends well,
  and with the dual, which is an upper bound: difference of the maximised objective and violation of the floors.
- K = 8 points are planned from exact win rates, from the labels of 1,000 and of 10,000 sampled pairs, and from a
  preference model fitted to these (a table of utilities, and with features). Every policy is valued by the true win
  rates. The ratio is its hypervolume over that of the best 8 points of the exact front at the same tau, reference
  point at that front's nadir. The best are exact for two objectives (dynamic programming), else greedy with exchanges.
- Plans in the paper's global form on many prompts, where it differs: predicted, and what policies attain.

Resumable: one line per cell in ``--out``. Exits 1 where a target is missed: gap 1e-6, violation 1e-6, ratio .96 from
10,000 pairs up to 100 responses (the better of labels and model, mean over seeds). Not part of the tests.
"""

import contextlib
import itertools
import json
import math
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
import cvxpy
import moocore
import numpy as np
from scipy.special import logsumexp

from benchmarks.synthetic_worlds import KINDS, Comparisons, FloatArray, World, compare, make_world
from mopo_train.console import print_table, progress
from mopo_train.dual import Solution, solve, tilt
from mopo_train.front import propose
from mopo_train.preference_model.finite import fit_finite
from mopo_train.preference_model.strengths import finite_win_rates, make_pairs
from mopo_train.winrates import WinRates, win_rates

cp: Any = cvxpy  # its own annotations are incomplete
TAU, POLICIES = 0.15, 8
PAIRS = (1_000, 10_000)
SIZES = (10, 100, 1_000, 10_000)
LARGEST = 10.0
"""Multiplier up to which the exact front goes; 1 weighs an objective like the primary."""
GRID = {2: 400, 3: 26, 4: 10, 5: 7}
"""Values of each multiplier for the exact front."""
NO_FRONT = 0.05
"""A front that spans less in every objective is one point: the objectives agree."""
POOL = 300
"""Points of a front of more than two objectives that the best are chosen from, at random."""
FLOORS = 4
"""Random floors per cell."""
GAP, RATIO = 1e-6, 0.96
"""Targets."""
LEARNT = ("labels", "model", "features")
SOURCES = ("exact", *(f"{source} {pairs}" for pairs in PAIRS for source in LEARNT))


class Cell(NamedTuple):
    """One setting."""

    kind: str
    responses: int
    objectives: int
    seed: int
    model: bool
    """Whether a preference model is fitted too: most of the time."""


class Front(NamedTuple):
    """The exact front and what K points of it can hold."""

    nadir: FloatArray
    best: float
    """Largest hypervolume of `POLICIES` points."""
    whole: float
    """Hypervolume of all."""
    span: float
    """Largest extent in an objective."""


def exact_front(rates: WinRates, planned: FloatArray) -> Front:
    """From tilts on a product of multipliers from 0 to `LARGEST`, dominated ones left out.

    ``planned`` (n, K) are points of the front that a plan chose: no plan holds more than the best choice.
    """
    others = rates.objectives[1:]
    levels = np.concatenate([[0.0], np.geomspace(0.03, LARGEST, GRID[len(others) + 1] - 1)])
    grid = np.stack(np.meshgrid(*[levels] * len(others), indexing="ij"), axis=-1).reshape(-1, len(others))
    values = np.empty((len(grid), len(others) + 1))
    score = rates.rates[:, 1:]
    for row, multipliers in enumerate(grid):
        weight = (rates.rates[:, 0] + score @ multipliers) / TAU
        share = np.exp(weight - weight.max())
        values[row] = share @ rates.rates / share.sum()
    front = values[moocore.is_nondominated(values, maximise=True)]
    nadir = front.min(axis=0)
    best = best_of_two(front, nadir) if front.shape[1] == 2 else best_greedy(front, planned, nadir)
    held = max(best, volume(planned, nadir))
    return Front(nadir, held, volume(front, nadir), float(np.ptp(front, axis=0).max()))


def volume(points: FloatArray, nadir: FloatArray) -> float:
    """Hypervolume above ``nadir``; points that are not above it in every objective hold nothing."""
    above = points[(points > nadir).all(axis=1)]
    return float(moocore.hypervolume(above, ref=nadir, maximise=True)) if len(above) else 0.0


def best_of_two(front: FloatArray, nadir: FloatArray) -> float:
    """Largest hypervolume of `POLICIES` points of a front of two objectives, by dynamic programming."""
    order = front[np.argsort(front[:, 0])]  # first rises, second falls
    x, y = order[:, 0] - nadir[0], order[:, 1] - nadir[1]
    held = x * y  # (n,) with one point, the last so far
    for _ in range(POLICIES - 1):
        joined = held[:, None] + (x[None, :] - x[:, None]) * y[None, :]  # (from, to)
        joined[np.tril_indices(len(x))] = -np.inf
        held = np.maximum(held, joined.max(axis=0))
    return float(held.max())


def best_greedy(front: FloatArray, planned: FloatArray, nadir: FloatArray) -> float:
    """As `best_of_two` for more objectives: exchanges of single points, from a greedy choice and from a plan's."""
    kept = front if len(front) <= POOL else front[np.random.default_rng(0).permutation(len(front))[:POOL]]
    pool = np.concatenate([planned, kept])
    chosen: list[int] = []
    for _ in range(min(POLICIES, len(pool))):
        gains = [volume(pool[[*chosen, i]], nadir) for i in range(len(pool))]
        chosen.append(int(np.argmax(gains)))
    return max(exchanged(pool, start, nadir) for start in (chosen, list(range(len(planned)))))


def exchanged(pool: FloatArray, chosen: list[int], nadir: FloatArray) -> float:
    """Hypervolume of ``chosen`` after exchanging single points while that helps."""
    chosen = list(chosen)
    best, improved = volume(pool[chosen], nadir), True
    while improved:
        improved = False
        for place in range(len(chosen)):
            rest = chosen[:place] + chosen[place + 1 :]
            gains = [volume(pool[[*rest, i]], nadir) for i in range(len(pool))]
            if max(gains) > best * (1 + 1e-9):
                best, improved = max(gains), True
                chosen[place] = int(np.argmax(gains))
    return best


def plan_values(planned: WinRates, truth: WinRates) -> FloatArray:
    """(n, K) true values of what is planned on ``planned`` win rates."""
    points = propose(planned, primary="a", policies=POLICIES, tau=TAU, epsilon=0)
    return np.array([(point.ratio * planned.mass) @ truth.rates for point in points])


def plan_ratio(values: FloatArray, front: Front) -> float | None:
    """Hypervolume of true ``values`` over the best; None without a front."""
    return None if front.span < NO_FRONT else volume(values, front.nadir) / front.best


def modelled(world: World, data: Comparisons, *, features: bool) -> WinRates:
    """Win rates by a preference model: a table of utilities, with features beside it or without."""
    pairs = make_pairs(data.first.tolist(), data.second.tolist(), data.labels)
    size = world.rates.responses
    fitted = fit_finite(pairs, size, features=world.features if features else None, table=True)
    return finite_win_rates(fitted, data.objectives, [0, size])


class Exactness(NamedTuple):
    """Against an independent solver."""

    gap: float
    violation: float
    seconds: float
    """Of ours, per solve."""
    peer_seconds: float


def exactness(rates: WinRates, rng: np.random.Generator) -> Exactness:
    """The worst over random floors that can be met."""
    gap = violation = seconds = peer = 0.0
    for _ in range(FLOORS):
        multipliers = dict(zip(rates.objectives[1:], rng.exponential(1.0, len(rates.objectives) - 1), strict=True))
        floors = dict(tilt(rates, primary="a", multipliers=multipliers, tau=TAU, epsilon=0).floors)
        begin = time.process_time()
        found = solve(rates, primary="a", floors=floors, tau=TAU, epsilon=0)
        middle = time.process_time()
        expected = independent_optimum(rates, floors)
        seconds, peer = seconds + middle - begin, peer + time.process_time() - middle
        reached = found.predicted["a"] - TAU * found.kl
        if not math.isnan(expected):
            gap = max(gap, abs(reached - expected))
        gap = max(gap, abs(reached - dual_value(rates, found.multipliers, floors)))
        violation = max(violation, *(floor - found.predicted[name] for name, floor in floors.items()))
    return Exactness(gap, violation, seconds / FLOORS, peer / FLOORS)


def independent_optimum(rates: WinRates, floors: Mapping[str, float]) -> float:
    """The primal by Clarabel, through cvxpy: maximise G_a - tau KL over distributions that hold the floors.

    NaN where Clarabel gives up.
    """
    size = rates.responses
    relative = cp.Variable(size, nonneg=True)  # policy / reference: of order 1 whatever the size
    values = rates.rates.T @ relative / size
    held = [values[k] >= floors[name] for k, name in enumerate(rates.objectives) if name in floors]
    divergence = -cp.sum(cp.entr(relative)) / size
    problem = cp.Problem(cp.Maximize(values[0] - TAU * divergence), [cp.sum(relative) / size == 1, *held])
    for exact in (1e-10, 1e-9, 1e-8):  # the finest that it can do
        with warnings.catch_warnings(), contextlib.suppress(cp.error.SolverError):
            warnings.filterwarnings("ignore", message="Solution may be inaccurate")
            problem.solve(solver="CLARABEL", tol_gap_abs=exact, tol_gap_rel=exact, tol_feas=exact)
            if problem.status == cp.OPTIMAL:  # else it stopped early, 0.004 off once in 10,000 responses
                return float(problem.value)
    return math.nan


def dual_value(rates: WinRates, multipliers: Mapping[str, float], floors: Mapping[str, float]) -> float:
    """Of the Lagrange dual: no policy that holds the floors has more, so a primal value that equals it is optimal."""
    prices = np.array([multipliers.get(name, float(name == "a")) for name in rates.objectives])
    normaliser = logsumexp(rates.rates @ prices / TAU) - math.log(rates.responses)
    return float(TAU * normaliser - sum(multipliers[name] * floor for name, floor in floors.items()))


def measure(cell: Cell) -> dict[str, Any]:
    """Everything that is reported of a cell."""
    rng = np.random.default_rng([KINDS.index(cell.kind), cell.responses, cell.objectives, cell.seed])
    world = make_world(cell.kind, cell.responses, cell.objectives, rng)
    planned = plan_values(world.rates, world.rates)
    front = exact_front(world.rates, planned)
    ratios = {"exact": plan_ratio(planned, front)}
    for pairs in PAIRS:
        data = compare(world, pairs, rng)
        ratios[f"labels {pairs}"] = plan_ratio(plan_values(win_rates(data), world.rates), front)
        for source, features in (("model", False), ("features", True)) if cell.model else ():
            values = plan_values(modelled(world, data, features=features), world.rates)
            ratios[f"{source} {pairs}"] = plan_ratio(values, front)
    exact = exactness(world.rates, rng)
    held = {"best": front.best, "whole": front.whole, "span": front.span}
    return cell._asdict() | exact._asdict() | held | {"ratios": ratios}


def measured(cells: list[Cell], out: Path) -> Iterator[dict[str, Any]]:
    """The results of ``cells``, from ``out`` where they are there; new ones are appended to it."""
    done: dict[Cell, dict[str, Any]] = {}
    if out.exists():
        for line in out.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            done[Cell(*(row[name] for name in Cell._fields))] = row
    out.parent.mkdir(parents=True, exist_ok=True)
    with progress("cells", len(cells)) as shown:
        for cell in cells:
            if cell not in done:
                done[cell] = measure(cell)
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(done[cell]) + "\n")
            shown.advance()
            yield done[cell]


@click.command()
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="From 0 on.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), default=KINDS)
@click.option("--responses", multiple=True, type=click.IntRange(min=2), default=SIZES, show_default=True)
@click.option("--objectives", multiple=True, type=click.IntRange(2, 5), default=(2, 3, 4, 5), show_default=True)
@click.option("--model/--no-model", default=True, help="Fit preference models too: most of the time.")
@click.option("--out", default="runs/synthetic/cells.jsonl", show_default=True, type=click.Path(path_type=Path))
def main(
    seeds: int, kinds: tuple[str, ...], responses: tuple[int, ...], objectives: tuple[int, ...], model: bool, out: Path
) -> None:
    """Print exactness and hypervolume ratios; exit 1 where a target is missed."""
    cells = [Cell(*each) for each in itertools.product(kinds, responses, objectives, range(seeds), [model])]
    groups: dict[tuple[str, int, int], list[dict[str, Any]]] = defaultdict(list)
    for row in measured(cells, out):
        groups[row["kind"], row["responses"], row["objectives"]].append(row)
    missed: list[str] = []
    rows = [summary(key, group, missed) for key, group in groups.items()]
    columns = ["kind", "responses", "objectives", "gap", "violation", "ms", "Clarabel ms", *SOURCES]
    print_table(columns, rows, title=f"hypervolume ratio, mean of {seeds} seeds (least): 8 points, tau {TAU}")
    print_table(*global_table(), title="global normaliser: 400 prompts, 4 responses, one comparison per pair")
    for each in missed:
        click.echo(f"MISSED: {each}")
    sys.exit(1 if missed else 0)


def summary(key: tuple[str, int, int], group: list[dict[str, Any]], missed: list[str]) -> list[str]:
    """A row of the table; targets that are not reached are added to ``missed``."""
    kind, responses, objectives = key
    gap, violation = (max(row[name] for row in group) for name in ("gap", "violation"))
    times = [1000 * float(np.median([row[name] for row in group])) for name in ("seconds", "peer_seconds")]
    ratios = {
        source: [row["ratios"][source] for row in group if row["ratios"].get(source) is not None] for source in SOURCES
    }
    name = f"{kind}, {responses} responses, {objectives} objectives"
    if gap > GAP or violation > GAP:
        missed.append(f"{name}: gap {gap:.1e}, violation {violation:.1e}, above {GAP:.0e}")
    reached = max(
        (float(np.mean(ratios[f"{source} 10000"])) for source in LEARNT if ratios[f"{source} 10000"]), default=1
    )
    if responses <= 100 and reached < RATIO:
        missed.append(f"{name}: ratio {reached:.3f} from 10,000 pairs, below {RATIO}")
    told = [f"{np.mean(values):.3f} ({min(values):.3f})" if values else "-" for values in ratios.values()]
    return [
        kind,
        f"{responses:,}",
        str(objectives),
        f"{gap:.0e}",
        f"{violation:.0e}",
        *(f"{t:.1f}" for t in times),
        *told,
    ]


def global_table() -> tuple[list[str], list[list[str]]]:
    """The plan of each normaliser from noisy labels of many prompts: predicted, attained on labels, and true."""
    rng = np.random.default_rng(0)
    worlds = [make_world("opposed", 4, 2, rng) for _ in range(400)]
    data, truth = joined(worlds, rng)
    rates = win_rates(data)
    rows = []
    for normaliser in ("prompt", "global"):
        points: list[Solution] = propose(
            rates,
            primary="a",
            policies=5,
            tau=TAU,
            epsilon=0,
            normaliser="global" if normaliser == "global" else "prompt",
        )
        for index, point in enumerate(points):
            each = np.repeat(np.add.reduceat(point.ratio * rates.mass, rates.starts[:-1]), np.diff(rates.starts))
            policy = point.ratio * rates.mass / each
            told = [*point.predicted.values(), *(point.attained or point.predicted).values(), *(policy @ truth / 400)]
            rows.append([normaliser, str(index), *(f"{value:.3f}" for value in told)])
    columns = ["normaliser", "point", "predicted a", "predicted b", "attained a", "attained b", "true a", "true b"]
    return columns, rows


def joined(worlds: list[World], rng: np.random.Generator) -> tuple[Comparisons, FloatArray]:
    """One comparison of every pair of every world, each a prompt of its own; and the true win rates (Y, K)."""
    parts = []
    for prompt, world in enumerate(worlds):
        size = world.rates.responses
        first, second = np.triu_indices(size, 1)
        chance = world.preference(first, second)
        labels = (rng.random(chance.shape) < chance).astype(np.float64)
        shift = prompt * size
        parts.append((labels, np.full(len(first), prompt), first + shift, second + shift, np.full(size, prompt)))
    labels = np.concatenate([part[0] for part in parts])
    numbers = [np.concatenate([part[place] for part in parts]) for place in range(1, 5)]
    names = worlds[0].rates.objectives
    data = Comparisons(names, labels, np.ones(len(labels)), numbers[0], numbers[1], numbers[2], numbers[3])
    return data, np.concatenate([world.rates.rates for world in worlds])


if __name__ == "__main__":
    main()
