"""A gateway's audit trail: decisions on their way to the store, feedback on answers, floors held against it."""

import asyncio
import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mopo_serve.access import KEY, Access, require
from mopo_serve.audit.schema import TABLES, AuditError
from mopo_serve.audit.store import AuditStore, open_store
from mopo_serve.audit.writer import AuditWriter, NotWritten
from mopo_serve.client import read_body
from mopo_serve.decisions import NOBODY, Decision
from mopo_serve.deployment import Deployment
from mopo_serve.evidence import Rule, opinions
from mopo_serve.feedback import FeedbackBody, Outcome, check, give
from mopo_serve.floor_watch import FloorWatch
from mopo_serve.keys import ApiKey
from mopo_serve.openai_errors import ApiError, malformed, unavailable
from mopo_serve.requests import encode, parse_body, validated

LARGEST_FEEDBACK = 64 * 1024
"""Bytes of a feedback's body."""
LARGEST_PAGE = 1000
"""Rows of one answer of ``/v1/audit``."""
WATCH_SECONDS = 2.0
"""Between two looks at what people said, by whichever gateway they said it to."""
log = logging.getLogger("mopo_serve")


class Trail:
    """The ``Keeper`` of a gateway, and its route for feedback. Closes ``store``."""

    def __init__(self, store: AuditStore, writer: AuditWriter, rule: Rule | None = None) -> None:
        self.store, self.writer = store, writer
        self._rule = rule
        self._deployment: Deployment | None = None
        self._access = Access()
        self._watch: FloorWatch | None = None
        self._watching: asyncio.Task[None] | None = None
        self._looking = asyncio.Lock()

    @property
    def accepting(self) -> bool:
        """False while new requests must be refused because no trace of them could be kept."""
        return self.writer.accepting

    def routes(self) -> Sequence[BaseRoute]:
        """What the gateway serves for the trail."""
        return [
            Route("/v1/feedback", self._feedback, methods=["POST"]),
            Route("/v1/audit/{table}", self._rows, methods=["GET"]),
        ]

    def follow(self, deployment: Deployment, access: Access, registry: CollectorRegistry) -> None:
        """Hold feedback against what ``deployment`` serves, with ``access``'s limits, and be seen in ``registry``."""
        self._deployment, self._access = deployment, access
        if self._rule is not None:
            self._watch = FloorWatch(self.store, deployment, self._rule)
            deployment.prepare = self._watch.carry
        queued = Gauge("mopo_audit_queued", "Decisions that are not durable yet.", registry=registry)
        queued.set_function(lambda: float(self.writer.queued))
        spilling = Gauge("mopo_audit_spilling", "1 while the audit database is away.", registry=registry)
        spilling.set_function(lambda: float(self.writer.spilling))

    def record(self, decision: Decision) -> None:
        """Take a finished request."""
        self.writer.record(decision)

    async def start(self) -> None:
        """Start the writer, and look at what people said before."""
        await self.writer.start()
        if self._watch is not None:
            await self.look()
            self._watching = asyncio.create_task(self._look_again())

    async def close(self) -> int:
        """Write what is left; gives how many decisions could not be."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        left = await self.writer.close()
        if left:
            log.error("%d decisions are not in the audit store; its worker goes on with what it has", left)
        self.store.close()
        return left

    async def look(self) -> None:
        """Suspend and return policies by what people said until now. An unreachable store changes nothing."""
        if self._watch is None:
            return
        async with self._looking:
            try:
                found = await asyncio.to_thread(self._watch.read)
                if events := self._watch.apply(found):
                    await asyncio.to_thread(self._watch.keep, events)
            except AuditError as error:
                log.warning("live floors stay as they are: %s", error)

    async def opinions(self, family: str) -> dict[str, dict[str, float]]:
        """What people say of one version, for the comparison of a rollout; nothing while the store is away."""
        try:
            return await asyncio.to_thread(opinions, self.store, family)
        except AuditError as error:
            log.warning("a rollout is compared without feedback: %s", error)
            return {}

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self.look()

    async def _feedback(self, request: Request) -> Response:
        key: ApiKey | None = request.scope[KEY]
        use = self._access.admit(key)
        try:
            raw = parse_body(await read_body(request.scope, request.receive, LARGEST_FEEDBACK))
            encode(raw)  # names the place of text that is no Unicode
            body = validated(FeedbackBody, raw, "")
            check(body, self._objectives())
            outcome = await self._give(body, key)
        finally:
            if use is not None:
                use.finish(0, time.monotonic())
        await self.look()
        answer = outcome.answer
        return JSONResponse(
            {
                "request_id": body.request_id,
                "policy": answer.policy,
                "profile": answer.profile,
                "family": answer.family,
                "stored": outcome.stored,
                "kept": outcome.kept,
            }
        )

    async def _rows(self, request: Request) -> Response:
        """A page of a table for a key with the right ``audit``: newest first, those ``before`` a number."""
        require(request.scope, "audit")
        table = TABLES.get(request.path_params["table"])
        if table is None:
            raise ApiError(404, f"there is no such table; known: {', '.join(TABLES)}", code="table_not_found")
        before, limit = _number(request, "before", 2**62), min(_number(request, "limit", LARGEST_PAGE), LARGEST_PAGE)
        try:
            await self.writer.written()
            rows = await asyncio.to_thread(self.store.page, table, before, limit)
        except (NotWritten, AuditError) as error:
            raise unavailable("the audit store cannot be read now; try again", "audit_unavailable") from error
        return JSONResponse({"object": "list", "data": rows, "next": rows[-1]["seq"] if len(rows) == limit else None})

    async def _give(self, body: FeedbackBody, key: ApiKey | None) -> Outcome:
        """Store ``body``. The decision may still be on its way: wait for it. Raises ApiError (404, 503)."""
        name, everybody = (NOBODY, False) if key is None else (key.id, key.audit)
        try:
            await self.writer.written()
            return await asyncio.to_thread(give, self.store, body, key=name, everybody=everybody, time=time.time())
        except (NotWritten, AuditError) as error:
            log.warning("feedback was refused: %s", error)
            raise unavailable("the audit store cannot take feedback now; try again", "audit_unavailable") from error

    def _objectives(self) -> list[str]:
        """Of everything that is live: an answer of a rollout's candidate may have others."""
        if self._deployment is None:
            return []
        live = [self._deployment.stable, self._deployment.candidate]
        return sorted({name for version in live if version for name in version.routing.family.objectives})


def _number(request: Request, name: str, otherwise: int) -> int:
    """The query's ``name``, at least 1. Raises ApiError (400)."""
    given = request.query_params.get(name)
    if given is None:
        return otherwise
    if not re.fullmatch("[0-9]{1,18}", given) or int(given) < 1:
        raise malformed(f"'{name}' must be a whole number from 1", name)
    return int(given)


def open_trail(place: str, spill: Path | None, rule: Rule | None) -> Trail:
    """The trail in the store at ``place``, which is made or migrated. Raises AuditError."""
    store = open_store(place)
    if spill is None:
        database = store.engine.url.database
        sqlite = store.engine.dialect.name == "sqlite"
        spill = Path(f"{database}.spill") if sqlite else state_directory() / "spill"
    return Trail(store, AuditWriter(place, spill), rule)


def default_place() -> str:
    """``audit.db`` in the user's state directory."""
    return str(state_directory() / "audit.db")


def state_directory() -> Path:
    """``mopo`` in the user's directory for what programs keep."""
    base = os.environ.get("XDG_STATE_HOME") or (os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None)
    return (Path(base) if base else Path.home() / ".local" / "state") / "mopo"
