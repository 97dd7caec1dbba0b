"""What the audit costs: the event loop's time per decision, and what the writer sustains.

    python -m benchmarks.audit [--store STORE] [--decisions 50000] [--rounds 5]

CPU seconds, medians over the rounds: they hold on a busy machine where rates by the clock do not. ``loop`` is
the gateway's thread, less the empty loop; ``worker`` its writer process without its start; ``rate`` is what the clock
said from the first decision to the last acknowledgement. Exits 1 where a target is missed: 10 microseconds, 10,000 a
CPU second.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import click

from mopo_serve.audit.store import open_store
from mopo_serve.audit.verify import verify
from mopo_serve.audit.writer import AuditWriter
from mopo_serve.decisions import Decision

LOOP_US, PER_CPU_SECOND = 10.0, 10_000
BURST = 4
"""Decisions per turn of the event loop, as under load."""


class Round(NamedTuple):
    """One round; times in microseconds per decision."""

    loop: float
    worker: float
    rate: float


def example(number: int) -> Decision:
    """A decision as a busy gateway makes them."""
    return Decision(
        request_id=f"req-{number:024x}", time=time.time(), key="0123456789ab", user="ab" * 16, conversation="cd" * 16,
        profile="balanced", floors={"safety": 0.9, "factuality": 0.8}, policy="policy-03",
        family="family@0123456789ab+01234567", engine="engine-0", status=200, seconds=1.234567,
        first_token_seconds=0.0456, prompt_tokens=321, completion_tokens=123, prompt_sha256="ef" * 32,
        reason="policy-03 has the greatest helpfulness, 0.531, of the 4 policies that hold every floor",
    )  # fmt: skip


def cpu_seconds(pid: int) -> float:
    """Processor time of ``pid`` so far (Linux)."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


async def measure(place: str, spill: Path, decisions: list[Decision]) -> Round:
    """Record ``decisions`` once."""
    writer = AuditWriter(place, spill, queue_rows=10**9)
    await writer.start()
    assert writer.worker_pid is not None
    writer.record(decisions[0])
    await writer.written(60)
    empty = time.thread_time()
    for number in range(len(decisions)):
        if number % BURST == 0:
            await asyncio.sleep(0)
    empty = time.thread_time() - empty
    before, started, used = cpu_seconds(writer.worker_pid), time.perf_counter(), time.thread_time()
    for number, decision in enumerate(decisions):
        writer.record(decision)
        if number % BURST == 0:
            await asyncio.sleep(0)
    used = time.thread_time() - used - empty
    await writer.written(600)
    taken, worker = time.perf_counter() - started, cpu_seconds(writer.worker_pid) - before
    await writer.close()
    n = len(decisions)
    return Round(1e6 * used / n, 1e6 * worker / n, n / taken)


@click.command()
@click.option("--store", help="Path or URL.  [default: SQLite in a temporary directory]")
@click.option("--decisions", type=click.IntRange(min=1000), default=50_000, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
def main(store: str | None, decisions: int, rounds: int) -> None:
    """Measure, verify what was written, and hold it against the targets."""
    made = [example(number) for number in range(decisions)]
    with tempfile.TemporaryDirectory() as directory:
        place = store or str(Path(directory) / "audit.db")
        opened = open_store(place)
        found = [asyncio.run(measure(place, Path(directory) / "spill", made)) for _ in range(rounds)]
        started = time.process_time()
        checked = verify(opened)
        rows = checked.heads["decisions"].seq
        each = 1e6 * (time.process_time() - started) / rows
        opened.close()
    loop, worker, rate = (statistics.median(column) for column in zip(*found, strict=True))
    click.echo(f"{opened.name.split(':')[0]}: event loop {loop:.1f} us, worker {worker:.1f} us of CPU a decision")
    click.echo(f"{1e6 / worker:,.0f} decisions per CPU second of the worker; {rate:,.0f} a second by the clock")
    click.echo(f"{rows:,} rows verified at {each:.1f} us of CPU each; {len(checked.problems)} problems")
    sys.exit(loop > LOOP_US or 1e6 / worker < PER_CPU_SECOND or bool(checked.problems))


if __name__ == "__main__":
    main()
