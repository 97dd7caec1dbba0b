"""What a pair costs in training, beside TRL's DPOTrainer at the same work: pairs per second and peak memory.

    python -m benchmarks.training [--device cpu] [--rounds 5] [--pairs 512] [--out runs/training]

The same random Llama, LoRA of rank 8 on all linear layers, the same made-up tokens (lengths log-normal as in HH-RLHF),
8 pairs a step for one epoch, DPO's sigmoid loss. ``--device cpu``: 4.2 million parameters, 64 tokens a sequence on
average, one thread, seconds of the processor. ``--device cuda``: the size of Llama 3.2 1B (1.24 billion parameters) in
bfloat16, 350 tokens a sequence on average, seconds by the wall.

First, loss and gradient of ours and of TRL are compared on one batch, and the chip's rate at large products of matrices
is measured. Then every variant runs in a process of its own, one after the other, round after round; medians are
printed. ``with pass`` counts the log-probabilities of the reference; ``of the chip`` is the share of the measured rate
that training's least operations take up (`benchmarks.arithmetic`). Exits 1 where a target is missed: 1.8 times TRL's
best variant, 2.7 times its defaults, 0.8 of its memory; on a GPU also 40 % of the chip. Needs the extra ``baselines``.
Not part of the tests.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.arithmetic import MatrixWeights, matrix_rate
from benchmarks.dpo_runs import Cost, Scale, compare_once, made_pairs, train_ours, train_trl, write_model
from mopo_train.console import print_table, say
from mopo_train.policy.models import empty_model

OURS = {"ours": "auto", "ours, float32": "float32", "ours, bfloat16": "bfloat16"}
TRL: dict[str, dict[str, Any]] = {
    "TRL, defaults": {},
    "TRL, bfloat16": {"gradient_checkpointing": False},
    "TRL, float32, pass first": {"gradient_checkpointing": False, "bf16": False, "precompute_ref_log_probs": True},
    "TRL, bfloat16, pass first": {"gradient_checkpointing": False, "precompute_ref_log_probs": True},
}
BEST, DEFAULTS, MEMORY, SHARE = 1.8, 2.7, 0.8, 0.4
"""Targets."""
SCALES = {
    "cpu": Scale(
        device="cpu",
        sizes={
            "vocab_size": 4096,
            "hidden_size": 256,
            "intermediate_size": 704,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        },
        lengths=((18, 6, 64), (40, 8, 140), (40, 8, 140)),
        together=8,
        matrix=1024,
    ),
    "cuda": Scale(
        device="cuda",
        sizes={
            "vocab_size": 128_256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
        },
        lengths=((110, 32, 512), (210, 32, 768), (210, 32, 768)),
        together=8,
        matrix=8192,
    ),
}


def child(name: str, scale: Scale, pairs: int, out: Path) -> Cost:
    """Run a variant in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.training",
        "--device",
        scale.device,
        "--pairs",
        str(pairs),
        "--variant",
        name,
        "--out",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


@click.command()
@click.option("--device", default="cpu", show_default=True, type=click.Choice(list(SCALES)))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--pairs", default=512, show_default=True, type=click.IntRange(min=8))
@click.option("--out", default="runs/training", show_default=True, type=click.Path(path_type=Path))
@click.option("--only", multiple=True, help="Variants; several times.  [default: all]")
@click.option("--variant", hidden=True)
def main(device: str, rounds: int, pairs: int, out: Path, only: tuple[str, ...], variant: str | None) -> None:
    """Print ratios; exit 1 where a target is missed."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("--device cuda: torch finds no GPU that it can use.")
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of the variants' processes, too
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.environ["TQDM_DISABLE"] = "1"
    scale, model = SCALES[device], out / f"model-{device}"
    if not model.is_dir():
        write_model(scale, model)
    with tempfile.TemporaryDirectory() as work:
        if variant is not None:
            click.echo(json.dumps(run(variant, scale, pairs, model, Path(work))))
            return
        compare_once(scale, model, Path(work))
    rate = matrix_rate(scale.matrix, device, scale.clock)
    click.echo(f"products of {scale.matrix:,} x {scale.matrix:,} matrices: {rate / 1e12:.3g} TFLOP/s")
    names = [name for name in (*OURS, *TRL) if not only or name in only]
    medians = measured(names, scale, rounds, pairs, out)
    operations = MatrixWeights(empty_model(str(model))).operations(made_pairs(scale, pairs))
    shares = {name: operations / cost.training / rate for name, cost in medians.items()}
    rows = [
        [
            name,
            f"{pairs / cost.training:.1f}",
            f"{pairs / (cost.training + cost.reference):.1f}",
            f"{cost.peak / 2**20:.0f}",
            f"{shares[name]:.0%}",
        ]
        for name, cost in medians.items()
    ]
    print_table(["medians", "pairs/s", "with pass", "peak MiB", "of the chip"], rows)
    if not only:
        missed = report(medians)
        sys.exit(int(missed or (device == "cuda" and shares["ours"] < SHARE)))


def run(variant: str, scale: Scale, pairs: int, model: Path, work: Path) -> Cost:
    """What one epoch of ``variant`` takes."""
    data = made_pairs(scale, pairs)
    if variant in OURS:
        return train_ours(scale, data, model, work, OURS[variant])
    return train_trl(scale, data, model, work, TRL[variant])


def measured(names: list[str], scale: Scale, rounds: int, pairs: int, out: Path) -> dict[str, Cost]:
    """Medians over rounds of every variant."""
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for round_ in range(rounds):
        for name in names:
            costs[name].append(child(name, scale, pairs, out))
            say(f"round {round_ + 1} of {rounds}: {name} {costs[name][-1].training:.1f} s")
    medians = {}
    for name, each in costs.items():
        middle: list[Any] = [float(np.median(part)) for part in zip(*each, strict=True)]
        medians[name] = Cost(*middle)
    return medians


def report(medians: dict[str, Cost]) -> bool:
    """Print the ratios of ours to TRL's and return whether a target is missed."""
    theirs = {name: medians[name] for name in TRL}
    first = {name: cost for name, cost in theirs.items() if "pass first" in name}
    defaults = medians["TRL, defaults"]
    missed = False
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
            missed = quickest < BEST or with_pass < BEST or default < DEFAULTS or memory > MEMORY
    return missed


if __name__ == "__main__":
    main()
