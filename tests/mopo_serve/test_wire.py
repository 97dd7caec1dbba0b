"""The hot path's client against servers that say exactly what a test wants, byte by byte if need be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mopo_serve import wire
from mopo_serve.wire import EngineGone, EngineSilent, EngineUnreachable, WireClient
from tests.mopo_serve.stub import Script, closed_port

pytestmark = pytest.mark.anyio
HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nX-Thing: a\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
PATIENCE = 5.0


@asynccontextmanager
async def asking(script: Script, silence: float = PATIENCE) -> AsyncIterator[WireClient]:
    server = await asyncio.start_server(script, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = WireClient(f"http://127.0.0.1:{port}", silence_seconds=silence, connect_seconds=PATIENCE)
    try:
        yield client
    finally:
        client.drop()
        server.close()


async def ask(client: WireClient, body: bytes = b"{}") -> tuple[int, bytes]:
    async with client.post("/v1/x", body, b"traceparent: t\r\n") as answer:
        return answer.status, await answer.read()


async def test_what_is_sent_is_one_plain_request() -> None:
    script = Script([HELLO])
    async with asking(script) as client:
        async with client.post("/v1/x", b'{"a": 1}', b"traceparent: t\r\n") as answer:
            assert (answer.status, await answer.read(), answer.headers[b"x-thing"]) == (200, b"hello", b"a")
    head, _, body = script.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/x HTTP/1.1" and lines[1].startswith(b"Host: 127.0.0.1:")
    assert set(lines[2:]) == {b"Content-Type: application/json", b"Content-Length: 8", b"traceparent: t"}
    assert body == b'{"a": 1}'


@pytest.mark.parametrize("answer", [HELLO, CHUNKED])
async def test_an_answer_may_come_byte_by_byte(answer: bytes) -> None:
    async with asking(Script([bytes([byte]) for byte in answer])) as client:
        assert (await ask(client))[1] in (b"hello", b"hello world")


async def test_a_connection_is_kept_and_used_again() -> None:
    script = Script([HELLO], [CHUNKED], [HELLO])
    async with asking(script) as client:
        assert [(await ask(client))[1] for _ in range(3)] == [b"hello", b"hello world", b"hello"]
    assert script.connections == 1


async def test_a_connection_that_the_engine_closes_is_not_used_again() -> None:
    closing = HELLO.replace(b"X-Thing: a", b"connection: close")
    script = Script([closing], [closing], closes=True)
    async with asking(script) as client:
        assert [(await ask(client))[1] for _ in range(2)] == [b"hello", b"hello"]
    assert script.connections == 2


async def test_a_connection_that_was_closed_while_it_lay_idle_costs_nothing() -> None:
    script = Script([HELLO], [HELLO], closes=True)  # it promises to keep the connection, and does not
    async with asking(script) as client:
        await ask(client)
        assert await ask(client) == (200, b"hello")
    assert len(script.requests) == 2


async def test_what_a_crowd_left_behind_is_not_kept() -> None:
    script = Script(*[[HELLO]] * 19)
    async with asking(script) as client:
        await asyncio.gather(*(ask(client) for _ in range(10)))
        assert (script.connections, len(client._idle)) == (10, 10)
        for connection in list(client._idle)[:-1]:
            connection.idle_since -= 60  # nobody needed more than one for a minute
        for left in range(9, 0, -1):
            assert await ask(client) == (200, b"hello")
            assert len(client._idle) == left
    assert script.connections == 10


async def test_an_idle_connection_is_not_trusted_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "KEEP_ALIVE_SECONDS", 0.0)
    script = Script([HELLO], [HELLO])
    async with asking(script) as client:
        await ask(client)
        await ask(client)
    assert script.connections == 2


@pytest.mark.parametrize(
    "pieces",
    [
        [b""], [b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhell"], [b"HTTP/1.1 200 OK\r\ncont"],
        [CHUNKED[:-5]], [b"no HTTP at all\r\n\r\n"], [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"],
    ],
)  # fmt: skip
async def test_an_answer_that_breaks_off_or_is_none_is_told(pieces: list[bytes]) -> None:
    async with asking(Script(pieces, closes=True)) as client:
        with pytest.raises(EngineGone):
            await ask(client)


async def test_what_came_before_the_end_is_given_first() -> None:
    async with asking(Script([CHUNKED[:-16]], closes=True)) as client:
        seen = b""
        with pytest.raises(EngineGone):
            async with client.post("/v1/x", b"") as answer:
                async for part in answer.parts():
                    seen += part
    assert seen == b"hello"


async def test_an_answer_may_end_with_its_connection() -> None:
    async with asking(Script([b"HTTP/1.1 200 OK\r\n\r\nhello"], closes=True)) as client:
        assert await ask(client) == (200, b"hello")


async def test_silence_is_told_and_ends_the_connection() -> None:
    script = Script([b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhell"])
    async with asking(script, silence=0.1) as client:
        with pytest.raises(EngineSilent):
            await ask(client)
        await asyncio.wait_for(script.left.wait(), PATIENCE)


async def test_nobody_there_is_told() -> None:
    client = WireClient(f"http://127.0.0.1:{await closed_port()}", silence_seconds=1, connect_seconds=1)
    with pytest.raises(EngineUnreachable):
        await ask(client)


async def test_leaving_early_ends_the_engines_request() -> None:
    script = Script([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"])
    async with asking(script) as client:
        async with client.post("/v1/x", b"") as answer:
            assert await anext(answer.parts()) == b"hello"
        await asyncio.wait_for(script.left.wait(), PATIENCE)


async def test_a_cancelled_wait_for_the_head_ends_the_engines_request_and_leaves_nothing() -> None:
    script = Script([])
    async with asking(script) as client:
        waiting = asyncio.create_task(ask(client))
        while not script.requests:
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        await asyncio.wait_for(script.left.wait(), PATIENCE)
        assert not client._busy and not client._idle


async def test_a_fast_engine_waits_for_a_slow_reader_and_nothing_is_lost() -> None:
    size, count = 64 * 1024, 40
    piece = b"%x\r\n%b\r\n" % (size, b"x" * size)
    script = Script([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", *([piece] * count), b"0\r\n\r\n"])
    async with asking(script) as client, client.post("/v1/x", b"") as answer:
        while not answer._paused:
            await asyncio.sleep(0)
        assert answer._size < wire.HIGH_WATER * 3
        total = 0
        async for part in answer.parts():
            total += len(part)
    assert total == size * count


async def test_a_note_before_the_answer_is_passed_over() -> None:
    async with asking(Script([b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + HELLO])) as client:
        assert await ask(client) == (200, b"hello")


async def test_what_was_not_asked_for_ends_a_connection() -> None:
    script = Script([HELLO + HELLO], [HELLO])
    async with asking(script) as client:
        assert await ask(client) == (200, b"hello")
        assert await ask(client) == (200, b"hello")
    assert script.connections == 2
