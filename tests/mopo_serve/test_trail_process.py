"""``mopo-serve run`` in a process of its own, ended in every way: what it answered is in the audit store."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from mopo_serve.audit.schema import DECISIONS
from mopo_serve.audit.store import open_store
from mopo_serve.audit.verify import verify
from tests import families
from tests.mopo_serve.stub import CHAT, MESSAGES, StubEngine, listening

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="needs signals")]


class ListingEngine(StubEngine):
    """A stub that also says which models it has, as an engine that is attached must."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/v1/models":
            models = {"object": "list", "data": [{"id": name, "object": "model"} for name in families.SCORES]}
            await self._answer(send, 200, json.dumps(models).encode())
        else:
            await super().__call__(scope, receive, send)


@asynccontextmanager
async def running(root: Path, *options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    """The command in front of a stub engine, and a client of it."""
    async with listening(ListingEngine()) as engine:
        words = ["-c", "from mopo_serve.cli import main; main()", "run", str(root), "--engine", engine, "--port", "0"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None and process.stderr is not None
        try:
            url = ""
            async for line in process.stdout:
                if found := re.match(rb"serving at (http://\S+)/v1", line):
                    url = found[1].decode()
                    break
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
                yield process, client
        finally:
            if process.returncode is None:
                process.kill()
            await process.stderr.read()  # ends when the audit's worker has ended as well
            await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_what_was_answered_is_in_the_store_whatever_ended_the_gateway(
    tmp_path: Path, number: signal.Signals
) -> None:
    families.write_measured_family(tmp_path / "family")
    place = tmp_path / "audit.db"
    async with running(tmp_path / "family", "--audit", str(place)) as (process, client):
        body = {"model": "mopo/balanced", "messages": MESSAGES}
        answers = await asyncio.gather(*(client.post(CHAT, json=body) for _ in range(20)))
        asked = [answer.headers["x-request-id"] for answer in answers]
        judged = await client.post("/v1/feedback", json={"request_id": asked[0], "scores": {"safety": 1}})
        assert (judged.status_code, judged.json()["policy"]) == (200, answers[0].headers["x-mopo-policy"])
        process.send_signal(number)
        await process.wait()
    store = open_store(str(place), create=False)
    assert {row["request_id"] for row in store.rows(DECISIONS)} == set(asked)
    found = verify(store)
    assert (found.problems, found.heads["decisions"].seq, found.heads["feedback"].seq) == ([], 20, 1)
    store.close()


async def test_a_gateway_without_an_audit_has_no_feedback(tmp_path: Path) -> None:
    families.write_measured_family(tmp_path / "family")
    async with running(tmp_path / "family", "--audit", "none") as (_, client):
        assert (await client.post(CHAT, json={"model": "mopo/balanced", "messages": MESSAGES})).status_code == 200
        answer = await client.post("/v1/feedback", json={"request_id": "req-1", "scores": {"safety": 1}})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "audit_off")
