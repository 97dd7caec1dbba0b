"""What a pair costs in training, beside TRL's DPOTrainer at the same work: pairs per CPU second and peak memory.

    python -m benchmarks.training [--rounds 5] [--pairs 512] [--out runs/training]

The same random Llama of 4.2 million parameters, LoRA of rank 8 on all linear layers, the same made-up tokens (64 a
sequence on average, log-normal as in HH-RLHF), 8 pairs a step for one epoch, one thread, DPO's sigmoid loss. First,
loss and gradient of ours and of TRL are compared on one batch. Then every variant runs in a process of its own, one
after the other, round after round; medians are printed. ``with pass`` counts the log-probabilities of the reference.
Exits 1 where a target is missed: 1.8 times TRL's best variant, 2.7 times its defaults, 0.8 of its memory. Needs the
extra ``baselines``. Not part of the tests.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mopo_train.console import ProgressLine, print_table, say
from mopo_train.policy.adapter import new_adapter
from mopo_train.policy.batches import make_units, plan_steps
from mopo_train.policy.corpus import log_probabilities
from mopo_train.policy.loop import LoopSettings, Task, optimise
from mopo_train.policy.models import load_model
from mopo_train.policy.packing import TokenBatch, collate
from mopo_train.policy.scoring import response_log_probabilities, traits
from mopo_train.policy.tokens import Encoded
from mopo_train.winrates import IntArray

VOCABULARY, PAD, BEGIN, END = 4096, 0, 1, 2
TOGETHER, BETA, RATE = 8, 0.1, 1e-4
OURS = {"ours": "auto", "ours, float32": "float32", "ours, bfloat16": "bfloat16"}
TRL: dict[str, dict[str, Any]] = {
    "TRL, defaults": {},
    "TRL, bfloat16": {"gradient_checkpointing": False},
    "TRL, float32, pass first": {"gradient_checkpointing": False, "bf16": False, "precompute_ref_log_probs": True},
    "TRL, bfloat16, pass first": {"gradient_checkpointing": False, "precompute_ref_log_probs": True},
}
BEST, DEFAULTS, MEMORY = 1.8, 2.7, 0.8
"""Targets."""


class Cost(NamedTuple):
    """What one run took."""

    reference: float
    """CPU seconds of the reference's log-probabilities, where they are computed before training."""
    training: float
    peak: int
    """Bytes resident in the process."""


def made_pairs(number: int, seed: int = 0) -> list[tuple[IntArray, IntArray, IntArray]]:
    """Prompt, chosen and rejected tokens of each pair."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        sizes = [int(np.clip(generator.lognormal(np.log(mean), 0.5), least, most)) for mean, least, most in LENGTHS]
        prompt, first, second = (generator.integers(6, VOCABULARY, size) for size in sizes)
        found.append((prompt, np.append(first, END), np.append(second, END)))
    return found


LENGTHS = ((18, 6, 64), (40, 8, 140), (40, 8, 140))
"""Median, least and most tokens of prompt, chosen and rejected."""


def write_model(directory: Path) -> None:
    """A random Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    build: Any = LlamaForCausalLM
    sizes: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
    ends: dict[str, Any] = {"pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END}
    build(LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **sizes, **ends)).save_pretrained(directory)


def encoded(pairs: Sequence[tuple[IntArray, IntArray, IntArray]]) -> list[Encoded]:
    """Chosen and rejected of every pair, one after the other."""
    return [Encoded(pair[0].astype(np.int32), pair[side].astype(np.int32)) for pair in pairs for side in (1, 2)]


def dpo_loss(log_ratio: Tensor) -> Tensor:
    """ArXiv 2305.18290, Eq. 7, of log-ratios (2 M,): chosen and rejected of each pair, one after the other."""
    ratio = log_ratio.view(-1, 2)
    return -logsigmoid(BETA * (ratio[:, 0] - ratio[:, 1])).mean()


def train_ours(pairs: Sequence[tuple[IntArray, IntArray, IntArray]], model: Path, work: Path, precision: Any) -> Cost:
    """One epoch of DPO by `optimise` on the batches that a policy's training would see."""
    rows = encoded(pairs)
    base = load_model(str(model), precision=precision)
    began = time.process_time()
    reference = torch.from_numpy(log_probabilities(base, rows)).float()
    passed = time.process_time()
    adapter: Any = new_adapter(base, rank=8, seed=0, start=None)
    worth = traits(adapter).worth
    compared = np.arange(len(rows)).reshape(-1, 2)
    lengths = np.array([row.length for row in rows])
    units = make_units(compared, np.arange(len(rows)) // 2, 2 * TOGETHER)

    def build(step: Any) -> dict[str, Any]:
        batch = collate([rows[index] for index in step.responses], worth)
        return batch._asdict() | {"chosen": torch.from_numpy(step.responses)}

    def loss(network: Any, batch: dict[str, Any]) -> Tensor:
        tokens = TokenBatch(*(batch[name] for name in TokenBatch._fields))
        return dpo_loss(response_log_probabilities(network, tokens) - reference[batch["chosen"]])

    plan = plan_steps(units, lengths, 2 * TOGETHER, len(pairs) // TOGETHER, seed=0)
    line = ProgressLine("", len(plan), 0)
    optimise(adapter, Task(plan, build, loss), LoopSettings(RATE, precision=precision), work, line)
    return Cost(passed - began, time.process_time() - passed, peak())


def train_trl(
    pairs: Sequence[tuple[IntArray, IntArray, IntArray]], model: Path, work: Path, options: dict[str, Any]
) -> Cost:
    """The same epoch by TRL."""
    began = time.process_time()
    trainer = trl_trainer(pairs, model, work, options)
    made = time.process_time()
    trainer.train()
    return Cost(made - began, time.process_time() - made, peak())


def trl_trainer(
    pairs: Sequence[tuple[IntArray, IntArray, IntArray]], model: Path, work: Path, options: dict[str, Any]
) -> Any:
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

    words = Tokenizer(models.WordLevel({f"t{index}": index for index in range(VOCABULARY)}, unk_token="t3"))
    build: Any = PreTrainedTokenizerFast
    tokenizer = build(tokenizer_object=words, pad_token="t0", bos_token="t1", eos_token="t2")
    columns = {
        name: [pair[at] for pair in pairs] for at, name in enumerate(("prompt_ids", "chosen_ids", "rejected_ids"))
    }
    torch.manual_seed(0)
    adapter = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    usual: dict[str, Any] = {
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "num_train_epochs": 1,
    }
    sizes: dict[str, Any] = {
        "per_device_train_batch_size": TOGETHER,
        "learning_rate": RATE,
        "beta": BETA,
        "dataloader_pin_memory": False,
    }
    arguments = DPOConfig(output_dir=str(work), **usual, **sizes, **options)
    data = Dataset.from_dict(columns)
    return OnTokens(
        model=get_peft_model(network, adapter), args=arguments, train_dataset=data, processing_class=tokenizer
    )


def peak() -> int:
    """Bytes of this program that were resident at most; ``ru_maxrss`` keeps what the process that began it had."""
    (told,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(told.split()[1]) * 1024


def compare_once(model: Path, work: Path) -> None:
    """Loss and gradient of ours and of TRL on one batch, from an adapter that is not the reference."""
    pairs = made_pairs(TOGETHER)
    options = {"gradient_checkpointing": False, "bf16": False}
    trainer = trl_trainer(pairs, model, work, options)
    network = trainer.model
    generator = torch.Generator().manual_seed(1)
    for weight in (weight for weight in network.parameters() if weight.requires_grad):
        weight.data += 0.02 * torch.randn(weight.shape, generator=generator)
    batch = next(iter(trainer.get_train_dataloader()))
    order = [batch["input_ids"][index].tolist() for index in range(TOGETHER)]
    theirs = trainer.compute_loss(network, batch)
    theirs.backward()
    slopes = {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}
    network.zero_grad()
    placed = [next(p for p in pairs if row[: len(p[0]) + len(p[1])] == [*p[0], *p[1]]) for row in order]
    rows = encoded(placed)
    with network.disable_adapter():
        reference = torch.from_numpy(log_probabilities(network, rows)).float()
    tokens = collate(rows, traits(network).worth)
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


def child(name: str, pairs: int, model: Path) -> Cost:
    """Run a variant in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.training",
        "--pairs",
        str(pairs),
        "--variant",
        name,
        "--out",
        str(model),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--pairs", default=512, show_default=True, type=click.IntRange(min=TOGETHER))
@click.option("--out", default="runs/training", show_default=True, type=click.Path(path_type=Path))
@click.option("--only", multiple=True, help="Variants; several times.  [default: all]")
@click.option("--variant", hidden=True)
def main(rounds: int, pairs: int, out: Path, only: tuple[str, ...], variant: str | None) -> None:
    """Print ratios; exit 1 where a target is missed."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    model = out / "model"
    if not model.is_dir():
        write_model(model)
    work = Path(tempfile.mkdtemp())
    os.environ["TQDM_DISABLE"] = "1"
    try:
        if variant is not None:
            data = made_pairs(pairs)
            ours = OURS.get(variant)
            cost = train_ours(data, model, work, ours) if ours else train_trl(data, model, work, TRL[variant])
            click.echo(json.dumps(cost))
            return
        compare_once(model, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    names = [name for name in (*OURS, *TRL) if not only or name in only]
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for round_ in range(rounds):
        for name in names:
            costs[name].append(child(name, pairs, out))
            say(f"round {round_ + 1} of {rounds}: {name} {costs[name][-1].training:.1f} s")
    medians = {}
    for name, each in costs.items():
        middle: list[Any] = [float(np.median(part)) for part in zip(*each, strict=True)]
        medians[name] = Cost(*middle)
    told = [
        [
            name,
            f"{pairs / cost.training:.1f}",
            f"{pairs / (cost.training + cost.reference):.1f}",
            f"{cost.peak / 1024**2:.0f}",
        ]
        for name, cost in medians.items()
    ]
    print_table(["medians", "pairs/CPU s", "with pass", "peak MiB"], told)
    if not only:
        sys.exit(report(medians))


def report(medians: dict[str, Cost]) -> int:
    """Print the ratios of ours to TRL's and return the exit status."""
    theirs = {name: medians[name] for name in TRL}
    first = {name: cost for name, cost in theirs.items() if "pass first" in name}
    defaults = medians["TRL, defaults"]
    missed = 0
    for name in OURS:
        cost = medians[name]
        whole = cost.training + cost.reference
        quickest = min(each.training for each in first.values()) / cost.training
        with_pass = min(each.training + each.reference for each in theirs.values()) / whole
        default = defaults.training / whole
        memory = cost.peak / min(each.peak for each in first.values())
        click.echo(
            f"{name}: {quickest:.2f}x TRL's best in training, {with_pass:.2f}x with the pass, "
            f"{default:.2f}x its defaults, {memory:.2f} of its least memory"
        )
        if name == "ours":
            missed = int(quickest < BEST or with_pass < BEST or default < DEFAULTS or memory > MEMORY)
    return missed


if __name__ == "__main__":
    main()
