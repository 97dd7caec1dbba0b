"""Names on the hub while the hub cannot be reached, or answers."""

import os
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import datasets
import pytest
from huggingface_hub import constants

from mopo_train import hub
from mopo_train.errors import DataError, ModelError
from mopo_train.hub import settle_offline
from mopo_train.policy.models import fingerprint, load_model
from mopo_train.preferences import read_preferences


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """The libraries believe in a hub at a port where nobody is."""
    hub._answers.cache_clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    yield monkeypatch
    hub._answers.cache_clear()


@pytest.mark.usefixtures("online")
def test_an_unknown_name_is_an_error_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with pytest.raises(ModelError, match="'nobody-at-all/none'.*check the name and the connection"):
        fingerprint("nobody-at-all/none")
    with pytest.raises(ModelError, match="check the name and the connection"):
        load_model("nobody-at-all/none")
    with pytest.raises(DataError, match="Check the name, the connection and HF_HUB_OFFLINE"):
        read_preferences(["nobody-at-all/no-data"])
    assert time.monotonic() - began < 10  # with the libraries' own retries it is more than 23 s for each
    assert (
        capsys.readouterr().err.count("the hub (http://127.0.0.1:9) cannot be reached: only what is in its cache") == 1
    )
    assert os.environ["HF_HUB_OFFLINE"] == "1"  # for an engine that is started with such a base model


def test_a_hub_that_answers_anything_is_there(online: pytest.MonkeyPatch) -> None:
    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.handle_request).start()
        online.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        settle_offline()
    assert constants.HF_HUB_OFFLINE is False
