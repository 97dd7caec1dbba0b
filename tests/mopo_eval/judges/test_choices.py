import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mopo_eval.answers import Sampling
from mopo_eval.choice_scores import CHOICES, ChoiceTable, choice_scores, encode_choices
from mopo_eval.drawn import drawn, write_drawn
from mopo_eval.engine import Engine
from mopo_eval.engine_choice import EngineChoice, chosen_engines
from mopo_eval.judges import Case, load_judge, load_judges
from mopo_eval.judges.choices import mc1, mc2
from mopo_eval.judges.scoring import score_cases
from mopo_eval.measure import Plan, measure
from mopo_eval.prompts import EvaluationPrompt
from mopo_train.errors import EngineError, JudgeError
from mopo_train.family import read_family
from tests.mopo_eval.stub_engine import stub_engine
from tests.tiny_family import POLICIES, reference_tokens, token_log_probabilities

PROMPTS = [
    EvaluationPrompt("p0", "Is iron a metal?", references=("Yes.", "It is."), incorrect=("No.", "It is wood.")),
    EvaluationPrompt("p1", "Why?", references=("Nobody knows.",), incorrect=("Because.", "Magic", "42")),
    EvaluationPrompt("p2", "Who?", references=("Someone", "A person", "You"), incorrect=("Nobody",)),
]


def truth(root: Path, policy: str, before: str, choice: str) -> float:
    """By transformers: the log-probability of the choice after the tokens of what stands before it."""
    tokens, begin = reference_tokens(root, before + choice), len(reference_tokens(root, before))
    return sum(token_log_probabilities(root, policy, tokens)[begin - 1 :])


def test_mc1_and_mc2_are_those_of_truthfulqa() -> None:
    assert mc1([-1.0, -9.0], [-2.0, -3.0]) == 1
    assert mc1([-9.0, -1.0], [-2.0]) == 0  # the best true answer counts, not the likeliest
    assert mc1([-2.0], [-2.0]) == 0
    right, wrong = np.log([0.2, 0.1]), np.log([0.4, 0.1])
    assert mc2(list(right), list(wrong)) == pytest.approx(0.3 / 0.8)
    assert mc2([-2000.0], [-2000.0]) == pytest.approx(0.5)  # far below what exp can show


@pytest.mark.parametrize(
    ("template", "before"), [(None, "<user>{}<end><assistant>"), ("Q: {prompt}\nA:", "Q: {}\nA: ")]
)
@pytest.mark.parametrize("engine", ["embedded_engine", pytest.param("vllm_engine", marks=pytest.mark.vllm)])
def test_policies_are_judged_by_their_own_log_probabilities(
    engine: str, template: str | None, before: str, tiny_copy: Path, request: pytest.FixtureRequest
) -> None:
    running: Engine = request.getfixturevalue(engine)
    judges = load_judges({"factuality": {"kind": "multiple-choice", "metric": "mc2", "template": template}})
    plan = Plan(PROMPTS, judges, Sampling(max_tokens=2), engine=EngineChoice(running.url, 4), allow_trained=True)
    made = measure(tiny_copy, read_family(tiny_copy), plan)
    figures = {(figure.policy, figure.name): figure.rate for figure in made.summary.figures}
    for card in made.cards:
        expected = []
        for prompt in PROMPTS:
            asked = before.format(prompt.prompt)
            right = [math.exp(truth(tiny_copy, card.policy, asked, choice)) for choice in prompt.references]
            wrong = [math.exp(truth(tiny_copy, card.policy, asked, choice)) for choice in prompt.incorrect]
            expected.append((float(right[0] > max(wrong)), sum(right) / sum(right + wrong)))
        assert card.objectives["factuality"].mean == pytest.approx(np.mean(expected, axis=0)[1], abs=1e-3)
        for name, value in zip(("MC1", "MC2"), np.mean(expected, axis=0), strict=True):
            rate = figures[card.policy, name]
            assert rate is not None and rate.mean == pytest.approx(value, abs=1e-3)


def test_answers_and_log_probabilities_come_from_one_engine(
    tiny_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judges = load_judges({"factuality": "multiple-choice"})
    plan = Plan(PROMPTS, judges, Sampling(max_tokens=2), engine=EngineChoice("embedded"), allow_trained=True)
    measure(tiny_copy, read_family(tiny_copy), plan)
    told = capsys.readouterr().err
    assert told.count(" is ready at ") == 1
    measure(tiny_copy, read_family(tiny_copy), plan)
    assert " is ready at " not in capsys.readouterr().err


def test_what_was_scored_is_not_asked_again_and_other_choices_are(tiny_copy: Path, embedded_engine: Engine) -> None:
    family, directory = read_family(tiny_copy), tiny_copy / "evaluation" / "aaa-1"
    judges = load_judges({"factuality": "multiple-choice"})
    made = drawn(tiny_copy, family, PROMPTS, Sampling())
    trained = made.model_copy(update={"policies": made.policies | {"policy-00": "trained again"}})
    for name, each in {"aaa-1": made, "aaa-2": made, "bbb-1": trained}.items():
        write_drawn(directory.with_name(name), each)

    def scores(url: str, prompts: Sequence[EvaluationPrompt] = PROMPTS, place: Path = directory) -> ChoiceTable:
        with chosen_engines(tiny_copy, family, EngineChoice(url, 4), tiny_copy / "engine.log") as engines:
            return choice_scores(engines, prompts, judges, place)

    found = scores(embedded_engine.url)
    assert len((directory / CHOICES).read_text().splitlines()) == len(PROMPTS) * len(POLICIES)
    with stub_engine(POLICIES) as engine:  # knows no /v1/completions
        assert scores(engine.url) == found
        assert scores(engine.url, place=directory.with_name("aaa-2")) == found  # judged otherwise
        with pytest.raises(EngineError, match="multiple choice needs /v1/completions with 'echo'"):
            scores(engine.url, place=directory.with_name("bbb-1"))
        with pytest.raises(EngineError, match="multiple choice needs /v1/completions with 'echo'"):
            scores(engine.url, [PROMPTS[0]._replace(incorrect=("Never.",)), *PROMPTS[1:]])


def test_prompts_without_choices_and_texts_are_refused(tiny_copy: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_copy / "base")
    with pytest.raises(JudgeError, match="'p9': it needs right and wrong answers"):
        encode_choices(tokenizer, EvaluationPrompt("p9", "Why?", references=("So.",)), None)
    with pytest.raises(JudgeError, match="log-probabilities, not texts"):
        score_cases(load_judge("multiple-choice"), [Case("Why?", "So.", "row 1")])
    with pytest.raises(JudgeError, match="template"):
        load_judge({"kind": "multiple-choice", "template": "no place for the question"})


def test_a_policy_whose_output_is_not_finite_is_an_error() -> None:
    case = Case("Why?", "", "row 1", ("So.",), ("No.",), choices=(math.nan, -1.0))
    with pytest.raises(JudgeError, match="on row 1: the engine's log-probabilities are"):
        score_cases(load_judge("multiple-choice"), [case])


def test_evidence_names_the_likeliest_answer(tiny_copy: Path) -> None:
    case = Case("Why?", "", "row 1", ("So.",), ("No.", "Never."), choices=(-3.0, -1.0, -2.0))
    (found,) = score_cases(load_judge("multiple-choice"), [case])
    assert (found.score, found.label) == (0.0, "wrong")
    assert json.loads(found.evidence or "")["likeliest"] == "No."
