"""A live gateway as its clients see it: profiles, why a policy serves, streamed answers, and votes. No Streamlit.

Everything that goes wrong on the way is a ``GatewayError`` that says what to do; an answer that breaks off keeps what
came.
"""

import json
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import httpx

from dashboards.errors import GatewayError

TIMEOUT = httpx.Timeout(connect=5.0, read=120.0, write=20.0, pool=5.0)
PREFIX = "mopo/"
PINNED = "mopo/policy/"


class Piece(NamedTuple):
    """Something that one of several answers added."""

    side: int
    """Which answer."""
    text: str = ""
    policy: str = ""
    """Known with the first piece."""
    request_id: str = ""
    error: str = ""
    """Why the answer ended early; nothing follows."""


class Gateway:
    """Client of one gateway."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._url = url.rstrip("/").removesuffix("/v1")

    def _connected(self) -> httpx.Client:
        """A client of one request, which closes with it: nobody closes a session's."""
        return httpx.Client(base_url=self._url, headers=self._headers, timeout=TIMEOUT, trust_env=False)

    def profiles(self) -> list[str]:
        """Names of the profiles that may be asked for. Raises GatewayError."""
        entries = self._call("GET", "/v1/models")["data"]
        names = [str(entry["id"]) for entry in entries]
        return [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX) and not name.startswith(PINNED)]

    def resolve(self, profile: str) -> dict[str, Any]:
        """Which policy would serve ``profile`` and why (design section 7). Raises GatewayError."""
        return self._call("POST", "/v1/profiles/resolve", {"profile": profile})

    def vote(self, request_id: str, scores: Mapping[str, float]) -> None:
        """Judge an answer: a number in [0, 1] per objective. Raises GatewayError."""
        self._call("POST", "/v1/feedback", {"request_id": request_id, "scores": dict(scores)})

    def answer(self, side: int, profile: str, prompt: str, options: Mapping[str, Any]) -> Iterator[Piece]:
        """The streamed answer to ``prompt`` under ``profile``; an error is its last piece."""
        body = {"model": f"{PREFIX}{profile}", "messages": [{"role": "user", "content": prompt}], "stream": True}
        try:
            asked, path = {**body, **options}, "/v1/chat/completions"
            with self._connected() as client, client.stream("POST", path, json=asked) as response:
                if response.status_code >= 400:
                    response.read()
                    yield Piece(side, error=_message(response))
                    return
                names = ("x-mopo-policy", "x-request-id")
                yield Piece(side, "", *(response.headers.get(name, "") for name in names))
                for line in response.iter_lines():
                    yield from _pieces(side, line)
        except httpx.HTTPError as error:
            yield Piece(side, error=f"{self._url}: {error or type(error).__name__}")

    def answers(self, profiles: Sequence[str], prompt: str, options: Mapping[str, Any]) -> Iterator[Piece]:
        """The answers under several profiles at once, in pieces as they come."""
        pieces: queue.Queue[Piece | None] = queue.Queue()

        def read(side: int, profile: str) -> None:
            try:
                for piece in self.answer(side, profile, prompt, options):
                    pieces.put(piece)
            finally:
                pieces.put(None)

        threads = [
            threading.Thread(target=read, args=(side, profile), daemon=True) for side, profile in enumerate(profiles)
        ]
        for thread in threads:
            thread.start()
        going = len(threads)
        while going:
            piece = pieces.get()
            if piece is None:
                going -= 1
            else:
                yield piece

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            with self._connected() as client:
                response = client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise GatewayError(
                f"no gateway answers at {self._url} ({error or type(error).__name__}); start one with 'mopo-serve run'."
            ) from error
        if response.status_code >= 400:
            raise GatewayError(_message(response))
        found: dict[str, Any] = response.json()
        return found


def _pieces(side: int, line: str) -> Iterator[Piece]:
    """What one line of a stream of server-sent events adds."""
    data = line.removeprefix("data:").strip()
    if not line.startswith("data:") or not data or data == "[DONE]":
        return
    try:
        event = json.loads(data)
    except json.JSONDecodeError:
        return
    if "error" in event:
        yield Piece(side, error=str(event["error"].get("message", event["error"])))
        return
    for choice in event.get("choices", []):
        if text := choice.get("delta", {}).get("content"):
            yield Piece(side, text)


def _message(response: httpx.Response) -> str:
    """The error in OpenAI's shape, or the status where it is none."""
    try:
        return f"{response.json()['error']['message']} ({response.status_code})"
    except (ValueError, KeyError, TypeError):
        return f"{response.reason_phrase or 'error'} ({response.status_code})"
