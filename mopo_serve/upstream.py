"""One engine as the gateway reaches it: ``wire`` for completions, aiohttp's client for everything else."""

from typing import Any
from urllib.parse import urlsplit

import aiohttp

from mopo_serve.wire import KEEP_ALIVE_SECONDS, WireClient
from mopo_train.errors import EngineError

HEALTH_SECONDS = 2.0
LOAD_SECONDS = 120.0


class Upstream:
    """One engine that speaks OpenAI's API."""

    def __init__(self, url: str, *, silence_seconds: float, connect_seconds: float) -> None:
        self.url = url.rstrip("/")
        self.address = urlsplit(self.url).netloc
        self.wire = WireClient(self.url, silence_seconds=silence_seconds, connect_seconds=connect_seconds)
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The open session, which never follows proxies or cookies."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(keepalive_timeout=KEEP_ALIVE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def healthy(self) -> bool:
        """True if the engine says so: ``/health``, or its list of models where it has no such route."""
        timeout = aiohttp.ClientTimeout(total=HEALTH_SECONDS)
        try:
            for path in ("/health", "/v1/models"):
                async with self.session.get(self.url + path, timeout=timeout, allow_redirects=False) as answer:
                    if answer.status != 404:
                        return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass
        return False

    async def models(self) -> set[str]:
        """Names of the models that the engine serves. Raises EngineError."""
        content = await self._ask("GET", "/v1/models", None)
        try:
            return {str(model["id"]) for model in content["data"]}
        except (KeyError, TypeError) as error:
            raise EngineError("an engine lists its models in a form that is not OpenAI's") from error

    async def load_adapter(self, name: str, path: str) -> None:
        """Have the engine serve the adapter in the directory ``path`` as ``name``. Raises EngineError."""
        await self._ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})

    async def unload_adapter(self, name: str) -> None:
        """Have the engine forget the adapter called ``name``. Raises EngineError."""
        await self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    async def _ask(self, method: str, path: str, body: dict[str, str] | None) -> Any:
        timeout = aiohttp.ClientTimeout(total=LOAD_SECONDS)
        try:
            asking = self.session.request(method, self.url + path, json=body, timeout=timeout, allow_redirects=False)
            async with asking as answer:
                text = (await answer.read()).decode("utf-8", "replace")
                if answer.status != 200:
                    said = text.replace(self.address, "engine")[:300]
                    raise EngineError(f"an engine answered {answer.status} to {path}: {said}")
                return await answer.json() if method == "GET" else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise EngineError(f"an engine cannot be asked for {path}: {type(error).__name__}") from error

    async def close(self) -> None:
        """Close every connection, whatever is going on in it; new ones can be made."""
        self.wire.drop()
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()
