"""The gateway: OpenAI's API in front of engines, where a threshold profile picks the policy that answers.

The two generating routes are bare ASGI (``proxy``); everything else is a small Starlette application.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from mopo_serve.access import KEY, Access
from mopo_serve.admin import Admin
from mopo_serve.caller import caller_of
from mopo_serve.client import ClientLeft, read_body
from mopo_serve.decisions import Keeper, Sink
from mopo_serve.deployment import Deployment, Version
from mopo_serve.engines import Pool, Replica
from mopo_serve.explanation import explain
from mopo_serve.metrics import CONTENT_TYPE, GatewayMetrics
from mopo_serve.openai_errors import ApiError, unavailable
from mopo_serve.proxy import CompletionEndpoint
from mopo_serve.releases import Releases
from mopo_serve.requests import ResolveBody, encode, parse_body, request_id, take_profile, validated
from mopo_serve.routing import NO_PROFILE, Routing
from mopo_serve.settings import Limits
from mopo_serve.upstream import Upstream

__all__ = ["Extras", "Gateway", "Limits", "create_gateway"]

GENERATING = frozenset({"/v1/chat/completions", "/v1/completions"})
OPEN = frozenset({"/healthz", "/readyz", "/metrics"})
"""Routes that need no key."""
IDENTITY = "mopo.identity"
"""Key of the ASGI scope that holds the headers of every small answer; a route may add some."""
FOLLOW_SECONDS = 1.0
"""Between two looks at the file of keys."""


class Extras(NamedTuple):
    """What a gateway may have beside its routing and engines."""

    access: Access | None = None
    """None: open, without admin routes."""
    releases: Releases | None = None
    """None: nothing can be reloaded."""
    keeper: Keeper | None = None
    """Keeps every decision for good; started and closed with the gateway."""
    sinks: Sequence[Sink] = ()
    """Are told of every decision, in the event loop."""
    routes: Sequence[BaseRoute] = ()
    """Further routes. The caller's key stands in their scope; ``access.require`` checks its rights."""
    keeps_text: bool = False
    """True if decisions hold prompts and answers."""


class Gateway:
    """The ASGI application that ``create_gateway`` makes."""

    def __init__(self, deployment: Deployment, pool: Pool, limits: Limits, extras: Extras) -> None:
        self.deployment, self.pool = deployment, pool
        self.access = extras.access or Access()
        self.metrics = GatewayMetrics()
        self.metrics.follow(pool.replicas)
        self.metrics.live({deployment.stable.fingerprint: 1.0})
        self.completions = CompletionEndpoint(deployment, pool, self.access, self.metrics, limits=limits)
        self.completions.keeper, self.completions.keeps_text = extras.keeper, extras.keeps_text
        self.completions.sinks = (*extras.sinks, extras.keeper) if extras.keeper else tuple(extras.sinks)
        self.metrics.in_flight.set_function(lambda: float(self.completions.in_flight))
        self.admin: Admin | None = None
        if extras.releases is not None:
            self.admin = Admin(deployment, pool, self.access, extras.releases, self.metrics)
            for replica in pool.replicas:
                replica.returned = extras.releases.complete
        self._limits = limits
        self._small = self._small_routes(extras)

    @property
    def routing(self) -> Routing:
        """The live family and profiles."""
        return self.deployment.stable.routing

    @property
    def in_flight(self) -> int:
        """Completions being answered now."""
        return self.completions.in_flight

    def drain(self) -> None:
        """Answer 503 from now on, and finish what is in flight."""
        self.completions.draining = True

    async def close(self) -> None:
        """Close the connections to the engines."""
        if self.admin is not None:
            await self.admin.close()
        await self.pool.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The hot path, or the small routes with the headers that every answer carries."""
        if scope["type"] != "http":
            await self._small(scope, receive, send)
        elif scope["path"] in GENERATING:
            await self.completions(scope, receive, send)
        else:
            identity = [
                (b"x-request-id", request_id(scope["headers"])),
                (b"x-mopo-family", self.deployment.stable.family_header),
            ]

            async def send_identified(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], *identity]
                await send(message)

            try:
                key = None if scope["path"] in OPEN else self.access.key_of(scope["headers"])
            except ApiError as error:
                await _answer(error)(scope, receive, send_identified)
                return
            await self._small({**scope, IDENTITY: identity, KEY: key}, receive, send_identified)

    def _small_routes(self, extras: Extras) -> Starlette:
        """Everything but the hot path."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            if extras.keeper is not None:
                await extras.keeper.start()
            watching = [asyncio.create_task(self.pool.watch()), asyncio.create_task(self._follow_keys())]
            try:
                yield
            finally:
                for task in watching:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                await self.close()
                if extras.keeper is not None:
                    await extras.keeper.close()

        app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/models/{model:path}", self._model),
                Route("/v1/profiles/resolve", self._resolve, methods=["POST"]),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/metrics", self._metrics),
                Route("/openapi.json", self._openapi),
                *(self.admin.routes() if self.admin else []),
                *extras.routes,
                Route("/v1/feedback", self._no_feedback, methods=["POST"]),  # where ``extras`` have none
            ],
            exception_handlers={
                HTTPException: _http_error,
                ApiError: _api_error,
                ClientLeft: _nobody_there,
                Exception: _own_fault,
            },
            lifespan=lifespan,
        )
        app.router.redirect_slashes = False
        return app

    async def _follow_keys(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            self.access.follow()

    async def _models(self, request: Request) -> Response:
        names = self.routing.models_for(request.scope[KEY])
        return JSONResponse({"object": "list", "data": [self._entry(name) for name in names]})

    async def _model(self, request: Request) -> Response:
        name, key = request.path_params["model"], request.scope[KEY]
        if name not in self.routing.models_for(key) and name != NO_PROFILE:
            raise self.routing.unknown_model(name, key)
        return JSONResponse(self._entry(name))

    def _entry(self, name: str) -> dict[str, str | int]:
        return {"id": name, "object": "model", "created": self.routing.created, "owned_by": "mopo"}

    async def _resolve(self, request: Request) -> Response:
        use = self.access.admit(request.scope[KEY])  # a mixture costs a linear program
        try:
            return await self._resolved(request)
        finally:
            if use is not None:
                use.finish(0, time.monotonic())

    async def _resolved(self, request: Request) -> Response:
        body = parse_body(await read_body(request.scope, request.receive, self._limits.body_bytes))
        routing, key = self.routing, request.scope[KEY]
        identity, profile = request.scope[IDENTITY], body.get("profile")
        if isinstance(profile, str) and (known := profile.removeprefix("mopo/")) in routing.profiles:
            identity.append((b"x-mopo-profile", known.encode("ascii")))
        requested = take_profile(body)
        encode(body)  # names the place of text that is no Unicode, before it is looked at
        asked = validated(ResolveBody, body, "")
        profile = asked.profile.removeprefix("mopo/") if asked.profile is not None else None
        if profile is None and requested is None and asked.user is None:
            raise ApiError(400, "give 'profile', 'objective_profile' or both", code="invalid_request", param="profile")
        if profile is not None and profile not in routing.profiles:
            names = ", ".join(routing.profiles) or "none"
            message = f"no profile {ascii(profile[:100])}; this gateway has: {names}"
            raise ApiError(404, message, code="profile_not_found", param="profile")
        caller = caller_of(key, request.scope["headers"], {"user": asked.user})
        name = routing.profile_of(NO_PROFILE if profile is None else f"mopo/{profile}", caller)
        told = explain(routing, name, requested, caller)
        if told["policy"] is not None:
            identity.append((b"x-mopo-policy", told["policy"].encode("ascii")))
        return JSONResponse(told)

    async def _openapi(self, _: Request) -> Response:
        from mopo_serve.openapi import document

        return JSONResponse(document())

    async def _no_feedback(self, _: Request) -> Response:
        message = "this gateway keeps no decisions (--audit none), so nothing is known that could be judged"
        raise ApiError(404, f"{message}; start it with an audit store", code="audit_off")

    async def _healthz(self, _: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def _readyz(self, _: Request) -> Response:
        if self.completions.draining:
            raise unavailable("the gateway is shutting down", "draining")
        if not await self.pool.healthy():
            raise unavailable("the engine is not healthy")
        return JSONResponse({"status": "ready", "family": self.routing.identity, "policies": len(self.routing.cards)})

    async def _metrics(self, _: Request) -> Response:
        return Response(self.metrics.exposition(), headers={"content-type": CONTENT_TYPE})


def create_gateway(
    version: Version | Routing,
    engine_urls: str | Sequence[str],
    *,
    limits: Limits | None = None,
    extras: Extras | None = None,
) -> Gateway:
    """The gateway for ``version`` in front of the engines at ``engine_urls`` (without ``/v1``).

    The connections to the engines are closed by the ASGI lifespan or by ``close``.
    """
    limits = limits or Limits()
    urls = [engine_urls] if isinstance(engine_urls, str) else engine_urls
    replicas = [
        Replica(
            f"engine-{number}",
            Upstream(url, silence_seconds=limits.silence_seconds, connect_seconds=limits.connect_seconds),
        )
        for number, url in enumerate(urls)
    ]
    if isinstance(version, Routing):
        version = Version(version, fingerprint=version.identity)
    return Gateway(Deployment(version), Pool(replicas), limits, extras or Extras())


def _answer(error: ApiError) -> Response:
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in error.headers()}
    return Response(error.body(), error.status, headers)


async def _api_error(_: Request, error: Exception) -> Response:
    return _answer(error) if isinstance(error, ApiError) else await _own_fault(_, error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors (404, 405) in OpenAI's shape."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        allow = (error.headers or {}).get("Allow") if isinstance(error, HTTPException) else None
        return _answer(
            ApiError(405, f"{request.method} is not allowed here; use {allow}", "method_not_allowed", allow=allow)
        )
    message = f"there is no route {ascii(request.scope['path'][:100])} here"
    return _answer(ApiError(status, message, code="route_not_found"))


async def _nobody_there(_: Request, __: Exception) -> Response:
    return Response(status_code=400)


async def _own_fault(_: Request, __: Exception) -> Response:
    return _answer(ApiError(500, "the gateway failed", code="internal_error"))
