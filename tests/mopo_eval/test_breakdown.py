from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mopo_eval.breakdown import MOST_CATEGORIES, by_category, left_out
from mopo_eval.prompts import EvaluationPrompt
from mopo_eval.results import read_results
from mopo_train.family import read_family
from tests.families import OBJECTIVES, SCORES
from tests.mopo_eval.measured_family import CATEGORIES, asked, drawn_scores, trained_family, write_run


def test_each_category_has_its_mean_interval_and_share_of_poor_answers(tmp_path: Path) -> None:
    trained_family(tmp_path)
    scores = drawn_scores(120)
    write_run(tmp_path, scores, asked(120))
    found = by_category(read_results(tmp_path, read_family(tmp_path)))
    assert len(found) == len(CATEGORIES) * len(SCORES) * len(OBJECTIVES)
    for each in found:
        p, k, first = list(SCORES).index(each.policy), OBJECTIVES.index(each.objective), CATEGORIES.index(each.category)
        values = scores[p, k, first :: len(CATEGORIES), 0]
        assert each.n == 40
        assert each.mean == pytest.approx(values.mean())
        assert each.poor == pytest.approx((values < 0.5).mean())
        interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (each.low, each.high) == pytest.approx((interval.low, interval.high), abs=0.02)


def test_a_single_prompt_has_no_interval_and_no_category_is_a_category(tmp_path: Path) -> None:
    trained_family(tmp_path)
    prompts = [prompt._replace(category="alone" if n == 3 else None) for n, prompt in enumerate(asked(30))]
    write_run(tmp_path, drawn_scores(30), prompts)
    found = by_category(read_results(tmp_path, read_family(tmp_path)))
    assert {(each.category, each.n) for each in found} == {("without a category", 29), ("alone", 1)}
    assert {(each.low, each.high) for each in found if each.category == "alone"} == {(0, 1)}


def test_prompts_without_categories_have_no_breakdown_and_many_are_cut(tmp_path: Path) -> None:
    trained_family(tmp_path)
    write_run(tmp_path, drawn_scores(30), [prompt._replace(category=None) for prompt in asked(30)])
    assert by_category(read_results(tmp_path, read_family(tmp_path))) == []
    many = [EvaluationPrompt(f"p{n}", f"Question {n}?", f"category {n // 2}") for n in range(60)]
    write_run(tmp_path, drawn_scores(60), many)
    results = read_results(tmp_path, read_family(tmp_path))
    assert len({each.category for each in by_category(results)}) == MOST_CATEGORIES
    assert left_out(results) == 30 - MOST_CATEGORIES
    assert np.isfinite([each.low for each in by_category(results)]).all()
