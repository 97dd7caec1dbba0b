from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mopo_eval.engine import Engine
from mopo_eval.engine_choice import EngineChoice, chosen_engines
from mopo_train.errors import EngineError
from tests.mopo_eval.measured_family import trained_family


def test_an_engine_is_not_started_again_with_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restarts: list[None] = []

    @contextmanager
    def opened(*given: Any, **more: Any) -> Iterator[Engine]:
        yield Engine("http://127.0.0.1:9", "embedded", 1, lambda: restarts.append(None))

    monkeypatch.setattr("mopo_eval.engine_choice.open_engine", opened)
    family = trained_family(tmp_path)
    with chosen_engines(tmp_path, family, EngineChoice("embedded"), tmp_path / "engine.log") as engines:
        restart = engines.endpoints()[0].restart
        assert restart is not None
        restart()
        (tmp_path / "policies" / "policy-00" / "adapter_model.safetensors").write_bytes(b"trained again")
        with pytest.raises(EngineError, match="policy-00 changed while"):
            restart()
    assert len(restarts) == 1


def test_a_running_engine_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def attached(*given: Any, **more: Any) -> Iterator[Engine]:
        yield Engine("http://127.0.0.1:9", "attached", None)

    monkeypatch.setattr("mopo_eval.engine_choice.open_engine", attached)
    family = trained_family(tmp_path)
    with chosen_engines(tmp_path, family, EngineChoice("http://127.0.0.1:9"), tmp_path / "engine.log") as engines:
        assert engines.endpoints()[0].restart is None
