"""The line in front of the model, with generators written out by hand that answer at once."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from mopo_eval.engine.batching import Job, Worker
from mopo_train.generation import Piece, Row, Sampling

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def job(rows: int = 1, *, stream: bool = False) -> Job:
    return Job([Row(None, [1], Sampling(1)) for _ in range(rows)], stream=stream)


async def text(of: Job) -> str:
    return "".join([piece.text async for pieces in of.pieces() for _, piece in pieces])


async def test_jobs_that_wait_together_share_batches_in_order_up_to_the_limit() -> None:
    batches: list[int] = []
    entered, release = threading.Event(), threading.Event()

    def generate(rows: Sequence[Row], emit: Callable[[Row, Piece], None]) -> None:
        entered.set()
        release.wait(10)
        batches.append(len(rows))
        for row in rows:
            emit(row, Piece("x", "stop", None))

    worker = Worker(generate, max_rows=4)
    jobs = [job()]
    worker.submit(jobs[0])
    await asyncio.to_thread(entered.wait, 10)  # the first one is being answered, the others have to wait
    for rows in (2, 2, 3, 6, 1):
        jobs.append(job(rows))
        worker.submit(jobs[-1])
    assert worker.load() == 6
    release.set()
    assert [await text(each) for each in jobs] == ["x", "xx", "xx", "xxx", "xxxxxx", "x"]
    assert batches == [1, 4, 3, 6, 1]  # a request larger than the limit is answered alone
    assert worker.load() == 0


async def test_a_failure_reaches_every_job_of_its_batch_and_the_worker_goes_on() -> None:
    failing = True

    def generate(rows: Sequence[Row], emit: Callable[[Row, Piece], None]) -> None:
        if failing:
            raise RuntimeError("out of memory")
        for row in rows:
            emit(row, Piece("x", "stop", None))

    worker = Worker(generate)
    first = job()
    worker.submit(first)
    with pytest.raises(RuntimeError, match="out of memory"):
        await text(first)
    failing = False
    second = job()
    worker.submit(second)
    assert await text(second) == "x"


async def test_a_stream_gets_each_piece_and_a_whole_answer_gets_all_at_once() -> None:
    def generate(rows: Sequence[Row], emit: Callable[[Row, Piece], None]) -> None:
        for row in rows:
            emit(row, Piece("a", None, None))
            emit(row, Piece("b", "stop", None))

    worker = Worker(generate)
    for stream, expected in ((True, [1, 1]), (False, [2])):
        asked = job(stream=stream)
        worker.submit(asked)
        assert [len(pieces) async for pieces in asked.pieces()] == expected


async def test_a_cancelled_job_ends_at_once_and_marks_its_rows() -> None:
    asked = job(2)
    asked.cancel()
    assert await text(asked) == ""
    assert all(row.cancelled for row in asked.rows)
