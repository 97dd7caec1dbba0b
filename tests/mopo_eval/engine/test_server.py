"""The embedded engine's API in this process: what a well-behaved client does not show."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from mopo_eval.engine.server import create_app
from mopo_train.generation import Generator
from tests.tiny_family import CONTEXT, POLICIES

pytestmark = pytest.mark.anyio

HELLO: dict[str, Any] = {"model": "policy-00", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def app(tiny_family: Path) -> Starlette:
    adapters = {policy: tiny_family / "policies" / policy for policy in POLICIES[1:]}
    return create_app(Generator(str(tiny_family / "base"), adapters), POLICIES)


@pytest.fixture
async def client(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://engine") as client:
        yield client


async def test_a_stream_is_openais_events_and_ends_in_done(client: httpx.AsyncClient) -> None:
    body = {**HELLO, "max_tokens": 4, "stream": True, "stream_options": {"include_usage": True}}
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done, end = answer.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * 4 + ["length"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12}


async def test_several_choices_of_a_stream_are_told_apart_by_index(client: httpx.AsyncClient) -> None:
    body = {**HELLO, "temperature": 1, "seed": 1, "n": 2, "max_tokens": 6}
    whole = (await client.post("/v1/chat/completions", json=body)).json()["choices"]
    streamed = ["", ""]
    for event in (await client.post("/v1/chat/completions", json={**body, "stream": True})).text.split("\n\n")[:-2]:
        for choice in json.loads(event.removeprefix("data: "))["choices"]:
            streamed[choice["index"]] += choice["delta"].get("content", "")
    assert streamed == [choice["message"]["content"] for choice in whole]
    assert streamed[0] != streamed[1]


async def test_a_completion_answers_every_prompt_n_times_in_order(client: httpx.AsyncClient) -> None:
    body = {"model": "reference", "temperature": 0, "max_tokens": 5}
    both = await client.post("/v1/completions", json={**body, "prompt": ["abc", "xyz"], "n": 2})
    each = [(await client.post("/v1/completions", json={**body, "prompt": prompt})).json() for prompt in ("abc", "xyz")]
    expected = [answer["choices"][0]["text"] for answer in each for _ in range(2)]
    assert [choice["text"] for choice in both.json()["choices"]] == expected
    assert both.json()["usage"]["prompt_tokens"] == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not JSON"), (b"[]", "must be a JSON object"), (b"\xff", "not JSON"), (b"[" * 100_000, "not JSON")],
)
async def test_a_malformed_body_is_400_in_openais_shape(
    content: bytes, message: str, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/v1/chat/completions", content=content)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("tokens", "limit", "status"), [(CONTEXT - 1, 1, 200), (CONTEXT - 1, 9, 200), (CONTEXT, 1, 400), (3, 513, 400)]
)
async def test_a_prompt_must_leave_room_for_an_answer(
    tokens: int, limit: int, status: int, client: httpx.AsyncClient
) -> None:
    body = {"model": "reference", "prompt": [65] * tokens, "max_tokens": limit}
    answer = await client.post("/v1/completions", json=body)
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["error"]["code"] == "context_length_exceeded"
    else:
        assert answer.json()["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize("prompt", ["", [], [[]], [99_999], [-1]])
async def test_a_prompt_that_is_empty_or_not_in_the_vocabulary_is_400(prompt: Any, client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/completions", json={"model": "reference", "prompt": prompt})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/v1/completions", 405)])
async def test_a_route_that_does_not_exist_answers_in_openais_shape(
    method: str, path: str, status: int, client: httpx.AsyncClient
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")


async def test_a_chat_without_a_template_is_a_clear_400(tiny_family: Path) -> None:
    generator = Generator(str(tiny_family / "base"), {})
    generator.tokenizer.chat_template = None
    transport = httpx.ASGITransport(create_app(generator, ["reference"]))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        answer = await client.post("/v1/chat/completions", json={**HELLO, "model": "reference"})
    assert answer.status_code == 400
    assert "no chat template" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
async def test_generation_stops_when_the_client_leaves(
    stream: bool, tiny_family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = Generator(str(tiny_family / "base"), {})
    rows: list[Any] = []
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    extend = Generator._extend

    def noted(self: Generator, row: Any, *rest: Any) -> Any:  # the real thing, and we see the row
        rows.append(row)
        loop.call_soon_threadsafe(started.set)
        return extend(self, row, *rest)

    monkeypatch.setattr(Generator, "_extend", noted)
    app = create_app(generator, ["reference"])
    body = json.dumps({**HELLO, "model": "reference", "max_tokens": 500, "stream": stream}).encode()
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": body}
        await started.wait()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        return None

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    transport = httpx.ASGITransport(app)
    async with asyncio.timeout(20), httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        while (await client.get("/load")).json()["server_load"]:
            pass
    assert 1 <= rows[-1].tokens < 500


async def test_log_probabilities_come_in_the_form_of_each_route(client: httpx.AsyncClient) -> None:
    asked = {**HELLO, "max_tokens": 3, "logprobs": True, "top_logprobs": 2}
    chat = (await client.post("/v1/chat/completions", json=asked)).json()["choices"][0]
    entries = chat["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == chat["message"]["content"]
    assert all(entry["top_logprobs"][0]["logprob"] == entry["logprob"] for entry in entries)
    body = {"model": "reference", "prompt": "Hello", "max_tokens": 3, "temperature": 0, "logprobs": 2}
    plain = (await client.post("/v1/completions", json=body)).json()["choices"][0]
    assert plain["logprobs"]["text_offset"] == [0, 1, 2]
    assert "".join(plain["logprobs"]["tokens"]) == plain["text"]
    best = [max(others.values()) for others in plain["logprobs"]["top_logprobs"]]
    assert plain["logprobs"]["token_logprobs"] == best


async def test_a_plain_stream_joins_to_the_whole_answer(client: httpx.AsyncClient) -> None:
    body = {"model": "policy-02", "prompt": "Hello", "max_tokens": 6, "temperature": 0, "logprobs": 0}
    whole = (await client.post("/v1/completions", json=body)).json()["choices"][0]
    *events, done, _ = (await client.post("/v1/completions", json={**body, "stream": True})).text.split("\n\n")
    choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]
    assert done == "data: [DONE]"
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    tokens = [token for choice in choices for token in choice["logprobs"]["tokens"]]
    assert tokens == whole["logprobs"]["tokens"]


async def test_a_failure_of_the_model_is_an_error_and_never_a_finished_answer(tiny_family: Path) -> None:
    generator = Generator(str(tiny_family / "base"), {})
    transport = httpx.ASGITransport(create_app(generator, ["reference", "not-loaded"]))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        whole = await client.post("/v1/chat/completions", json={**HELLO, "model": "not-loaded"})
        stream = await client.post("/v1/chat/completions", json={**HELLO, "model": "not-loaded", "stream": True})
        after = await client.post("/v1/chat/completions", json={**HELLO, "model": "reference", "max_tokens": 2})
    assert (whole.status_code, whole.json()["error"]["type"]) == (500, "server_error")
    assert "generation failed" in json.loads(stream.text.split("\n\n")[-2].removeprefix("data: "))["error"]["message"]
    assert "[DONE]" not in stream.text
    assert after.status_code == 200


async def test_it_is_healthy_and_lists_its_models(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).status_code == 200
    listed = (await client.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == POLICIES
