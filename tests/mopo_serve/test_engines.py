"""Which replica is asked, who is left alone, and what a client sees of an engine that dies, hangs or refuses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

from mopo_serve import engines as module
from mopo_serve.engines import FAILURES, HANG_SECONDS, PAUSE_SECONDS, SLACK, Pool, Replica
from mopo_serve.gateway import Gateway, Limits
from mopo_serve.openai_errors import ApiError
from mopo_serve.upstream import Upstream
from tests.mopo_serve.stub import CHAT, MESSAGES, Kept, StubEngine, calling, closed_port, gateway_before, listening

pytestmark = pytest.mark.anyio
ASK = {"model": "mopo/careful", "messages": MESSAGES}


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def replica(name: str = "engine-0", clock: Clock | None = None) -> Replica:
    upstream = Upstream("http://127.0.0.1:9", silence_seconds=1, connect_seconds=1)
    return Replica(name, upstream, clock or Clock())


def fail(which: Replica, times: int) -> None:
    for _ in range(times):
        which.begin()
        which.end(failed=True)


def test_a_replica_that_fails_is_left_alone_for_longer_and_longer() -> None:
    clock = Clock()
    one = replica(clock=clock)
    fail(one, FAILURES - 1)
    assert one.available
    fail(one, 1)
    for seconds in (*PAUSE_SECONDS, PAUSE_SECONDS[-1]):
        assert not one.available and one.wait == seconds
        clock.now += seconds
        assert one.available  # for one request
        one.begin()
        assert not one.available
        one.end(failed=True)


def test_one_success_ends_the_pause() -> None:
    clock = Clock()
    one = replica(clock=clock)
    fail(one, FAILURES)
    clock.now += PAUSE_SECONDS[0]
    one.begin()
    one.end(failed=False)
    assert one.available and one.wait == 0
    fail(one, FAILURES - 1)
    assert one.available


def test_a_client_that_leaves_says_nothing_about_the_engine() -> None:
    clock = Clock()
    one = replica(clock=clock)
    fail(one, FAILURES)
    clock.now += PAUSE_SECONDS[0]
    one.begin()
    one.end(failed=None)
    assert one.available and one.wait == 0
    one.begin()
    one.end(failed=True)
    assert not one.available


def test_many_failures_at_once_are_one_pause() -> None:
    one = replica(clock=Clock())
    for _ in range(100):
        one.begin()
    for _ in range(100):
        one.end(failed=True)
    assert one.wait == PAUSE_SECONDS[0]


def home(pool: Pool, prefix: bytes) -> Replica:
    return pool.choose(lambda: prefix)


def test_a_prefix_finds_its_replica_until_that_has_clearly_more_to_do() -> None:
    pool = Pool([replica(f"engine-{number}") for number in range(3)])
    near = pool.choose(lambda: b"a long system prompt")
    for _ in range(SLACK):
        near.begin()
        assert pool.choose(lambda: b"a long system prompt") is near
    near.begin()
    other = pool.choose(lambda: b"a long system prompt")
    assert other is not near
    for _ in range(SLACK + 1):
        near.end(failed=False)
    prefixes = [f"prompt {number}".encode() for number in range(60)]
    assert {home(pool, prefix).name for prefix in prefixes} == {
        "engine-0", "engine-1", "engine-2"
    }  # fmt: skip


def test_a_prefix_keeps_its_replica_when_another_one_dies() -> None:
    clock = Clock()
    pool = Pool([replica(f"engine-{number}", clock) for number in range(3)])
    prefixes = [f"prompt {number}".encode() for number in range(60)]
    before = {prefix: home(pool, prefix) for prefix in prefixes}
    fail(pool.replicas[1], FAILURES)
    for prefix, near in before.items():
        after = home(pool, prefix)
        assert after is not pool.replicas[1]
        assert near is pool.replicas[1] or after is near


def test_no_replica_left_says_when_to_come_back() -> None:
    clock = Clock()
    pool = Pool([replica("engine-0", clock), replica("engine-1", clock)])
    for each in pool.replicas:
        fail(each, FAILURES)
    clock.now += 0.2
    with pytest.raises(ApiError) as caught:
        pool.choose(lambda: b"")
    assert (caught.value.status, caught.value.retry_after) == (503, 1)


@asynccontextmanager
async def replicated(
    *engines: StubEngine, kept: Kept | None = None, limits: Limits | None = None
) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    """A gateway before ``engines``, and a client."""
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(listening(engine)) for engine in engines]
        gateway = await stack.enter_async_context(gateway_before(urls, kept=kept, limits=limits))
        yield gateway, await stack.enter_async_context(calling(gateway))


async def test_an_engine_that_is_gone_is_routed_around_and_nothing_is_lost() -> None:
    alive, kept = StubEngine(), Kept()
    async with listening(alive) as url:
        gone = f"http://127.0.0.1:{await closed_port()}"
        async with gateway_before([gone, url], kept=kept) as gateway, calling(gateway) as client:
            for number in range(20):
                messages = [{"role": "user", "content": f"Question {number}"}]
                answer = await client.post(CHAT, json=ASK | {"messages": messages})
                assert answer.status_code == 200
            counted = (await client.get("/metrics")).text
            assert (await client.get("/readyz")).status_code == 200
    assert len(alive.asked) == 20
    assert {each.engine for each in kept.decisions} == {"engine-1"}
    retries = next(line for line in counted.splitlines() if line.startswith("mopo_engine_retries_total"))
    assert FAILURES <= float(retries.split()[1]) < 10  # then it was left alone, but for a trial now and then
    assert 'mopo_engine_up{engine="engine-0"} 0.0' in counted


@pytest.mark.parametrize("status", [500, 502, 503, 404, 401])
async def test_a_fault_of_one_engine_is_tried_on_another(status: int) -> None:
    sick, well = StubEngine(), StubEngine()
    sick.status = status
    async with replicated(sick, well) as (_, client):
        answers = [await client.post(CHAT, json=ASK | {"seed": number}) for number in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert len(well.asked) == 3


@pytest.mark.parametrize("status", [400, 413, 429])
async def test_what_the_client_did_wrong_is_not_tried_again(status: int) -> None:
    engines = [StubEngine(), StubEngine()]
    for engine in engines:
        engine.status = status
    async with replicated(*engines) as (_, client):
        answer = await client.post(CHAT, json=ASK)
    assert answer.status_code == status
    assert sum(len(engine.asked) for engine in engines) == 1


async def test_a_deadly_request_reaches_two_engines_at_most() -> None:
    engines = [StubEngine() for _ in range(4)]
    for engine in engines:
        engine.dies_after = 0
    async with replicated(*engines) as (_, client):
        answer = await client.post(CHAT, json=ASK | {"stream": True})
    assert answer.status_code == 503
    assert sum(len(engine.asked) for engine in engines) == 2


async def test_a_stream_that_has_begun_is_never_tried_again() -> None:
    engines = [StubEngine(), StubEngine()]
    for engine in engines:
        engine.dies_after = 1
    async with replicated(*engines) as (_, client):
        answer = await client.post(CHAT, json=ASK | {"stream": True})
    assert answer.status_code == 200 and "[DONE]" not in answer.text and "error" in answer.text
    assert sum(len(engine.asked) for engine in engines) == 1


async def test_an_engine_that_hangs_gives_up_its_requests_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    silent, well = StubEngine(), StubEngine()
    silent.silent = silent.sick = True
    async with replicated(silent, well) as (gateway, client):
        prompts = ([{"role": "user", "content": f"Question {number}"}] for number in range(100))
        while not silent.reached.is_set():  # until one prompt's home is the silent engine
            asking = asyncio.create_task(client.post(CHAT, json=ASK | {"messages": next(prompts)}))
            await asyncio.wait({asking, asyncio.create_task(silent.reached.wait())}, return_when="FIRST_COMPLETED")
        for _ in range(30):
            await gateway.pool.replicas[0].check()
        assert not asking.done()  # however often: only time tells
        monkeypatch.setattr(module, "HANG_SECONDS", 0.0)
        await gateway.pool.replicas[0].check()
        answer = await asyncio.wait_for(asking, 5)
    assert answer.status_code == 200


async def test_only_checks_that_fail_all_the_time_are_a_hang() -> None:
    engine, clock = StubEngine(), Clock()
    engine.sick = True
    async with listening(engine) as url:
        one = Replica("engine-0", Upstream(url, silence_seconds=5, connect_seconds=5), clock)
        await one.check()
        clock.now = HANG_SECONDS - 1
        assert not one.hangs
        engine.sick = False
        await one.check()
        engine.sick = True
        await one.check()
        clock.now += HANG_SECONDS
        assert one.hangs
        one.start_over()
        assert not one.hangs and one.available
        await one.upstream.close()


async def test_a_health_check_brings_an_engine_back() -> None:
    engine = StubEngine()
    async with replicated(engine) as (gateway, client):
        (one,) = gateway.pool.replicas
        fail(one, FAILURES)
        refused = await client.post(CHAT, json=ASK)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        await one.check()
        assert (await client.post(CHAT, json=ASK)).status_code == 200
