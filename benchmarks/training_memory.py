"""How much memory and time ``mopo-train run`` takes before its first step, from ten thousand pairs to a million.

    python -m benchmarks.training_memory [--pairs 10000 --pairs 1000000] [--out runs/training-memory]

Made-up pairs as in `benchmarks.scale`, with shorter texts, a random Llama of two layers, a word to a token, four
policies of a few steps: nearly all of a run is what comes before training. Each number of pairs is trained on with an
empty cache, then again with a full one. Prints wall-clock and CPU seconds, the peak resident memory, and the peak of
the part that is private to the process (the rest is pages of memory-mapped files, which the system takes back at need).
Exits 1 where a hundredfold number of pairs needs more than ``MOST`` times the private memory. Needs 5 GB of disk for a
million pairs. Not part of the tests.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch

from benchmarks.scale import Words, write_pairs
from mopo_train.console import print_table, say

SIZE = Words(12, 40)
EACH = 2.5
"""Pairs to a prompt."""
MOST = 2.0
STEPS = ["--steps", "4", "--policies", "4", "--kl-prompts", "4", "--batch-size", "32", "--max-length", "64"]


class Used(NamedTuple):
    """What a command took."""

    wall: float
    cpu: float
    peak: int
    """Bytes resident."""
    private: int
    """Bytes of them that belong to no file."""


@click.command()
@click.option("--pairs", "counts", multiple=True, type=click.IntRange(min=1000), default=(10_000, 100_000, 1_000_000))
@click.option("--out", default="runs/training-memory", show_default=True, type=click.Path(path_type=Path))
def main(counts: tuple[int, ...], out: Path) -> None:
    """Train on each number of pairs; exit 1 where memory grows too much."""
    out.mkdir(parents=True, exist_ok=True)
    rows, private = [], {}
    for count in sorted(counts):
        path, cache = out / f"pairs-{count}.jsonl", out / "cache"
        if not path.exists():
            write_pairs(path, count, int(count / EACH), np.random.default_rng(0), SIZE)
        if not (out / "model").is_dir():
            write_model(out / "model", path)
        shutil.rmtree(cache, ignore_errors=True)
        for name in ("first", "again"):
            say(f"{count} pairs, {name}")
            used = trained(path, out, cache)
            private[count, name] = used.private
            memory = [f"{part / 2**20:.0f}" for part in (used.peak, used.private)]
            rows.append([f"{count:,}", name, f"{used.wall:.0f}", f"{used.cpu:.0f}", *memory])
    shutil.rmtree(cache)
    print_table(["pairs", "time", "wall s", "CPU s", "peak MiB", "private MiB"], rows)
    ratios = {name: private[max(counts), name] / private[min(counts), name] for name in ("first", "again")}
    for name, ratio in ratios.items():
        click.echo(f"private memory of {max(counts):,} pairs against {min(counts):,}, {name}: {ratio:.2f}")
    sys.exit(int(max(ratios.values()) > MOST))


def write_model(directory: Path, path: Path) -> None:
    """A random Llama, and a tokenizer for the words of the first rows in ``path``."""
    from itertools import islice

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words: Any = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    with path.open(encoding="utf-8") as file:
        words.train_from_iterator(
            islice(file, 5000), trainers.WordLevelTrainer(special_tokens=special, vocab_size=8192)
        )
    build: Any = PreTrainedTokenizerFast
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    tokenizer = build(tokenizer_object=words, **names)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    network: Any = LlamaForCausalLM
    network(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)).save_pretrained(directory)


def trained(path: Path, out: Path, cache: Path) -> Used:
    """What training a family on ``path`` takes; ends the program if it fails."""
    command = [sys.executable, "-m", "mopo_train", "run", path, "--model", out / "model", "--out", out / "family"]
    environment = os.environ | {"HF_DATASETS_CACHE": str(cache)}
    return watched([*command, "--primary", "helpfulness", *STEPS, "--force"], environment)


def watched(command: Sequence[object], environment: dict[str, str]) -> Used:
    """Run ``command`` to its end, looking at its memory all the time."""
    before, began, peak, private = os.times(), time.monotonic(), 0, 0
    with subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:  # it has just ended
                break
            told = {name: value for name, _, value in (line.partition(":") for line in lines)}
            if "VmHWM" in told:
                peak = max(peak, int(told["VmHWM"].split()[0]) * 1024)
                private = max(private, int(told["RssAnon"].split()[0]) * 1024)
            time.sleep(0.02)
    if process.returncode:
        sys.exit(process.returncode)
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return Used(time.monotonic() - began, cpu, peak, private)


if __name__ == "__main__":
    main()
