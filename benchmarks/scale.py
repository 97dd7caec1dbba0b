"""How long a million pairs take to check and to plan, and in how much memory.

    python -m benchmarks.scale [--pairs 1000000] [--prompts 400000] [--out runs/scale]

Writes made-up comparisons, some 2 GB of text for a million: words drawn from a vocabulary, four responses to a prompt,
noisy labels on two objectives that conflict, and known shares of repeated rows and nearly repeated prompts. Then runs
``mopo-train check`` with an empty cache and again, and ``mopo-train plan``; prints wall-clock and CPU seconds and the
peak resident memory of each, which counts pages of memory-mapped files too. Exits 1 where a target is missed: 300 s,
60 s and 2 GB. Not part of the tests.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import click
import numpy as np

from mopo_train.console import print_table, progress, say

BIN = Path(sys.executable).parent
WORDS = 20_000
RESPONSES = 4
"""To a prompt."""
CHECK_SECONDS, PLAN_SECONDS, PEAK_BYTES = 300, 60, 2 * 1024**3
REPEATED = 0.01
"""Share of the rows that repeat the one before."""
NEAR = 0.01
"""Share of the prompts that are the one before with another word."""
CHUNK = 2000


class Words(NamedTuple):
    """How long texts are, in words, give or take a fifth."""

    prompt: int = 40
    response: int = 130


USUAL = Words()


class Used(NamedTuple):
    """What a command took."""

    wall: float
    cpu: float
    peak: int
    """Bytes."""
    output: str


@click.command()
@click.option("--pairs", default=1_000_000, show_default=True, type=click.IntRange(min=100))
@click.option("--prompts", default=400_000, show_default=True, type=click.IntRange(min=10))
@click.option("--out", default="runs/scale", show_default=True, type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True)
def main(pairs: int, prompts: int, out: Path, seed: int) -> None:
    """Make the data, run the commands and print what they took; exit 1 where a target is missed."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"pairs-{pairs}-{prompts}-{seed}.jsonl"
    if not path.exists():
        write_pairs(path, pairs, prompts, np.random.default_rng(seed))
    cache = out / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    environment = os.environ | {"HF_DATASETS_CACHE": str(cache)}
    check, plan = ("mopo-train", "check", path, "--json"), ("mopo-train", "plan", path, "--json")
    steps = [("check, first time", check, CHECK_SECONDS), ("check, again", check, CHECK_SECONDS)]
    rows, missed = [], []
    for name, command, seconds in [*steps, ("plan", plan, PLAN_SECONDS)]:
        say(name)
        used = measured(command, environment)
        peak = used.peak / 1024**3
        rows.append([name, f"{used.wall:.0f} s", f"{used.cpu:.0f} s", f"{peak:.2f} GiB"])
        if used.wall > seconds or used.peak > PEAK_BYTES:
            missed.append(f"{name}: {used.wall:.0f} s of {seconds}, {peak:.2f} GiB of {PEAK_BYTES / 1024**3:.0f}")
        if command is check:
            found = json.loads(used.output)
    size = path.stat().st_size / 1e9
    print_table(
        ["", "wall clock", "CPU", "peak memory"], rows, title=f"{pairs} pairs, {prompts} prompts, {size:.2f} GB"
    )
    click.echo("problems found: " + ", ".join(f"{p['kind']} {p['rows']}" for p in found["problems"]))
    for line in missed:
        click.echo(f"MISSED: {line}")
    sys.exit(1 if missed else 0)


def measured(command: Sequence[object], environment: dict[str, str]) -> Used:
    """Run a command of the suite to its end; ends the program if it fails."""
    before, began = os.times(), time.monotonic()
    with subprocess.Popen(
        [BIN / str(command[0]), *map(str, command[1:])], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return Used(time.monotonic() - began, cpu, usage.ru_maxrss * 1024, output)


def write_pairs(path: Path, pairs: int, prompts: int, rng: np.random.Generator, size: Words = USUAL) -> None:
    """JSON Lines in our own format; a prompt's rows lie together."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, rng.integers(2, 11))) for _ in range(WORDS)]
    each = np.bincount(rng.integers(0, prompts, pairs), minlength=prompts)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file, progress("writing pairs", prompts) as line:
        asked = ""
        for begin in range(0, prompts, CHUNK):
            for count in each[begin : begin + CHUNK]:
                asked = near(asked, words, rng) if asked and rng.random() < NEAR else text(words, size.prompt, rng)
                write_prompt(file, asked, int(count), words, rng, size.response)
            line.advance(min(CHUNK, prompts - begin))
    partial.replace(path)


def write_prompt(file: IO[str], asked: str, count: int, words: list[str], rng: np.random.Generator, size: int) -> None:
    """``count`` rows, their responses of ``size`` words."""
    responses = [text(words, size, rng) for _ in range(RESPONSES)]
    quality = rng.standard_normal(RESPONSES)
    row = ""
    for _ in range(count):
        if not row or rng.random() >= REPEATED:
            a, b = rng.choice(RESPONSES, 2, replace=False)
            margin = quality[a] - quality[b]
            labels = {"helpfulness": margin + rng.standard_normal() > 0, "safety": margin + rng.standard_normal() < 0}
            preferences = {name: float(label) for name, label in labels.items()}
            record = {
                "prompt": asked,
                "response_a": responses[a],
                "response_b": responses[b],
                "preferences": preferences,
            }
            row = json.dumps(record) + "\n"
        file.write(row)


def text(words: list[str], count: int, rng: np.random.Generator) -> str:
    """So many words, give or take a fifth."""
    return " ".join([words[i] for i in rng.integers(0, len(words), rng.integers(count * 4 // 5, count * 6 // 5))])


def near(asked: str, words: list[str], rng: np.random.Generator) -> str:
    """``asked`` with another last word."""
    return f"{asked.rpartition(' ')[0]} {words[rng.integers(len(words))]}"


if __name__ == "__main__":
    main()
