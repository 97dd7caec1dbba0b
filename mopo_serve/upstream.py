"""The engine as the gateway reaches it: aiohttp's client, one per gateway, made in the loop that uses it."""

from urllib.parse import urlsplit

import aiohttp

HEALTH_SECONDS = 2.0
KEEP_ALIVE_SECONDS = 4.0
"""Less than the 5 s after which uvicorn closes an idle connection, so that none is used while it closes."""
NO_AUTOMATIC_HEADERS = ("User-Agent", "Accept", "Accept-Encoding")


class Upstream:
    """One engine that speaks OpenAI's API."""

    def __init__(self, url: str, *, silence_seconds: float, connect_seconds: float) -> None:
        self.url = url.rstrip("/")
        self.address = urlsplit(self.url).netloc
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds, sock_read=silence_seconds)
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The open session; connections are kept, unlimited in number, and never follow proxies or cookies."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                auto_decompress=False,
                skip_auto_headers=NO_AUTOMATIC_HEADERS,
            )
        return self._session

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> "aiohttp.client._RequestContextManager":
        """Send ``body``; the answer is a context to read its bytes in. Leaving it early closes the connection."""
        return self.session.post(self.url + path, data=body, headers=headers, allow_redirects=False)

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

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None
