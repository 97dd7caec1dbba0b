import asyncio
import json
import socket
from collections.abc import Callable, Iterable, Sequence

import pytest
from starlette.responses import PlainTextResponse, Response

from mopo_eval.answers import (
    Answer,
    AnswerKey,
    Question,
    Refusal,
    Sampling,
    questions,
    request_seed,
)
from mopo_eval.endpoint import Endpoint, Patience
from mopo_eval.fleet import Fleet, LocalAsker
from mopo_eval.prompts import EvaluationPrompt
from mopo_train.errors import EngineError
from tests.mopo_eval.stub_engine import Body, Fault, StubEngine, completion, error, stub_engine

POLICIES = ["reference", "policy-00"]
PROMPTS = [EvaluationPrompt(f"p{i}", f"Question {i}?") for i in range(8)]
Keep = Callable[[Answer], None]
QUICK = Patience(attempts=4, first_wait=0.001)


async def ask(endpoint: Endpoint, asked: Iterable[Question], sampling: Sampling, keep: Keep) -> list[Refusal]:
    return await Fleet([LocalAsker(endpoint, sampling)], endpoint.concurrency, keep).ask(asked)


def ask_all(
    engine: StubEngine, sampling: Sampling | None = None, concurrency: int = 4
) -> tuple[list[Answer], list[Refusal]]:
    return ask_every(Endpoint(engine.url, "test", concurrency, QUICK), sampling or Sampling())


def ask_every(endpoint: Endpoint, sampling: Sampling) -> tuple[list[Answer], list[Refusal]]:
    given: list[Answer] = []
    asked = questions(POLICIES, PROMPTS, sampling)
    refused = asyncio.run(ask(endpoint, asked, sampling, given.append))
    return given, refused


def ask_one(url: str) -> tuple[list[Answer], list[Refusal]]:
    given: list[Answer] = []
    question = Question(AnswerKey("policy-00", "p0", 0), PROMPTS[0].messages, 1)
    refused = asyncio.run(ask(Endpoint(url, "test", 1, QUICK), [question], Sampling(), given.append))
    return given, refused


def test_every_question_is_asked_once_and_answered_by_its_policy() -> None:
    sampling = Sampling(temperature=0.5, max_tokens=7, samples=2)
    with stub_engine(POLICIES) as engine:
        given, refused = ask_all(engine, sampling)
    assert not refused
    assert len(engine.asked) == 2 * 8 * 2
    asked = {question.key: question for question in questions(POLICIES, PROMPTS, sampling)}
    assert {answer.key for answer in given} == set(asked)
    for answer in given:
        question = asked[answer.key]
        body: Body = {"model": answer.policy, "messages": question.messages, "seed": question.seed, "temperature": 0.5}
        assert answer.response == engine.answer(body)
        assert answer[4:] == ("stop", 3, 5, "test")
    assert {body["max_tokens"] for body in engine.asked} == {7}


def test_no_more_requests_than_allowed_are_in_flight() -> None:
    with stub_engine(POLICIES, answered=0) as engine:

        async def all_wait() -> None:
            asked = questions(POLICIES, PROMPTS, Sampling())
            task = asyncio.create_task(ask(Endpoint(engine.url, "test", 5), asked, Sampling(), lambda answer: None))
            for _ in range(5):
                await asyncio.to_thread(engine.held.acquire)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(all_wait())
    assert (engine.most_inflight, len(engine.asked)) == (5, 5)


def test_policies_share_the_seed_of_a_prompt_and_sample_and_nothing_else_does() -> None:
    seeds = {
        (question.key.prompt_id, question.key.sample, question.seed)
        for question in questions(POLICIES, PROMPTS, Sampling(seed=3, samples=2))
    }
    assert len(seeds) == len({seed for *_, seed in seeds}) == 16  # of 32 questions
    assert all(0 <= seed < 2**31 for *_, seed in seeds)
    assert request_seed(3, "p0", 0) != request_seed(4, "p0", 0)


def faults(*replies: Response | None) -> Fault:
    """The n-th time that a request comes, the n-th of ``replies``; afterwards the answer."""
    return lambda body, before: replies[before] if before < len(replies) else None


@pytest.mark.parametrize(
    "replies",
    [
        [error(500, "boom")],
        [error(429, "slow down", **{"retry-after": "0"}), error(503, "starting")],
        [error(429, "slow down", **{"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"})],
        [PlainTextResponse("bad gateway", 502)] * 3,
        [error(529, "overloaded"), error(408, "timeout")],
    ],
)
def test_failures_that_may_pass_are_tried_again(replies: Sequence[Response]) -> None:
    with stub_engine(POLICIES, faults(*replies)) as engine:
        given, _ = ask_all(engine)
    assert len(given) == 16
    assert len(engine.asked) == 16 * (1 + len(replies))


def test_an_engine_that_stays_unable_is_an_error_after_the_last_attempt() -> None:
    with stub_engine(POLICIES, lambda body, before: error(500, "out of memory")) as engine:
        with pytest.raises(EngineError, match=r"failed 4 times in a row; it answered 500: out of memory"):
            ask_one(engine.url)
    assert len(engine.asked) == 4


def cut() -> Response:
    """Ends the connection before the answer is whole."""
    return PlainTextResponse("{", headers={"content-length": "99"})


def test_an_engine_that_was_started_here_is_started_again_once_for_all_that_it_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    crashes: list[int] = []

    def fault(body: Body, before: int) -> Response | None:
        """Fails from its 5th and, started again, from its 25th request on."""
        return cut() if len(engine.asked) > (5, 25, 10_000)[len(crashes)] else None

    with stub_engine(POLICIES, fault) as engine:
        endpoint = Endpoint(engine.url, "vllm", 4, QUICK, restart=lambda: crashes.append(len(engine.asked)))
        given, refused = ask_every(endpoint, Sampling())
    assert (len(given), refused, len(crashes)) == (16, [], 2)
    assert "starting it again (2 of 5 times)" in capsys.readouterr().err


def test_an_engine_that_always_dies_or_cannot_be_started_again_is_an_error() -> None:
    restarts: list[None] = []

    failed: list[None] = []

    def gone() -> None:
        failed.append(None)
        raise EngineError("no memory left")

    with stub_engine(POLICIES, lambda body, before: cut()) as engine:
        with pytest.raises(EngineError, match="4 times in a row; Client"):
            ask_every(Endpoint(engine.url, "vllm", 4, QUICK, restart=lambda: restarts.append(None)), Sampling())
        assert len(restarts) == 5
        with pytest.raises(EngineError, match="no memory left"):
            ask_every(Endpoint(engine.url, "vllm", 4, QUICK, restart=gone), Sampling())
        assert len(failed) == 1  # not once more for each question in flight: a start may take minutes to fail
        engine.fault = lambda body, before: error(500, "out of order")
        with pytest.raises(EngineError, match="out of order"):  # it lives: another start would not help
            ask_every(Endpoint(engine.url, "vllm", 4, QUICK, restart=gone), Sampling())


def test_a_prompt_that_the_engine_refuses_is_told_and_the_others_are_answered() -> None:
    def too_long(body: Body, before: int) -> Response | None:
        return error(400, "maximum context length is 8") if body["messages"][0]["content"] == "Question 3?" else None

    with stub_engine(POLICIES, too_long) as engine:
        given, refused = ask_all(engine)
    assert len(given) == 14
    assert {refusal.key for refusal in refused} == {AnswerKey(policy, "p3", 0) for policy in POLICIES}
    assert refused[0].message == "maximum context length is 8"
    assert len(engine.asked) == 16  # a refusal is not tried again


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_an_engine_that_will_never_answer_is_an_error_at_once(status: int) -> None:
    with stub_engine(POLICIES, lambda body, before: error(status, "not for you")) as engine:
        with pytest.raises(EngineError, match=f"answered {status} for 'policy-00': not for you"):
            ask_one(engine.url)
    assert len(engine.asked) == 1


@pytest.mark.parametrize(
    "content",
    ["", "<html>", "{}", "[]", '{"choices": []}', '{"choices": [{}]}', '{"choices": [{"message": "x"}]}', "null"],
)
def test_something_other_than_a_completion_is_an_error(content: str) -> None:
    with stub_engine(POLICIES, lambda body, before: PlainTextResponse(content)) as engine:
        with pytest.raises(EngineError, match="gave no chat completion"):
            ask_one(engine.url)


@pytest.mark.parametrize("usage", [{}, {"usage": None}])
def test_an_empty_answer_is_an_answer_and_usage_may_be_missing(usage: Body) -> None:
    reply = {key: value for key, value in completion(None, "length").items() if key != "usage"} | usage
    with stub_engine(POLICIES, lambda body, before: PlainTextResponse(json.dumps(reply))) as engine:
        given, _ = ask_one(engine.url)
    assert given == [Answer("policy-00", "p0", 0, "", "length", 0, 0, "test")]


def test_half_a_surrogate_pair_is_replaced_since_no_file_can_hold_it() -> None:
    content = '{"choices": [{"message": {"content": "a\\ud83d"}, "finish_reason": "stop"}]}'
    with stub_engine(POLICIES, lambda body, before: PlainTextResponse(content)) as engine:
        given, _ = ask_one(engine.url)
    assert given[0].response == "a?"


def test_an_engine_that_is_not_there_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(EngineError, match=rf"127.0.0.1:{port} failed 4 times in a row; ClientConnectorError"):
        ask_one(f"http://127.0.0.1:{port}")


def test_a_connection_that_is_cut_is_tried_again() -> None:
    cut = 0

    async def scenario() -> list[Answer]:
        async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal cut
            head = await reader.readuntil(b"\r\n\r\n")
            size = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(size)
            whole = b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}'
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(whole))
            writer.write(whole[:10] if cut < 2 else whole)
            cut += 1
            writer.close()

        given: list[Answer] = []
        server = await asyncio.start_server(reply, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            question = Question(AnswerKey("policy-00", "p0", 0), PROMPTS[0].messages, 1)
            await ask(Endpoint(url, "test", 1, QUICK), [question], Sampling(), given.append)
        return given

    assert [answer.response for answer in asyncio.run(scenario())] == ["hi"]
    assert cut == 3
