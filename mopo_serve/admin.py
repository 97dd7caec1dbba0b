"""The routes of an administrator: go live with what is on disk, and stage, promote or roll back a new version."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mopo_serve.access import Access, require
from mopo_serve.client import read_body
from mopo_serve.deployment import Deployment, Version
from mopo_serve.engines import Pool
from mopo_serve.metrics import GatewayMetrics
from mopo_serve.openai_errors import ApiError
from mopo_serve.releases import Releases
from mopo_serve.requests import parse_body, validated
from mopo_train.errors import MopoError

POLL_SECONDS = 0.5
"""Between two looks whether the last request of an old version is done."""
log = logging.getLogger("mopo_serve")
Compare = Callable[[str], Awaitable[dict[str, Any]]]
"""What users said of the version with a fingerprint."""


class RolloutBody(BaseModel):
    """The body of ``POST /admin/rollout``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    family: str | None = None
    """Directory of the new family; absent: the one that is served, with what is new in it."""
    profiles: str | None = None
    """File of profiles; absent: the family's own."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Of conversations that the new version gets."""


class Admin:
    """What an administrator can do with one gateway."""

    def __init__(
        self, deployment: Deployment, pool: Pool, access: Access, releases: Releases, metrics: GatewayMetrics
    ) -> None:
        self._deployment, self._pool, self._access = deployment, pool, access
        self._releases, self._metrics = releases, metrics
        self._changing = asyncio.Lock()
        self._retiring: dict[asyncio.Task[None], Version] = {}
        self.feedback: Compare | None = None

    def routes(self) -> list[Route]:
        """All of them want a key with the right ``admin``."""
        return [
            Route("/admin/reload", self._reload, methods=["POST"]),
            Route("/admin/rollout", self._rollout, methods=["GET", "POST"]),
            Route("/admin/rollout/promote", self._promote, methods=["POST"]),
            Route("/admin/rollout/rollback", self._rollback, methods=["POST"]),
        ]

    async def _reload(self, request: Request) -> Response:
        require(request.scope, "admin")
        async with self._changing:
            self._access.reload()
            version = await self._made(None, None)
            old = self._deployment.replace(version)
            self._retire(old)
            self._show_shares()
        return JSONResponse({"reloaded": True, "before": old.fingerprint, **_described(version)})

    async def _rollout(self, request: Request) -> Response:
        require(request.scope, "admin")
        return await self._stage(request) if request.method == "POST" else JSONResponse(await self._compared())

    async def _stage(self, request: Request) -> Response:
        body = validated(RolloutBody, parse_body(await read_body(request.scope, request.receive, 1 << 16)), "")
        async with self._changing:
            deployment = self._deployment
            if deployment.candidate is not None and body.family is None and body.profiles is None:
                deployment.share = body.share
            else:
                version = await self._made(body.family and Path(body.family), body.profiles and Path(body.profiles))
                if deployment.candidate is not None:
                    self._retire(deployment.candidate)
                deployment.stage(version, body.share)
            self._show_shares()
            return JSONResponse(await self._compared())

    async def _promote(self, request: Request) -> Response:
        require(request.scope, "admin")
        async with self._changing:
            candidate = self._staged()
            told = await self._compared()
            self._deployment.unstage()
            self._releases.promote(candidate)
            self._retire(self._deployment.replace(candidate))
            self._show_shares()
        return JSONResponse({"promoted": candidate.fingerprint, "compared": told})

    async def _rollback(self, request: Request) -> Response:
        require(request.scope, "admin")
        async with self._changing:
            candidate = self._staged()
            told = await self._compared()
            self._deployment.unstage()
            self._retire(candidate)
            self._show_shares()
        return JSONResponse({"rolled_back": candidate.fingerprint, "compared": told})

    def _staged(self) -> Version:
        if self._deployment.candidate is None:
            raise ApiError(409, "no rollout is going on; begin one with POST /admin/rollout", code="no_rollout")
        return self._deployment.candidate

    async def _made(self, family: Path | str | None, profiles: Path | str | None) -> Version:
        """A version from disk, served by the engines. Raises ApiError (409); everything stays as it was then."""
        try:
            return await self._releases.make(
                self._pool, Path(family) if family else None, Path(profiles) if profiles else None
            )
        except (MopoError, OSError, ValueError) as error:  # a name may be none that the system takes
            raise ApiError(409, f"nothing was changed: {error}", code="not_released") from error

    async def close(self) -> None:
        """Stop waiting for old versions to be done."""
        for task in list(self._retiring):
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)

    def _retire(self, old: Version) -> None:
        """Have the engines forget what only ``old`` needs, when its last request is done."""
        old.retired = True
        task = asyncio.get_running_loop().create_task(self._clear_away(old))
        self._retiring[task] = old
        task.add_done_callback(self._retiring.pop)

    async def _clear_away(self, old: Version) -> None:
        while old.in_flight:
            await asyncio.sleep(POLL_SECONDS)
        async with self._changing:
            others = [version for version in self._retiring.values() if version.in_flight]
            for error in await self._releases.unload(self._pool, [*self._deployment.live, *others]):
                log.warning("an adapter that nobody needs stays loaded: %s", error)

    def _show_shares(self) -> None:
        deployment = self._deployment
        shares = {deployment.stable.fingerprint: 1.0 - deployment.share}
        if deployment.candidate is not None:
            shares[deployment.candidate.fingerprint] = deployment.share
        self._metrics.live(shares)

    async def _compared(self) -> dict[str, Any]:
        """Both versions side by side: what is served, how it goes, and what users say."""
        found: dict[str, Any] = {"share": self._deployment.share, "stable": None, "candidate": None}
        for name, version in (("stable", self._deployment.stable), ("candidate", self._deployment.candidate)):
            if version is None:
                continue
            found[name] = _described(version) | version.record.summary()
            if self.feedback is not None:
                found[name]["feedback"] = await self.feedback(version.fingerprint)
        return found


def _described(version: Version) -> dict[str, Any]:
    """What a version serves."""
    routing = version.routing
    profiles = {
        name: {"policy": each.policy, "weights": each.weights, "feasible": each.feasible}
        for name, each in routing.selections.items()
    }
    told = {"family": routing.identity, "version": version.fingerprint}
    return {**told, "organisation": routing.organisation, "profiles": profiles}
