"""Clients that dawdle, flood, never read or hang up, over real sockets as the command serves them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx
import pytest

from mopo_serve import connections
from mopo_serve.access import Access
from mopo_serve.connections import HEAD_BYTES, GuardedProtocol, HeadWithBody
from mopo_serve.gateway import Extras, Gateway
from mopo_serve.keys import KeyRing, make_key
from mopo_serve.settings import connection_limit
from tests.mopo_serve.stub import CHAT, MESSAGES, Kept, StubEngine, event, gateway_before, listening, until

pytestmark = pytest.mark.anyio
ASK = json.dumps({"model": "mopo/careful", "messages": MESSAGES}).encode()
STREAM = json.dumps({"model": "mopo/careful", "messages": MESSAGES, "stream": True}).encode()
PATIENCE = 5.0


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a test can wait for."""
    for name in ("HEAD_SECONDS", "BODY_SECONDS", "STALL_SECONDS"):
        monkeypatch.setattr(connections, name, 0.3)


class Raw:
    """One connection on which a test says whatever it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """Everything until the gateway ends the connection."""
        try:
            return await asyncio.wait_for(self.reader.read(), PATIENCE)
        except ConnectionError:
            return b""


@asynccontextmanager
async def served(
    engine: StubEngine, kept: Kept | None = None, connections: int | None = None, access: Access | None = None
) -> AsyncIterator[tuple[Gateway, str]]:
    """A gateway before ``engine`` as the command serves it, and its URL."""
    async with listening(engine) as url, gateway_before(url, kept=kept, extras=Extras(access=access)) as gateway:
        async with listening(gateway, http=GuardedProtocol, limit_concurrency=connections) as own:
            yield gateway, own


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Raw]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


def head(length: int, extra: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n" % (CHAT.encode(), extra, length)


async def test_a_client_that_says_nothing_is_let_go() -> None:
    async with served(StubEngine()) as (_, url), connected(url) as client:
        assert await client.rest() == b""


async def test_a_head_that_comes_byte_by_byte_is_cut_off() -> None:
    engine = StubEngine()
    async with served(engine) as (_, url), connected(url) as client:

        async def dawdle() -> None:
            for byte in head(10, b"x-slow: " + b"a" * 5000 + b"\r\n"):
                await client.say(bytes([byte]))
                await asyncio.sleep(0.01)

        dawdling = asyncio.create_task(dawdle())
        answer = await client.rest()
        dawdling.cancel()
        await asyncio.gather(dawdling, return_exceptions=True)
    # A byte that was under way when the gateway hung up makes the system throw its answer away.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408")
    assert engine.asked == []


async def test_a_body_that_never_comes_is_answered_408_and_counted() -> None:
    kept = Kept()
    async with served(StubEngine(), kept) as (gateway, url), connected(url) as client:
        await client.say(head(1000) + b"{")
        answer_head, _, content = (await client.rest()).partition(b"\r\n\r\n")
        assert answer_head.startswith(b"HTTP/1.1 408")
        assert json.loads(content)["error"]["code"] == "request_timeout"
        await until(lambda: gateway.in_flight == 0)
    assert [each.status for each in kept.decisions] == [499]


async def test_a_head_without_end_is_refused_before_it_fills_the_memory() -> None:
    async with served(StubEngine()) as (_, url), connected(url) as client:
        await client.say(head(10)[:-2] + b"x-endless: " + b"a" * (HEAD_BYTES + 1))
        assert (await client.rest()).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize("trailers", [b"x: a\r\n", b"a"])
@pytest.mark.parametrize("path", [b"/nowhere", CHAT.encode()])
async def test_trailers_without_end_are_cut_off_before_they_fill_the_memory(path: bytes, trailers: bytes) -> None:
    engine = StubEngine()
    async with served(engine) as (gateway, url), connected(url) as client:
        await client.say(b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: " % path)
        sent = 0
        with pytest.raises(ConnectionError):
            while sent < 64 * HEAD_BYTES:
                await client.say(trailers * 5000)
                sent += len(trailers) * 5000
        await until(lambda: gateway.in_flight == 0)
    assert engine.asked == []


async def test_a_client_that_never_reads_its_answer_is_let_go_and_the_engine_with_it() -> None:
    engine, kept = StubEngine(), Kept()
    engine.chunks = [event(0) * 20_000] * 40
    engine.endless = True
    async with served(engine, kept) as (gateway, url), connected(url) as client:
        await client.say(head(len(STREAM)) + STREAM)
        await asyncio.wait_for(engine.left.wait(), PATIENCE)
        await until(lambda: gateway.in_flight == 0)
    assert [each.status for each in kept.decisions] == [499]


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_a_client_that_hangs_up_ends_the_engines_request_at_once(body: bytes) -> None:
    engine, kept = StubEngine(), Kept()
    engine.silent = True
    async with served(engine, kept) as (gateway, url):
        async with connected(url) as client:
            await client.say(head(len(body)) + body)
            await asyncio.wait_for(engine.reached.wait(), PATIENCE)
        await asyncio.wait_for(engine.left.wait(), PATIENCE)
        await until(lambda: gateway.in_flight == 0)
    assert [each.status for each in kept.decisions] == [499]


async def test_hanging_up_before_the_count_comes_saves_no_tokens() -> None:
    engine = StubEngine()
    engine.chunks, engine.endless = [event(number) for number in range(60)], True
    key, text = make_key("app", "now", tokens_per_minute=50)
    bearer = b"authorization: Bearer %b\r\n" % text.encode()
    async with served(engine, access=Access(KeyRing([key]))) as (gateway, url):
        async with connected(url) as client:
            await client.say(head(len(STREAM), bearer) + STREAM)
            await asyncio.wait_for(client.reader.readuntil(b"word59"), PATIENCE)
        await until(lambda: gateway.in_flight == 0)
        async with connected(url) as client:
            await client.say(head(len(STREAM), bearer) + STREAM)
            assert b" 429 " in await asyncio.wait_for(client.reader.readline(), PATIENCE)


async def test_a_connection_is_used_again_and_again() -> None:
    engine = StubEngine()
    async with served(engine) as (_, url), httpx.AsyncClient(base_url=url) as client:
        for number in range(20):
            answer = await client.post(CHAT, content=STREAM if number % 2 else ASK)
            assert answer.status_code == 200
        assert (await client.get("/healthz")).status_code == 200
    assert len(engine.asked) == 20


async def test_two_requests_in_one_piece_are_both_answered() -> None:
    engine = StubEngine()
    async with served(engine) as (_, url), connected(url) as client:
        last = head(len(ASK), b"connection: close\r\n") + ASK
        await client.say(head(len(ASK)) + ASK + last)
        answer = await client.rest()
    assert answer.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("path", ["/healthz", CHAT])
async def test_a_request_for_the_head_alone_is_answered_at_once_and_the_connection_goes_on(path: str) -> None:
    async with served(StubEngine()) as (_, url), connected(url) as client:
        await client.say(b"HEAD %b HTTP/1.1\r\nhost: x\r\n\r\n" % path.encode())
        answer = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert answer.startswith(b"HTTP/1.1 200" if path == "/healthz" else b"HTTP/1.1 405")
        await client.say(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 200")


H2C = b"connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
"""What Java's HttpClient and curl's --http2 send by default to an address without TLS."""


@pytest.mark.parametrize("apart", [False, True])
async def test_a_client_that_would_rather_speak_http_2_is_answered_on_http_1(apart: bool) -> None:
    engine = StubEngine()
    async with served(engine) as (_, url), connected(url) as client:
        request = head(len(ASK), H2C)
        await client.say(request if apart else request + ASK)
        if apart:
            await client.say(ASK)
        answer = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert answer.startswith(b"HTTP/1.1 200")
    assert [asked["messages"] for asked in engine.asked] == [MESSAGES]


async def test_a_body_is_not_taken_for_a_head_that_came_in_pieces() -> None:
    engine, body = StubEngine(), b"{\r\nupgrade: h2c\r\n\r\n}"
    async with served(engine) as (_, url), connected(url) as client:
        whole = head(len(body)) + body + b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        start = len(head(len(body))) - 2
        await client.say(whole[:start])
        for _ in range(20):  # the gateway reads in between
            await asyncio.sleep(0)
        await client.say(whole[start:])
        answers = await client.rest()
    assert answers.count(b"HTTP/1.1 ") == 2 and b"HTTP/1.1 400" in answers and b"HTTP/1.1 200" in answers


async def test_a_body_after_a_wish_in_pieces_for_another_protocol_is_no_request_of_its_own() -> None:
    inner = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
    async with served(StubEngine()) as (_, url), connected(url) as client:
        wish = head(len(inner), H2C)
        cut = wish.index(b"grade: h2c")
        await client.say(wish[:cut])
        await asyncio.to_thread(lambda: None)
        await client.say(wish[cut:])
        await client.say(inner)
        assert (await client.rest()).count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "head_bytes",
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-request-id: a\r\n b\r\ncontent-length: 0\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n{}",
        b"POST /v1/chat/completions\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx\x00y: 1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_400_and_reaches_nobody(head_bytes: bytes) -> None:
    engine = StubEngine()
    async with served(engine) as (_, url), connected(url) as client:
        await client.say(head_bytes)
        answer_head, _, content = (await client.rest()).partition(b"\r\n\r\n")
    assert answer_head.startswith(b"HTTP/1.1 400")
    assert json.loads(content)["error"]["code"] == "invalid_request"
    assert engine.asked == []


@pytest.mark.parametrize("value", [b"a\tb", b"x" * 2000, b"\xff\xfe", b"a b", b"<script>"])
async def test_headers_of_the_client_come_back_or_go_on_only_if_they_are_plain(value: bytes) -> None:
    engine = StubEngine()
    async with served(engine) as (_, url), connected(url) as client:
        extra = b"connection: close\r\nx-request-id: %b\r\ntraceparent: %b\r\n" % (value, value)
        await client.say(head(len(ASK), extra) + ASK)
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 200") and value not in answer
    (seen,) = engine.headers_seen
    assert seen.get("traceparent") in (None, "a b", "<script>")


async def test_more_connections_than_allowed_are_answered_503_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 60.0)
    monkeypatch.setattr(connections, "SPARE", 5)
    engine = StubEngine()
    last = head(len(ASK), b"connection: close\r\n") + ASK
    async with served(engine, connections=30) as (_, url):
        async with AsyncExitStack() as stack:
            idle = [await stack.enter_async_context(connected(url)) for _ in range(30)]
            more = [await stack.enter_async_context(connected(url)) for _ in range(6)]
            with suppress(ConnectionError):
                assert await more.pop().rest() == b""  # for each takes a file
            await more[0].say(head(len(ASK)) + ASK)
            first, _, body = (await more[0].rest()).partition(b"\r\n\r\n")
            assert first.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1" in first
            assert json.loads(body)["error"]["code"] == "too_many_connections"
            await more[1].say(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert (await more[1].rest()).startswith(b"HTTP/1.1 200")
            await idle[-1].say(last)  # was there before the crowd
            assert (await idle[-1].rest()).startswith(b"HTTP/1.1 200")
        for _ in range(50):  # the gateway hears of their end one after the other
            async with connected(url) as client:
                await client.say(last)
                if (answer := await client.rest()).startswith(b"HTTP/1.1 200"):
                    break
        assert answer.startswith(b"HTTP/1.1 200")


class Written(asyncio.Transport):
    """Remembers what was written to it, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.pieces.append(bytes(data))

    def is_closing(self) -> bool:
        return self.pieces[-1:] == [b"closed"]

    def close(self) -> None:
        self.pieces.append(b"closed")


def test_an_answers_head_goes_out_with_the_first_of_its_body() -> None:
    written = Written()
    answers = HeadWithBody(written)
    for piece in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 is old", b"5\r\nHTTP/\r\n"):
        answers.write(piece)
    assert written.pieces == [
        b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 is old", b"5\r\nHTTP/\r\n"
    ]  # fmt: skip
    answers.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    answers.close()
    assert written.pieces[-2:] == [b"HTTP/1.1 204 No Content\r\n\r\n", b"closed"]
    assert answers.is_closing()


def test_the_limit_of_connections_fits_the_files_that_there_may_be() -> None:
    assert connection_limit(10) == 10
    assert 1 <= connection_limit(10**9) < 10**9
