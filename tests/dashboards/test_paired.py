import numpy as np
import pytest

from dashboards.matrix import ScoreMatrix
from dashboards.paired import against, by_category, dominance
from mopo_eval.differences import paired_difference
from mopo_eval.intervals import interval


def matrix(seed: int = 0, prompts: int = 50) -> ScoreMatrix:
    draw = np.random.default_rng(seed)
    values = draw.uniform(0, 0.8, (3, 2, prompts))
    values[2] = values[0] + 0.1  # better on both, on every prompt
    values[1, 0, 0] = np.nan
    return ScoreMatrix(["a", "b", "c"], ["x", "y"], [f"p{i}" for i in range(prompts)], values)


def test_differences_are_those_of_each_pair_alone() -> None:
    scores = matrix()
    found = against(scores, "a", ["b", "c"], ["x", "y"], 0.9)
    assert [(each.policy, each.objective) for each in found] == [("b", "x"), ("b", "y"), ("c", "x"), ("c", "y")]
    alone = paired_difference(scores.of("b", "y")[1:], scores.of("a", "y")[1:], 0.9)  # the first prompt is not judged
    assert found[1].difference == pytest.approx(alone)
    assert found[2].difference.mean == pytest.approx(0.1)


def test_what_is_better_on_every_prompt_dominates_surely() -> None:
    found = dominance(matrix(), ["a", "c"], ["x", "y"])
    assert found == {("a", "c"): 0.0, ("c", "a"): 1.0}


def test_equal_policies_do_not_dominate_each_other() -> None:
    scores = matrix()
    same = ScoreMatrix(["a", "b"], ["x"], scores.prompts, np.stack([scores.values[0, :1]] * 2))
    assert dominance(same, ["a", "b"], ["x"]) == {("a", "b"): 0.0, ("b", "a"): 0.0}


def test_two_independent_policies_dominate_about_as_often_as_a_simulation_of_normals_says() -> None:
    draw = np.random.default_rng(3)
    values = np.clip(draw.normal(0.5, 0.1, (2, 2, 400)), 0, 1)
    scores = ScoreMatrix(["a", "b"], ["x", "y"], [str(i) for i in range(400)], values)
    gap = values[0] - values[1]  # (2, 400)
    shifts = draw.multivariate_normal(gap.mean(axis=1), np.cov(gap) / 400, 20_000)
    expected = (shifts > 0).all(axis=1).mean()
    assert dominance(scores, ["a", "b"], ["x", "y"])["a", "b"] == pytest.approx(expected, abs=0.03)


def test_categories_have_their_own_means_and_intervals_largest_first() -> None:
    scores = matrix()
    names = {f"p{i}": "few" if i < 20 else "many" if i < 49 else "single" for i in range(50)}
    frame = by_category(scores, names, ["a", "c"], "y", 0.95)
    assert list(frame["label"]) == ["many", "many", "few", "few"]
    few = scores.of("a", "y")[:20]
    row = frame[(frame["label"] == "few") & (frame["policy"] == "a")].iloc[0]
    assert (row["mean"], row["n"]) == (pytest.approx(few.mean()), 20)
    assert (row["low"], row["high"]) == pytest.approx(interval(few, 0.95))
    assert by_category(scores, {}, ["a"], "y", 0.95).empty
