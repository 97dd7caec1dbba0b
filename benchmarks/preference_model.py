"""Labels or the preference model: whose win rates and predictions come closer to the truth? The sandbox knows it.

    python -m benchmarks.preference_model --seeds 3                    # sandbox: one noisy pair per prompt, and twelve
    python -m benchmarks.preference_model --data pku.jsonl.gz [...]    # real data: held-out accuracy and calibration

On the sandbox the same prompts are labelled twice: once with all comparisons of four answers by two annotators, once
with a single row per prompt. The truth of a response is its exact win rate against the answers to its prompt; that of
a plan's point is the mean true rate of the answers under its density ratios. Reported per seed: root mean square error
of win rates, and mean absolute error of predicted values over points and objectives. Not part of the tests.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from mopo_train.console import print_table, say
from mopo_train.formulation import Formulation, propose_points
from mopo_train.optimism import with_bounds
from mopo_train.preference_model.crossfit import cross_fit
from mopo_train.preference_model.settings import FitSettings
from mopo_train.preference_model.view import ModelView, model_view
from mopo_train.preferences import PreferenceData, read_preferences
from mopo_train.sandbox.annotators import Compared, population_preference
from mopo_train.sandbox.judges import JUDGES
from mopo_train.sandbox.pairs import comparisons, training_questions
from mopo_train.sandbox.scoring import OBJECTIVES
from mopo_train.winrates import FloatArray, win_rates

POINTS = 5
TAU = 0.15


class Errors(NamedTuple):
    """Of one way to plan, against the truth."""

    rates: float
    """Root mean square error of the win rates."""
    predicted: float
    """Mean absolute error of the predicted values."""
    optimism: float
    """Mean of predicted less true."""
    broken: int
    """Lower bounds above the true value."""
    bounds: int


@click.command()
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--prompts", default=500, show_default=True, type=click.IntRange(min=10))
@click.option("--epochs", default=FitSettings().epochs, show_default=True)
@click.option("--max-length", default=FitSettings().max_length, show_default=True)
@click.option("--data", multiple=True, type=click.Path(path_type=Path, exists=True), help="Real pairs instead.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keeps fits.  [default: a temporary directory]")
def main(seeds: int, prompts: int, data: tuple[Path, ...], keep: Path | None, **settings: Any) -> None:
    """Print the errors of both, or the fit on real data."""
    how = FitSettings(**settings)
    kept = keep or Path(tempfile.mkdtemp())
    for seed in range(seeds):
        if data:
            began = time.process_time()
            view = fitted(read_preferences(data), how, kept, seed)
            say(f"seed {seed}: {time.process_time() - began:.0f} CPU s")
            print_fit(view, f"{', '.join(path.name for path in data)}, seed {seed}")
            continue
        for rows, title in zip(worlds(seed, prompts), ("12 comparisons", "1 comparison"), strict=True):
            path = kept / f"sandbox-{seed}-{len(rows)}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            preferences = read_preferences([path])
            view = fitted(preferences, how, kept, seed)
            print_fit(view, f"{title} per prompt, seed {seed}")
            print_errors(preferences, view, f"against the truth: {title} per prompt, seed {seed}")


def worlds(seed: int, prompts: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All comparisons, and the first one of every prompt."""
    rows = comparisons(seed, training_questions(seed, prompts))
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(row["prompt"], row)
    return rows, list(first.values())


def fitted(data: PreferenceData, settings: FitSettings, keep: Path, seed: int) -> ModelView:
    """The cross-fitted model's view of ``data``."""
    return model_view(data, cross_fit(data, settings, keep, seed=seed))


def true_rates(data: PreferenceData) -> FloatArray:
    """(Y, K) exact data win rates: the population's preference over the answers of the prompt, itself a tie."""
    rates = np.empty((len(data.response_prompt), len(OBJECTIVES)))
    for prompt in range(len(data.group)):
        members = np.flatnonzero(data.response_prompt == prompt)
        asked, given = data.messages(prompt)[-1]["content"], [data.response(int(index)) for index in members]
        words = np.array([float(len(text.split())) for text in given])
        for k, name in enumerate(OBJECTIVES):
            score = np.array([JUDGES[name](asked, text).score for text in given])
            longer = (words[:, None] - words) * (name == "helpfulness")
            rates[members, k] = population_preference(Compared(score[:, None], score[None], longer)).mean(axis=1)
    return rates


def print_fit(view: ModelView, title: str) -> None:
    """Held-out accuracy and calibration per objective."""
    rows = []
    for name, fit in view.fits.items():
        if fit is not None:
            right = f"{fit.accuracy.mean:.3f} [{fit.accuracy.low:.3f}, {fit.accuracy.high:.3f}]"
            gain = f"{fit.gain.mean:.3f} [{fit.gain.low:.3f}, {fit.gain.high:.3f}]"
            rows.append([name, str(fit.pairs), right, f"{fit.ece:.3f}", f"{fit.log_loss:.3f}", gain])
    print_table(["objective", "pairs", "accuracy", "ECE", "log loss", "gain over 1/2"], rows, title=title)


def print_errors(data: PreferenceData, view: ModelView, title: str) -> None:
    """Errors of the labels, of the model's values of the labels' points, and of the model."""
    truth = view._replace(rates=view.rates._replace(rates=true_rates(data)))
    labels = win_rates(data)
    form = Formulation(data.objectives[0], TAU)
    by_labels = with_bounds(data, labels, propose_points(labels, POINTS, form), TAU)
    by_model = view.bounded(propose_points(view.rates, POINTS, form), None)
    names = data.objectives

    def errors(rates: FloatArray, points: Sequence[Any], predicted: list[dict[str, float]]) -> Errors:
        true = np.array([[truth.values(point)[name] for name in names] for point in points])
        told = np.array([[each[name] for name in names] for each in predicted])
        low = np.array([[point.bound[name] for name in names] for point in points])
        root = float(np.sqrt(((rates - truth.rates.rates) ** 2).mean()))
        gap = told - true
        return Errors(root, float(np.abs(gap).mean()), float(gap.mean()), int((low > true).sum()), low.size)

    found = {
        "labels": errors(labels.rates, by_labels, [point.predicted for point in by_labels]),
        "labels' points, cross-fitted": errors(view.rates.rates, by_labels, [view.values(p) for p in by_labels]),
        "preference model": errors(view.rates.rates, by_model, [point.predicted for point in by_model]),
    }
    rows = [
        [name, f"{e.rates:.3f}", f"{e.predicted:.3f}", f"{e.optimism:+.3f}", f"{e.broken} of {e.bounds}"]
        for name, e in found.items()
    ]
    print_table(
        ["win rates from", "RMSE of rates", "error of values", "optimism", "bounds too high"], rows, title=title
    )


if __name__ == "__main__":
    main()
