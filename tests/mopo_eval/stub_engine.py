"""A small real server that speaks the part of OpenAI's API that measuring uses, and counts what it is asked."""

import asyncio
import hashlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Body = dict[str, Any]
Fault = Callable[[Body, int], Response | None]
"""From a request and how often the same one came before to the response that replaces the answer, or None."""


@dataclass
class StubEngine:
    url: str
    policies: Sequence[str]
    fault: Fault
    answered: int | None
    """Requests that are answered, None for all; later ones wait for ever."""
    asked: list[Body] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    inflight: int = 0
    most_inflight: int = 0
    key: str | None = None
    """That callers must bring."""
    held: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released once per request that is made to wait."""
    die: Callable[[], None] = lambda: None
    """Ends the server, and every connection to it."""

    def answer(self, body: Body) -> str:
        """Depends on everything that should matter, so that a mixed-up answer shows."""
        key = json.dumps([body["model"], body["messages"], body["seed"], body["temperature"]])
        return f"{body['model']} says {hashlib.sha256(key.encode()).hexdigest()[:8]}"

    async def chat(self, request: Request) -> Response:
        if self.locked(request):
            return error(401, "no key")
        body = await request.json()
        key = json.dumps(body)
        before = self.counts[key]
        self.counts[key] += 1
        self.asked.append(body)
        self.inflight += 1
        self.most_inflight = max(self.most_inflight, self.inflight)
        try:
            if self.answered is not None and len(self.asked) > self.answered:
                self.held.release()
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            if replaced := self.fault(body, before):
                return replaced
            return JSONResponse(completion(self.answer(body)))
        finally:
            self.inflight -= 1

    def locked(self, request: Request) -> bool:
        return self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}"

    async def models(self, request: Request) -> Response:
        if self.locked(request):
            return error(401, "no key")
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in self.policies]})


def completion(text: str | None, finish_reason: str = "stop") -> Body:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return {"object": "chat.completion", "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}


def error(status: int, message: str, **headers: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "x", "code": status}}, status, headers=headers)


@contextmanager
def stub_engine(
    policies: Sequence[str], fault: Fault = lambda body, before: None, answered: int | None = None
) -> Iterator[StubEngine]:
    """The engine on a loopback port while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        engine = StubEngine(f"http://127.0.0.1:{listener.getsockname()[1]}", policies, fault, answered)
        routes = [Route("/v1/chat/completions", engine.chat, methods=["POST"]), Route("/v1/models", engine.models)]
        config = uvicorn.Config(
            Starlette(routes=routes), log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=0
        )
        server = uvicorn.Server(config)

        def die() -> None:
            listener.close()
            server.should_exit = server.force_exit = True

        engine.die = die
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()  # connections queue in the listener until the server takes them
        try:
            yield engine
        finally:
            server.should_exit = True
            thread.join()
