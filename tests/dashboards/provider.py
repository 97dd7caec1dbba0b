"""A small OpenID Connect provider (authorisation code flow) that signs everybody in as one person."""

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.dashboards.served import accepts, free_port

CLIENT = "dashboard"


class Provider:
    """The routes of the provider at ``url``."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        self._key = RSAKey.generate_key(2048, {"kid": "only", "use": "sig", "alg": "RS256"})
        self._nonces: dict[str, str | None] = {}

    def app(self) -> Starlette:
        """Discovery, authorisation, tokens, keys."""
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discover),
                Route("/authorize", self._authorise),
                Route("/token", self._token, methods=["POST"]),
                Route("/keys", self._keys),
            ]
        )

    async def _discover(self, _: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self._url,
                "authorization_endpoint": f"{self._url}/authorize",
                "token_endpoint": f"{self._url}/token",
                "jwks_uri": f"{self._url}/keys",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def _authorise(self, request: Request) -> Response:
        asked, code = request.query_params, secrets.token_urlsafe()
        self._nonces[code] = asked.get("nonce")
        back = {"code": code, "state": asked["state"]}
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(back)}", status_code=302)

    async def _token(self, request: Request) -> Response:
        form = parse_qs((await request.body()).decode())
        now = int(time.time())
        claims = {"iss": self._url, "aud": CLIENT, "sub": "1", "iat": now, "exp": now + 600, "name": self._name}
        claims |= {"nonce": self._nonces.pop(form["code"][0]), "email": "person@example.org"}
        token = jwt.encode({"alg": "RS256", "kid": "only"}, claims, self._key)
        return JSONResponse({"access_token": "a", "token_type": "Bearer", "expires_in": 600, "id_token": token})

    async def _keys(self, _: Request) -> Response:
        return JSONResponse({"keys": [self._key.as_dict(private=False)]})


@contextmanager
def provider(name: str) -> Iterator[str]:
    """The URL of a running provider that knows one person, called ``name``."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    config = uvicorn.Config(Provider(url, name).app(), port=port, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not accepts(port):
        time.sleep(0.02)
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join(timeout=20)


def secrets_file(url: str, port: int) -> str:
    """What ``.streamlit/secrets.toml`` says for a dashboard on ``port`` and the provider at ``url``."""
    return f"""[auth]
redirect_uri = "http://127.0.0.1:{port}/oauth2callback"
cookie_secret = "{secrets.token_hex(16)}"
client_id = "{CLIENT}"
client_secret = "{secrets.token_hex(16)}"
server_metadata_url = "{url}/.well-known/openid-configuration"
"""
