"""Whether ``mopo-serve capacity`` predicts what a real engine does: measured throughput in, measured times out.

    python -m benchmarks.capacity [FAMILY --engine vllm] [--load 0.6] [--requests 300]

First the engine is asked with 1, 2, 4, ... requests in flight: that is the throughput which the simulation is fed with.
Then requests come at random at ``--load`` of the most that it did, and the times that clients saw are held against the
simulation of one replica. Both are repeated in turn; a round's throughput is the mean of what was measured before and
after its requests, and both are said, so that a machine which becomes slower meanwhile shows. The client keeps one core
to itself and the engine has the others (Linux). Run it alone, or without FAMILY: then a paced engine decodes by the
clock (``benchmarks/paced.py``). Lengths of answers are drawn from ``--tokens`` and below.
"""

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import click
import httpx
import numpy as np

from benchmarks.paced import SLOTS as PACED_SLOTS
from benchmarks.paced import paced_engine
from mopo_eval.engine import open_engine
from mopo_serve.capacity.plan import Demand, Effort, Point, measure
from mopo_serve.capacity.simulation import WARM_UP
from mopo_serve.capacity.throughput import FloatArray, Throughput
from mopo_train.console import print_table, say
from mopo_train.family import read_family

IN_FLIGHT = (1, 2, 4, 8, 12, 16, 32)
QUANTILES = (0.5, 0.95, 0.99)
SHORTEST = 8
SETTLE_SECONDS, WINDOW_SECONDS = 2.0, 8.0
SLOTS = 256
"""vLLM's ``--max-num-seqs``; far more than are ever in flight here."""


class Answered(NamedTuple):
    """One answer."""

    seconds: float
    tokens: int


class Asking:
    """Sends chats whose answers have random lengths."""

    def __init__(self, client: httpx.AsyncClient, policies: list[str], longest: int, further: dict[str, bool]) -> None:
        self._client, self._policies, self._further = client, policies, further
        self._rng, self._longest = np.random.default_rng(0), longest

    async def one(self, number: int) -> Answered:
        """Ask once."""
        body = {
            "model": self._policies[number % len(self._policies)],
            "messages": [{"role": "user", "content": f"What is known about number {number}?"}],
            "max_tokens": int(self._rng.integers(SHORTEST, self._longest + 1)),
            "temperature": 1.0,
            **self._further,
        }
        started = time.perf_counter()
        answer = await self._client.post("/v1/chat/completions", json=body)
        answer.raise_for_status()
        return Answered(time.perf_counter() - started, int(answer.json()["usage"]["completion_tokens"]))

    async def closed(self, in_flight: int) -> float:
        """Tokens per second with ``in_flight`` requests at the same time, of answers that ended within a window."""
        begin = time.perf_counter() + SETTLE_SECONDS
        end = begin + WINDOW_SECONDS
        tokens = 0

        async def caller(number: int) -> None:
            nonlocal tokens
            while time.perf_counter() < end:
                answered = await self.one(number)
                if begin <= time.perf_counter() < end:
                    tokens += answered.tokens

        await asyncio.gather(*map(caller, range(in_flight)))
        return tokens / WINDOW_SECONDS

    async def curve(self) -> FloatArray:
        """Tokens per second at each number in flight, which is said, too."""
        found = [await self.closed(number) for number in IN_FLIGHT]
        told = ", ".join(f"{at}: {each:.0f}" for at, each in zip(IN_FLIGHT, found, strict=True))
        say(f"tokens/s by requests in flight {told}")
        return np.array(found)

    async def open(self, rate: float, requests: int) -> list[Answered]:
        """Answers to requests that come at random, ``rate`` a second, whether others are done or not.

        Without the first ones, which found the engine idle; the simulation leaves out the same share.
        """
        asked, due = [], time.perf_counter()
        for number in range(requests):
            due += float(self._rng.exponential(1 / rate))
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asked.append(asyncio.create_task(self.one(number)))
        return list(await asyncio.gather(*asked))[int(WARM_UP * requests) :]


def predicted(rate: float, tokens: FloatArray, curve: Throughput, quantile: float, slots: int) -> Point:
    """What one replica gives."""
    return measure(Demand(rate, tokens, quantile, 1.0), curve, 1, slots, Effort(requests=4000, runs=5))


class Trial(NamedTuple):
    """What to ask for."""

    load: float
    requests: int
    longest: int
    rounds: int


async def run(url: str, policies: list[str], further: dict[str, bool], slots: int, trial: Trial) -> None:
    """Measure in turn, and print measured against predicted times."""
    curves, answers, rates = list[FloatArray](), list[list[Answered]](), list[float]()
    unbounded = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False, limits=unbounded) as client:
        asking = Asking(client, policies, trial.longest, further)
        await asking.closed(max(IN_FLIGHT))  # warm up
        after = await asking.curve()
        for turn in range(trial.rounds):
            before = after
            rate = trial.load * float(before.max()) / ((SHORTEST + trial.longest) / 2)
            say(f"round {turn + 1}: {rate:.2f} requests/s")
            answers.append(await asking.open(rate, trial.requests))
            rates.append(rate)
            after = await asking.curve()
            curves.append((before + after) / 2)
    lengths = [np.array([each.tokens for each in found], dtype=float) for found in answers]
    rows = []
    for quantile in QUANTILES:
        seen = [float(np.quantile([each.seconds for each in found], quantile)) for found in answers]
        told = [
            predicted(rate, tokens, Throughput(IN_FLIGHT, tuple(curve.tolist())), quantile, slots).seconds
            for rate, tokens, curve in zip(rates, lengths, curves, strict=True)
        ]
        ratios = [one / other for one, other in zip(told, seen, strict=True)]
        rows.append((
            f"p{100 * quantile:g}", f"{statistics.median(seen):.3f}", f"{statistics.median(told):.3f}",
            " ".join(f"{ratio:.2f}" for ratio in ratios),
        ))  # fmt: skip
    print_table(("quantile", "measured s", "predicted s", "predicted / measured, per round"), rows)


@click.command()
@click.argument("family", type=click.Path(path_type=Path, exists=True), required=False)
@click.option("--engine", default="auto", show_default=True, help="Of FAMILY.")
@click.option("--load", type=click.FloatRange(0.05, 0.95), default=0.6, show_default=True)
@click.option("--requests", type=click.IntRange(min=50), default=300, show_default=True)
@click.option("--tokens", "longest", type=click.IntRange(min=SHORTEST), default=64, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
def main(family: Path | None, engine: str, load: float, requests: int, longest: int, rounds: int) -> None:
    """Measure one engine serving FAMILY (none: one that is paced by the clock), and what the simulation says of it."""
    trial = Trial(load, requests, longest, rounds)
    if family is None:
        asyncio.run(paced(trial))
        return
    known = read_family(family)
    with tempfile.TemporaryDirectory() as directory:
        *engines, client = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else [0]
        if engines:
            os.sched_setaffinity(0, engines)  # what is started now keeps to them
        with open_engine(engine, family, known, log=Path(directory) / "engine.log") as opened:
            policies = [policy.id for policy in known.policies]
            if engines:
                os.sched_setaffinity(0, {client})
            further = {"ignore_eos": True} if opened.kind == "vllm" else {}
            asyncio.run(run(opened.url, policies, further, SLOTS, trial))


async def paced(trial: Trial) -> None:
    """The trial of an engine that sleeps."""
    async with paced_engine() as url:
        await run(url, ["policy-00"], {}, PACED_SLOTS, trial)


if __name__ == "__main__":
    main()
