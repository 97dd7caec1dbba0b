"""Answers per second of ``mopo-eval run``'s batches against other clients, on one engine.

    python -m benchmarks.evaluation FAMILY PROMPTS [--engine vllm|stub] [--answers 1000] [--repeats 3]

The bare client is a loop over aiohttp that posts the same requests (policies, prompts, seeds, sampling) with as many in
flight, reads the text and forgets it: no retries, nothing kept. ``vllm bench serve`` asks vLLM alone, for the same
prompts and as many tokens, policies in random order since it knows no other, and streams. Ours is ``collect`` with its
spool: every answer durable. All ask the engine in turn, after a round that fills its caches; prints the median of the
ratios to each peer, and CPU seconds of the client per thousand answers, which move less with the machine's load.
``stub`` is an engine that answers at once: what clients can do at most. Exits 1 where a median with a real engine is
below 0.95. Not part of the tests.
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
from collections.abc import Iterator
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


def bench_serve(root: Path, family: PolicyFamily, url: str, asked: list[Question], tokens: int, most: int) -> Pace:
    """VLLM's own load generator."""
    with tempfile.TemporaryDirectory() as place:
        prompts = [json.dumps({"prompt": question.messages[-1]["content"]}) for question in asked]
        (Path(place) / "prompts.jsonl").write_text("\n".join(prompts), encoding="utf-8")
        options = {"backend": "openai-chat", "endpoint": "/v1/chat/completions", "base-url": url}
        options |= {"model": base_model_path(root, family), "served-model-name": family.policies[0].id}
        options |= {
            "dataset-name": "custom",
            "dataset-path": f"{place}/prompts.jsonl",
            "custom-output-len": str(tokens),
        }
        options |= {"num-prompts": str(len(asked)), "max-concurrency": str(most), "temperature": "1.0"}
        options |= {"result-dir": place, "result-filename": "result.json"}
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
        flags += ["--save-result", "--disable-tqdm", "--lora-modules", *(policy.id for policy in family.policies)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "serve", *flags]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = json.loads((Path(place) / "result.json").read_text(encoding="utf-8"))
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return Pace(result["completed"] / result["duration"], 1000 * cpu / len(asked))


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
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True)
def main(  # noqa: PLR0913 - one parameter per option
    root: Path, prompts: Path, engine: str, answers: int, concurrency: int, max_tokens: int, repeats: int
) -> None:
    """Measure both clients on FAMILY's engine with PROMPTS."""
    family, sampling = read_family(root), Sampling(max_tokens=max_tokens)
    policies = [policy.id for policy in family.policies]
    every = list(questions(policies, read_prompts(prompts), sampling))
    asked = list(islice(every[:: max(1, len(every) // answers)], answers))
    rows: list[list[str]] = []
    ratios: dict[str, list[float]] = {}
    opened = stub_engine(tuple(policies)) if engine == "stub" else open_engine(engine, root, family)
    with opened as running:
        bare(running.url, asked, sampling, concurrency)  # fills the engine's caches
        for turn in range(repeats):
            peers = {"bare aiohttp": bare(running.url, asked, sampling, concurrency)}
            own = ours(root, family, running.url, asked, sampling, concurrency)
            if running.kind == "vllm":
                peers["vllm bench serve"] = bench_serve(root, family, running.url, asked, max_tokens, concurrency)
            for name, pace in {"mopo-eval": own, **peers}.items():
                ratio = own.answers_per_second / pace.answers_per_second
                numbers = [f"{pace.answers_per_second:.1f}", f"{pace.cpu_per_thousand:.2f}", f"{ratio:.3f}"]
                rows.append([str(turn + 1), name, *numbers])
                if name in peers:
                    ratios.setdefault(name, []).append(ratio)
    title = f"{len(asked)} answers of {max_tokens} tokens, {concurrency} in flight, {running.kind}"
    print_table(["turn", "client", "answers/s", "client CPU s per 1,000", "ours to it"], rows, title=title)
    medians = {name: statistics.median(found) for name, found in ratios.items()}
    click.echo("; ".join(f"median ratio to {name} {median:.3f}" for name, median in medians.items()))
    if running.kind != "stub" and min(medians.values()) < TARGET:
        sys.exit(1)


if __name__ == "__main__":
    main()
