"""The pure parts of the baselines: weight vectors, drawn pairs, MODPO as DPO, which adapters are trained."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mopo_train.baselines.config import BaselineConfig, adapters_to_train, mixtures, total_steps
from mopo_train.baselines.modpo import as_dpo
from mopo_train.baselines.pairs import draw_pairs
from mopo_train.baselines.simplex import spread_weights
from mopo_train.errors import DataError, FloorError
from mopo_train.preferences import PreferenceData, read_preferences

OBJECTIVES = ("helpfulness", "safety", "factuality")


def test_weights_of_two_objectives_are_the_middles_of_equal_parts() -> None:
    assert spread_weights(2, 4, 0)[:, 0] == pytest.approx([7 / 8, 5 / 8, 3 / 8, 1 / 8], abs=2e-3)
    assert spread_weights(2, 4, 1)[:, 1] == pytest.approx([7 / 8, 5 / 8, 3 / 8, 1 / 8], abs=2e-3)


@pytest.mark.parametrize("number", [1, 3, 8, 15])
def test_weights_lie_inside_the_simplex_and_apart(number: int) -> None:
    weights = spread_weights(3, number, 1)
    assert weights.shape == (number, 3)
    assert weights.sum(axis=1) == pytest.approx(np.ones(number))
    assert (weights > 0).all()
    assert weights[0, 1] == weights[:, 1].max()
    gaps = np.linalg.norm(weights[:, None] - weights[None], axis=-1)[~np.eye(number, dtype=bool)]
    area = math.sqrt(3) / 2  # of the simplex of three objectives
    assert number == 1 or gaps.min() > 0.7 * math.sqrt(area / number)


def test_one_weight_is_the_middle() -> None:
    assert spread_weights(3, 1, 0)[0] == pytest.approx([1 / 3] * 3)


def data_of(root: Path, labels: list[dict[str, float]], weights: list[float]) -> PreferenceData:
    rows = [
        {"prompt": f"p{i}", "response_a": "yes", "response_b": "no", "preferences": label, "weight": weight}
        for i, (label, weight) in enumerate(zip(labels, weights, strict=True))
    ]
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return read_preferences([root / "rows.jsonl"])


def test_pairs_are_drawn_by_objective_row_weight_and_label(tmp_path: Path) -> None:
    labels: list[dict[str, float]] = [{"a": 0.75}, {"a": 1.0}, {"a": 0.0, "b": 1.0}, {"b": 0.5}]
    data = data_of(tmp_path, labels, [1.0, 2.0, 1.0, 1.0])
    number = 40_000
    chosen, rejected = draw_pairs(data, np.array([0.25, 0.75]), number, np.random.default_rng(0))
    assert (data.response_prompt[chosen] == data.response_prompt[rejected]).all()
    assert (chosen != rejected).all()
    share = np.bincount(chosen, minlength=8) / number  # response 2 i is row i's first
    expected = 0.25 * np.array([0.1875, 0.0625, 0.5, 0, 0, 0.25, 0, 0])  # a: rows 1 : 2 : 1
    expected += 0.75 * np.array([0, 0, 0, 0, 0.5, 0, 0.25, 0.25])  # b: rows 1 : 1, a tie is either
    assert share == pytest.approx(expected, abs=0.01)


def test_an_epoch_sees_every_row_once(tmp_path: Path) -> None:
    data = data_of(tmp_path, [{"a": 1.0, "b": 0.0}] * 12, [1.0] * 12)
    chosen, _ = draw_pairs(data, np.array([1.0, 0.0]), 12, np.random.default_rng(3))
    assert sorted(chosen.tolist()) == list(range(0, 24, 2))


def test_an_objective_without_labels_cannot_be_drawn(tmp_path: Path) -> None:
    data = data_of(tmp_path, [{"a": 1.0}, {"a": 0.0, "b": 1.0}], [1.0, 1.0])
    data.labels[:, 1] = np.nan
    with pytest.raises(DataError, match="no pair carries a label on 'b'"):
        draw_pairs(data, np.array([0.0, 1.0]), 4, np.random.default_rng(0))


def test_modpo_is_dpo_with_a_shifted_reference() -> None:
    """The loss as the paper states it against -log sigmoid(beta' (h - h_ref)) of the shifted problem."""
    rng = np.random.default_rng(0)
    policy, reference, margin = rng.normal(size=(3, 2))  # log-probabilities of a chosen and a rejected response
    weights = {"helpfulness": 0.4, "safety": 0.6}
    beta, primary = 0.2, "helpfulness"
    rewards = beta * (margin - reference)  # the implicit reward of safety's policy
    stated = (beta * np.diff(policy - reference) - 0.6 * np.diff(rewards)) / 0.4
    shifted = as_dpo(beta, reference, weights, primary, {"safety": margin})
    assert shifted.beta * np.diff(policy - shifted.reference) == pytest.approx(stated)


def test_modpo_with_zero_margin_weights_is_dpo() -> None:
    reference = np.array([-3.0, -1.0])
    same = as_dpo(0.1, reference, {"a": 1.0, "b": 0.0}, "a", {"b": np.array([-9.0, 4.0])})
    assert same.beta == 0.1
    assert same.reference.tolist() == reference.tolist()
    with pytest.raises(ValueError, match="divides by the weight of 'a'"):
        as_dpo(0.1, reference, {"a": 0.0, "b": 1.0}, "a", {})


def test_what_each_method_trains() -> None:
    def trained(method: str, policies: int | None) -> list[tuple[str, str | None, int, bool]]:
        config = BaselineConfig.model_validate({"method": method, "policies": policies, "steps": 40})
        found = adapters_to_train(config, OBJECTIVES)
        assert sum(one.steps for one in found) == total_steps(config, OBJECTIVES)
        assert all(sum(one.weights.values()) == pytest.approx(1, abs=1e-5) for one in found)
        return [(one.id, one.start, one.steps, one.member) for one in found]

    assert trained("dpo", None) == [(f"dpo-{name}", None, 40, True) for name in OBJECTIVES]
    assert trained("soup", 5) == [(f"expert-{name}", None, 40, False) for name in OBJECTIVES]
    chain = [("x-00", None, 40, True), ("x-01", "x-00", 20, True)]
    for method in ("scalarised-dpo", "grpo"):
        named = [(a.replace("x", method), b and b.replace("x", method), c, d) for a, b, c, d in chain]
        assert trained(method, 2) == named
    margins = [("margin-safety", None, 40, False), ("margin-factuality", None, 40, False)]
    assert trained("modpo", 2) == margins + [("modpo-00", None, 40, True), ("modpo-01", "modpo-00", 20, True)]
    rates = [
        BaselineConfig.model_validate({"method": name}).resolved(OBJECTIVES).learning_rate for name in ("soup", "grpo")
    ]
    assert rates == [2e-3, 3e-4]
    assert len(mixtures(BaselineConfig(method="soup"), OBJECTIVES)) == 6


def test_what_a_method_cannot_train() -> None:
    with pytest.raises(DataError, match="dpo trains one policy per objective, which is 3"):
        adapters_to_train(BaselineConfig(method="dpo", policies=4), OBJECTIVES)
    with pytest.raises(FloorError, match="'speed' is not an objective"):
        adapters_to_train(BaselineConfig(method="soup", primary="speed"), OBJECTIVES)
