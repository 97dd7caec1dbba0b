from pathlib import Path

import pandas as pd
import pytest

from mopo_eval.answers import Answer, Sampling
from mopo_eval.evaluation import (
    SPOOL,
    Hypervolume,
    JudgementRow,
    RunSummary,
    read_responses,
    read_summary,
    run_name,
    write_summary,
    write_tables,
)
from mopo_eval.prompts import EvaluationPrompt
from mopo_train.errors import FamilyError
from tests.families import family, write_evaluation

PROMPTS = [EvaluationPrompt("a", "A?", "plain"), EvaluationPrompt("b", [{"role": "user", "content": "B?"}])]


def answer(prompt_id: str, response: str = "Yes.", engine: str = "vllm") -> Answer:
    return Answer("reference", prompt_id, 0, response, "stop", 3, 5, engine)


def verdict(prompt_id: str, score: float) -> JudgementRow:
    return JudgementRow("reference", prompt_id, 0, "safety", "j", score, None, None)


def test_tables_have_the_columns_that_readers_expect(tmp_path: Path) -> None:
    write_evaluation(tmp_path, prompts=2, run="made-up")
    ours, theirs = tmp_path / "evaluation" / "ours", tmp_path / "evaluation" / "made-up"
    write_tables(ours, PROMPTS, [answer("a"), answer("b")], [verdict("a", 1.0), verdict("b", 0.5)])
    for name in ("responses.parquet", "judgements.parquet"):
        made, expected = pd.read_parquet(ours / name), pd.read_parquet(theirs / name)
        assert set(expected) <= set(made)
        for column in set(expected) - {"label", "evidence"}:
            assert made[column].dtype == expected[column].dtype, column
    made = pd.read_parquet(ours / "responses.parquet")
    assert made["prompt"].tolist() == ["A?", '[{"role": "user", "content": "B?"}]']
    assert made["category"].tolist()[0] == "plain" and made["category"].isna().tolist()[1]


def test_the_summary_that_other_tests_make_up_is_one(tmp_path: Path) -> None:
    write_evaluation(tmp_path, prompts=2)
    assert read_summary(tmp_path / "evaluation" / "test" / "run.json").front == ["policy-00", "policy-01", "policy-02"]


def summary() -> RunSummary:
    return RunSummary(
        run="r",
        created_at="2026-01-01T00:00:00+00:00",
        engine="vllm",
        prompts=2,
        policies=["reference"],
        judges={"safety": "j"},
        sampling=Sampling(),
        confidence=0.95,
        front=["reference"],
        hypervolume=Hypervolume(value=0.75, reference_point={"safety": 0.0}),
    )


def test_a_summary_survives_and_ends_the_spool(tmp_path: Path) -> None:
    (tmp_path / SPOOL).touch()
    write_summary(tmp_path, summary())
    assert read_summary(tmp_path / "run.json") == summary()
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff"])
def test_a_summary_that_is_missing_or_damaged_is_told(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(FamilyError, match=r"mopo-eval run|is not a run's summary"):
        read_summary(tmp_path / "run.json")


def test_a_runs_name_depends_on_all_that_decides_its_content() -> None:
    judges, weights = {"safety": "a.b"}, {"reference": "0"}
    name = run_name(family(), weights, PROMPTS, Sampling(), judges)
    assert name == run_name(family(), dict(weights), list(PROMPTS), Sampling(), dict(judges))
    again = family().model_copy(update={"created_at": "2026-02-01T00:00:00+00:00"})
    others = [
        run_name(again, weights, PROMPTS, Sampling(), judges),
        run_name(family(), {"reference": "1"}, PROMPTS, Sampling(), judges),
        run_name(family(), weights, PROMPTS[:1], Sampling(), judges),
        run_name(family(), weights, PROMPTS, Sampling(seed=1), judges),
    ]
    assert len({other.partition("-")[0] for other in [name, *others]}) == 5
    rejudged = run_name(family(), weights, PROMPTS, Sampling(), {"safety": "a.c"})
    assert rejudged != name and rejudged.partition("-")[0] == name.partition("-")[0]


def test_a_damaged_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "responses.parquet").write_bytes(b"PAR1")
    with pytest.raises(FamilyError, match=r"cannot read .*responses.parquet.*to measure again"):
        read_responses(tmp_path)
