"""Starts the engine that works everywhere: transformers and peft behind OpenAI's API (``server``).

Meant for machines without vLLM and for quick tests: it answers one batch at a time.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from mopo_eval.engine.process import Launch
from mopo_train.family import REFERENCE


def launch(base: str, adapters: Mapping[str, Path], *, log: Path, max_model_len: int | None) -> Launch:
    """How to start the embedded engine for ``adapters`` (policy id to directory) of ``base``."""
    command = [sys.executable, "-m", "mopo_eval.engine.server", "--base", base]
    for policy, path in adapters.items():
        command += ["--adapter", f"{policy}={path}"]
    if max_model_len:
        command += ["--max-model-len", str(max_model_len)]
    offline = {"HF_HUB_OFFLINE": "1"} if Path(base).is_dir() else {}
    return Launch(
        title="the embedded engine",
        models=frozenset({REFERENCE, *adapters}),
        command=lambda port: [*command, "--port", str(port)],
        environment={"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", **offline},
        log=log,
    )
