"""What people think of an answer: ``POST /v1/feedback`` validated, joined to the decision, and stored.

A judgement is about one answer, by one person, on one objective: a score, or a preference between two answers. The
first one counts and stays: a repeat is harmless, a change of mind is not taken. A statistic that may be looked at at
any time must not be revised in hindsight.
"""

import hashlib
from collections.abc import Collection, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from mopo_serve.audit.schema import DECISIONS, FEEDBACK
from mopo_serve.audit.store import AuditStore, StoreUnavailable
from mopo_serve.decisions import NOBODY
from mopo_serve.openai_errors import ApiError, malformed, shown
from mopo_train.family import ObjectiveName

Judgement = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
RequestId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
ATTEMPTS = 3


class FeedbackBody(BaseModel):
    """The body of ``POST /v1/feedback``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    request_id: RequestId
    """``x-request-id`` of the answer that is judged."""
    scores: dict[ObjectiveName, Judgement] = {}
    """How good the answer is, per objective, on the scale of the judges: 0 worst, 1 best."""
    against: RequestId | None = None
    """``x-request-id`` of the answer that it is compared with."""
    preferences: dict[ObjectiveName, Judgement] = {}
    """Probability that the answer is better than ``against``, per objective: 1 yes, 0 no, 0.5 as good."""
    user: Annotated[str, Field(max_length=512)] | None = None
    """Who judges; kept as a hash. Without it, the API key counts as one person."""
    comment: Annotated[str, Field(max_length=4000)] | None = None
    """Kept as it is."""


class Answer(NamedTuple):
    """The decision that is judged."""

    policy: str
    profile: str
    family: str


class Outcome(NamedTuple):
    """What became of a judgement."""

    answer: Answer
    stored: list[str]
    """Objectives on which it counts."""
    kept: list[str]
    """Objectives on which an earlier judgement of the same answer by the same person stays, equal or not."""


def check(body: FeedbackBody, objectives: Collection[str]) -> None:
    """Raise ApiError (400) unless ``body`` says something about ``objectives``."""
    if not body.scores and not body.preferences:
        raise malformed("give 'scores', or 'preferences' with 'against'", "scores")
    if bool(body.preferences) != (body.against is not None):
        raise malformed("'preferences' and 'against' belong together", "against")
    if body.against == body.request_id:
        raise malformed("an answer cannot be compared with itself", "against")
    for field, values in (("scores", body.scores), ("preferences", body.preferences)):
        for name in values:
            if name not in objectives:
                known = ", ".join(sorted(objectives))
                raise malformed(f"{shown(name)} is not an objective of this family; known: {known}", f"{field}.{name}")


def give(store: AuditStore, body: FeedbackBody, *, key: str, everybody: bool, time: float) -> Outcome:
    """Store what ``body`` says, which was checked. ``key`` may judge answers to itself; with ``everybody``, all.

    Raises ApiError (404) for an answer that there was not, and StoreUnavailable.
    """
    whose = None if everybody else key
    answer = find_answer(store, body.request_id, whose, "request_id")
    other = None if body.against is None else find_answer(store, body.against, whose, "against")
    rows = judgement_rows(body, answer, other, judge=judge_of(key, body.user), time=time)
    for attempt in range(ATTEMPTS):
        known = _known(store, rows)
        new = [row for row in rows if _unit(row) not in known]
        try:
            if new:
                store.append_own(FEEDBACK, new)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, IntegrityError) and attempt < ATTEMPTS - 1:
                continue  # somebody stored the same judgement meanwhile
            raise
        break
    kept = [row["objective"] for row in rows if row not in new]
    return Outcome(answer, [row["objective"] for row in new], kept)


def find_answer(store: AuditStore, request_id: str, key: str | None, param: str) -> Answer:
    """The latest answer under ``request_id`` (that ``key`` got, if given). Raises ApiError (404), StoreUnavailable."""
    columns = (DECISIONS.c.policy, DECISIONS.c.profile, DECISIONS.c.family)
    query = select(*columns).where(DECISIONS.c.request_id == request_id, DECISIONS.c.status < 400)
    if key is not None:
        query = query.where(DECISIONS.c.key == key)
    with store.reading() as connection:
        found = connection.execute(query.order_by(DECISIONS.c.seq.desc()).limit(1)).first()
    if found is None or found.policy == NOBODY:
        message = f"there is no answer {shown(request_id)} that could be judged; give the x-request-id of one"
        raise ApiError(404, message, code="request_not_found", param=param)
    return Answer(str(found.policy), str(found.profile), str(found.family))


def judgement_rows(
    body: FeedbackBody, answer: Answer, other: Answer | None, *, judge: str, time: float
) -> list[dict[str, Any]]:
    """One row of ``FEEDBACK`` per objective and kind."""
    said = [(name, value, "", "") for name, value in body.scores.items()]
    if other is not None and body.against is not None:
        said += [(name, value, body.against, other.policy) for name, value in body.preferences.items()]
    about = answer._asdict() | {
        "request_id": body.request_id,
        "judge": judge,
        "comment": body.comment or "",
        "time": time,
    }
    return [
        about | {"objective": name, "value": float(value), "against": against, "against_policy": against_policy}
        for name, value, against, against_policy in said
    ]


def judge_of(key: str, user: str | None) -> str:
    """Who judges, as it is kept: 128 bits of SHA-256 over key and user."""
    return hashlib.sha256(f"{key}\n{user or ''}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _unit(row: Mapping[str, Any]) -> tuple[str, str]:
    """What a judge may say once about an answer."""
    return str(row["objective"]), str(row["against"])


def _known(store: AuditStore, rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """What the judge of ``rows`` has said about the answer already."""
    first = rows[0]
    query = select(FEEDBACK.c.objective, FEEDBACK.c.against).where(
        FEEDBACK.c.request_id == first["request_id"], FEEDBACK.c.judge == first["judge"]
    )
    with store.reading() as connection:
        return {(row.objective, row.against) for row in connection.execute(query)}
