"""Starts vLLM with every policy of a family as a LoRA adapter: one engine at the cost of one adapter.

Only the command line and environment are made here; vLLM itself is never imported. Unless ``live_adapters`` is asked
for, adapters cannot be loaded at run time (vLLM means that for trusted callers: it takes any path), so the model names
are the policy ids and nothing else.
"""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from mopo_eval.engine.process import Launch
from mopo_train.errors import EngineError
from mopo_train.family import REFERENCE

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has kernels for; larger than needed only costs memory
_EMPTY_SLOTS = 1
"""On a CPU vLLM gives a request without adapter that shares a batch with others the adapter in the *last* slot (index
-1; vllm-project/vllm#48421, seen in 0.32). One slot more than there are adapters stays zero, so ``reference`` is right.
"""
_OUTPUT_LAYERS = frozenset({"lm_head", "embed_out", "embed_tokens", "wte"})
_GENERATIONS = 3
"""Versions of a family whose adapters may be loaded at once: the live one, a candidate, and one being retired."""
_CPU_CONTEXT = 8192
_FEW_CORES = 4
_GIB = 1024**3


def vllm_available() -> bool:
    """True if vLLM is installed, whichever build; does not import it."""
    return importlib.util.find_spec("vllm") is not None


def gpu_present() -> bool:
    """True if an NVIDIA driver is at hand, without importing torch."""
    return shutil.which("nvidia-smi") is not None and Path("/dev/nvidiactl").exists()


def launch(
    base: str,
    adapters: Mapping[str, Path],
    *,
    log: Path,
    max_model_len: int | None,
    gpu: bool | None = None,
    live_adapters: bool = False,
) -> Launch:
    """How to start vLLM for ``adapters`` (policy id to directory) of ``base``. ``gpu`` None: look for one."""
    on_gpu = gpu_present() if gpu is None else gpu
    command = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"]  # -P: no ./vllm in the way
    command += ["--model", base, "--served-model-name", REFERENCE, "--host", "127.0.0.1"]
    command += ["--generation-config", "vllm"]  # sample as asked, not as the model's authors suggest
    if adapters:
        loaded = len(adapters) * (_GENERATIONS if live_adapters else 1)
        slots = loaded if on_gpu else loaded + _EMPTY_SLOTS
        command += ["--enable-lora", "--max-loras", str(slots), "--max-lora-rank", str(lora_rank(adapters))]
        if not on_gpu and (modules := adapted_modules(adapters)):
            command += ["--lora-target-modules", *modules]
        command += ["--lora-modules", *(f"{policy}={path}" for policy, path in adapters.items())]
    if not on_gpu:
        command += ["--dtype", "float32", "--enforce-eager"]
    length = max_model_len or (None if on_gpu else cpu_context(base))
    if length:
        command += ["--max-model-len", str(length)]
    return Launch(
        title="vLLM",
        models=frozenset({REFERENCE, *adapters}),
        command=lambda port: [*command, "--port", str(port)],
        environment=_environment(base, on_gpu=on_gpu) | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": str(int(live_adapters))},
        log=log,
    )


def lora_rank(adapters: Mapping[str, Path]) -> int:
    """The smallest rank vLLM offers that holds every adapter. Raises EngineError for adapters it cannot serve."""
    largest = 1
    for policy, path in adapters.items():
        try:
            config = json.loads((path / "adapter_config.json").read_bytes())
            largest = max(largest, int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineError(
                f"policy '{policy}': '{path / 'adapter_config.json'}' is not the configuration of a LoRA adapter: "
                f"{error}. Restore the directory from a copy, or train the family again."
            ) from error
    for rank in _RANKS:
        if rank >= largest:
            return rank
    raise EngineError(
        f"an adapter has rank {largest}, vLLM takes at most {_RANKS[-1]}; serve the family with --engine embedded."
    )


def adapted_modules(adapters: Mapping[str, Path]) -> list[str]:
    """Names of the modules that some adapter changes; empty where they cannot be told, or the output layer is one.

    On a CPU two requests for log-probabilities of prompts that run together kill vLLM while the output layer is ready
    for adapters ("einsum(): subscript b has size ..." in ``bgmv_shrink``, seen in 0.32). Naming the modules leaves that
    layer alone.
    """
    found: set[str] = set()
    for path in adapters.values():
        stated = json.loads((path / "adapter_config.json").read_bytes()).get("target_modules")
        if not isinstance(stated, list):
            return []
        found |= {str(name).rpartition(".")[2] for name in stated}  # vLLM joins layers, so whole paths fit none
    return [] if found & _OUTPUT_LAYERS else sorted(found)


def cpu_context(base: str) -> int | None:
    """Longest context to offer on a CPU: the model's own, at most 8192 tokens; None if ``base`` is not local."""
    try:
        own = json.loads((Path(base) / "config.json").read_bytes()).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None
    return min(own, _CPU_CONTEXT) if isinstance(own, int) else None


def _environment(base: str, *, on_gpu: bool) -> dict[str, str]:
    """Variables for vLLM; what the user has set already is left alone."""
    wanted = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if Path(base).is_dir():
        wanted["HF_HUB_OFFLINE"] = "1"
    if not on_gpu:
        wanted["VLLM_CPU_KVCACHE_SPACE"] = str(kv_cache_gib())
        wanted |= cpu_threads(usable_cores())
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    return missing


def cpu_threads(cores: int) -> dict[str, str]:
    """Variables for the computing threads on ``cores``: all but one, which the server and the scheduler need.

    On more than a few cores vLLM's own binding to cores and memory nodes is best. On few it only ties two engines,
    or an engine and a training run, to the same core.
    """
    if cores > _FEW_CORES:
        return {}
    return {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(max(1, cores - 1))}


def usable_cores() -> int:
    """Cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def kv_cache_gib() -> int:
    """Memory for vLLM's key-value cache on a CPU: an eighth of the machine's, between 1 and 8 GiB."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return 2
    return min(8, max(1, memory // _GIB // 8))
