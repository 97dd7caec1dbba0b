from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mopo_eval.evaluation import read_summary
from mopo_eval.scores import read_scores
from mopo_train.errors import FamilyError
from tests.families import OBJECTIVES, SCORES, write_measured_family


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_measured_family(tmp_path, prompts=5)
    return tmp_path / "evaluation" / "test"


def test_scores_are_put_where_their_keys_say_whatever_their_order(run: Path) -> None:
    rows = pd.read_parquet(run / "judgements.parquet")
    chosen = (rows.policy == "policy-01") & (rows.prompt_id == "p0003") & (rows.objective == "safety")
    rows.loc[chosen, "score"] = 0.125
    rows.sample(frac=1, random_state=0).sort_values("prompt_id", kind="stable").to_parquet(run / "judgements.parquet")
    found = read_scores(run, read_summary(run / "run.json"))
    assert found.prompts == [f"p{index:04d}" for index in range(5)]
    assert found.table.values.shape == (len(SCORES), 3, 5)
    for p, scores in enumerate(SCORES.values()):
        for k, name in enumerate(OBJECTIVES):
            expected = np.full(5, scores[name])
            if list(SCORES)[p] == "policy-01" and name == "safety":
                expected[3] = 0.125
            assert found.table.values[p, k].tolist() == expected.tolist()


@pytest.mark.parametrize("change", [lambda rows: rows[:-1], lambda rows: pd.concat([rows[:-1], rows[:1]])])
def test_a_missing_or_repeated_score_is_an_error(run: Path, change) -> None:  # type: ignore[no-untyped-def]
    change(pd.read_parquet(run / "judgements.parquet")).to_parquet(run / "judgements.parquet")
    with pytest.raises(FamilyError, match="one score per policy"):
        read_scores(run, read_summary(run / "run.json"))


def test_a_table_that_cannot_be_read_is_an_error(run: Path) -> None:
    (run / "judgements.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(FamilyError, match="cannot read"):
        read_scores(run, read_summary(run / "run.json"))


def test_answers_without_judgements_have_no_scores(run: Path) -> None:
    summary = read_summary(run / "run.json").model_copy(update={"judges": {}})
    with pytest.raises(FamilyError, match="without judgements"):
        read_scores(run, summary)
