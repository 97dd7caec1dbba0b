"""TLS and pages of other origins, as the command's options set them."""

import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from mopo_serve.server import AddressError, _config
from mopo_serve.settings import Transport
from tests.mopo_serve.stub import CHAT, MESSAGES, StubEngine, calling, gateway_before, listening

ASK = {"model": "mopo/careful", "messages": MESSAGES}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    place = tmp_path_factory.mktemp("tls")
    chain, key = place / "cert.pem", place / "key.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(chain), *subject],
        check=True, capture_output=True,
    )  # fmt: skip
    return chain, key


@asynccontextmanager
async def served(transport: Transport) -> AsyncIterator[str]:
    """A gateway reached by ``transport``; its address without the scheme."""
    async with listening(StubEngine()) as engine, gateway_before(engine) as gateway:
        config = _config(gateway, transport)
        options: dict[str, Any] = {
            name: getattr(config, name) for name in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs", "ssl_cert_reqs")
        }
        app: Any = config.app
        async with listening(app, http=config.http_protocol_class, **options) as url:
            yield url.removeprefix("http://")


@pytest.mark.anyio
async def test_https_is_served_with_a_certificate(certificate: tuple[Path, Path]) -> None:
    chain, key = certificate
    trusted = ssl.create_default_context(cafile=str(chain))
    async with served(Transport(chain, key)) as place:
        async with httpx.AsyncClient(verify=trusted, base_url=f"https://{place}") as client:
            assert (await client.post(CHAT, json=ASK)).status_code == 200
        async with httpx.AsyncClient(base_url=f"http://{place}") as client:
            with pytest.raises(httpx.TransportError):
                await client.get("/healthz")


@pytest.mark.anyio
async def test_clients_without_a_certificate_are_kept_out_if_one_is_asked_for(
    certificate: tuple[Path, Path],
) -> None:
    chain, key = certificate
    trusted = ssl.create_default_context(cafile=str(chain))
    known = ssl.create_default_context(cafile=str(chain))
    known.load_cert_chain(chain, key)
    async with served(Transport(chain, key, client_authority=chain)) as place:
        async with httpx.AsyncClient(verify=known, base_url=f"https://{place}") as client:
            assert (await client.get("/healthz")).status_code == 200
        async with httpx.AsyncClient(verify=trusted, base_url=f"https://{place}") as client:
            with pytest.raises(httpx.TransportError):
                await client.get("/healthz")


@pytest.mark.anyio
async def test_files_that_are_no_certificate_are_told(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    async with gateway_before("http://127.0.0.1:9") as gateway:
        for chain, key in ((wrong, certificate[1]), (certificate[0], wrong), (certificate[0], tmp_path / "none")):
            with pytest.raises(AddressError, match="--tls-cert and --tls-key"):
                _config(gateway, Transport(chain, key))


@pytest.mark.anyio
async def test_pages_of_other_origins_may_call_only_where_they_are_named() -> None:
    asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
    async with gateway_before("http://127.0.0.1:9") as gateway:
        async with calling(gateway) as client:
            answer = await client.options(CHAT, headers=asked)
            assert answer.status_code == 405 and "access-control-allow-origin" not in answer.headers
        config: uvicorn.Config = _config(gateway, Transport(origins=["https://app.example"]))
        transport = httpx.ASGITransport(config.app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            answer = await client.options(CHAT, headers=asked)
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
            other = await client.options(CHAT, headers=asked | {"origin": "https://evil.example"})
            assert "access-control-allow-origin" not in other.headers
