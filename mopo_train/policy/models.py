"""Loading language models and tokenizers from a directory or the hub, with errors that say what to do."""

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from mopo_train.errors import ModelError
from mopo_train.hub import settle_offline

CHAT_TEMPLATE = (
    "{% if bos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""For tokenizers that bring none: a role mark on a line of its own, then the text."""

Precision = Literal["auto", "float32", "bfloat16"]

WEIGHTS = ("*.safetensors", "*.bin")


def find_model(model: str) -> Path | None:
    """The directory that ``model`` names, or None if it is a name on the hub, which is then looked for briefly.

    Raises ModelError for a path that does not exist or holds no model.
    """
    path = Path(model).expanduser()
    if path.exists():
        if not path.is_dir():
            raise ModelError(f"'{model}' is a file, not a model: give the directory that holds its config.json.")
        if not (path / "config.json").is_file():
            raise ModelError(
                f"'{model}' is no model: config.json is missing. Give a directory written by save_pretrained, "
                "for example by 'mopo-train reference'."
            )
        if not any(file for pattern in WEIGHTS for file in path.glob(pattern)):
            raise ModelError(f"'{model}' holds a config.json but no weights ({' or '.join(WEIGHTS)}); copy it again.")
        return path
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise ModelError(f"there is no model directory '{model}'; check the path.")
    settle_offline()
    return None


def load_tokenizer(model: str, *, add_template: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer of ``model`` with a chat template, an end and a padding token. Raises ModelError.

    One without a chat template gets the simple one, or is refused where it could not be kept (``add_template`` False).
    """
    source = find_model(model) or model
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # the hub, its cache and every format raise their own kinds
        raise cannot_load("tokenizer", model, error) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer of '{model}' has no end-of-sequence token, so answers could not end.")
    if tokenizer.chat_template is None and not add_template:
        raise ModelError(
            f"the tokenizer of '{model}' has no chat template, so engines could not render prompts. Train a reference "
            f"with 'mopo-train reference DATA --model {model} --out DIR' and give that directory."
        )
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATE
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    model: str, *, frozen: bool = True, processes: int = 1, precision: Precision = "auto"
) -> PreTrainedModel:
    """``model`` for training: float32, or bfloat16 where the weights are ``frozen`` and `is_half` says so.

    Steps of full fine-tuning are smaller than bfloat16 resolves: weights that are trained themselves stay float32.
    With several ``processes`` each reads and holds its part of the weights alone (FSDP2, `torch.distributed.fsdp`).

    Raises ModelError, also for weights that leave a part of the model at random and for a model that is not causal.
    """
    _causal_config(model)
    source = find_model(model) or model
    hide_file_progress()
    half = frozen and is_half(precision)
    choose_products(precision)
    load: Any = AutoModelForCausalLM.from_pretrained
    spread = {"distributed_config": _spread_over(processes)} if processes > 1 else {}
    try:
        loaded, report = load(
            source, dtype=torch.bfloat16 if half else torch.float32, output_loading_info=True, **spread
        )
    except Exception as error:  # see load_tokenizer
        raise cannot_load("model", model, error) from error
    if unfit := sorted(report["missing_keys"]) + sorted(str(key[0]) for key in report["mismatched_keys"]):
        raise ModelError(
            f"the weights of '{model}' do not fit its config.json: {len(unfit)} tensors are missing or of another "
            f"size, the first is {unfit[0]}. Copy or train the model again."
        )
    network: PreTrainedModel = loaded
    if processes > 1:
        network.requires_grad_(False)  # before the first pass: FSDP brings back parts as they were then
    return network


def empty_model(model: str) -> PreTrainedModel:
    """``model`` without its weights, on the device ``meta``: for its sizes. Raises ModelError."""
    config: Any = _causal_config(model)
    build: Any = AutoModelForCausalLM
    try:
        with torch.device("meta"):
            empty: PreTrainedModel = build.from_config(config)
    except Exception as error:  # see load_tokenizer
        raise cannot_load("model", model, error) from error
    return empty


def _causal_config(model: str) -> Any:
    config = _load_config(model)
    given = getattr(config, "architectures", None) or []
    if given and not set(given) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
        raise ModelError(f"'{model}' is a {given[0]}, not a model that writes text from left to right; give one.")
    return config


def _spread_over(processes: int) -> Any:
    try:
        from transformers.distributed.configuration_utils import DistributedConfig
    except ImportError as error:
        raise ModelError(
            f"--fsdp needs transformers 5.19 or later, this is {transformers.__version__}: pip install -U transformers."
        ) from error
    return DistributedConfig(fsdp_size=processes)


def choose_products(precision: Precision) -> None:
    """How this process multiplies float32 matrices from now on: to the letter for ``float32``.

    Else with the kernels of oneDNN, which are more than twice as quick on AVX-512; where there is AMX they round
    factors to bfloat16. It is a switch of the whole process, so whatever must come out alike again sets it first.
    """
    products: Any = torch.backends.mkldnn
    products.matmul.fp32_precision = "ieee" if precision == "float32" else "bf16"


def is_half(precision: Precision) -> bool:
    """Whether frozen weights are bfloat16: as asked for, or where CUDA supports it."""
    if precision == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return precision == "bfloat16"


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write both to ``directory``, ready for transformers and vLLM."""
    hide_file_progress()
    model.config.use_cache = True  # training switched it off; generation wants it
    saved: Any = model
    saved.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def hide_file_progress() -> None:
    """Switch off transformers' progress bars for reading and writing files: ours shows the steps."""
    logs: Any = logging
    logs.disable_progress_bar()


def context_length(model: str) -> int:
    """Positions of ``model``, prompt and answer together; a large number where its configuration names none."""
    config = _load_config(model)
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or 1 << 20)


def cannot_load(part: str, model: str, error: Exception) -> ModelError:
    """The error for a ``part`` of ``model`` that transformers could not load, with its reason in one line."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if find_model(model) is None:
        advice = "It is not a directory here, so it was taken for a name on the hub: check the name and the connection"
    else:
        advice = "The directory may be damaged or hold another kind of model: copy or train it again"
    return ModelError(f"cannot load the {part} of '{model}'. {advice}. ({reason})")


def fingerprint(model: str) -> str:
    """What identifies the contents of ``model``: a digest of a directory's files, or the hub name and its commit."""
    path = find_model(model)
    if path is None:
        return hashlib.sha256(f"{model}@{getattr(_load_config(model), '_commit_hash', None)}".encode()).hexdigest()
    return directory_digest(path)


def directory_digest(path: Path) -> str:
    """SHA-256 of the names and contents of the files in a directory of weights, in hexadecimal."""
    digest = hashlib.sha256()
    for file in sorted(file for file in path.iterdir() if file.is_file()):
        digest.update(file.name.encode())
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _load_config(model: str) -> Any:
    try:
        return AutoConfig.from_pretrained(find_model(model) or model)
    except Exception as error:  # see load_tokenizer
        raise cannot_load("configuration", model, error) from error
