from pathlib import Path

import numpy as np
import pytest

from mopo_eval.examples import Place, lowest, worst_answers
from mopo_eval.results import read_results
from mopo_train.errors import FamilyError
from mopo_train.family import read_family
from tests.families import OBJECTIVES, SCORES
from tests.mopo_eval.measured_family import asked, drawn_scores, trained_family, write_run


def test_the_lowest_come_first_and_a_prompt_comes_once() -> None:
    scores = np.array([[[0.1, 0.2], [0.3, 0.9], [0.5, 0.5]], [[0.15, 0.9], [0.9, 0.25], [0.4, 0.9]]])
    assert lowest(scores, 3) == [Place(0, 0, 0), Place(1, 1, 1), Place(1, 2, 0)]
    assert len(lowest(scores, 10)) == 3  # no more prompts


def test_policies_take_turns_where_scores_are_equal() -> None:
    assert [place.policy for place in lowest(np.zeros((3, 10, 2)), 6)] == [0, 1, 2, 0, 1, 2]


def test_it_agrees_with_sorting_everything() -> None:
    scores = np.random.default_rng(0).random((4, 50, 3))
    best: dict[int, float] = {}
    for _, n, s in sorted(np.ndindex(4, 50, 3), key=lambda place: scores[place]):
        best.setdefault(n, min(scores[p, n, s] for p in range(4)))
    found = [scores[place] for place in lowest(scores, 7)]
    assert found == sorted(scores.min(axis=(0, 2)))[:7]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    trained_family(tmp_path)
    scores = np.concatenate([drawn_scores(40), drawn_scores(40, seed=1)], axis=3)
    write_run(tmp_path, scores, asked(40))
    return tmp_path


def test_every_example_carries_its_own_prompt_answer_and_judgement(root: Path) -> None:
    results = read_results(root, read_family(root))
    found = worst_answers(results, ["policy-00", "policy-02"], 4)
    assert list(found) == OBJECTIVES
    for objective, examples in found.items():
        assert [each.score for each in examples] == sorted(each.score for each in examples)
        assert {each.policy for each in examples} <= {"policy-00", "policy-02"}
        for each in examples:
            p, k = list(SCORES).index(each.policy), OBJECTIVES.index(objective)
            n = [prompt.id for prompt in results.prompts].index(each.prompt.id)
            assert each.score == results.table.scores[p, k, n, each.sample]
            assert each.response == f"Answer of {each.policy} to {each.prompt.id}."
            assert each.evidence == f"because {each.score}"


def test_answers_that_are_gone_are_an_error(root: Path) -> None:
    results = read_results(root, read_family(root))
    (results.directory / "responses.parquet").write_bytes(b"")
    with pytest.raises(FamilyError, match=r"cannot read '.*responses\.parquet'"):
        worst_answers(results, ["policy-00"])
