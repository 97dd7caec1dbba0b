"""Start time and throughput of an engine: many requests in flight, spread over a family's policies.

    python -m benchmarks.engines FAMILY --engine vllm --in-flight 32 --requests 128 --tokens 64
    python -m benchmarks.engines FAMILY --engine vllm --rounds 7

Run it alone on the machine. Tokens are the engine's own count; vLLM is told to go on to the last. With
``--rounds`` the same requests go in turn to the engine over every policy, through the gateway over every policy, to
the engine over one policy, and over none (the base model): ratios within a round, whose medians hold also where other
work shares the machine, with the range of the middle half.
"""

import argparse
import asyncio
import contextlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import httpx

from mopo_eval.engine import Engine, open_engine
from mopo_train.family import REFERENCE, PolicyFamily, read_family


def main() -> None:
    """Measure one engine and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", type=Path)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=0, help="of comparing with the gateway and with one policy")
    given = parser.parse_args()
    family = read_family(given.family)
    policies = [policy.id for policy in family.policies]
    load = (given.in_flight, given.requests, given.tokens)
    started = time.perf_counter()
    with open_engine(given.engine, given.family, family) as engine:
        ready = time.perf_counter() - started
        asyncio.run(ask(engine.url, policies, (given.in_flight, len(policies), 8), endless=False))  # warm up
        if given.rounds:
            compare(given.family, family, engine, load, given.rounds)
            return
        rate = asyncio.run(ask(engine.url, policies, load, endless=engine.kind == "vllm"))
        stopping = time.perf_counter()
    print(
        f"{engine.kind}: ready in {ready:.1f} s, ended in {time.perf_counter() - stopping:.1f} s; {given.requests} "
        f"requests, {given.in_flight} in flight over {len(policies)} policies: {rate:.0f} tokens/s"
    )


def compare(root: Path, family: PolicyFamily, engine: Engine, load: tuple[int, int, int], rounds: int) -> None:
    """Print tokens per second of every way, and ratios."""
    trained = [policy.id for policy in family.policies if policy.adapter]
    with gateway(root, engine.url) as own:
        ways = {
            f"direct, {len(trained)} policies": (engine.url, trained),
            f"gateway, {len(trained)} policies": (own, [f"mopo/policy/{name}" for name in trained]),
            "direct, 1 policy": (engine.url, trained[:1]),
            "direct, base model": (engine.url, [REFERENCE]),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(-1, rounds):  # the first one warms up
            for name, (url, models) in ways.items():
                rate = asyncio.run(ask(url, models, load, endless=engine.kind == "vllm"))
                if turn >= 0:
                    found[name].append(rate)
    for name, rates in found.items():
        print(f"{name:<24}{statistics.median(rates):8.0f} tokens/s, median of {rounds}")
    every, through, one, base = found.values()
    for title, over, under in (
        ("gateway / direct", through, every),
        (f"{len(trained)} policies / one", every, one),
        ("one policy / base model", one, base),
    ):
        ratios = [a / b for a, b in zip(over, under, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        print(f"{title:<24}{middle:8.3f} [{low:.3f}, {high:.3f}]")


@contextlib.contextmanager
def gateway(root: Path, engine: str) -> Iterator[str]:
    """``mopo-serve run`` before ``engine`` with its audit on, and without profiles; gives its URL."""
    with tempfile.TemporaryDirectory() as directory:
        profiles = Path(directory) / "profiles.yaml"
        profiles.write_text("profiles: {}\n", encoding="utf-8")
        command = [sys.executable, "-c", "from mopo_serve.cli import main; main()", "run", str(root), "--port", "0"]
        command += ["--engine", engine, "--profiles", str(profiles), "--audit", f"{directory}/audit.db"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            yield next(found[1] for line in process.stdout if (found := re.match(r"serving at (\S+)/v1", line)))
        finally:
            process.terminate()
            process.wait()


async def ask(url: str, models: list[str], load: tuple[int, int, int], *, endless: bool) -> float:
    """Tokens per second of chats spread over ``models``: in flight at most, how many, and tokens of each at most.

    ``endless`` answers (vLLM only) all have as many tokens, so that every policy has the same to do.
    """
    in_flight, requests, tokens = load
    gate = asyncio.Semaphore(in_flight)
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:

        async def one(index: int, model: str) -> int:
            body = {
                "model": model,
                "messages": [{"role": "user", "content": f"What is known about number {index}?"}],
                "max_tokens": tokens,
                "temperature": 1.0,
                "seed": index,
            } | ({"ignore_eos": True} if endless else {})
            async with gate:
                answer = await client.post("/v1/chat/completions", json=body)
            answer.raise_for_status()
            return int(answer.json()["usage"]["completion_tokens"])

        started = time.perf_counter()
        counts = await asyncio.gather(*(one(i, model) for i, model in enumerate(islice(cycle(models), requests))))
        return sum(counts) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
