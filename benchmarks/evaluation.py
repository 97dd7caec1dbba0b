"""Answers per second of ``mopo-eval run``'s batches against a bare client, on one engine.

    python -m benchmarks.evaluation FAMILY PROMPTS [--engine vllm] [--answers 1000] [--concurrency 32] [--repeats 3]

The bare client is a loop over aiohttp that posts the same requests (policies, prompts, seeds, sampling) with as many in
flight, reads the text and forgets it: no retries, nothing kept. It stands for vLLM's ``bench serve``, which cannot send
a family's adapters and prompts. Ours is ``collect`` with its spool: every answer durable. Both ask the engine in turn,
after a round that fills its caches; prints the median of the ratios of neighbours, with all of them, and CPU seconds of
the client per thousand answers, which move less with the machine's load. The ratio means nothing on a machine that does
other work. Exits 1 where the median is below 0.95. Not part of the tests.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import aiohttp
import click

from mopo_eval.answers import Question, Sampling, questions
from mopo_eval.collect import Missing, collect
from mopo_eval.engine import open_engine
from mopo_eval.engine_choice import EngineChoice, chosen_engines
from mopo_eval.prompts import read_prompts
from mopo_train.console import print_table
from mopo_train.family import PolicyFamily, read_family

TARGET = 0.95


class Pace(NamedTuple):
    """One round of one client."""

    answers_per_second: float
    cpu_per_thousand: float
    """Seconds of the processor per thousand answers, of the client alone."""


def ours(  # noqa: PLR0913 - what is asked, where
    root: Path, family: PolicyFamily, url: str, asked: list[Question], sampling: Sampling, concurrency: int
) -> Pace:
    """As ``mopo-eval run`` asks."""
    with tempfile.TemporaryDirectory() as place:
        began, busy = time.perf_counter(), time.process_time()
        with chosen_engines(root, family, EngineChoice(url, concurrency), Path(place) / "engine.log") as engines:
            collect(engines, Missing(iter(asked), len(asked)), sampling, Path(place) / "run" / "answers.jsonl")
        return _pace(began, busy, len(asked))


def bare(url: str, asked: list[Question], sampling: Sampling, concurrency: int) -> Pace:
    """The least that a client can do."""

    async def worker(session: aiohttp.ClientSession, waiting: Iterator[Question]) -> None:
        for question in waiting:
            body = {"model": question.key.policy, "messages": question.messages, "seed": question.seed}
            body |= {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens}
            async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                json.loads(await response.read())["choices"][0]["message"]["content"]

    async def run() -> None:
        waiting, limit = iter(asked), aiohttp.TCPConnector(limit=concurrency)
        async with aiohttp.ClientSession(connector=limit, timeout=aiohttp.ClientTimeout(600)) as session:
            await asyncio.gather(*(worker(session, waiting) for _ in range(concurrency)))

    began, busy = time.perf_counter(), time.process_time()
    asyncio.run(run())
    return _pace(began, busy, len(asked))


def _pace(began: float, busy: float, answers: int) -> Pace:
    wall, cpu = time.perf_counter() - began, time.process_time() - busy
    return Pace(answers / wall, 1000 * cpu / answers)


@click.command()
@click.argument("root", metavar="FAMILY", type=click.Path(path_type=Path))
@click.argument("prompts", type=click.Path(path_type=Path))
@click.option("--engine", default="auto", show_default=True)
@click.option("--answers", type=click.IntRange(min=64), default=1000, show_default=True)
@click.option("--concurrency", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--max-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True)
def main(  # noqa: PLR0913 - one parameter per option
    root: Path, prompts: Path, engine: str, answers: int, concurrency: int, max_tokens: int, repeats: int
) -> None:
    """Measure both clients on FAMILY's engine with PROMPTS."""
    family, sampling = read_family(root), Sampling(max_tokens=max_tokens)
    policies = [policy.id for policy in family.policies]
    every = list(questions(policies, read_prompts(prompts), sampling))
    asked = list(islice(every[:: max(1, len(every) // answers)], answers))
    rows, ratios = [], []
    with open_engine(engine, root, family) as running:
        bare(running.url, asked, sampling, concurrency)  # fills the engine's caches
        for turn in range(repeats):
            peer = bare(running.url, asked, sampling, concurrency)
            own = ours(root, family, running.url, asked, sampling, concurrency)
            ratios.append(own.answers_per_second / peer.answers_per_second)
            for name, pace in (("bare aiohttp", peer), ("mopo-eval", own)):
                numbers = [f"{pace.answers_per_second:.1f}", f"{pace.cpu_per_thousand:.2f}"]
                rows.append([str(turn + 1), name, *numbers, f"{ratios[-1]:.3f}"])
    title = f"{len(asked)} answers of {max_tokens} tokens, {concurrency} in flight, {running.kind}"
    print_table(["turn", "client", "answers/s", "client CPU s per 1,000", "ratio"], rows, title=title)
    median = statistics.median(ratios)
    click.echo(f"median ratio {median:.3f} (target {TARGET})")
    if median < TARGET:
        sys.exit(1)


if __name__ == "__main__":
    main()
