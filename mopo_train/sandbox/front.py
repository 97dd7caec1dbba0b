"""The exact Pareto front: enumerated answers, the writer's own probabilities, exact win rates.

No estimate enters: this is what a perfect learner would reach with answers of the writer's kind, and the
measure of "how close to the true front". Mixtures of policies are not part of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mopo_train.sandbox.annotators import Compared, population_preference
from mopo_train.sandbox.answers import answers
from mopo_train.sandbox.pairs import score_table
from mopo_train.sandbox.questions import read_question
from mopo_train.sandbox.scoring import OBJECTIVES
from mopo_train.winrates import FloatArray, WinRates, from_rates

TAU = 0.15
MULTIPLIERS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 10.0)
"""Values of each multiplier on the grid that traces the front."""


class ExactWorld(NamedTuple):
    """Every answer to some prompts, with its exact win rates and judge scores."""

    rates: WinRates
    """Win rates against the reference writer, ``mass`` his probabilities."""
    scores: FloatArray
    """(Y, K) judge scores."""
    texts: list[str]
    """(Y,) the answers."""


class Point(NamedTuple):
    """One policy of the front. The fields are those of ``front.json``."""

    multipliers: dict[str, float]
    win_rates: dict[str, float]
    """Against the reference writer, as the population of annotators prefers."""
    scores: dict[str, float]
    """Expected judge scores."""
    kl: float
    """Nats from the reference writer, mean over prompts."""


class Front(NamedTuple):
    """The nondominated points in win rate, ordered by their primary, largest first."""

    tau: float
    primary: str
    reference: Point
    points: list[Point]


def exact_world(prompts: Sequence[str]) -> ExactWorld:
    """Enumerate the answers to ``prompts`` and compare each with all answers to its prompt.

    w_k(x, y) = sum over y' of pi_ref(y'|x) P_k(y > y'|x), exactly. Raises JudgeError for a prompt that is
    not of the sandbox's world.
    """
    rates, masses, scores, texts, starts = [], [], [], [], [0]
    for prompt in prompts:
        question = read_question(prompt)
        known = answers(question)
        mass = np.array([answer.probability for answer in known])
        table = score_table(question, known)  # (r, K)
        words = np.array([float(len(answer.text.split())) for answer in known])
        rates.append(_win_rates(table, words, mass / mass.sum()))
        masses.append(mass / mass.sum())
        scores.append(table)
        texts += [answer.text for answer in known]
        starts.append(len(texts))
    exact = from_rates(OBJECTIVES, np.concatenate(rates), starts, mass=np.concatenate(masses))
    return ExactWorld(exact, np.concatenate(scores), texts)


def exact_rates(prompts: Sequence[str]) -> WinRates:
    """The exact win rates of every answer to ``prompts``; see ``exact_world``."""
    return exact_world(prompts).rates


def exact_front(
    prompts: Sequence[str],
    *,
    tau: float = TAU,
    primary: str = "helpfulness",
    multipliers: Sequence[float] = MULTIPLIERS,
) -> Front:
    """The front on ``prompts``: the tilt for every combination of ``multipliers``, dominated ones left out."""
    import moocore  # both load scipy: too slow for a command that finds its sandbox made already

    from mopo_train.dual import tilt

    world = exact_world(prompts)
    others = [name for name in OBJECTIVES if name != primary]
    grid = np.stack(np.meshgrid(*[multipliers] * len(others), indexing="ij"), axis=-1).reshape(-1, len(others))
    points = []
    for values in grid:
        chosen = dict(zip(others, values.tolist(), strict=True))
        solution = tilt(world.rates, primary=primary, multipliers=chosen, tau=tau, epsilon=0)
        points.append(_point(world, chosen, solution.ratio, solution.kl))
    reached = np.array([list(point.win_rates.values()) for point in points])
    kept = [points[index] for index in np.flatnonzero(moocore.is_nondominated(reached, maximise=True))]
    reference = _point(world, dict.fromkeys(others, 0.0), np.ones(len(world.texts)), 0.0)
    return Front(tau, primary, reference, sorted(kept, key=lambda point: -point.win_rates[primary]))


def _win_rates(table: FloatArray, words: FloatArray, mass: FloatArray) -> FloatArray:
    """(r, K) expected preference over an answer drawn from ``mass`` (r,)."""
    more_words = words[:, None] - words[None]  # (r, r)
    columns = []
    for index, name in enumerate(OBJECTIVES):
        score = table[:, index]
        longer = more_words if name == "helpfulness" else np.zeros_like(more_words)
        columns.append(population_preference(Compared(score[:, None], score[None], longer)) @ mass)
    return np.stack(columns, axis=1)


def _point(world: ExactWorld, multipliers: dict[str, float], ratio: FloatArray, kl: float) -> Point:
    weight = world.rates.mass * ratio / world.rates.prompts  # (Y,) prompts count alike
    reached, scored = weight @ world.rates.rates, weight @ world.scores
    return Point(
        multipliers,
        dict(zip(OBJECTIVES, reached.tolist(), strict=True)),
        dict(zip(OBJECTIVES, scored.tolist(), strict=True)),
        kl,
    )
