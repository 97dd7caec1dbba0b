"""Feedback: what is refused, what is joined to which answer, and that the first judgement stays."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mopo_serve.audit.schema import FEEDBACK
from mopo_serve.audit.store import AuditStore, open_store
from mopo_serve.feedback import FeedbackBody, Outcome, check, give, judge_of
from mopo_serve.openai_errors import ApiError
from tests.families import OBJECTIVES
from tests.mopo_serve.audit.records import append, decision


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AuditStore]:
    opened = open_store(str(tmp_path / "audit.db"))
    append(
        opened,
        [
            decision(1),
            decision(2, policy="reference"),
            decision(3, key="key-2"),
            decision(4, status=422, policy="-"),
            decision(5, policy="policy-09"),
            decision(5, policy="policy-02"),
        ],
    )
    yield opened
    opened.close()


def said(store: AuditStore, key: str = "key-1", everybody: bool = False, **fields: Any) -> Outcome:
    body = FeedbackBody(**fields)
    check(body, OBJECTIVES)
    return give(store, body, key=key, everybody=everybody, time=5.0)


def test_a_score_is_joined_to_the_answer(store: AuditStore) -> None:
    outcome = said(store, request_id="req-1", scores={"safety": 1, "helpfulness": 0.25}, user="ann", comment="wörtlich")
    assert outcome.answer == ("policy-01", "balanced", "family@0123456789ab")
    assert outcome.stored == ["safety", "helpfulness"]
    first, second = store.rows(FEEDBACK)
    assert (first["objective"], first["value"], first["policy"]) == ("safety", 1.0, "policy-01")
    assert (second["value"], second["comment"], second["against"]) == (0.25, "wörtlich", "")
    assert first["judge"] == judge_of("key-1", "ann") and "ann" not in first["judge"]


def test_a_preference_names_both_policies(store: AuditStore) -> None:
    said(store, request_id="req-1", against="req-2", preferences={"safety": 0.5})
    (row,) = store.rows(FEEDBACK)
    assert (row["policy"], row["against"], row["against_policy"], row["value"]) == (
        "policy-01",
        "req-2",
        "reference",
        0.5,
    )


def test_the_first_judgement_of_a_person_stays(store: AuditStore) -> None:
    said(store, request_id="req-1", scores={"safety": 1})
    assert said(store, request_id="req-1", scores={"safety": 1}).kept == ["safety"]
    mixed = said(store, request_id="req-1", scores={"safety": 0, "factuality": 0.5})
    assert (mixed.stored, mixed.kept) == (["factuality"], ["safety"])
    said(store, request_id="req-1", scores={"safety": 0}, user="somebody else")
    said(store, request_id="req-1", against="req-2", preferences={"safety": 1})  # another question
    assert [(row["objective"], row["value"]) for row in store.rows(FEEDBACK)] == [
        ("safety", 1.0),
        ("factuality", 0.5),
        ("safety", 0.0),
        ("safety", 1.0),
    ]


def test_a_judgement_that_two_gateways_take_at_once_counts_once(
    store: AuditStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other gateway stores it between our look and our append."""
    other = open_store(str(tmp_path / "audit.db"))
    append_own = store.append_own

    def late(*arguments: Any) -> Any:
        monkeypatch.undo()
        said(other, request_id="req-1", scores={"safety": 1})
        return append_own(*arguments)

    monkeypatch.setattr(store, "append_own", late)
    outcome = said(store, request_id="req-1", scores={"safety": 0, "helpfulness": 1})
    assert (outcome.stored, outcome.kept) == (["helpfulness"], ["safety"])
    assert [row["value"] for row in store.rows(FEEDBACK)] == [1.0, 1.0]
    other.close()


@pytest.mark.parametrize("request_id", ["req-77", "req-3", "req-4", "a" * 128])
def test_answers_that_there_were_not_or_that_others_got_are_unknown(store: AuditStore, request_id: str) -> None:
    with pytest.raises(ApiError) as error:
        said(store, request_id=request_id, scores={"safety": 1})
    assert (error.value.status, error.value.code, error.value.param) == (404, "request_not_found", "request_id")
    with pytest.raises(ApiError) as error:
        said(store, request_id="req-1", against=request_id, preferences={"safety": 1})
    assert (error.value.status, error.value.param) == (404, "against")


def test_who_may_judge_everything_may_and_the_latest_answer_of_an_id_counts(store: AuditStore) -> None:
    assert said(store, everybody=True, request_id="req-3", scores={"safety": 1}).answer.policy == "policy-01"
    assert said(store, request_id="req-5", scores={"safety": 1}).answer.policy == "policy-02"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "scores"),
        ({"scores": {"kindness": 1}}, "scores.kindness"),
        ({"preferences": {"safety": 1}}, "against"),
        ({"scores": {"safety": 1}, "against": "req-2"}, "against"),
        ({"preferences": {"safety": 1}, "against": "req-1"}, "against"),
    ],
)
def test_bodies_that_say_nothing_are_refused(store: AuditStore, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as error:
        said(store, request_id="req-1", **fields)
    assert (error.value.status, error.value.param) == (400, param)
