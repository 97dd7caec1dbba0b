import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from starlette.responses import JSONResponse, Response

from mopo_eval.answers import Sampling
from mopo_eval.cli import main
from mopo_eval.endpoint import Patience
from mopo_eval.engine_choice import EngineChoice
from mopo_eval.judges import Case, Judge, load_judge, load_judges
from mopo_eval.judges.case import Figured
from mopo_eval.judges.claim_model import KINDS, features, fit_claim_model
from mopo_eval.judges.claims import Claim, claims_of, judgement_of
from mopo_eval.judges.scoring import score_cases
from mopo_eval.measure import Plan, measure
from mopo_eval.page.report_page import report_page
from mopo_eval.profiles import ProfileFile
from mopo_eval.prompts import EvaluationPrompt
from mopo_eval.report import make_report, report_json
from mopo_train.errors import JudgeError
from mopo_train.family import read_family
from tests.families import SCORES
from tests.mopo_eval.stub_engine import Body, completion, error, stub_engine

TRUE = ("Iron is a metal.", "Iron melts at 1538 degrees.")
FALSE = ("Iron is a gas.",)
METALS = ["iron", "gold", "zinc", "lead", "tin", "silver", "copper", "nickel", "cobalt", "titanium", "sodium", "cesium"]


def case(response: str, references: tuple[str, ...] = TRUE) -> Case:
    return Case("What is iron?", response, "p1", references, FALSE)


def model(says: Callable[[str], str | Response]) -> Callable[[Body, int], Response]:
    """A language model that decides by the statement."""

    def answer(body: Body, before: int) -> Response:
        statement = str(body["messages"][1]["content"]).partition("# Statement\n")[2]
        given = says(statement)
        if isinstance(given, Response):
            return given
        return JSONResponse(completion(json.dumps({"reason": "because", "verdict": given})))

    return answer


def by_words(statement: str) -> str:
    return "supported" if "metal" in statement else "contradicted" if "gas" in statement else "unsupported"


def judged(judge: Judge, cases: list[Case]) -> list[Any]:
    return score_cases(judge, cases)


def llm(url: str) -> Judge:
    return load_judge({"kind": "claims", "url": url, "model": "m"})


def test_sentences_with_words_are_claims_and_questions_are_not() -> None:
    text = 'Iron is a metal. It "melts at 1538 degrees." Is it?\n- It rusts\n\n...'
    assert claims_of(text) == ["Iron is a metal.", 'It "melts at 1538 degrees."', "It rusts"]


def test_the_score_is_the_expected_share_of_supported_claims() -> None:
    found = judgement_of(
        [Claim("a", "supported", 0.9), Claim("b", "contradicted", 0.1), Claim("c", "unsupported", 0.2)]
    )
    assert found.score == pytest.approx(0.4)
    assert found.label == "contradicted"
    assert judgement_of([]) == (0.0, "no claims", None)


def test_a_language_model_checks_claim_by_claim_and_abstention_is_apart() -> None:
    with stub_engine(["m"], model(by_words)) as engine:
        judge = llm(engine.url)
        answers = ["Iron is a metal. It is a gas. It is blue.", "I don't know.", "Iron is a metal.", "?"]
        mixed, abstained, right, empty = judged(judge, [case(answer) for answer in answers])
    assert len(engine.asked) == 4  # claims
    assert "Iron is a gas." in str(engine.asked[0]["messages"][1]["content"])  # known to be false
    assert (mixed.score, mixed.label) == (pytest.approx(1 / 3), "contradicted")
    assert (abstained.score, abstained.label) == (0.5, "abstained")
    assert (right.score, right.label, empty.score, empty.label) == (1.0, "supported", 0.0, "no claims")
    assert isinstance(judge, Figured)
    third = pytest.approx(1 / 3)
    assert judge.figures(mixed) == {"abstained": 0, "supported": third, "contradicted": third, "unsupported": third}
    assert judge.figures(abstained) == {"abstained": 1}
    assert judge.figures(empty) == {"abstained": 0}


def test_a_claim_without_a_verdict_is_counted_and_a_judge_that_is_down_is_an_error() -> None:
    with stub_engine(["m"], model(lambda statement: "perhaps" if "blue" in statement else "supported")) as engine:
        (found,) = judged(llm(engine.url), [case("Iron is a metal. It is blue.")])
    assert (found.score, found.label) == (0.5, "unparseable")
    with stub_engine(["m"], model(lambda statement: error(401, "who are you"))) as engine:
        with pytest.raises(JudgeError, match="401: who are you"):
            judged(llm(engine.url), [case("Iron is a metal.")])


def test_prompts_without_references_and_half_a_description_are_refused() -> None:
    with pytest.raises(JudgeError, match='p1: the prompts file has no references.*"references"'):
        judged(load_judge({"kind": "claims", "url": "http://127.0.0.1:1", "model": "m"}), [case("Yes.", ())])
    for given in ({}, {"url": "http://x"}, {"url": "http://x", "model": "m", "data": ["a"]}):
        with pytest.raises(JudgeError, match="describes no judge"):
            load_judge({"kind": "claims", **given})


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is known of some metals: right statements say the same in other words, wrong ones something else."""
    rows = []
    for n, metal in enumerate(METALS * 5):
        name = f"{metal} {n}"
        rows.append(
            {
                "prompt": f"What is {name}?",
                "references": [f"{name} is a metal from mine {n}", f"A metal from mine {n} is {name}"],
                "incorrect": [f"{name} is a gas from cloud {n}", f"A gas from cloud {n} is {name}"],
            }
        )
    path = tmp_path_factory.mktemp("facts") / "facts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_fitted_model_tells_kinds_apart_and_its_held_out_accuracy_is_true(facts: Path) -> None:
    known = fit_claim_model((str(facts),), 0)
    assert known.reliability.accuracy > 0.9 and known.reliability.low <= known.reliability.accuracy
    assert known.reliability.n == 60 * (2 + 2 + 4) * 2
    right, wrong = ("brass is a metal from mine 99", "A metal from mine 99 is brass"), ("brass is a gas from cloud 99",)
    decided = [
        KINDS[int(np.argmax(known.probabilities("What is brass?", claim, right, wrong)))]
        for claim in ("The metal brass is from mine 99", "A gas from cloud 99 is brass", "tin 4 is a metal from mine 4")
    ]
    assert decided == ["supported", "contradicted", "unsupported"]
    assert features("Iron is no metal", ("Iron is a metal",), ())[4] == 1  # one of them denies


def test_a_fitted_judge_prints_its_held_out_accuracy_beside_every_number(
    facts: Path, unmeasured_root: Path, tmp_path: Path
) -> None:
    prompts = [EvaluationPrompt(f"p{n}", f"Which {n}?", references=(f"a metal {n}",)) for n in range(12)]
    judges = load_judges({"factuality": {"kind": "claims", "data": [str(facts)]}})
    with stub_engine(list(SCORES)) as engine:
        plan = Plan(prompts, judges, Sampling(), engine=EngineChoice(engine.url, 4, Patience(2, 0.001)))
        made = measure(unmeasured_root, read_family(unmeasured_root), plan)
    known = made.summary.reliability["factuality"]
    assert all(card.objectives["factuality"].reliability == known for card in made.cards)
    assert {figure.name for figure in made.summary.figures} >= {"abstained", "supported"}
    report = make_report(unmeasured_root, read_family(unmeasured_root), ProfileFile())
    assert report_json(report)["reliability"]["factuality"]["n"] == known.n
    assert known.brief in report_page(report)
    done = CliRunner().invoke(main, ["report", str(unmeasured_root)])
    assert f"{known.accuracy:.2f} held out" in " ".join(done.stdout.split()) and known.sentence in done.stderr


def test_too_few_facts_are_told(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps({"prompt": "a", "references": ["b"], "incorrect": ["c"]}), encoding="utf-8")
    with pytest.raises(JudgeError, match="1 rows of .* needs 20"):
        fit_claim_model((str(path),), 0)
