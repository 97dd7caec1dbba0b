"""The two ends of the gateway's benchmark: a stub engine and a client, on bare sockets, so that neither holds it up.

The stub answers at once. It sends every chunk of a stream by a call of its own, one to each open stream in turn, like
an engine whose every step gives each request a token; slowly where the request has a ``seed``, all in one piece with
``n``. A server that is busy meanwhile finds several chunks at once: ``Result.reads`` tells what the client saw.
"""

import heapq
import json
import selectors
import socket
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

PATH = "/v1/chat/completions"
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
CHUNKS = 32
LAST = b"data: [DONE]\n\n"
ANSWER = json.dumps(
    {
        "model": "x",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 64}}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 64, "total_tokens": 84},
    }
).encode()
SLOW_SECONDS = 0.05
TURNS = 4
"""Streams that a slow load's connection gets to its end, one after another: most of them do not wait for a connection
to be made, on which the median would hang by chance if half of them did."""
KEY = "mopo-0123456789ab-benchmark"
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)


def chunked(data: bytes) -> bytes:
    """``data`` as one chunk of HTTP's encoding; the last one is empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PIECES = [HEAD + chunked(CHUNK), *[chunked(CHUNK)] * (CHUNKS - 1), chunked(LAST) + chunked(b"")]
"""What is sent of a stream, one by one."""


class _Peer:
    """A connection to the stub."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.data, self.sent = connection, b"", 0

    def next_piece(self) -> bool:
        """Send one; False once there is none left, or nobody to send it to."""
        try:
            self.connection.send(PIECES[self.sent])
        except OSError:
            return False
        self.sent += 1
        return self.sent < len(PIECES)


class Stub:
    """The engine."""

    def __init__(self, port: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._fast: list[_Peer] = []
        self._slow: list[tuple[float, int, _Peer]] = []
        """Which stream is due when, the next one first."""

    def serve(self) -> None:
        """Answer for ever."""
        while True:
            wait = 0.0 if self._fast else self._slow[0][0] - time.perf_counter() if self._slow else None
            for key, _ in self._selector.select(wait):
                if key.data is None:
                    connection, _ = self._listener.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._selector.register(connection, selectors.EVENT_READ, _Peer(connection))
                else:
                    self._hear(key.data)
            self._fast = [peer for peer in self._fast if peer.next_piece()]
            while self._slow and self._slow[0][0] <= time.perf_counter():
                due, number, peer = heapq.heappop(self._slow)
                if peer.next_piece():
                    heapq.heappush(self._slow, (due + SLOW_SECONDS, number, peer))

    def _hear(self, peer: _Peer) -> None:
        try:
            data = peer.connection.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(peer.connection)
            peer.connection.close()
            return
        peer.data += data
        head, end, body = peer.data.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if end and len(body) >= int(length or 0):
            peer.data = b""
            self._answer(peer, body)

    def _answer(self, peer: _Peer, body: bytes) -> None:
        if b'"stream":true' not in body and b'"stream": true' not in body:
            peer.connection.send(WHOLE)
        elif b'"n"' in body:
            peer.connection.send(b"".join(PIECES))
        else:
            peer.sent = 0
            if b'"seed"' not in body:
                self._fast.append(peer)
            elif peer.next_piece():
                heapq.heappush(self._slow, (time.perf_counter() + SLOW_SECONDS, peer.connection.fileno(), peer))


class Load(NamedTuple):
    """What the client asks for."""

    title: str
    connections: int
    stream: bool
    slow: bool = False
    whole: bool = False
    """Every chunk of a stream comes in one piece, as from an engine that is faster than the network."""
    apart: bool = False
    """Begun one after another, not all in the same moment, in which each waits for those before it."""
    crowd: bool = False
    """All connections are new, and ask in the same moment; after their first bytes they go, and others come."""

    def request(self) -> bytes:
        """What is sent."""
        body = {"model": "mopo/careful", "messages": [{"role": "user", "content": "Hello " * 20}]}
        further = {"stream": self.stream} | ({"seed": 1} if self.slow else {}) | ({"n": 1} if self.whole else {})
        content = json.dumps(body | further, separators=(",", ":")).encode()
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


class Result(NamedTuple):
    """One measurement; CPU in microseconds per request."""

    per_second: float
    p50_ms: float
    """Of the whole answer; of the first bytes for slow streams, from the request on."""
    server_us: float
    others_us: float
    """Client and stub together."""
    reads: float
    """Pieces in which an answer came to the client."""


class Caller:
    """One connection that asks again as soon as it has its answer."""

    def __init__(self, port: int, request: bytes) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self.seconds: list[float] = []
        self.first: list[float] = []
        self.reads = 0
        self._ask()

    def _ask(self) -> None:
        self._sent, self._tail, self._left = time.perf_counter(), b"", -1
        self.connection.send(self._request)

    def hear(self) -> None:
        """Read what is there. Raises RuntimeError for an answer that is not 200."""
        data = self.connection.recv(1 << 16)
        self.reads += 1
        if not self._tail:
            self._begin(data)
        self._tail = (self._tail + data[-5:])[-5:]
        if self._left >= 0:
            self._left -= len(data)
        if self._left == 0 or (self._left < 0 and self._tail == b"0\r\n\r\n"):
            self.seconds.append(time.perf_counter() - self._sent)
            self._ask()

    def _begin(self, data: bytes) -> None:
        """The first bytes of an answer: its status, and how long it is where it says so."""
        self.first.append(time.perf_counter() - self._sent)
        if not data.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the server refused: {data[:500]!r}")
        head, end, _ = data.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if length:
            self._left = len(head) + len(end) + int(length)


def measure(port: int, load: Load, seconds: float, server: Callable[[], float], stub: Callable[[], float]) -> Result:
    """Ask the server on ``port`` for ``seconds``. ``server`` and ``stub`` tell their processor time so far."""
    before, others = server(), stub() + time.process_time()
    started = time.perf_counter()
    callers = _crowds(port, load, seconds) if load.crowd else _ask(port, load, seconds)
    spent, used = time.perf_counter() - started, server() - before
    around = stub() + time.process_time() - others
    answered = sum(len(caller.first if load.crowd else caller.seconds) for caller in callers)
    times = [taken for caller in callers for taken in (caller.first if load.slow else caller.seconds)]
    reads = sum(caller.reads for caller in callers) / answered
    return Result(
        answered / spent, 1000 * statistics.median(times), 1e6 * used / answered, 1e6 * around / answered, reads
    )


def _ask(port: int, load: Load, seconds: float) -> list[Caller]:
    """Connections that ask again and again for ``seconds``."""
    request, selector, callers = load.request(), selectors.DefaultSelector(), list[Caller]()
    started = time.perf_counter()
    # Not a whole part of the time between two chunks, else many streams' chunks would all come when one begins.
    step = (CHUNKS + 1) * SLOW_SECONDS / load.connections if load.apart else 0.0
    shortest = (TURNS + 0.25) * CHUNKS * SLOW_SECONDS if load.slow else 0.0
    end = started + step * load.connections + max(seconds, shortest)
    # A busy machine may not answer in time.
    while (now := time.perf_counter()) < end or not any(caller.seconds for caller in callers):
        while len(callers) < load.connections and now >= started + step * len(callers):
            callers.append(Caller(port, request))
            selector.register(callers[-1].connection, selectors.EVENT_READ, callers[-1])
        for key, _ in selector.select(step or 0.1):
            key.data.hear()
    for caller in callers:
        caller.connection.close()
    return callers


def _crowds(port: int, load: Load, seconds: float) -> list[Caller]:
    """New connections in one moment, gone once each was answered; the next ones, until ``seconds`` are over."""
    request, gone, end = load.request(), list[Caller](), time.perf_counter() + seconds
    while time.perf_counter() < end:
        selector = selectors.DefaultSelector()
        crowd = [Caller(port, request) for _ in range(load.connections)]
        for caller in crowd:
            selector.register(caller.connection, selectors.EVENT_READ, caller)
        while not all(caller.first for caller in crowd):
            for key, _ in selector.select(0.1):
                key.data.hear()
        for caller in crowd:
            caller.connection.close()
        gone += crowd
    return gone
