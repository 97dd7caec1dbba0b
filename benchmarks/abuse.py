"""The gateway against bad input: bodies of words that mean something here, and thousands of connections at once.

Every request goes over a real socket to the gateway as the command serves it. Counts answers by status and fails on
any 500, on an answer that is no JSON, on a floor that was not held, and if the gateway does not answer a good request
afterwards. ``--bodies 100000`` takes some minutes; the tests do the same with some hundreds.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.ends import KEY, PATH
from benchmarks.gateway import own, start
from mopo_serve.settings import connection_limit

ROUTES = f"{PATH} /v1/completions /v1/profiles/resolve /v1/feedback /v1/models /admin/reload /admin/rollout".split()
GOOD = {"model": "mopo/careful", "messages": [{"role": "user", "content": "Hello"}]}
HELD = {"policy-02", "policy-03"}
"""Policies that hold the floor of ``careful`` in the stub's family."""
NAMES = (
    "model messages stream objective_profile floors safety primary on_infeasible user n selection metadata "
    "conversation_id stream_options request_id scores profile prompt"
).split()
WORDS = "mopo mopo/careful mopo/policy/policy-00 policy-00 closest mixture helpfulness safety ../../etc".split()
SCALARS: list[object] = [None, True, False, 0, -1, 1, 0.5, 2.0, 1e308, 10**30, float("nan"), float("inf")]
SCALARS += [*WORDS, "", "\u0000", "é" * 50, "\ud800", "a\r\nb: c"]


def value(source: random.Random, depth: int = 0) -> object:
    """Some JSON value, of the words that mean something here."""
    kind = source.random()
    if depth > 4 or kind < 0.5:
        return source.choice(SCALARS)
    if kind < 0.8:
        return {source.choice(NAMES): value(source, depth + 1) for _ in range(source.randrange(5))}
    return [value(source, depth + 1) for _ in range(source.randrange(4))]


def body(source: random.Random) -> bytes:
    """A body: random JSON, a good one with something wrong in it, broken JSON, deep nesting or bytes."""
    kind = source.random()
    if kind < 0.35:
        fields = {source.choice(NAMES): value(source) for _ in range(source.randrange(1, 4))}
        return json.dumps({**GOOD, **fields}).encode()
    if kind < 0.65:
        return json.dumps(value(source)).encode()
    if kind < 0.8:
        whole = bytearray(json.dumps({**GOOD, "objective_profile": value(source)}).encode())
        for _ in range(source.randrange(1, 6)):
            whole[source.randrange(len(whole))] = source.randrange(256)
        return bytes(whole)
    if kind < 0.9:
        depth = source.choice([10, 500, 5000, 100_000])
        return b'{"model": "mopo/careful", "x": ' + b"[" * depth + b"]" * (depth if source.random() < 0.5 else 0) + b"}"
    return source.randbytes(source.randrange(200))


async def ask(port: int, route: str, content: bytes, headers: bytes = b"") -> tuple[int, bytes]:
    """Status and body of one request on a connection of its own; status 0 where the gateway only hung up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"POST {route} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n".encode()
        writer.write(head + headers + b"content-length: %d\r\n\r\n" % len(content) + content)
        answer = await asyncio.wait_for(reader.read(), 60)
    except ConnectionError:
        return 0, b""
    finally:
        writer.close()
    first, _, rest = answer.partition(b"\r\n\r\n")
    policy = first.lower().partition(b"x-mopo-policy: ")[2].partition(b"\r\n")[0].decode()
    status = int(first[9:12]) if first.startswith(b"HTTP/1.1 ") else 0
    if b'"mopo/careful"' in content[:40] and route == PATH and status == 200 and policy not in HELD:
        raise AssertionError(f"a floor was not held: {content[:300]!r} was answered by {policy}")
    if status >= 400 and rest and b"application/json" in first:
        json.loads(rest)
    return status, rest


async def bodies(port: int, count: int, seed: int) -> Counter[int]:
    """Ask ``count`` times, some at the same time; statuses."""
    seen: Counter[int] = Counter()
    source = random.Random(seed)

    async def some(share: int) -> None:
        for _ in range(share):
            route, content = source.choice(ROUTES), body(source)
            status, answer = await ask(port, route, content)
            seen[status] += 1
            if status == 500:
                raise AssertionError(f"500 for {route} {content[:500]!r}: {answer[:500]!r}")

    await asyncio.gather(*(some(count // 16) for _ in range(16)))
    return seen


async def crowd(port: int, count: int) -> None:
    """Hold ``count`` connections and ask beside them."""
    held = []
    for _ in range(count):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        held.append(writer)
    started = time.perf_counter()
    status, _ = await ask(port, PATH, json.dumps(GOOD).encode())
    print(
        f"{count:,} open connections; beside them an answer with {status} after {time.perf_counter() - started:.3f} s"
    )
    for writer in held:
        writer.close()


def resident(process: "subprocess.Popen[bytes]") -> float:
    """Memory of ``process`` in MiB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    connections = connection_limit(given.connections)  # raises this process's own limit of files, which is inherited
    stub, stub_port = start(own("stub"), core=1)
    gateway, port = start(own("gateway", f"http://127.0.0.1:{stub_port}"), core=0)
    try:
        before = resident(gateway)
        seen = asyncio.run(bodies(port, given.bodies, given.seed))
        print("statuses:", dict(sorted(seen.items())))
        print(f"memory: {before:.0f} MiB before, {resident(gateway):.0f} MiB after")
        asyncio.run(crowd(port, connections))
        status, _ = asyncio.run(ask(port, PATH, json.dumps(GOOD).encode()))
        if status != 200:
            sys.exit(f"afterwards a good request was answered {status}")
    finally:
        for process in (gateway, stub):
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
