"""How often a policy below a floor is served or certified, with the truth known: simulated.

    python -m benchmarks.certified [--repetitions 2000] [--prompts 200] [--delta 0.05]

Right-or-wrong, graded and continuous judges; 8 policies and 3 objectives, and 50 policies and 5 objectives. Two users
look at all scores first and then choose floors to do harm: one sets every floor at the certified bound that exceeds
its truth by most, the other at the largest certified bound of a policy drawn at random, through ``select``. Their
success is bounded by delta for ``certified_low``; beside it the same attack on the plain means and on each policy's own
one-sided bound without a correction, the peer. Floors a hair above one policy's true means, registered beforehand, are
certified in a fixed sequence and, as the peer, simultaneously: false certificates and power. Exits 1 where a rate
exceeds delta by more than the simulation's error. Not part of the tests.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mopo_eval.bounds import lower_bound
from mopo_eval.certificate import Certificate, Evidence, Question, certify
from mopo_eval.estimates import ScoreTable, make_scorecards
from mopo_eval.intervals import is_binary
from mopo_eval.profiles import ThresholdProfile
from mopo_eval.scorecards import Scorecard
from mopo_eval.selection import select
from mopo_train.console import print_table, say
from mopo_train.family import REFERENCE

FloatArray = NDArray[np.float64]


class World(NamedTuple):
    """Policies with known true means."""

    truth: FloatArray
    """(P, K)"""
    draw: Callable[[np.random.Generator, FloatArray, int], FloatArray]
    """(P, K, N) scores with those means."""

    @property
    def policies(self) -> list[str]:
        """The reference first."""
        return [REFERENCE, *(f"policy-{index:02d}" for index in range(len(self.truth) - 1))]

    @property
    def objectives(self) -> list[str]:
        """As many as there are columns."""
        return [f"objective-{k}" for k in range(self.truth.shape[1])]

    def table(self, rng: np.random.Generator, prompts: int) -> ScoreTable:
        """One evaluation."""
        return ScoreTable(self.policies, self.objectives, self.draw(rng, self.truth, prompts)[..., None])


def right_or_wrong(rng: np.random.Generator, truth: FloatArray, prompts: int) -> FloatArray:
    """Prompts differ in difficulty, alike for all policies."""
    drawn: FloatArray = (rng.random((*truth.shape, prompts)) < truth[:, :, None]).astype(np.float64)
    return drawn


def graded(rng: np.random.Generator, truth: FloatArray, prompts: int) -> FloatArray:
    """0, 1/2 or 1."""
    drawn: FloatArray = rng.binomial(2, truth[:, :, None], (*truth.shape, prompts)) / 2
    return drawn


def continuous(rng: np.random.Generator, truth: FloatArray, prompts: int) -> FloatArray:
    """Beta distributions with two pseudo-observations."""
    return rng.beta(2 * truth[:, :, None], 2 * (1 - truth[:, :, None]), (*truth.shape, prompts))


def front(policies: int, objectives: int) -> FloatArray:
    """(P, K) true means: the first objective rises along the family, all others fall."""
    position = np.linspace(0, 1, policies)[:, None]
    rising, falling = 0.45 + 0.4 * position, 0.95 - 0.4 * position * np.linspace(0.6, 1, objectives - 1)
    return np.concatenate([rising, falling], axis=1)


@click.command()
@click.option("--repetitions", default=2000, show_default=True, type=click.IntRange(min=10))
@click.option("--prompts", default=200, show_default=True, type=click.IntRange(min=2))
@click.option("--delta", default=0.05, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(repetitions: int, prompts: int, delta: float, seed: int) -> None:
    """Print the rates at which floors are missed; exit 1 where one exceeds delta beyond the simulation's error."""
    rng, missed = np.random.default_rng(seed), []
    most = float(stats.binom.ppf(0.999, repetitions, delta)) / repetitions
    attacks, sequences = [], []
    for policies, objectives, times in ((8, 3, repetitions), (50, 5, max(10, repetitions // 20))):
        for draw in (right_or_wrong, graded, continuous):
            name = f"{policies} x {objectives}, {draw.__name__.replace('_', ' ')}"
            say(name)
            world = World(front(policies, objectives), draw)
            rates = attacked(world, rng, times, prompts, delta)
            attacks.append([name, str(times), *(f"{rate:.4f}" for rate in rates)])
            limit = most if times == repetitions else float(stats.binom.ppf(0.999, times, delta)) / times
            missed += [f"certified_low, {name}: {rate:.4f} > {limit:.4f}" for rate in rates[:2] if rate > limit]
            found = sequenced(world, rng, times, prompts, delta)
            sequences.append([name, str(times), *(f"{rate:.4f}" for rate in found)])
            missed += [f"certificates, {name}: {rate:.4f} > {limit:.4f}" for rate in found[:2] if rate > limit]
    columns = [
        "policies x objectives",
        "repetitions",
        "worst floor",
        "floor of one, served",
        "peer: own bound",
        "peer: mean",
    ]
    print_table(columns, attacks, title=f"served below a floor chosen after the scores; delta {delta:g}, n = {prompts}")
    columns = [
        "policies x objectives",
        "repetitions",
        "fixed sequence",
        "simultaneous",
        "share found",
        "peer: share found",
    ]
    print_table(
        columns, sequences, title="certificates of registered floors: false ones, and share of the true ones found"
    )
    for line in missed:
        click.echo(f"MISSED: {line}")
    sys.exit(1 if missed else 0)


def attacked(world: World, rng: np.random.Generator, times: int, prompts: int, delta: float) -> Sequence[float]:
    """How often each choice of floors after the scores gets a policy served whose true mean is below its floor."""
    judges = dict.fromkeys(world.objectives, "j")
    harmed = np.zeros(4)
    for _ in range(times):
        table = world.table(rng, prompts)
        cards = {c.policy: c for c in make_scorecards(table, judges, run="r", confidence=1 - delta)}
        bounds = np.array([[cards[p].objectives[k].certified_low for k in world.objectives] for p in world.policies])
        worst = np.unravel_index(np.argmax(bounds - world.truth), bounds.shape)
        chosen = int(rng.integers(len(bounds)))
        harmed[0] += served_below(world, cards, {world.objectives[worst[1]]: float(bounds[worst])})
        harmed[1] += served_below(world, cards, dict(zip(world.objectives, bounds[chosen].tolist(), strict=True)))
        values = table.values
        own = [
            lower_bound(values[p, k], delta, binary=is_binary(values[:, k])) > world.truth[p, k]
            for p in range(len(values))
            for k in range(values.shape[1])
        ]
        harmed[2] += any(own)
        harmed[3] += bool((values.mean(axis=2) > world.truth).any())
    return list(harmed / times)


def served_below(world: World, cards: Mapping[str, Scorecard], floors: dict[str, float]) -> bool:
    """Whether any primary gets a policy served whose true means miss ``floors``."""
    for primary in world.objectives:
        chosen = select(ThresholdProfile(primary=primary, floors=floors), cards).policy
        if chosen is not None:
            row = world.truth[world.policies.index(chosen)]
            if any(row[world.objectives.index(name)] < floor for name, floor in floors.items()):
                return True
    return False


def sequenced(world: World, rng: np.random.Generator, times: int, prompts: int, delta: float) -> Sequence[float]:
    """False certificates of both methods, and the share of the policies that hold the floors which each finds."""
    middle = len(world.truth) // 2
    false, shares = np.zeros(2), np.zeros(2)
    names = world.objectives[1:3]
    for _ in range(times):
        table = world.table(rng, prompts)
        hard = {name: float(world.truth[middle, world.objectives.index(name)]) + 1e-9 for name in names}
        easy = {name: floor - 0.06 for name, floor in hard.items()}
        for index, registered in enumerate((True, False)):
            false[index] += bool(certified(world, table, hard, registered, delta) - holding(world, hard))
            shares[index] += len(certified(world, table, easy, registered, delta)) / len(holding(world, easy))
    return [*(false / times), *(shares / times)]


def holding(world: World, floors: dict[str, float]) -> set[str]:
    """Policies whose true means clear the floors."""
    columns = {name: world.truth[:, world.objectives.index(name)] for name in floors}
    return {p for i, p in enumerate(world.policies) if all(columns[name][i] >= floor for name, floor in floors.items())}


def certified(world: World, table: ScoreTable, floors: dict[str, float], registered: bool, delta: float) -> set[str]:
    """Policies with a certificate."""
    question = Question(None, world.objectives[0], floors, 1 - delta, "", registered)
    planned = {
        p: dict(zip(world.objectives, row.tolist(), strict=True))
        for p, row in zip(world.policies, world.truth, strict=True)
    }
    none = "0" * 64
    evidence = Evidence(
        run="r", prompts=table.scores.shape[2], judges={}, family_sha256=none, run_sha256=none, judgements_sha256=none
    )
    made: Certificate = certify(question, table, planned, evidence, created_at="", package_version="")
    return {test.policy for test in made.policies if test.certified}


if __name__ == "__main__":
    main()
