import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopo_train.errors import DataError, FloorError
from mopo_train.preferences import PreferenceData, read_preferences
from mopo_train.winrates import comparisons_per_response, from_rates, max_by_prompt, sum_by_prompt, win_rates


def row(prompt: str, a: str, b: str, weight: float = 1.0, **labels: float | None) -> dict[str, Any]:
    return {"prompt": prompt, "response_a": a, "response_b": b, "preferences": labels, "weight": weight}


def read(path: Path, rows: list[dict[str, Any]]) -> PreferenceData:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return read_preferences([path])


@pytest.fixture
def data(tmp_path: Path) -> PreferenceData:
    return read(
        tmp_path / "pairs.jsonl",
        [
            row("p", "yes", "no", helpfulness=1.0, safety=0.0),
            row("p", "no", "maybe", helpfulness=0.5, safety=None),
            row("p", "yes", "maybe", weight=3.0, helpfulness=0.0),
            row("q", "one", "two", safety=0.25),
        ],
    )


def rate(data: PreferenceData, text: str, objective: str) -> float:
    names = [data.response(index) for index in range(len(data.response_prompt))]
    rates = win_rates(data)
    return float(rates.rates[names.index(text), rates.column(objective)])


def test_a_win_rate_is_the_weighted_mean_label_and_a_missing_label_is_left_out(data: PreferenceData) -> None:
    assert rate(data, "yes", "helpfulness") == pytest.approx((1 * 1.0 + 3 * 0.0) / 4)
    assert rate(data, "no", "helpfulness") == pytest.approx((0.0 + 0.5) / 2)
    assert rate(data, "maybe", "helpfulness") == pytest.approx((1 * 0.5 + 3 * 1.0) / 4)
    assert rate(data, "yes", "safety") == 0.0
    assert rate(data, "no", "safety") == 1.0
    assert rate(data, "two", "safety") == 0.75


def test_a_response_without_labels_is_at_parity_and_its_prompt_unlabelled(data: PreferenceData) -> None:
    rates = win_rates(data)
    assert rate(data, "maybe", "safety") == 0.5
    assert rate(data, "one", "helpfulness") == 0.5
    assert rates.labelled[:, rates.column("helpfulness")].tolist() == [True, False]
    assert rates.labelled[:, rates.column("safety")].tolist() == [True, True]


def test_the_responses_of_a_prompt_count_alike(data: PreferenceData) -> None:
    rates = win_rates(data)
    assert rates.starts.tolist() == [0, 3, 5]
    assert rates.mass.tolist() == pytest.approx([1 / 3] * 3 + [1 / 2] * 2)


def test_comparisons_count_labels_per_response_that_has_one(data: PreferenceData) -> None:
    counted = comparisons_per_response(data)
    assert counted["helpfulness"] == (3, 2.0)  # three labelled rows, six appearances, three responses
    assert counted["safety"] == (4, 1.0)


def test_every_row_twice_changes_no_win_rate(data: PreferenceData, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    doubled = win_rates(read(tmp_path / "doubled.jsonl", rows + rows))
    assert np.allclose(doubled.rates, win_rates(data).rates, atol=1e-15)


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.1, float("inf")])
def test_rates_that_are_no_probabilities_are_refused(bad: float) -> None:
    with pytest.raises(DataError, match="1 win rates are NaN or outside"):
        from_rates(("a",), [[0.5], [bad]], [0, 2])


@pytest.mark.parametrize("starts", [[0, 2, 2], [1, 2], [0], [0, 2, 1]])
def test_prompts_without_responses_are_refused(starts: list[int]) -> None:
    with pytest.raises(DataError, match="at least one response"):
        from_rates(("a",), [[0.5], [0.5]], starts)


@pytest.mark.parametrize("mass", [[0.5, 0.4], [1.0, 0.0], [1.5, -0.5], [np.nan, 1.0]])
def test_masses_that_are_no_distribution_are_refused(mass: list[float]) -> None:
    with pytest.raises(DataError, match="masses"):
        from_rates(("a",), [[0.5], [0.5]], [0, 2], mass=mass)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="do not fit"):
        from_rates(("a", "b"), [[0.5], [0.5]], [0, 2])


def test_an_unknown_objective_is_named_with_the_known_ones() -> None:
    with pytest.raises(FloorError, match="'speed' is not an objective of this data; known: a, b"):
        from_rates(("a", "b"), [[0.5, 0.5]], [0, 1]).column("speed")


def test_reductions_per_prompt() -> None:
    values = np.array([[1.0, 2.0, 5.0], [4.0, 0.0, -1.0]])
    starts = np.array([0, 2, 3])
    assert sum_by_prompt(values, starts).tolist() == [[3.0, 5.0], [4.0, -1.0]]
    assert max_by_prompt(values, starts).tolist() == [[2.0, 5.0], [4.0, -1.0]]
