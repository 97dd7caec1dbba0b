"""What a gateway meets in bad hours: floors and fallbacks in every combination, clocks that jump, nonsense."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopo_serve.openai_errors import ApiError
from mopo_serve.requests import RequestedProfile
from tests.families import SCORES
from tests.mopo_serve.stub import CHAT, MESSAGES, Kept, StubEngine, routing, stubbed

BOUND = {policy: {name: score - 0.05 for name, score in scores.items()} for policy, scores in SCORES.items()}
floors = st.dictionaries(st.sampled_from(["safety", "helpfulness", "factuality"]), st.floats(0, 1), max_size=3)
asked = st.builds(
    RequestedProfile,
    primary=st.none() | st.sampled_from(["safety", "helpfulness", "factuality"]),
    floors=floors,
    selection=st.none() | st.sampled_from(["single", "mixture"]),
    on_infeasible=st.none() | st.sampled_from(["reject", "closest", "policy-00", "reference"]),
)
MODELS = ["mopo", *(f"mopo/{name}" for name in ("helpful", "balanced", "careful", "impossible", "closest"))]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([*MODELS, "mopo/policy/policy-00", "mopo/policy/policy-02"]), st.none() | asked)
def test_whoever_answers_holds_the_organisations_floor_and_says_whether_it_holds_all(
    model: str, requested: RequestedProfile | None
) -> None:
    table = routing()
    try:
        choice = table.decide(model, requested, request_id="r")
    except ApiError as error:
        assert error.status in (400, 422)
        return
    own = BOUND[choice.policy]
    assert own["safety"] >= 0.5
    wanted = {} if requested is None else requested.floors
    assert all(choice.floors[name] >= floor for name, floor in wanted.items())
    if choice.feasible and choice.share is None:
        assert all(own[name] >= floor for name, floor in choice.floors.items())


@pytest.mark.anyio
@pytest.mark.parametrize("jump", [-(10.0**9), 10.0**9])
async def test_a_wall_clock_that_jumps_moves_times_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    kept, real = Kept(), time.time
    async with stubbed(StubEngine(), kept=kept) as client:
        await client.post(CHAT, json={"model": "mopo/careful", "messages": MESSAGES})
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        answer = await client.post(CHAT, json={"model": "mopo/careful", "messages": MESSAGES, "stream": True})
    assert answer.status_code == 200
    first, second = kept.decisions
    assert second.time - first.time == pytest.approx(jump, abs=60)
    assert 0 <= second.seconds < 60


@pytest.mark.anyio
@pytest.mark.parametrize(
    "content",
    [
        b'{"model": "mopo/careful", "messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"model": "mopo/careful", "n": ' + b"9" * 10_000 + b"}",
        b'{"model": "mopo/careful", "x": "\\ud83d"}',
        b'{"model": "mopo/careful", "x": NaN}',
        b'{"model": "mopo/careful", "objective_profile": {"floors": {"safety": 1e999}}}',
        b'{"model": ["mopo/careful"]}',
        b'\xef\xbb\xbf{"model": "mopo/careful"}',
        b'{"model": "mopo/careful"}{"model": "mopo/helpful"}',
        json.dumps({"model": "mopo/careful", "user": 7, "metadata": [], "safety_identifier": {}}).encode(),
        json.dumps({"model": "mopo/careful", "user": "\x00" * 100_000, "metadata": {"conversation_id": 5}}).encode(),
        json.dumps({"model": "mopo/careful", "stream": 0, "stream_options": 3}).encode(),
    ],
)
async def test_nonsense_is_refused_or_left_to_the_engine_but_never_a_fault(content: bytes) -> None:
    async with stubbed(StubEngine()) as client:
        answer = await client.post(CHAT, content=content)
    assert answer.status_code in (200, 400)
    body: dict[str, Any] = answer.json()
    assert ("error" in body) == (answer.status_code == 400)
