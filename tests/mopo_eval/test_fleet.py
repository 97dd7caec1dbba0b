"""Several engines share the questions; what fails or is lost is made up for, and nothing else is asked twice."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from mopo_eval.answers import Answer, AnswerKey, Question, Refusal, Sampling
from mopo_eval.cli import main
from mopo_eval.endpoint import Endpoint, Patience
from mopo_eval.evaluation import read_responses
from mopo_eval.fleet import Fleet, LocalAsker, Lost
from mopo_train.errors import EngineError, MopoError
from tests.families import SCORES
from tests.mopo_eval.measurable import measurable
from tests.mopo_eval.stub_engine import StubEngine, error, stub_engine

QUESTIONS = [Question(AnswerKey("policy-00", f"p{i}", 0), [{"role": "user", "content": f"Q{i}"}], i) for i in range(40)]


def ask(urls: Sequence[str], concurrency: int = 3) -> tuple[list[Answer], list[Refusal]]:
    given: list[Answer] = []
    askers = [LocalAsker(Endpoint(url, "attached", concurrency, Patience(2, 0.001)), Sampling()) for url in urls]
    refused = asyncio.run(Fleet(askers, concurrency, given.append).ask(QUESTIONS))
    return given, refused


def told(engine: StubEngine) -> list[str]:
    return [body["messages"][-1]["content"] for body in engine.asked]


def test_every_question_is_asked_once_and_both_engines_work() -> None:
    with stub_engine(list(SCORES)) as one, stub_engine(list(SCORES)) as other:
        given, refused = ask([one.url, other.url])
    assert sorted(told(one) + told(other)) == sorted(f"Q{i}" for i in range(40))
    assert one.asked
    assert other.asked
    assert max(one.most_inflight, other.most_inflight) <= 3
    assert {answer.key for answer in given} == {question.key for question in QUESTIONS}
    assert refused == []


def test_an_engine_that_fails_leaves_its_questions_to_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        stub_engine(list(SCORES)) as good,
        stub_engine(list(SCORES), lambda body, before: error(500, "broken")) as bad,
    ):
        given, _ = ask([bad.url, good.url])
        assert sorted(told(good)) == sorted(f"Q{i}" for i in range(40))
        assert len(given) == 40
        assert "the other 1 engines go on without it" in capsys.readouterr().err
        with pytest.raises(EngineError, match="broken"):
            ask([bad.url])


@pytest.mark.parametrize("engines", [1, 2])
def test_what_keeps_an_answer_from_being_kept_is_raised_as_it_is(engines: int) -> None:
    def full(answer: Answer) -> None:
        raise MopoError("the disk is full")

    with stub_engine(list(SCORES)) as engine:
        askers = [LocalAsker(Endpoint(engine.url, "attached"), Sampling()) for _ in range(engines)]
        with pytest.raises(MopoError, match="the disk is full"):
            asyncio.run(Fleet(askers, 3, full).ask(QUESTIONS))


def test_a_refusal_is_no_failure() -> None:
    def refuses(body: dict[str, object], before: int) -> object:
        return error(400, "too long") if "Q7" in json.dumps(body["messages"]) else None

    with stub_engine(list(SCORES), refuses) as one, stub_engine(list(SCORES)) as other:  # type: ignore[arg-type]
        given, refused = ask([one.url, other.url], 1)
    assert len(given) + len(refused) == 40


class Dying:
    """Loses its worker at some questions, once each."""

    name = "dying"

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    async def answer(self, question: Question) -> Answer | Refusal:
        self.asked[question.key.prompt_id] += 1
        if question.seed % 10 == 3 and self.asked[question.key.prompt_id] == 1:
            raise Lost("its machine died")
        return Answer(*question.key, "yes", "stop", 1, 1, "attached")

    async def close(self) -> None:
        self.asked["closed"] += 1


def test_what_a_lost_worker_had_in_flight_is_asked_again_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mopo_eval.fleet.PAUSE_SECONDS", 0.001)
    dying, given = Dying(), list[Answer]()
    asyncio.run(Fleet([dying], 2, given.append).ask(QUESTIONS))
    assert len(given) == 40
    assert {name for name, count in dying.asked.items() if count > 1} == {"p3", "p13", "p23", "p33"}
    assert dying.asked["closed"] == 1
    monkeypatch.setattr("mopo_eval.fleet.REVIVAL_SECONDS", 0.0)
    with pytest.raises(EngineError, match="did not come back: its machine died"):
        asyncio.run(Fleet([Dying()], 2, given.append).ask(QUESTIONS))


def test_the_command_takes_several_urls_and_no_mixture(tmp_path: Path) -> None:
    root, options = measurable(tmp_path, prompts=12)
    with stub_engine(list(SCORES)) as one, stub_engine(list(SCORES)) as other:
        result = CliRunner().invoke(main, ["run", *options, "--engine", one.url, "--engine", other.url])
        assert result.exit_code == 0, result.output
        assert len(one.asked) + len(other.asked) == 12 * len(SCORES)
        (run,) = (root / "evaluation").glob("*/run.json")
        assert len(list(read_responses(run.parent))) == 12 * len(SCORES)
        result = CliRunner().invoke(main, ["run", *options, "--engine", one.url, "--engine", "vllm"])
    assert (result.exit_code, "to start several, see --executor ray" in result.stderr) == (2, True)
