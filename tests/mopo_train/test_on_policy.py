"""On-policy rounds: win rates of a policy's own answers by hand, and a run with a round."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mopo_train.errors import DataError, FloorError
from mopo_train.family import read_family
from mopo_train.policy.corpus import Corpus
from mopo_train.policy.on_policy import Round, Setup, Written, plan_round, round_rates, write_answers
from mopo_train.preference_model.settings import FitSettings
from mopo_train.preferences import read_preferences
from mopo_train.run import read_config
from tests.mopo_train.test_policy import encoded, tiny_llama
from tests.mopo_train.test_run import CONFIG, World
from tests.tiny_family import write_tokenizer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def test_an_answer_meets_every_response_of_the_data_and_itself_as_a_tie(tmp_path: Path) -> None:
    """Data answers A and B; the policy wrote N three times and A once.

    N beats A with 0.8 and B with 0.6 on help: 0.7; A ties itself and beats B with 0.3: 0.4. Shares are 3/4 and 1/4.
    """
    rows = [
        {"prompt": "q", "response_a": "A", "response_b": "B", "preferences": {"help": 1, "safe": 0}},
        {"prompt": "z", "response_a": "A", "response_b": "B", "preferences": {"help": 1}},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = read_preferences([path])
    answers = [encoded([1], [2]), encoded([1], [3])]
    written = Written(
        np.array([0, 1]), answers * 2, ["N", "A"] * 2, np.array([3.0, 1.0, 1.0, 1.0]), np.array([0, 2, 4])
    )
    labels = {
        (json.dumps(prompt), *pair): np.array(chance)
        for prompt in ("q", "z")
        for pair, chance in ((("N", "A"), [0.8, 0.2]), (("N", "B"), [0.6, 0.4]), (("A", "B"), [0.3, 0.9]))
    }
    rates = round_rates(data, written, labels)
    assert rates.rates[:2].tolist() == [pytest.approx([0.7, 0.3]), pytest.approx([0.4, 0.7])]
    assert rates.mass.tolist() == [0.75, 0.25, 0.5, 0.5]
    assert rates.labelled.tolist() == [[True, True], [True, False]]  # nothing checks the model on safe there
    assert rates.itself
    corpus = Corpus(answers * 2, np.array([2, 2, 2, 2]), "")
    plan = plan_round(Round(rates, corpus, np.zeros(4)), 4, 3, seed=0)
    assert [sorted(step.responses[pair].tolist()) for step in plan[:1] for pair in step.pairs] == [[0, 1], [2, 3]]


def test_equal_answers_are_counted_and_prompts_with_one_answer_left_out(tmp_path: Path) -> None:
    tokenizer, model = write_tokenizer(tmp_path), tiny_llama(vocabulary=264)
    prompts = [np.array([5, 6 + x], dtype=np.int32) for x in range(6)]
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "q", "response_a": "A", "response_b": "B", "preferences": {"help": 1, "safe": 0}}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    setup = Setup(read_preferences([path]), tokenizer, prompts, 3, 40, FitSettings())
    written = write_answers(setup, model, seed=0)
    for place, prompt in enumerate(written.prompts.tolist()):
        begin, end = written.starts[place : place + 2]
        assert len(set(written.texts[begin:end])) == end - begin >= 2
        assert 2 <= written.counts[begin:end].sum() <= 40  # empty answers are none
        assert all(row.prompt.tolist() == prompts[prompt].tolist() for row in written.rows[begin:end])
    assert len(written.rows) < 6 * 40
    model.lm_head.weight.data *= 1e5  # one answer to each prompt
    with pytest.raises(DataError, match="the same answer to every prompt"):
        write_answers(setup._replace(prompts=prompts[:1], answers=2), model, seed=0)


def test_a_round_trains_on_the_policys_own_answers(world: World, tmp_path: Path) -> None:
    out = tmp_path / "family"
    family = world.train(
        out, CONFIG.model_copy(update={"policies": 1, "on_policy_rounds": 1, "on_policy_answers": 3, "kl_prompts": 0})
    )
    assert read_family(out) == family
    log = pd.read_parquet(out / "training" / "policy-00.round-1.parquet")
    assert log["step"].tolist() == [10]
    assert {"estimated.helpfulness", "predicted.safety", "kl", "ess"} <= set(log.columns)
    assert (out / "policies" / "policy-00" / "adapter_model.safetensors").is_file()
    assert not list((out / ".work").glob("*-rounds"))


def test_a_lagged_reference_and_rounds_exclude_each_other() -> None:
    with pytest.raises(FloorError, match="--t0 reweights the data's responses, --on-policy-rounds replaces them"):
        read_config({}, primary="help", policies=1, t0=10, on_policy_rounds=1)
