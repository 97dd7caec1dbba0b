import itertools

import numpy as np
import pytest

from mopo_train.errors import JudgeError
from mopo_train.sandbox.annotators import PANEL, Compared, chances
from mopo_train.sandbox.answers import answers, draw
from mopo_train.sandbox.front import exact_front, exact_rates, exact_world
from mopo_train.sandbox.judges import JUDGES
from mopo_train.sandbox.pairs import held_out_questions
from mopo_train.sandbox.scoring import OBJECTIVES

PROMPTS = [question.text for question in held_out_questions(2, 60)]
FRONT = exact_front(PROMPTS)


def test_win_rates_are_expected_preferences_over_the_writers_own_answers() -> None:
    """Against the double sum written out, one pair and one annotator at a time."""
    question = held_out_questions(2, 60)[0]
    known = answers(question)
    rates = exact_rates([question.text])
    for index in (0, len(known) // 2, len(known) - 1):
        for k, name in enumerate(OBJECTIVES):
            total = 0.0
            for other in known:
                scores = [
                    np.array([JUDGES[name](question.text, text).score]) for text in (known[index].text, other.text)
                ]
                words = len(known[index].text.split()) - len(other.text.split()) if name == "helpfulness" else 0
                for annotator in PANEL:
                    chance = chances(annotator, Compared(scores[0], scores[1], np.array([float(words)])))
                    total += other.probability * float(chance.first[0] + chance.tie[0] / 2) / len(PANEL)
            assert rates.rates[index, k] == pytest.approx(total, abs=1e-12)


def test_the_writer_is_at_parity_with_himself() -> None:
    world = exact_world(PROMPTS)
    assert world.rates.mass @ world.rates.rates / len(PROMPTS) == pytest.approx([0.5, 0.5, 0.5])
    assert FRONT.reference.win_rates == pytest.approx(dict.fromkeys(OBJECTIVES, 0.5))
    assert FRONT.reference.kl == 0


def test_expected_scores_of_the_reference_agree_with_sampled_answers() -> None:
    generator = np.random.default_rng(4)
    drawn = [
        [JUDGES[name](question.text, draw(question, generator).text).score for name in OBJECTIVES]
        for question in held_out_questions(2, 60)
        for _ in range(60)
    ]
    assert np.mean(drawn, axis=0) == pytest.approx(list(FRONT.reference.scores.values()), abs=0.03)


def test_the_front_spans_a_quarter_in_each_objective_and_beats_the_reference_everywhere() -> None:
    for name in OBJECTIVES:
        reached = [point.win_rates[name] for point in FRONT.points]
        assert max(reached) - min(reached) >= 0.25
        assert max(reached) > FRONT.reference.win_rates[name] + 0.15


def test_there_are_enough_points_and_none_dominates_another() -> None:
    assert 60 <= len(FRONT.points) <= 150
    reached = [tuple(point.win_rates.values()) for point in FRONT.points]
    for one, other in itertools.permutations(reached, 2):
        assert not (all(a >= b for a, b in zip(one, other, strict=True)) and one != other)


def test_a_point_is_the_closed_form_tilt_of_each_prompt() -> None:
    point = FRONT.points[len(FRONT.points) // 2]
    world = exact_world(PROMPTS)
    values, divergence = np.zeros(3), 0.0
    for start, end in itertools.pairwise(world.rates.starts):
        rates, mass = world.rates.rates[start:end], world.rates.mass[start:end]
        score = rates @ [1.0, point.multipliers["safety"], point.multipliers["factuality"]]
        policy = mass * np.exp(score / FRONT.tau)
        policy /= policy.sum()
        values += policy @ rates / len(PROMPTS)
        divergence += float(policy @ np.log(policy / mass)) / len(PROMPTS)
    assert values == pytest.approx(list(point.win_rates.values()), abs=1e-9)
    assert point.kl == pytest.approx(divergence, abs=1e-9)


def test_another_primary_and_temperature_can_be_asked_for() -> None:
    front = exact_front(PROMPTS[:5], tau=0.3, primary="safety", multipliers=(0.0, 1.0))
    assert (front.tau, front.primary) == (0.3, "safety")
    assert all(set(point.multipliers) == {"helpfulness", "factuality"} for point in front.points)


def test_a_prompt_of_another_world_has_no_front() -> None:
    with pytest.raises(JudgeError):
        exact_front(["What is love?"])
