"""How often the true value of a planned policy lies below its reported bound: simulated, with noise and fitting inside.

    python -m benchmarks.robust [--repetitions 1000] [--out runs/robust]

Every repetition draws prompts, their true preferences and noisy labels, solves for a policy with a floor, and bounds
its values from the same labels (``mopo_train.optimism``). Truth is the policy's true value on the prompts at hand, and
that of the same multipliers on the population of prompts. Beside the reported bound stand the robust value on the
policy's own labels, which is no bound, and the sharper form for labels that err independently on the objectives. The
worlds of the preference model fit a logistic model on half of the prompts, follow it on the other half, and value that
by the other half's labels; "one answer" takes the better one, so that every value is 0 or 1 and the exact bound
applies.

Resumable: finished blocks are kept in ``--out``. Exits 1 where a bound that is meant to hold is missed by more than 5 %
plus simulation error (the 99.9 % quantile of the binomial). Not part of the tests.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import scipy.optimize
from numpy.typing import NDArray
from scipy import stats

from mopo_train.console import print_table, progress
from mopo_train.dual import solve, tilt
from mopo_train.optimism import bounds_of_shares, with_bounds
from mopo_train.robust import DELTA, radii
from mopo_train.winrates import win_rates

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
PROMPTS = (100, 1_000, 10_000)
TAU = 0.15
BLOCK = 50
"""Repetitions that are written together."""
POPULATION = 200_000
"""Fresh prompts that stand for the population: their own error must be small beside that of the largest n. A model's
policy has others in every repetition, so that their error is not the same in all of them."""
MULTIPLIERS = np.concatenate([[0.0], np.geomspace(0.02, 20, 24)])


class Pairs(NamedTuple):
    """Comparisons as `winrates.Labelled` wants them."""

    objectives: tuple[str, ...]
    labels: FloatArray
    weight: FloatArray
    prompt: IntArray
    first: IntArray
    second: IntArray
    response_prompt: IntArray


class World(NamedTuple):
    """Prompts with ``responses`` answers, every pair of which is labelled ``rounds`` times on two objectives."""

    responses: int
    rounds: int
    scale: float
    """Of the strengths; 0: labels are noise."""
    floor: float
    halo: bool = False
    """One draw decides all labels of a row."""
    model: float | None = None
    """Temperature of a policy that follows a model instead of the labels; None: the labels."""


WORLDS = {
    "labels, few": World(3, 1, 1.5, 0.58),
    "labels, few, shared errors": World(3, 1, 1.5, 0.58, halo=True),
    "labels, one pair": World(2, 1, 1.5, 0.58),
    "labels, one pair, noise only": World(2, 1, 0.0, 0.55, halo=True),
    "labels, eight per pair": World(2, 8, 1.5, 0.55),
    "model, one pair": World(2, 1, 1.5, 0.55, model=TAU),
    "model, one answer": World(2, 1, 1.5, 0.0, model=0.0),
}
COLUMNS = ("own labels", "reported", "independent")
HOLDS = {"reported": WORLDS, "independent": [name for name, world in WORLDS.items() if not world.halo]}
"""Worlds where a bound is meant to hold."""


class Drawn(NamedTuple):
    """Labelled pairs, their true probabilities, and what a model may see of the responses."""

    pairs: Pairs
    truth: Pairs
    features: FloatArray
    """(Y, 3)"""


def draw(world: World, prompts: int, rng: np.random.Generator) -> Drawn:
    """Strengths on two objectives in conflict; a model sees them through noise of their own size."""
    r = world.responses
    first = rng.normal(size=(prompts, r))
    strength = world.scale * np.stack([first, -0.8 * first + 0.6 * rng.normal(size=(prompts, r))], axis=-1)
    one, two = (np.tile(index, world.rounds) for index in np.triu_indices(r, 1))
    prompt = np.repeat(np.arange(prompts), len(one))
    a, b = prompt * r + np.tile(one, prompts), prompt * r + np.tile(two, prompts)
    flat = strength.reshape(-1, 2)
    chance = 1 / (1 + np.exp(flat[b] - flat[a]))
    luck = rng.random((len(chance), 1)) if world.halo else rng.random(chance.shape)
    known = (np.ones(len(prompt)), prompt, a, b, np.repeat(np.arange(prompts), r))
    seen = np.column_stack([flat + rng.normal(size=flat.shape), rng.normal(size=len(flat))])
    labels = (luck < chance).astype(np.float64)
    return Drawn(Pairs(("a", "b"), labels, *known), Pairs(("a", "b"), chance, *known), seen)


class Outcome(NamedTuple):
    """Of one repetition; all (2,), per objective."""

    here: FloatArray
    """True value on the prompts at hand."""
    everywhere: FloatArray
    """True value on the population."""
    bounds: FloatArray
    """(3, 2) as in `COLUMNS`."""


def follow_labels(world: World, drawn: Drawn, population: Callable[[float], FloatArray]) -> Outcome:
    """The policy that the labels choose, and its bounds from the same labels."""
    rates = win_rates(drawn.pairs)
    point = solve(rates, primary="a", floors={"b": world.floor}, tau=TAU)
    (safe,) = with_bounds(drawn.pairs, rates, [point], TAU)
    (sharp,) = with_bounds(drawn.pairs, rates, [point], TAU, independent=True)
    here = (point.ratio * rates.mass) @ win_rates(drawn.truth).rates / rates.prompts
    bounds = [list(each.values()) for each in (point.predicted_low, safe.bound, sharp.bound)]
    return Outcome(here, population(point.multipliers["b"]), np.array(bounds))


def follow_model(world: World, drawn: Drawn, fresh: Drawn) -> Outcome:
    """The policy that a logistic model chooses on each half of the prompts, fitted on the other half.

    ``fresh``: prompts that stand for the population.
    """
    pairs, prompts = drawn.pairs, drawn.pairs.response_prompt[-1] + 1
    share, everywhere = np.zeros(len(drawn.features)), np.zeros(2)
    for half in (0, 1):
        rows = pairs.prompt % 2 != half
        weights = np.stack([_logistic(drawn, rows, k) for k in (0, 1)])
        inside = pairs.response_prompt % 2 == half
        made = _model_policy(world, drawn, weights)
        share[inside] = made[inside]
        everywhere += _model_policy(world, fresh, weights) @ win_rates(fresh.truth).rates / POPULATION / 2
    rates = win_rates(pairs)
    here = share @ win_rates(drawn.truth).rates / prompts
    own = share @ rates.rates / prompts
    low = np.array(list(bounds_of_shares(pairs, rates, share).values()))
    return Outcome(here, everywhere, np.stack([own, low, low]))


def _logistic(drawn: Drawn, rows: NDArray[np.bool_], k: int) -> FloatArray:
    """(3,) weights of a Bradley-Terry model, by maximum likelihood with a small ridge."""
    pairs = drawn.pairs
    x = drawn.features[pairs.first[rows]] - drawn.features[pairs.second[rows]]
    y = pairs.labels[rows, k]

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        margin = x @ weights
        chance = 1 / (1 + np.exp(-margin))
        value = float(np.logaddexp(0, margin).sum() - y @ margin + 0.5 * weights @ weights)
        return value, x.T @ (chance - y) + weights

    return np.asarray(scipy.optimize.minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x)


def _model_policy(world: World, drawn: Drawn, weights: FloatArray) -> FloatArray:
    """(Y,) probabilities for win rates that a model predicts, with a floor at the world's level on the second."""
    pairs = drawn.pairs
    strength = drawn.features @ weights.T  # (Y, 2)
    chance = 1 / (1 + np.exp(strength[pairs.second] - strength[pairs.first]))
    rates = win_rates(pairs._replace(labels=chance))
    if world.model == 0:
        best = np.maximum.reduceat(rates.rates[:, 0], rates.starts[:-1])[rates.prompt_of()]
        return np.asarray((rates.rates[:, 0] == best).astype(np.float64))
    found = solve(rates, primary="a", floors={"b": world.floor}, tau=TAU, epsilon=0)
    return np.asarray(found.ratio * rates.mass)


def population_values(world: World, prompts: int) -> Callable[[float], FloatArray]:
    """True values of the label policy as a function of its multiplier, with floors as robust as for ``prompts``."""
    drawn = draw(world, POPULATION, np.random.default_rng(10**6))
    rates, truth = win_rates(drawn.pairs), win_rates(drawn.truth).rates
    epsilon = float(radii(np.array([prompts]), None)[0])
    values = []
    for multiplier in MULTIPLIERS:
        point = tilt(rates, primary="a", multipliers={"b": float(multiplier)}, tau=TAU, epsilon=epsilon)
        values.append((point.ratio * rates.mass) @ truth / POPULATION)
    table = np.array(values)
    return lambda at: np.array([np.interp(at, MULTIPLIERS, table[:, k]) for k in (0, 1)])


def simulate(name: str, prompts: int, begin: int, count: int, population: Callable[[float], FloatArray]) -> FloatArray:
    """(count, 5, 2) outcomes of repetitions ``begin`` on: here, everywhere, then the bounds."""
    world, found = WORLDS[name], []
    for repetition in range(begin, begin + count):
        rng = np.random.default_rng([list(WORLDS).index(name), prompts, repetition])
        drawn = draw(world, prompts, rng)
        if world.model is None:
            done = follow_labels(world, drawn, population)
        else:
            done = follow_model(world, drawn, draw(world, POPULATION, rng))
        found.append(np.vstack([done.here, done.everywhere, done.bounds]))
    return np.array(found)


@click.command()
@click.option("--repetitions", default=1000, show_default=True, type=click.IntRange(min=BLOCK))
@click.option("--prompts", "sizes", multiple=True, type=int, help="[default: 100, 1,000 and 10,000]")
@click.option("--out", default="runs/robust", show_default=True, type=click.Path(path_type=Path))
def main(repetitions: int, sizes: tuple[int, ...], out: Path) -> None:
    """Print the share of repetitions in which a true value lay below its bound; exit 1 where too many did."""
    out.mkdir(parents=True, exist_ok=True)
    blocks = repetitions // BLOCK
    wanted = sizes or PROMPTS
    rows: list[list[str]] = []
    missed: list[str] = []
    with progress("blocks", len(WORLDS) * len(wanted) * blocks) as line:
        for prompts in wanted:
            for name, world in WORLDS.items():
                parts, population = [], None
                for block in range(blocks):
                    path = out / f"{name.replace(', ', '-').replace(' ', '-')}-{prompts}-{block}.npy"
                    if not path.exists():
                        if population is None and world.model is None:
                            population = population_values(world, prompts)
                        done = simulate(name, prompts, block * BLOCK, BLOCK, population or _none)
                        np.save(path.with_suffix(".part.npy"), done)
                        path.with_suffix(".part.npy").replace(path)
                    parts.append(np.load(path))
                    line.advance()
                rows += summary(name, prompts, np.concatenate(parts), missed)
    columns = ["world", "n", "true a", "true b"]
    columns += [f"{column} {k}" for column in COLUMNS for k in "ab"] + [f"missed: {column}" for column in COLUMNS]
    print_table(
        columns, rows, title=f"bounds at {1 - DELTA:.0%}, {blocks * BLOCK} repetitions; misses: here / everywhere"
    )
    for each in missed:
        click.echo(f"MISSED: {each}")
    sys.exit(1 if missed else 0)


def _none(at: float) -> FloatArray:
    raise AssertionError(at)


def summary(name: str, prompts: int, outcomes: FloatArray, missed: list[str]) -> list[list[str]]:
    """One row; too many misses are added to ``missed``."""
    count = len(outcomes)
    limit = float(stats.binom.ppf(0.999, count, DELTA)) / count
    means = outcomes.mean(axis=0)
    row = [name, f"{prompts:,}", *(f"{value:.3f}" for value in means[1])]
    row += [f"{value:.3f}" for value in means[2:].ravel()]
    for place, column in enumerate(COLUMNS):
        below = [(outcomes[:, truth] < outcomes[:, 2 + place] - 1e-12).mean(axis=0).max() for truth in (0, 1)]
        row.append(" / ".join(f"{share:.1%}" for share in below))
        if name in HOLDS.get(column, ()) and max(below) > limit:
            missed.append(f"{column}, {name}, n = {prompts}: {max(below):.1%} > {limit:.1%}")
    return [row]


if __name__ == "__main__":
    main()
