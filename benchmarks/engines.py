"""Start time and throughput of an engine: many requests in flight, spread over a family's policies.

python benchmarks/engines.py FAMILY --engine vllm --in-flight 32 --requests 128 --tokens 64

Run it alone on the machine. Tokens are the engine's own count, so answers that end early count for what they are.
"""

import argparse
import asyncio
import time
from itertools import cycle, islice
from pathlib import Path

import httpx

from mopo_eval.engine import open_engine
from mopo_train.family import read_family


def main() -> None:
    """Measure one engine and print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", type=Path)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    family = read_family(given.family)
    policies = [policy.id for policy in family.policies]
    started = time.perf_counter()
    with open_engine(given.engine, given.family, family) as engine:
        ready = time.perf_counter() - started
        asyncio.run(ask(engine.url, policies, given.in_flight, len(policies), 8))  # warm up
        started = time.perf_counter()
        tokens = asyncio.run(ask(engine.url, policies, given.in_flight, given.requests, given.tokens))
        seconds = time.perf_counter() - started
        stopping = time.perf_counter()
    print(
        f"{engine.kind}: ready in {ready:.1f} s, ended in {time.perf_counter() - stopping:.1f} s; {given.requests} "
        f"requests, {given.in_flight} in flight over {len(policies)} policies: {tokens / seconds:.0f} tokens/s"
    )


async def ask(url: str, policies: list[str], in_flight: int, requests: int, tokens: int) -> int:
    """Send ``requests`` chats, at most ``in_flight`` at a time; the tokens that came back."""
    gate = asyncio.Semaphore(in_flight)
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:

        async def one(index: int, policy: str) -> int:
            body = {
                "model": policy,
                "messages": [{"role": "user", "content": f"What is known about number {index}?"}],
                "max_tokens": tokens,
                "temperature": 1.0,
                "seed": index,
            }
            async with gate:
                answer = await client.post("/v1/chat/completions", json=body)
            answer.raise_for_status()
            return int(answer.json()["usage"]["completion_tokens"])

        counts = await asyncio.gather(*(one(i, p) for i, p in enumerate(islice(cycle(policies), requests))))
    return sum(counts)


if __name__ == "__main__":
    main()
