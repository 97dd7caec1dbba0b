from contextlib import closing
from pathlib import Path

import pytest

from mopo_eval.answer_store import AnswerStore, Grid
from mopo_eval.answers import Answer, Sampling
from mopo_eval.drawn import Drawn, drawn, find_answers, weights, write_drawn
from mopo_eval.evaluation import SPOOL, write_tables
from mopo_eval.prompts import EvaluationPrompt
from mopo_eval.spool import open_spool
from mopo_train.errors import FamilyError
from tests.mopo_eval.measured_family import trained_family

PROMPTS = [EvaluationPrompt("a", "A?"), EvaluationPrompt("b", [{"role": "user", "content": "B?"}])]
MADE = Drawn(policies={"reference": "0", "p1": "1"}, prompts={"a": "A", "b": "B"}, sampling=Sampling())


def answer(prompt_id: str, response: str = "Yes.", engine: str = "vllm", policy: str = "reference") -> Answer:
    return Answer(policy, prompt_id, 0, response, "stop", 3, 5, engine)


def found(root: Path, run: str, made: Drawn, kinds: str = "vllm embedded") -> AnswerStore:
    grid = Grid(list(made.policies), list(made.prompts), made.sampling.samples)
    return find_answers(root, run, grid, made, lambda kind: kind in kinds)


def test_answers_come_from_spool_and_table_and_from_runs_that_drew_the_same(tmp_path: Path) -> None:
    own, other, unlike = (tmp_path / "evaluation" / name for name in ("own", "other", "unlike"))
    write_tables(other, PROMPTS, [answer("a", "other a"), answer("b", "other b")], [])
    write_drawn(other, MADE)
    write_tables(unlike, PROMPTS, [answer(each.id, "hot", policy="p1") for each in PROMPTS], [])
    write_drawn(unlike, MADE.model_copy(update={"sampling": Sampling(temperature=2)}))
    with open_spool(own / SPOOL) as spool:
        spool.append(answer("b", "own b"))
    with closing(found(tmp_path, "own", MADE)) as store:
        assert [store[0].response, store[1].response] == ["other a", "own b"]
        assert (store.runs, list(store.missing())) == (["other", "own"], [2, 3])


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({"sampling": Sampling(samples=2)}, ["reference a", "reference b", "p1 a", "p1 b"]),
        ({"sampling": Sampling(max_tokens=8)}, []),
        ({"sampling": Sampling(seed=1)}, []),
        ({"prompts": {"a": "A", "b": "another B", "c": "C"}}, ["reference a", "p1 a"]),
        ({"policies": {"reference": "0", "p1": "trained again"}}, ["reference a", "reference b"]),
        ({"policies": {"p2": "1"}}, []),
    ],
)
def test_what_decides_an_answer_is_shared_or_the_answer_is_asked_for(
    tmp_path: Path, change: dict[str, object], shared: list[str]
) -> None:
    there = tmp_path / "evaluation" / "earlier"
    write_tables(there, PROMPTS, [answer(each.id, policy=policy) for policy in MADE.policies for each in PROMPTS], [])
    write_drawn(there, MADE)
    made = MADE.model_copy(update=change)
    with closing(found(tmp_path, "new", made)) as store:
        missing = set(store.missing())
        keys = [store.grid.key(place) for place in range(len(store)) if place not in missing]
    assert [f"{key.policy} {key.prompt_id}" for key in keys] == shared


def test_answers_of_an_engine_that_was_not_asked_for_are_not_taken(tmp_path: Path) -> None:
    with open_spool(tmp_path / "evaluation" / "own" / SPOOL) as spool:
        spool.append(answer("a", engine="embedded"))
        spool.append(answer("b", engine="vllm"))
    with closing(found(tmp_path, "own", MADE, "vllm")) as store:
        assert list(store.missing()) == [0, 2, 3]
        with pytest.raises(IndexError):
            store[0]


def test_weights_are_the_files_that_an_engine_loads(tmp_path: Path) -> None:
    family = trained_family(tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_bytes(b"base")
    before = weights(tmp_path, family)
    (tmp_path / "policies" / "policy-00" / "README.md").write_text("a card")
    (tmp_path / "base" / "README.md").write_text("a card")
    assert weights(tmp_path, family) == before
    (tmp_path / "policies" / "policy-00" / "adapter_model.safetensors").write_bytes(b"trained again")
    again = weights(tmp_path, family)
    assert [policy for policy in before if before[policy] != again[policy]] == ["policy-00"]
    (tmp_path / "base" / "model.safetensors").write_bytes(b"another base")
    assert not set(weights(tmp_path, family).values()) & set(again.values())


def test_a_prompt_is_its_messages(tmp_path: Path) -> None:
    family = trained_family(tmp_path)
    same = [EvaluationPrompt("a", [{"role": "user", "content": "A?"}]), EvaluationPrompt("b", "B?")]
    assert drawn(tmp_path, family, same, Sampling()) == drawn(tmp_path, family, PROMPTS, Sampling())


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "evaluation" / "x").mkdir(parents=True)
    (tmp_path / "evaluation" / "x" / "drawn.json").write_bytes(b"{")
    with pytest.raises(FamilyError, match="delete it to ask again"):
        found(tmp_path, "own", MADE)
