"""The hot path over real sockets, with a stub engine that can die, hang and be left alone."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from mopo_serve.gateway import Gateway, Limits
from tests.mopo_serve.stub import (
    CHAT,
    MESSAGES,
    Kept,
    Script,
    StubEngine,
    calling,
    gateway_before,
    listening,
    stubbed,
    until,
)

pytestmark = pytest.mark.anyio
ASK = {"model": "mopo/careful", "messages": MESSAGES}
HELLO: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Hello"}]
PATIENCE = 5.0


@asynccontextmanager
async def serving(
    engine: StubEngine, kept: Kept | None = None, limits: Limits | None = None
) -> AsyncIterator[tuple[Gateway, str]]:
    """A gateway before ``engine``, and its URL."""
    async with listening(engine) as url, gateway_before(url, limits=limits, kept=kept) as gateway:
        async with listening(gateway) as own:
            yield gateway, own


def events_of(text: str) -> list[dict[str, object]]:
    """The JSON events of a stream, without ``[DONE]``."""
    datas = [block.removeprefix("data: ") for block in text.split("\n\n") if block.strip()]
    return [json.loads(data) for data in datas if data != "[DONE]"]


async def test_a_stream_is_forwarded_byte_for_byte() -> None:
    engine = StubEngine()
    engine.chunks = [b": comment\n", b'data: {"odd"  :   "spac', b'ing"}\r\n\r\n', b"data: [DONE]\n\n"]
    async with stubbed(engine) as client:
        answer = await client.post(CHAT, json=ASK | {"stream": True})
    assert answer.content == b"".join(engine.chunks)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-mopo-policy"] == "policy-02"


async def test_a_chunk_is_there_before_the_next_one_is_made() -> None:
    engine = StubEngine()
    engine.endless = True
    engine.chunks = engine.chunks[:1]
    async with serving(engine) as (_, url), httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
        async with client.stream("POST", CHAT, json=ASK | {"stream": True}) as answer:
            async for chunk in answer.aiter_raw():
                assert chunk == engine.chunks[0]
                break
        await asyncio.wait_for(engine.left.wait(), PATIENCE)


async def test_a_client_that_leaves_a_stream_closes_the_engines_request() -> None:
    engine, kept = StubEngine(), Kept()
    engine.endless = True
    async with serving(engine, kept) as (gateway, url):
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
            async with client.stream("POST", CHAT, json=ASK | {"stream": True}) as answer:
                await anext(answer.aiter_raw())
                assert gateway.in_flight == 1
        await asyncio.wait_for(engine.left.wait(), PATIENCE)
        await until(lambda: gateway.in_flight == 0)
    assert [(record.status, record.policy) for record in kept.decisions] == [(499, "policy-02")]


async def test_a_client_that_leaves_before_the_answer_closes_the_engines_request() -> None:
    engine, kept = StubEngine(), Kept()
    engine.silent = True
    async with serving(engine, kept) as (gateway, url):
        async with httpx.AsyncClient(base_url=url) as client:
            asking = asyncio.create_task(client.post(CHAT, json=ASK))
            await asyncio.wait_for(engine.reached.wait(), PATIENCE)
            asking.cancel()
            await asyncio.wait_for(engine.left.wait(), PATIENCE)
        await until(lambda: gateway.in_flight == 0)
    assert [record.status for record in kept.decisions] == [499]


async def test_a_client_that_leaves_while_it_sends_its_body_reaches_nobody() -> None:
    engine, kept = StubEngine(), Kept()
    async with serving(engine, kept) as (gateway, url):
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        async with httpx.AsyncClient(base_url=url) as client:  # answered after the one that left
            assert (await client.post(CHAT, json=ASK)).status_code == 200
        await until(lambda: len(kept.decisions) == 2)
        assert gateway.in_flight == 0
    assert len(engine.asked) == 1
    assert sorted(record.status for record in kept.decisions) == [200, 499]


async def test_a_death_in_the_middle_of_a_stream_is_an_error_event_without_done() -> None:
    engine, kept = StubEngine(), Kept()
    engine.dies_after = 2
    async with stubbed(engine, kept=kept) as client:
        answer = await client.post(CHAT, json=ASK | {"stream": True})
    assert answer.status_code == 200
    assert "[DONE]" not in answer.text
    *words, last = events_of(answer.text)
    assert len(words) == 2
    assert isinstance(last["error"], dict)
    assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "engine_unavailable")
    assert "127.0.0.1" not in answer.text
    assert [record.status for record in kept.decisions] == [503]


@pytest.mark.parametrize("together", [True, False])
async def test_an_event_without_its_end_is_there_whether_the_streams_end_comes_with_it_or_later(together: bool) -> None:
    events, end = b'data: {"choices": []}\n\ndata: {"last', b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (len(events), events)
    script = Script([head + chunk + end] if together else [head + chunk, end])
    server = await asyncio.start_server(script, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, gateway_before(url) as gateway, calling(gateway) as client:
        answer = await client.post(CHAT, json=ASK | {"stream": True})
    assert (answer.status_code, answer.content) == (200, events)


async def test_a_death_before_the_first_chunk_is_503() -> None:
    engine = StubEngine()
    engine.dies_after = 0
    async with stubbed(engine) as client:
        answer = await client.post(CHAT, json=ASK | {"stream": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
    assert answer.headers["retry-after"] == "1"


async def test_an_engine_that_says_nothing_is_504() -> None:
    engine = StubEngine()
    engine.silent = True
    async with stubbed(engine, limits=Limits(silence_seconds=0.1)) as client:
        answer = await client.post(CHAT, json=ASK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "engine_timeout")


async def test_an_engine_that_falls_silent_in_a_stream_is_told_in_it() -> None:
    engine = StubEngine()
    engine.endless = True
    engine.chunks = engine.chunks[:2]
    async with stubbed(engine, limits=Limits(silence_seconds=0.1)) as client:
        answer = await client.post(CHAT, json=ASK | {"stream": True})
    *words, last = events_of(answer.text)
    assert len(words) == 2
    assert isinstance(last["error"], dict)
    assert last["error"]["code"] == "engine_timeout"


async def test_the_engines_refusal_keeps_its_words_and_gets_openais_shape() -> None:
    engine = StubEngine()
    engine.status = 400
    engine.body = b'{"error": {"message": "n is too large", "type": "BadRequestError", "param": "n", "code": 400}}'
    async with stubbed(engine) as client:
        answer = await client.post(CHAT, json=ASK)
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "n is too large",
        "type": "invalid_request_error",
        "param": "n",
        "code": None,
    }
    assert answer.headers["x-mopo-policy"] == "policy-02"


async def test_headers_that_concern_one_hop_or_tell_of_the_engine_stay_behind() -> None:
    engine = StubEngine()
    engine.headers += [
        (b"server", b"secret-engine"),
        (b"x-request-id", b"theirs"),
        (b"x-mopo-policy", b"other"),
        (b"set-cookie", b"a=b"),
        (b"location", b"http://10.0.0.1"),
        (b"cache-control", b"no-store"),
    ]
    sent = {"authorization": "Bearer mine", "cookie": "c=d", "traceparent": "00-1-2-01", "x-request-id": "mine"}
    async with serving(engine) as (_, url), httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
        answer = await client.post(CHAT, json=ASK, headers=sent)
    assert set(answer.headers) == {
        "cache-control", "content-length", "content-type", "date", "server",
        "x-mopo-family", "x-mopo-policy", "x-mopo-profile", "x-request-id",
    }  # fmt: skip
    assert answer.headers["server"] == "uvicorn"  # this test's server; the command leaves it out
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers.get_list("x-mopo-policy") == ["policy-02"]
    assert set(engine.headers_seen[0]) == {"host", "content-type", "content-length", "traceparent"}


async def test_the_openai_client_sees_errors_as_its_own() -> None:
    engine = StubEngine()
    engine.dies_after = 1
    async with serving(engine) as (_, url), AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.UnprocessableEntityError) as infeasible:
            await client.chat.completions.create(model="mopo/impossible", messages=HELLO)
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="policy-00", messages=HELLO)
        words = []
        with pytest.raises(openai.APIError, match="try again"):
            stream = await client.chat.completions.create(model="mopo/careful", messages=HELLO, stream=True)
            async for chunk in stream:
                words.append(chunk.choices[0].delta.content)
    assert infeasible.value.code == "infeasible_profile"
    assert words == ["word0 "]


async def test_many_clients_at_once_each_get_their_own_answer() -> None:
    engine = StubEngine()
    async with serving(engine) as (gateway, url), httpx.AsyncClient(base_url=url, timeout=30) as client:

        async def ask(number: int) -> str:
            model = ["mopo/helpful", "mopo/balanced", "mopo/careful"][number % 3]
            answer = await client.post(CHAT, json=ASK | {"model": model, "stream": number % 2 == 0})
            return answer.headers["x-mopo-policy"]

        answered = await asyncio.gather(*(ask(number) for number in range(60)))
        assert gateway.in_flight == 0
    assert answered == ["policy-00", "policy-01", "policy-02"] * 20
    assert len(engine.asked) == 60
