from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mopo_eval import evaluation
from mopo_eval.answer_store import AnswerStore, Grid
from mopo_eval.answers import Answer, AnswerKey
from mopo_eval.evaluation import RESPONSES, write_tables
from mopo_eval.prompts import EvaluationPrompt
from mopo_eval.spool import open_spool
from mopo_train.errors import FamilyError

POLICIES, PROMPTS, SAMPLES = ["reference", "p1", "p2"], ["a", "b", "c", "d"], 2
GRID = Grid(POLICIES, PROMPTS, SAMPLES)


def everything(key: AnswerKey, kind: str) -> bool:
    return True


def answer(key: AnswerKey) -> Answer:
    return Answer(*key, f"{key.policy} says {key.sample} of {key.prompt_id}", "stop", 1, 2, "vllm")


def test_places_are_the_order_of_policies_prompts_and_samples() -> None:
    keys = [AnswerKey(policy, prompt, s) for policy in POLICIES for prompt in PROMPTS for s in range(SAMPLES)]
    assert [GRID.key(place) for place in range(GRID.size)] == keys
    assert [GRID.place(key) for key in keys] == list(range(len(keys)))
    assert GRID.place_of("reference", GRID.size - 1) == keys.index(AnswerKey("reference", "d", 1))
    for stranger in (AnswerKey("p3", "a", 0), AnswerKey("p1", "e", 0), AnswerKey("p1", "a", 2)):
        assert GRID.place(stranger) is None


def test_answers_are_found_wherever_they_lie_and_whatever_the_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "ROWS_AT_ONCE", 5)  # five row groups, of which two stay in memory
    order = np.random.default_rng(0).permutation(GRID.size).tolist()
    in_table, in_spool, new = order[:12], order[12:20], order[20:]
    prompts = [EvaluationPrompt(prompt, f"Question {prompt}?") for prompt in PROMPTS]
    write_tables(tmp_path, prompts, [answer(GRID.key(place)) for place in in_table], [])
    path = tmp_path / "answers.jsonl"
    with open_spool(path) as spool:
        for place in in_spool:
            spool.append(answer(GRID.key(place)))
    with closing(AnswerStore(GRID)) as store:
        store.add_table(tmp_path / RESPONSES, "run-1", everything)
        note = store.add_spool(path, "run-2", everything)
        assert (store.count, store.runs) == (20, ["run-1", "run-2"])
        assert list(store.missing()) == sorted(new)
        with open_spool(path) as spool:
            for place in new:
                note(answer(GRID.key(place)), spool.append(answer(GRID.key(place))))
        for place in [*order, *reversed(order)]:
            assert store[place] == answer(GRID.key(place))


def test_a_damaged_table_is_told(tmp_path: Path) -> None:
    (tmp_path / RESPONSES).write_bytes(b"PAR1 and no more")
    with closing(AnswerStore(GRID)) as store, pytest.raises(FamilyError, match="to measure again"):
        store.add_table(tmp_path / RESPONSES, "run-1", everything)
