"""The client's side of a request: its body, and whether it is still there."""

import asyncio
from types import TracebackType
from typing import Any

from starlette.types import Receive, Scope

from mopo_serve.openai_errors import ApiError

CONNECTION = "mopo.connection"
"""Name in the ASGI scope of a connection that calls ``on_lost`` when it ends."""


class ClientLeft(Exception):
    """The client hung up before its request was complete."""


class ClientWatch:
    """Within the block, a client that hangs up cancels the current task, which closes the engine's connection.

    Raises ClientLeft then. Where the server tells of a lost connection itself (``connections``), that costs nothing;
    elsewhere a task waits for the news.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._connection: Any = scope.get(CONNECTION)
        self._receive = receive
        self._task: asyncio.Task[object] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._left = False

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone()

    def _gone(self) -> None:
        if self._task is not None:
            self._left = True
            self._task.cancel()

    def __enter__(self) -> "ClientWatch":
        if self._connection is not None:
            self._task = asyncio.current_task(self._connection.loop)
            self._connection.on_lost = self._gone
        else:
            self._task = asyncio.current_task()
            self._watch = asyncio.get_running_loop().create_task(self._wait())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None  # from here on the end of the connection is not news
        if self._connection is not None:
            self._connection.on_lost = None
        if self._watch is not None:
            self._watch.cancel()
        if self._left and task is not None and task.uncancel() == 0:  # else the server itself wants the task to end
            raise ClientLeft from error


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The request's body. Raises ClientLeft; ApiError (413) once it is known to be longer than ``limit`` bytes."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > limit):
            raise _too_large(limit)
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit} bytes", code="body_too_large")
