"""How often the intervals hold what they should: simulated, against textbook peers on the same draws.

    python -m benchmarks.coverage [--repetitions 2000] [--bca 200]

Prints coverage at 95 % for rates (exact for Wilson and Clopper-Pearson, which are finite sums, and simulated), graded
and continuous scores, paired differences of policies that are equally good (the share of false findings) and the
hypervolume of a family. Exits 1 where a target is missed: conservative intervals at least 93.5 %, continuous scores
93.5 to 96.5 %. ``--bca`` repeats so many draws with scipy's BCa bootstrap, which is slow. Not part of the tests.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mopo_eval.bootstrap import percentiles, resampled_means
from mopo_eval.differences import paired_difference
from mopo_eval.front import covered, resampled_front
from mopo_eval.intervals import Interval, clopper_pearson, intervals, wilson
from mopo_train.console import print_table, say

FloatArray = NDArray[np.float64]
Sizes = tuple[int, ...]
CONFIDENCE = 0.95
LEAST, MOST = 0.935, 0.965
PROMPTS = (30, 300)
RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98, 0.99, 0.995)
FAMILY = np.stack([np.linspace(0.35, 0.8, 8), np.linspace(0.9, 0.55, 8), np.linspace(0.8, 0.5, 8)], axis=1)
"""(P, K) true means along a front."""
FLAT = np.stack([np.linspace(0.55, 0.6, 8), np.linspace(0.7, 0.65, 8), np.linspace(0.66, 0.62, 8)], axis=1)
"""The same for policies that differ by less than the noise: means of few prompts stick out of their front."""


class Scores(NamedTuple):
    """A distribution of scores of one prompt."""

    draw: Callable[[np.random.Generator, Sizes], FloatArray]
    mean: float
    continuous: bool = True


def beta(a: float, b: float) -> Scores:
    """A beta distribution."""
    return Scores(lambda rng, size: rng.beta(a, b, size), a / (a + b))


def graded(values: list[float], chances: list[float]) -> Scores:
    """A judge of few grades."""
    mean = float(np.dot(values, chances))
    return Scores(lambda rng, size: rng.choice(values, size=size, p=chances), mean, continuous=False)


SCORES = {
    "uniform": beta(1, 1),
    "beta(2, 5)": beta(2, 5),
    "beta(8, 2)": beta(8, 2),
    "beta(1/2, 1/2)": beta(0.5, 0.5),
    "beta(1/2, 4)": beta(0.5, 4),
    "0 and 1 with a third between": Scores(lambda rng, size: np.clip(rng.random(size) * 3 - 1, 0, 1), 0.5),
    "five grades": graded([0, 0.25, 0.5, 0.75, 1], [0.05, 0.1, 0.2, 0.35, 0.3]),
    "win, tie, loss": graded([0, 0.5, 1], [0.25, 0.4, 0.35]),
    "three samples, mostly right": Scores(lambda rng, size: rng.binomial(3, 0.8, size) / 3, 0.8, continuous=False),
}


@click.command()
@click.option("--repetitions", default=2000, show_default=True, type=click.IntRange(min=10))
@click.option("--bca", default=0, show_default=True, help="Repetitions with scipy's BCa bootstrap beside ours.")
@click.option("--seed", default=0, show_default=True)
def main(repetitions: int, bca: int, seed: int) -> None:
    """Print the coverage of every kind of interval; exit 1 where a target is missed."""
    rng = np.random.default_rng(seed)
    missed = [*rates(rng, repetitions), *scores(rng, repetitions, bca)]
    differences(rng, repetitions)
    hypervolume(rng, max(10, repetitions // 4))
    for line in missed:
        click.echo(f"MISSED: {line}")
    sys.exit(1 if missed else 0)


def covers(found: list[Interval], truth: float) -> float:
    """Share of the intervals that hold ``truth``."""
    ends = np.array(found)
    return float(np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])))


def rates(rng: np.random.Generator, repetitions: int) -> list[str]:
    """Coverage of rates: the sum over all outcomes, and the whole path of ``intervals`` simulated."""
    rows, missed = [], []
    for n in PROMPTS:
        ends = {kind: [kind(passed, n, CONFIDENCE) for passed in range(n + 1)] for kind in (wilson, clopper_pearson)}
        for rate in RATES:
            chance = stats.binom.pmf(np.arange(n + 1), n, rate)
            exact = [
                float(chance[[low <= rate <= high for low, high in ends[kind]]].sum())
                for kind in (wilson, clopper_pearson)
            ]
            drawn = (rng.random((repetitions, n)) < rate).astype(np.float64)
            seen = covers(intervals(drawn, CONFIDENCE, conservative=True), rate)
            width = np.diff([clopper_pearson(round(rate * n), n, CONFIDENCE)])[0, 0]
            rows.append([str(n), f"{rate:g}", *(f"{value:.3f}" for value in (*exact, seen, width))])
            if seen < LEAST:
                missed.append(f"conservative interval, rate {rate:g}, n = {n}: {seen:.3f} < {LEAST}")
    columns = ["n", "rate", "Wilson, exact", "Clopper-Pearson, exact", "conservative, simulated", "its width"]
    print_table(columns, rows, title=f"rates, {CONFIDENCE:.0%} intervals, {repetitions} repetitions")
    return missed


def scores(rng: np.random.Generator, repetitions: int, bca: int) -> list[str]:
    """Coverage of means of graded and continuous scores."""
    rows, missed = [], []
    for name, kind in SCORES.items():
        say(f"scores: {name}")
        for n in PROMPTS:
            drawn = kind.draw(rng, (repetitions, n))
            seen = covers(intervals(drawn, CONFIDENCE), kind.mean)
            safe = covers(intervals(drawn, CONFIDENCE, conservative=True), kind.mean)
            normal = stats.t.interval(CONFIDENCE, n - 1, drawn.mean(axis=1), stats.sem(drawn, axis=1))
            student = float(np.mean((normal[0] <= kind.mean) & (kind.mean <= normal[1])))
            theirs = f"{covers([bca_interval(row) for row in drawn[:bca]], kind.mean):.3f}" if bca else "-"
            rows.append([name, str(n), f"{seen:.3f}", f"{safe:.3f}", f"{student:.3f}", theirs])
            if kind.continuous and not LEAST <= seen <= MOST:
                missed.append(f"{name}, n = {n}: {seen:.3f} is outside [{LEAST}, {MOST}]")
            if safe < LEAST:
                missed.append(f"{name}, n = {n}, conservative: {safe:.3f} < {LEAST}")
    columns = [
        "scores",
        "n",
        "studentised bootstrap",
        "conservative (betting)",
        "peer: Student's t",
        "peer: scipy's BCa",
    ]
    print_table(columns, rows, title=f"means, {CONFIDENCE:.0%} intervals, {repetitions} repetitions")
    return missed


def bca_interval(values: FloatArray) -> Interval:
    """The peer's."""
    found = stats.bootstrap((values,), np.mean, n_resamples=1999, method="BCa", rng=np.random.default_rng(0))
    return Interval(found.confidence_interval.low, found.confidence_interval.high)


def differences(rng: np.random.Generator, repetitions: int) -> None:
    """False findings between equally good policies; a binary judge's answers differ on a share of the prompts."""
    rows = []
    for n in PROMPTS:
        for share in (0.02, 0.1, 0.3):
            found = peer = 0
            for _ in range(repetitions):
                side = rng.random(n)
                ours, theirs = (side < share / 2).astype(float), (side > 1 - share / 2).astype(float)
                found += paired_difference(ours, theirs, CONFIDENCE).p_value <= 1 - CONFIDENCE
                plus, minus = int(ours.sum()), int(theirs.sum())
                peer += plus + minus > 0 and stats.binomtest(plus, plus + minus).pvalue <= 1 - CONFIDENCE
            rows.append([str(n), f"{share:g}", f"{found / repetitions:.3f}", f"{peer / repetitions:.3f}"])
    columns = ["n", "share that differs", "false findings", "peer: McNemar's exact test"]
    print_table(columns, rows, title=f"paired differences of equal policies at {1 - CONFIDENCE:.0%}")


def hypervolume(rng: np.random.Generator, repetitions: int) -> None:
    """Coverage of the hypervolume's interval for eight policies and three objectives on shared prompts."""
    rows = []
    for name, means, own in (("spread", FAMILY, 0.08), ("flat", FLAT, 0.24), ("equal", FLAT[[0] * 8], 0.24)):
        truth = covered(means, [0.0] * 3)
        for n in PROMPTS:
            inside = peer = 0
            bias = 0.0
            for _ in range(repetitions):
                noise = rng.uniform(-0.12, 0.12, (1, 3, n)) + rng.uniform(-own, own, (8, 3, n))  # shared, and their own
                values = means[:, :, None] + noise
                found = resampled_front(values, [0.0] * 3, CONFIDENCE)
                measured = covered(values.mean(axis=2), [0.0] * 3)
                inside += found.low <= truth <= found.high
                drawn = resampled_means(values.reshape(24, n)).reshape(-1, 8, 3)
                low, high = percentiles(np.array([covered(each, [0.0] * 3) for each in drawn]), CONFIDENCE, n)
                peer += low <= truth <= high
                bias += measured - truth
            rows.append([name, str(n), *(f"{hits / repetitions:.3f}" for hits in (inside, peer))])
            rows[-1].append(f"{bias / repetitions:+.5f}")
    title = f"hypervolume, {CONFIDENCE:.0%} intervals, {repetitions} repetitions"
    print_table(["family", "n", "reflected", "peer: percentiles", "bias"], rows, title=title)


if __name__ == "__main__":
    main()
