"""DPO on the same made-up pairs by this package's loop and by TRL's DPOTrainer: what `benchmarks.training` compares.

Seconds and memory are of the processor, or of the GPU where a `Scale` asks for it.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mopo_train.console import ProgressLine
from mopo_train.policy.adapter import new_adapter
from mopo_train.policy.batches import make_units, plan_steps
from mopo_train.policy.corpus import log_probabilities
from mopo_train.policy.loop import LoopSettings, Task, optimise
from mopo_train.policy.models import load_model
from mopo_train.policy.packing import TokenBatch, collate
from mopo_train.policy.scoring import response_log_probabilities, to_device, traits
from mopo_train.policy.tokens import Encoded
from mopo_train.winrates import IntArray

PAD, BEGIN, END = 0, 1, 2
BETA, RATE = 0.1, 1e-4


class Scale(NamedTuple):
    """How large everything is."""

    device: str
    """``cpu`` or ``cuda``."""
    sizes: dict[str, Any]
    """Of the Llama, as its configuration names them."""
    lengths: tuple[tuple[int, int, int], ...]
    """Median, least and most tokens of prompt, chosen and rejected."""
    together: int
    """Pairs in a step."""
    matrix: int
    """Rows of the square matrices whose product is timed."""

    @property
    def vocabulary(self) -> int:
        """Tokens."""
        return int(self.sizes["vocab_size"])

    def clock(self) -> float:
        """Seconds: of the processor's time, or by the wall where a GPU works, when it has done what it was told."""
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def peak(self) -> int:
        """Bytes that this process held at most, of memory or of the GPU's."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else resident()


class Pair(NamedTuple):
    """Tokens of one comparison."""

    prompt: IntArray
    chosen: IntArray
    rejected: IntArray


class Cost(NamedTuple):
    """What one run took."""

    reference: float
    """Seconds of the reference's log-probabilities, where they are computed before training."""
    training: float
    peak: int
    """Bytes."""


def made_pairs(scale: Scale, number: int, seed: int = 0) -> list[Pair]:
    """So many pairs of random tokens, lengths log-normal as in HH-RLHF."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        sizes = [
            int(np.clip(generator.lognormal(np.log(mean), 0.5), least, most)) for mean, least, most in scale.lengths
        ]
        prompt, first, second = (generator.integers(6, scale.vocabulary, size) for size in sizes)
        found.append(Pair(prompt, np.append(first, END), np.append(second, END)))
    return found


def write_model(scale: Scale, directory: Path) -> None:
    """A random Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    build: Any = LlamaForCausalLM
    ends: dict[str, Any] = {"pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END}
    kind = torch.bfloat16 if scale.device == "cuda" else torch.float32
    build(LlamaConfig(tie_word_embeddings=True, **scale.sizes, **ends)).to(kind).save_pretrained(directory)


def encoded(pairs: Sequence[Pair]) -> list[Encoded]:
    """Chosen and rejected of every pair, one after the other."""
    return [
        Encoded(pair.prompt.astype(np.int32), answer.astype(np.int32))
        for pair in pairs
        for answer in (pair.chosen, pair.rejected)
    ]


def dpo_loss(log_ratio: Tensor) -> Tensor:
    """ArXiv 2305.18290, Eq. 7, of log-ratios (2 M,): chosen and rejected of each pair, one after the other."""
    ratio = log_ratio.view(-1, 2)
    return -logsigmoid(BETA * (ratio[:, 0] - ratio[:, 1])).mean()


def train_ours(scale: Scale, pairs: Sequence[Pair], model: Path, work: Path, precision: Any) -> Cost:
    """One epoch of DPO by `optimise` on the batches that a policy's training would see."""
    rows = encoded(pairs)
    base: Any = load_model(str(model), precision=precision)
    base.to(scale.device)
    began = scale.clock()
    reference = torch.from_numpy(log_probabilities(base, rows)).float().to(scale.device)
    passed = scale.clock()
    adapter: Any = new_adapter(base, rank=8, seed=0, start=None)
    worth = traits(adapter).worth
    compared = np.arange(len(rows)).reshape(-1, 2)
    lengths = np.array([row.length for row in rows])
    units = make_units(compared, np.arange(len(rows)) // 2, 2 * scale.together)

    def build(step: Any) -> dict[str, Any]:
        batch = collate([rows[index] for index in step.responses], worth)
        return batch._asdict() | {"chosen": torch.from_numpy(step.responses)}

    def loss(network: Any, batch: dict[str, Any]) -> Tensor:
        tokens = TokenBatch(*(batch[name] for name in TokenBatch._fields))
        return dpo_loss(response_log_probabilities(network, tokens) - reference[batch["chosen"]])

    plan = plan_steps(units, lengths, 2 * scale.together, len(pairs) // scale.together, seed=0)
    line = ProgressLine("", len(plan), 0)
    optimise(adapter, Task(plan, build, loss), LoopSettings(RATE, precision=precision), work, line)
    return Cost(passed - began, scale.clock() - passed, scale.peak())


def train_trl(scale: Scale, pairs: Sequence[Pair], model: Path, work: Path, options: dict[str, Any]) -> Cost:
    """The same epoch by TRL."""
    began = scale.clock()
    trainer = trl_trainer(scale, pairs, model, work, options)
    made = scale.clock()
    trainer.train()
    return Cost(made - began, scale.clock() - made, scale.peak())


def trl_trainer(scale: Scale, pairs: Sequence[Pair], model: Path, work: Path, options: dict[str, Any]) -> Any:
    """TRL's trainer on tokens; making it computes the reference's log-probabilities where ``options`` say so."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from mopo_train.baselines.trl_extra import without_warnings

    with without_warnings():
        from trl.trainer.dpo_config import DPOConfig
        from trl.trainer.dpo_trainer import DPOTrainer

    class OnTokens(DPOTrainer):  # type: ignore[misc, unused-ignore]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    words = Tokenizer(models.WordLevel({f"t{index}": index for index in range(scale.vocabulary)}, unk_token="t3"))
    build: Any = PreTrainedTokenizerFast
    tokenizer = build(tokenizer_object=words, pad_token="t0", bos_token="t1", eos_token="t2")
    columns = {
        name: [pair[at] for pair in pairs] for at, name in enumerate(("prompt_ids", "chosen_ids", "rejected_ids"))
    }
    torch.manual_seed(0)
    adapter = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    # On a GPU the frozen base lies in bfloat16, as ours does.
    half = scale.device == "cuda" and options.get("bf16", True)
    network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16 if half else torch.float32)
    usual: dict[str, Any] = {
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": scale.device == "cpu",
        "save_strategy": "no",
        "num_train_epochs": 1,
    }
    sizes: dict[str, Any] = {
        "per_device_train_batch_size": scale.together,
        "learning_rate": RATE,
        "beta": BETA,
        "dataloader_pin_memory": False,
    }
    arguments = DPOConfig(output_dir=str(work), **usual, **sizes, **options)
    data = Dataset.from_dict(columns)
    return OnTokens(
        model=get_peft_model(network, adapter), args=arguments, train_dataset=data, processing_class=tokenizer
    )


def resident() -> int:
    """Bytes of this program that were resident at most; ``ru_maxrss`` keeps what the process that began it had."""
    (told,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(told.split()[1]) * 1024


def compare_once(scale: Scale, model: Path, work: Path) -> None:
    """Loss and gradient of ours and of TRL on one batch, from an adapter that is not the reference."""
    pairs = made_pairs(scale, scale.together)
    options = {"gradient_checkpointing": False, "bf16": False}
    trainer = trl_trainer(scale, pairs, model, work, options)
    network = trainer.model
    generator = torch.Generator().manual_seed(1)
    for weight in (weight for weight in network.parameters() if weight.requires_grad):
        weight.data += 0.02 * torch.randn(weight.shape, generator=generator).to(weight)
    batch = next(iter(trainer.get_train_dataloader()))
    order = [batch["input_ids"][index].tolist() for index in range(scale.together)]
    theirs = trainer.compute_loss(network, batch)
    theirs.backward()
    slopes = {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}
    network.zero_grad()
    placed = [next(p for p in pairs if row[: len(p[0]) + len(p[1])] == [*p[0], *p[1]]) for row in order]
    rows = encoded(placed)
    with network.disable_adapter():
        reference = torch.from_numpy(log_probabilities(network, rows)).float().to(scale.device)
    tokens = to_device(collate(rows, traits(network).worth), torch.device(scale.device))
    assert tokens.positions is not None, "prompts are not shared"
    ours: Any = dpo_loss(response_log_probabilities(network, tokens) - reference)
    ours.backward()
    far = max(
        float((weight.grad - slopes[name]).norm() / slopes[name].norm())
        for name, weight in network.named_parameters()
        if name in slopes
    )
    click.echo(
        f"one batch: loss {float(ours):.7f} (ours) {float(theirs):.7f} (TRL); a gradient is off by {far:.1e} at most"
    )
    assert abs(float(ours) - float(theirs)) < 1e-5
    assert far < 1e-3
