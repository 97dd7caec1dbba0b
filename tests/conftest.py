"""Fixtures that several packages' tests share. Starting an engine is slow, so the whole session shares one of each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mopo_eval.engine import Engine, open_engine, vllm_available
from mopo_train.family import read_family


@pytest.fixture(scope="session", autouse=True)
def _state_of_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What programs keep for a user, such as audit stores and keys, is not that of who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_STATE_HOME", "LOCALAPPDATA"):
            patch.setenv(name, str(tmp_path_factory.mktemp("state")))
        patch.setenv("MOPO_KEYS", str(tmp_path_factory.mktemp("keys") / "keys.json"))
        yield


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a family with real weights (see ``tests.tiny_family``). Read it; copy it to change it."""
    from tests.tiny_family import write_tiny_family

    root = tmp_path_factory.mktemp("tiny") / "family"
    write_tiny_family(root)
    return root


@pytest.fixture(scope="session")
def embedded_engine(tiny_family: Path) -> Iterator[Engine]:
    """The embedded engine serving ``tiny_family``."""
    with open_engine("embedded", tiny_family, read_family(tiny_family)) as engine:
        yield engine


@pytest.fixture(scope="session")
def vllm_engine(tiny_family: Path) -> Iterator[Engine]:
    """vLLM serving ``tiny_family``; tests that ask for it are marked ``vllm``."""
    if not vllm_available():
        pytest.skip("vLLM is not installed")
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    with open_engine("vllm", tiny_family, read_family(tiny_family), live_adapters=True, arguments=tools) as engine:
        yield engine
