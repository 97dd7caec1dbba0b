"""Supervised fine-tuning: the reference policy, from a given model or from scratch.

From scratch means a small Llama and a byte-level BPE tokenizer trained on the examples. Only response
tokens are learned, the end-of-sequence token among them. Processes that were started together (`policy.distributed`)
train it together, each with all weights. Not covered: weights that are spread over processes.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from mopo_train.console import progress, say
from mopo_train.errors import DataError, FamilyError, ModelError
from mopo_train.policy.distributed import Group, from_leader
from mopo_train.policy.loop import Batch, LoopSettings, Task, optimise
from mopo_train.policy.models import (
    CHAT_TEMPLATE,
    context_length,
    empty_model,
    fingerprint,
    load_model,
    load_tokenizer,
    save_model,
)
from mopo_train.policy.packing import TokenBatch, collate
from mopo_train.policy.reporting import Report
from mopo_train.policy.requirements import check_disk, check_memory, sizes_of, tuning_files, tuning_need
from mopo_train.policy.scoring import token_log_probabilities
from mopo_train.policy.tokens import Encoded, encode_prompts, encode_responses, join, length_buckets
from mopo_train.policy.workspace import check_place
from mopo_train.preferences import read_preferences

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>")
IDENTITY = "reference.sha256"
"""Digest of what a reference was made of; beside its weights once they are whole."""


class Example(NamedTuple):
    """A conversation and the answer to learn."""

    messages: list[dict[str, str]]
    response: str


class ReferenceConfig(NamedTuple):
    """How to train; the fields from ``hidden_size`` on matter only from scratch."""

    steps: int = 400
    batch_size: int = 16
    learning_rate: float | None = None
    """None: 3e-3 from scratch, 2e-5 for a given model."""
    seed: int = 0
    max_length: int = 512
    """Tokens of prompt and response together; the end of a longer response is cut off."""
    checkpoint_seconds: float = 60.0
    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    """Hidden size per head should be 32, 64, 80, 96 or 128: vLLM supports these everywhere."""
    vocab_size: int = 2048
    positions: int = 2048
    """Longest context of the new model."""


def reference_examples(
    sources: Sequence[str | Path], out: Path, *, model: str, objectives: Sequence[str] = ()
) -> list[Example]:
    """Every distinct response of preference data with its prompt, labelled or not.

    Checks that ``out`` is no place of data or model. ``objectives`` are checked as everywhere, and change nothing here.
    """
    check_place(out, sources, model)
    data = read_preferences(sources, objectives=objectives, at_least=0)
    for note in data.notes():
        say(note)
    talks: Any = [data.messages(prompt) for prompt in range(len(data.group))]
    return [Example(talks[prompt], data.response(index)) for index, prompt in enumerate(data.response_prompt.tolist())]


def fit_reference(
    examples: Sequence[Example],
    out: Path,
    config: ReferenceConfig,
    *,
    model: str | None,
    report_to: Sequence[str] = (),
) -> None:
    """Train on ``examples`` and write model and tokenizer to ``out``, which is whole or absent.

    ``model``: a directory or a hub name to begin with; None trains a small model from scratch. Killed and called
    again with the same arguments, it continues; what they made already stays as it is. ``report_to``: integrations that
    the log goes to (`policy.reporting`). Raises DataError, ModelError, RoomError, or
    FamilyError if ``out`` holds anything else.
    """
    identity = _identity(examples, config, model)
    if from_leader(lambda: _is_finished(out, identity)):
        say(f"this reference is already in '{out}'")
        return
    if not examples:
        raise DataError("there is no response to learn from; give data with at least one pair.")
    tokenizer = load_tokenizer(model) if model else train_tokenizer(examples, config.vocab_size)
    limit = min(config.max_length, context_length(model) if model else config.positions)
    rows = _encode(examples, tokenizer, limit)
    work = out.parent / f".{out.name}.partial"
    from_leader(lambda: _check_room(model, tokenizer, config, work, longest=max(row.length for row in rows)))
    torch.manual_seed(config.seed)
    network = load_model(model, frozen=False) if model else new_model(tokenizer, config)
    from_leader(lambda: _open_work(work, identity))
    if not (work / IDENTITY).is_file():
        raise FamilyError(f"'{work}' is not the same directory on all machines; name an --out that they share.")
    learning_rate = config.learning_rate or (2e-5 if model else 3e-3)
    report = Report(tuple(report_to), out.name, out.parent)
    _train(network, rows, config, work, report=report, learning_rate=learning_rate)
    from_leader(lambda: _write(network, tokenizer, work, out))


def _is_finished(out: Path, identity: str) -> bool:
    """Whether ``out`` holds this very reference; raises FamilyError where it holds anything else."""
    if (out / IDENTITY).is_file() and (out / IDENTITY).read_text(encoding="utf-8") == identity:
        return True
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FamilyError(f"'{out}' exists already; delete it or give another directory.")
    return False


def train_tokenizer(examples: Sequence[Example], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the simple chat template: it can encode any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for row in examples for text in (*(part["content"] for part in row.messages), row.response))
    tokenizer.train_from_iterator(texts, trainer)
    build: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerFast = build(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def new_model(tokenizer: PreTrainedTokenizerBase, config: ReferenceConfig) -> LlamaForCausalLM:
    """An untrained Llama; torch's global generator draws its weights. Raises ModelError for sizes that do not fit."""
    if config.hidden_size % (2 * config.heads):
        raise ModelError(
            f"hidden size {config.hidden_size} and {config.heads} heads do not fit: every head takes an equal, even "
            f"share; the next size that fits is {-(-config.hidden_size // (2 * config.heads)) * 2 * config.heads}."
        )
    build: Any = LlamaForCausalLM
    network: LlamaForCausalLM = build(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=-(-config.hidden_size * 8 // 3 // 32) * 32,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.positions,
            # The usual 0.02 suits wide models. In a narrow one attention then begins flat, and it takes several times
            # the steps to find which word of a prompt decides which word of the answer.
            initializer_range=config.hidden_size**-0.5,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            dtype="float32",
        )
    )
    return network


def _check_room(
    model: str | None,
    tokenizer: PreTrainedTokenizerBase,
    config: ReferenceConfig,
    work: Path,
    *,
    longest: int,
) -> None:
    """Raise RoomError where memory or disk will not do for training all weights on rows of ``longest`` tokens."""
    with torch.device("meta"):
        sizes = sizes_of(empty_model(model) if model else new_model(tokenizer, config))
    check_disk(tuning_files(work, sizes))
    need = tuning_need(sizes, tokens=config.batch_size * longest)
    check_memory(need, "training the reference", "take a smaller --batch-size or --max-length, or a smaller model")


def supervised_loss(model: PreTrainedModel, batch: Batch, tokens: float) -> torch.Tensor:
    """Sum of -log p over the response tokens of the batch, in nats, divided by ``tokens``; a scalar.

    ``tokens`` is the same for every batch. Batches hold responses of similar length: divided by its own tokens, a batch
    of short ones would count as much as one of long ones, and the model would learn to be brief.
    """
    return -token_log_probabilities(model, TokenBatch(**batch)).sum() / tokens


def _encode(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, limit: int) -> list[Encoded]:
    prompts = encode_prompts(tokenizer, [row.messages for row in examples], limit)
    responses = encode_responses(tokenizer, [row.response for row in examples])
    rows = [join(prompt, response, limit) for prompt, response in zip(prompts, responses, strict=True)]
    if cut := sum(len(row.response) < len(full) for row, full in zip(rows, responses, strict=True)):
        say(f"{cut} of {len(rows)} responses are longer than {limit} tokens with their prompt: their end is cut off")
    return rows


def _train(
    network: PreTrainedModel,
    rows: list[Encoded],
    config: ReferenceConfig,
    work: Path,
    *,
    report: Report,
    learning_rate: float,
) -> None:
    generator = np.random.default_rng(config.seed)
    lengths = [row.length for row in rows]
    plan: list[list[int]] = []
    while len(plan) < config.steps:
        plan += length_buckets(lengths, config.batch_size, generator)
    tokens = config.batch_size * float(np.mean([len(row.response) for row in rows]))

    def build(batch: _Batch) -> Batch:
        return collate([rows[index] for index in batch.rows])._asdict() | {"weight": batch.weight}

    def loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        given = {name: batch[name] for name in TokenBatch._fields}
        return float(batch["weight"]) * supervised_loss(model, given, tokens)

    task = Task(plan=[_Batch(indices) for indices in plan[: config.steps]], build=build, loss=loss, share=_share)
    settings = LoopSettings(
        learning_rate=learning_rate,
        warmup=max(1, config.steps // 20),
        weight_decay=0.01,
        checkpoint_seconds=config.checkpoint_seconds,
        seed=config.seed,
        report=report,
    )
    with progress(str(report.name), config.steps) as line:
        optimise(network, task, settings, work, line)


class _Batch(NamedTuple):
    """One step, or what one of several processes takes of it."""

    rows: list[int]
    """Indices of the examples."""
    weight: float = 1.0
    """Of its loss; 0: it only stands in, since others wait for its gradients."""


def _share(batch: _Batch, us: Group) -> _Batch:
    """The part of the process ``us``: the mean of all parts' losses is the sum over the examples of ``batch``."""
    mine = batch.rows[us.rank :: us.size]
    return _Batch(mine, float(us.size)) if mine else _Batch(batch.rows[:1], 0.0)


def _identity(examples: Sequence[Example], config: ReferenceConfig, model: str | None) -> str:
    digest = hashlib.sha256(json.dumps([config._asdict(), model and fingerprint(model)]).encode())
    for row in examples:
        digest.update(json.dumps([row.messages, row.response]).encode())
    return digest.hexdigest()


def _open_work(work: Path, identity: str) -> None:
    """Keep the checkpoints in ``work`` if they belong to this very training; otherwise begin afresh."""
    mark = work / IDENTITY
    if work.exists() and not (mark.is_file() and mark.read_text(encoding="utf-8") == identity):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    mark.write_text(identity, encoding="utf-8")


def _write(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, work: Path, out: Path) -> None:
    whole = work / "model"
    shutil.rmtree(whole, ignore_errors=True)
    save_model(network, tokenizer, whole)
    shutil.copyfile(work / IDENTITY, whole / IDENTITY)
    if out.exists():
        out.rmdir()
    whole.rename(out)
    shutil.rmtree(work)
