import json
from pathlib import Path

import numpy as np
import pytest
from starlette.responses import JSONResponse, Response

from mopo_eval.answers import Sampling
from mopo_eval.endpoint import Patience
from mopo_eval.engine_choice import EngineChoice
from mopo_eval.evaluation import JudgementRow, read_summary
from mopo_eval.figures import Rate
from mopo_eval.intervals import interval
from mopo_eval.judges import load_judges
from mopo_eval.judges.safety import HARMFUL_COMPLIANCE, OVER_REFUSAL, RIGHT_ANSWER, RIGHT_REFUSAL
from mopo_eval.measure import Plan, measure
from mopo_eval.prompts import EvaluationPrompt
from mopo_eval.stances import StanceRates, Stances
from mopo_train.errors import JudgeError
from mopo_train.family import read_family
from tests.families import SCORES
from tests.mopo_eval.stub_engine import Body, completion, stub_engine


def row(prompt: str, label: str, sample: int = 0) -> JudgementRow:
    score = float(label in (RIGHT_REFUSAL, RIGHT_ANSWER))
    return JudgementRow("policy-00", prompt, sample, "safety", "safety", score, label, None)


def rates_of(rows: list[JudgementRow], confidence: float) -> list[StanceRates]:
    found = Stances(["a", "b", "c", "d", "e"])
    for each in rows:
        found.add(each)
    return found.rates(confidence)


def test_each_rate_is_over_the_prompts_of_its_kind_with_samples_averaged_first() -> None:
    rows = [
        row("a", RIGHT_REFUSAL),
        row("a", HARMFUL_COMPLIANCE, 1),
        row("b", RIGHT_REFUSAL),
        row("b", RIGHT_REFUSAL, 1),
    ]
    rows += [row("c", RIGHT_ANSWER), row("d", OVER_REFUSAL), row("e", RIGHT_ANSWER)]
    (rates,) = rates_of(rows, 0.9)
    low, high = interval(np.array([0.5, 1.0]), 0.9)
    assert rates.refusal == Rate(mean=0.75, low=low, high=high, n=2)
    assert rates.harmful_compliance is not None and rates.harmful_compliance.mean == 0.25
    assert rates.over_refusal is not None
    assert rates.over_refusal.mean == pytest.approx(1 / 3)
    assert rates.over_refusal.n == 3


def test_one_prompt_of_a_kind_is_no_evidence_and_other_judges_tell_no_stance() -> None:
    (rates,) = rates_of([row("a", RIGHT_REFUSAL), row("c", RIGHT_ANSWER), row("d", RIGHT_ANSWER)], 0.9)
    assert rates.refusal is None and rates.harmful_compliance is None
    assert rates.over_refusal is not None and rates.over_refusal.mean == 0
    assert rates_of([row("a", "high")], 0.9) == []


def measured_plan(url: str, judges: dict[str, object], harmful: bool | None = True) -> Plan:
    prompts = [
        EvaluationPrompt(f"p{i}", f"Question {i}?", harmful=None if harmful is None else i % 2 == 0) for i in range(8)
    ]
    return Plan(prompts, load_judges(judges), Sampling(), engine=EngineChoice(url, 4, Patience(2, 0.001)))


def policies_that_refuse(body: Body, before: int) -> Response:
    """policy-00 refuses everything, the others nothing."""
    refuses = body["model"] == "policy-00"
    return JSONResponse(completion("I cannot help with that." if refuses else "Sure, here is how."))


def test_a_policy_that_refuses_everything_is_measured_as_useless_not_as_safe(unmeasured_root: Path) -> None:
    root = unmeasured_root
    with stub_engine(list(SCORES), policies_that_refuse) as engine:
        made = measure(root, read_family(root), measured_plan(engine.url, {"safety": "safety"}))
    summary = read_summary(root / "evaluation" / made.summary.run / "run.json")
    rates = {one.policy: one for one in summary.stances}
    assert list(rates) == list(SCORES)
    figures = [
        [rate.mean for rate in (one.harmful_compliance, one.refusal, one.over_refusal) if rate]
        for one in (rates["policy-00"], rates["policy-01"])
    ]
    assert figures == [[0, 1, 1], [1, 0, 0]]
    assert {card.policy: card.objectives["safety"].mean for card in made.cards} == dict.fromkeys(SCORES, 0.5)


def test_prompts_without_a_kind_stop_the_judge_and_keep_the_answers(unmeasured_root: Path) -> None:
    root = unmeasured_root
    with stub_engine(list(SCORES), policies_that_refuse) as engine:
        with pytest.raises(JudgeError, match=r'"harmful": true or false.*All 40 answers are kept'):
            measure(root, read_family(root), measured_plan(engine.url, {"safety": "safety"}, harmful=None))


def test_a_model_judges_against_the_reference_policy_and_its_flips_are_counted(unmeasured_root: Path) -> None:
    """The judge always says A: every comparison of different answers is a flip, and the run says how many."""
    root = unmeasured_root

    def judge(body: Body, before: int) -> Response | None:
        return JSONResponse(completion(json.dumps({"reason": "", "verdict": "A"})))

    entry = {"kind": "llm", "model": "j", "rubric": "r", "mode": "compare"}
    with stub_engine(list(SCORES), policies_that_refuse) as engine, stub_engine(["j"], judge) as model:
        made = measure(root, read_family(root), measured_plan(engine.url, {"helpfulness": entry | {"url": model.url}}))
        asked = len(model.asked)
        again = measure(root, read_family(root), measured_plan(engine.url, {"helpfulness": entry | {"url": model.url}}))
        assert len(model.asked) == asked == 8 * 2  # equal answers need no judge, equal questions are asked once
    assert made.summary.doubtful == {"helpfulness": {"flipped": 8}}
    rates = {(each.policy, each.name): each.rate for each in made.summary.figures}
    assert all(rate is not None and rate.mean == 1 for rate in rates.values())
    assert {name for _, name in rates} == {"flipped", "first preferred"}
    assert again.cards == made.cards
