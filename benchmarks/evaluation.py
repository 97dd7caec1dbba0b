"""Answers per second of ``mopo-eval run``'s batches against other clients, on one engine.

    python -m benchmarks.evaluation FAMILY PROMPTS [--engine vllm|stub] [--peer bare]

All clients ask for the same policies, prompts and sampling in the same order, with as many in flight; at temperature 0,
so that all get the same answers. The bare client is a loop over aiohttp that reads the text and forgets it: no retries,
nothing kept. ``vllm bench serve`` asks vLLM alone; it streams, and times itself without its start. Ours is ``collect``
with its spool: every answer durable. They take turns, every other turn in reverse, after a round that fills the
engine's caches; prints the ratios to each peer, and CPU seconds of the client per thousand answers, which move less
with the machine's load (those of ``vllm bench serve`` are with its start). ``stub`` is an engine that answers at once:
what clients can do at most. Exits 1 where a median with a real engine is below 0.95. Not part of the tests.
"""

import asyncio
import json
import multiprocessing
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import aiohttp
import click

from mopo_eval.answers import Question, Sampling, questions
from mopo_eval.collect import Missing, collect
from mopo_eval.engine import Engine, open_engine
from mopo_eval.engine_choice import EngineChoice, chosen_engines
from mopo_eval.prompts import read_prompts
from mopo_train.console import print_table
from mopo_train.family import PolicyFamily, base_model_path, read_family

TARGET = 0.95
OURS, BARE, SERVE = "mopo-eval", "bare", "vllm-bench-serve"
PEERS = (BARE, SERVE)


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


def bench_serve(base: str, url: str, asked: list[Question], sampling: Sampling, concurrency: int) -> Pace:
    """VLLM's own load generator."""
    with tempfile.TemporaryDirectory() as place:
        prompts = [json.dumps({"prompt": question.messages[-1]["content"]}) for question in asked]
        (Path(place) / "prompts.jsonl").write_text("\n".join(prompts), encoding="utf-8")
        options = {
            "backend": "openai-chat",
            "endpoint": "/v1/chat/completions",
            "base-url": url,
            "model": base,
            "dataset-name": "custom",
            "dataset-path": f"{place}/prompts.jsonl",
            "custom-output-len": str(sampling.max_tokens),
            "num-prompts": str(len(asked)),
            "max-concurrency": str(concurrency),
            "extra-body": json.dumps({"temperature": sampling.temperature, "seed": sampling.seed}),
            "lora-assignment": "round-robin",  # one entry per question: each gets its policy
            "result-dir": place,
            "result-filename": "result.json",
        }
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
        flags += ["--skip-chat-template", "--disable-shuffle", "--disable-tqdm", "--save-result"]
        flags += ["--lora-modules", *(question.key.policy for question in asked)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", BENCH_SERVE, *flags], capture_output=True, text=True)
        if done.returncode:
            raise click.ClickException(f"vllm bench serve failed: {done.stderr[-2000:]}")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = json.loads((Path(place) / "result.json").read_text(encoding="utf-8"))
    if result["completed"] != len(asked):
        raise click.ClickException(f"vllm bench serve got {result['completed']} of {len(asked)} answers")
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return Pace(len(asked) / result["duration"], 1000 * cpu / len(asked))


BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""``vllm bench serve`` without its command, which is missing where the distribution is not named vllm."""


class Stub(asyncio.Protocol):
    """An engine that has every policy and answers at once."""

    policies: tuple[str, ...] = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport, self._data = transport, b""

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if end and len(body) >= int(length or 0):
            self._data = b""
            said = MODELS if head.startswith(b"GET") else ANSWER
            answer = json.dumps(said | {"data": [{"id": name} for name in self.policies]}).encode()
            kind = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
            self._transport.write(kind + answer)  # type: ignore[attr-defined]


MODELS: dict[str, object] = {"object": "list"}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "word " * 64}, "finish_reason": "stop"}
ANSWER = MODELS | {"choices": [CHOICE], "usage": {"prompt_tokens": 20, "completion_tokens": 64}}


def run_stub(listener: socket.socket, policies: tuple[str, ...]) -> None:
    """Serve the stub for ever."""
    import uvloop

    async def serve() -> None:
        Stub.policies = policies
        await (await asyncio.get_running_loop().create_server(Stub, sock=listener)).serve_forever()

    uvloop.run(serve())


@contextmanager
def stub_engine(policies: tuple[str, ...]) -> Iterator[Engine]:
    """The stub in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = multiprocessing.get_context("fork").Process(target=run_stub, args=(listener, policies))
        process.start()
        try:
            yield Engine(f"http://127.0.0.1:{listener.getsockname()[1]}", "stub", process.pid)
        finally:
            process.kill()
            process.join()


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
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--peer", "peers", type=click.Choice(PEERS), multiple=True, default=PEERS, help="[default: both]")
def main(  # noqa: PLR0913 - one parameter per option
    root: Path,
    prompts: Path,
    engine: str,
    answers: int,
    concurrency: int,
    max_tokens: int,
    repeats: int,
    peers: tuple[str, ...],
) -> None:
    """Measure all clients on FAMILY's engine with PROMPTS."""
    family, sampling = read_family(root), Sampling(max_tokens=max_tokens, temperature=0)
    policies = [policy.id for policy in family.policies]
    every = list(questions(policies, read_prompts(prompts), sampling))
    asked = list(islice(every[:: max(1, len(every) // answers)], answers))
    opened = stub_engine(tuple(policies)) if engine == "stub" else open_engine(engine, root, family)
    with opened as running:
        base = base_model_path(root, family)
        clients: dict[str, Callable[[], Pace]] = {
            OURS: lambda: ours(root, family, running.url, asked, sampling, concurrency),
            BARE: lambda: bare(running.url, asked, sampling, concurrency),
            SERVE: lambda: bench_serve(base, running.url, asked, sampling, concurrency),
        }
        if running.kind != "vllm":
            peers = (BARE,)
        clients = {name: client for name, client in clients.items() if name in (OURS, *peers)}
        bare(running.url, asked, sampling, concurrency)  # fills the engine's caches
        turns = [take_turn(clients, reverse=turn % 2 == 1) for turn in range(repeats)]
    rows = [
        [str(number), name, f"{pace.answers_per_second:.1f}", f"{pace.cpu_per_thousand:.2f}"]
        for number, turn in enumerate(turns, start=1)
        for name, pace in turn.items()
    ]
    title = f"{len(asked)} answers of {max_tokens} tokens, {concurrency} in flight, {running.kind}"
    print_table(["turn", "client", "answers/s", "client CPU s per 1,000"], rows, title=title)
    medians = []
    for peer in sorted(clients.keys() - {OURS}):
        ratios = sorted(turn[OURS].answers_per_second / turn[peer].answers_per_second for turn in turns)
        medians.append(statistics.median(ratios))
        click.echo(f"{OURS} to {peer}: median {medians[-1]:.3f} ({', '.join(f'{ratio:.3f}' for ratio in ratios)})")
    if running.kind != "stub" and min(medians) < TARGET:
        sys.exit(1)


def take_turn(clients: Mapping[str, Callable[[], Pace]], *, reverse: bool) -> dict[str, Pace]:
    """The pace of each client, one after the other."""
    return {name: clients[name]() for name in (reversed(list(clients)) if reverse else list(clients))}


if __name__ == "__main__":
    main()
