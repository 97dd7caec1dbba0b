import json
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from starlette.responses import JSONResponse, Response

from mopo_eval.answers import Answer, Sampling
from mopo_eval.endpoint import Patience
from mopo_eval.engine import Engine
from mopo_eval.engine_choice import EngineChoice
from mopo_eval.evaluation import SPOOL, read_summary
from mopo_eval.judges import load_judges
from mopo_eval.judges.callables import load_callable
from mopo_eval.judging import judged
from mopo_eval.measure import Measurement, Plan, measure
from mopo_eval.profiles import ThresholdProfile, read_profiles
from mopo_eval.prompts import EvaluationPrompt
from mopo_eval.registration import read_registration
from mopo_eval.results import read_results
from mopo_eval.scorecards import read_scorecards
from mopo_eval.selection import select
from mopo_eval.spool import read_spool
from mopo_train.errors import DataError, EngineError, JudgeError, MopoError
from mopo_train.family import INTERPOLATED, Between, Policy, read_family, write_family
from tests.families import SCORES
from tests.mopo_eval.stub_engine import Body, completion, error, stub_engine

REPOSITORY = Path(__file__).resolve().parents[2]
JUDGES = {"helpfulness": "tests.mopo_eval.scoring.digit", "safety": "tests.mopo_eval.scoring.is_even"}
PROMPTS = [EvaluationPrompt(f"p{i}", f"Question {i}?", "plain" if i % 2 else "risky") for i in range(12)]
TOTAL = len(SCORES) * len(PROMPTS)


@pytest.fixture
def root(unmeasured_root: Path) -> Path:
    return unmeasured_root


def plan(url: str, judges: dict[str, str] | None = None, samples: int = 1) -> Plan:
    return Plan(
        prompts=PROMPTS,
        judges=load_judges(JUDGES if judges is None else judges),
        sampling=Sampling(samples=samples),
        engine=EngineChoice(url, concurrency=4, patience=Patience(3, 0.001)),
    )


def run(root: Path, url: str, judges: dict[str, str] | None = None, samples: int = 1) -> Measurement:
    return measure(root, read_family(root), plan(url, judges, samples))


def test_every_policy_answers_every_prompt_and_every_answer_is_judged(root: Path) -> None:
    with stub_engine(list(SCORES)) as engine:
        made = run(root, engine.url, samples=2)
    directory = root / "evaluation" / made.summary.run
    answers = pd.read_parquet(directory / "responses.parquet")
    judgements = pd.read_parquet(directory / "judgements.parquet")
    assert len(answers) == len(engine.asked) == TOTAL * 2 == made.summary.answers
    assert not answers.duplicated(["policy", "prompt_id", "sample"]).any()
    assert all(text.startswith(f"{policy} says") for policy, text in zip(answers.policy, answers.response, strict=True))
    judged = judgements.merge(answers, on=["policy", "prompt_id", "sample"], validate="many_to_one")
    assert len(judged) == TOTAL * 2 * len(JUDGES)
    judges = {objective: load_callable(name) for objective, name in JUDGES.items()}
    for row in judged.itertuples():
        assert row.score == judges[str(row.objective)](str(row.prompt), str(row.response), where="here").score
    kept = {"lock", "registration.json", "drawn.json", "responses.parquet", "judgements.parquet", "run.json"}
    assert {path.name for path in directory.iterdir()} == kept


def test_scorecards_are_what_the_judgements_say(root: Path) -> None:
    with stub_engine(list(SCORES)) as engine:
        made = run(root, engine.url, samples=2)
    judgements = pd.read_parquet(root / "evaluation" / made.summary.run / "judgements.parquet")
    cards = read_scorecards(root, read_family(root))
    assert list(cards) == list(SCORES)
    for policy, objective in ((policy, objective) for policy in SCORES for objective in JUDGES):
        card, score = cards[policy], cards[policy].objectives[objective]
        ours = judgements.query("policy == @policy and objective == @objective").set_index("prompt_id").score
        theirs = judgements.query("policy == 'reference' and objective == @objective").set_index("prompt_id").score
        assert score.mean == pytest.approx(ours.groupby(level=0).mean().mean())
        wins = [
            np.mean([(a > b) + (a == b) / 2 for a in ours[prompt.id] for b in theirs[prompt.id]]) for prompt in PROMPTS
        ]
        assert score.win_rate.mean == pytest.approx(np.mean(wins))
        assert score.certified_low <= score.low <= score.mean <= score.high
        assert (score.n, card.run, score.judge) == (len(PROMPTS), made.summary.run, JUDGES[objective])
    means = judgements.merge(
        pd.DataFrame({"prompt_id": [p.id for p in PROMPTS], "category": [p.category for p in PROMPTS]})
    )
    expected = means.groupby(["policy", "category", "objective"]).score.mean()
    found = {(row.policy, row.category, row.objective): row.mean for row in made.summary.categories}
    assert found == pytest.approx(expected.to_dict())


def test_repeating_a_finished_run_asks_nothing_and_changes_no_score(root: Path) -> None:
    with stub_engine(list(SCORES)) as engine:
        first = run(root, engine.url)
        again = run(root, engine.url)
    assert len(engine.asked) == TOTAL
    assert (again.reused, again.cards, again.summary.run) == (TOTAL, first.cards, first.summary.run)
    assert run(root, "http://127.0.0.1:9").cards == first.cards  # the engine need not even be there


def test_two_commands_do_not_write_one_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stub_engine(list(SCORES)) as engine:

        def meanwhile(*given: Any) -> Any:
            monkeypatch.undo()
            with pytest.raises(MopoError, match="another mopo-eval is measuring"):
                run(root, engine.url)
            return judged(*given)

        monkeypatch.setattr("mopo_eval.measure.judged", meanwhile)
        made = run(root, engine.url)
        assert run(root, engine.url).reused == made.summary.answers  # free again


def test_other_judges_score_the_same_answers_in_a_run_of_their_own(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stub_engine(list(SCORES)) as engine:
        first = run(root, engine.url)
        other = run(root, engine.url, {"safety": "tests.mopo_eval.scoring.length"})
    assert len(engine.asked) == TOTAL
    assert other.summary.run != first.summary.run
    assert f"which an earlier run got (attached; evaluation/{first.summary.run})" in capsys.readouterr().err
    assert read_scorecards(root, read_family(root))["reference"].run == other.summary.run
    assert list(other.cards[0].objectives) == ["safety"]


def test_an_interpolated_policy_that_is_dominated_is_withheld_and_one_that_is_not_is_kept(root: Path) -> None:
    """One judge, which likes long answers, and answers that name their policy: the longest name is the front."""
    made, longest = read_family(root), "policy-that-answers-at-length"
    between = Between(first="policy-00", second="policy-01", share=0.5)
    extra = [
        Policy(id=name, kind=INTERPOLATED, adapter="policies/policy-00", between=between) for name in ("p", longest)
    ]
    write_family(root, made.model_copy(update={"policies": [*made.policies, *extra]}))
    (root / "scorecards").mkdir()
    (root / "scorecards" / "p.json").write_text("{}", encoding="utf-8")  # of an earlier run
    with stub_engine([*SCORES, "p", longest]) as engine:
        found = run(root, engine.url, {"safety": "tests.mopo_eval.scoring.length"})
    assert (found.summary.front, found.summary.withheld) == ([longest], ["p"])
    family = read_family(root)
    assert list(read_scorecards(root, family)) == [*SCORES, longest]  # trained ones stay, dominated or not
    results = read_results(root, family)
    assert ("p" in results.table.policies, "p" in results.cards) == (True, False)
    profile = ThresholdProfile(primary="safety", floors={"safety": 0.01})
    selection = select(profile, {policy.id: results.cards.get(policy.id) for policy in family.policies})
    assert (selection.policy, "p" in [row.id for row in selection.policies if row.meets]) == (longest, False)


def test_more_samples_prompts_or_members_cost_only_the_answers_that_are_new(root: Path) -> None:
    with stub_engine([*SCORES, "p"]) as engine:
        first = run(root, engine.url)
        more = run(root, engine.url, samples=2)
        assert (len(engine.asked), more.reused) == (2 * TOTAL, TOTAL)
        assert more.summary.run != first.summary.run
        made = read_family(root)
        (root / "policies" / "p").mkdir()
        (root / "policies" / "p" / "adapter_config.json").write_text("{}", encoding="utf-8")
        joined = made.model_copy(
            update={"policies": [*made.policies, Policy(id="p", kind="mopo", adapter="policies/p")]}
        )
        wider = [*PROMPTS, EvaluationPrompt("new", "New?")]
        measured = measure(root, joined, replace(plan(engine.url), prompts=wider))
    assert measured.reused == TOTAL
    assert len(engine.asked) == 2 * TOTAL + len(SCORES) + len(wider)
    assert len({json.dumps(body) for body in engine.asked}) == len(engine.asked)


@pytest.mark.parametrize("table", [None, b"no table"])
def test_an_earlier_run_whose_answers_are_gone_may_have_scored_the_same_prompts(
    root: Path, table: bytes | None
) -> None:
    with stub_engine(list(SCORES)) as engine:
        first = run(root, engine.url, {"safety": JUDGES["safety"]}).summary.run
        directory = root / "evaluation" / first
        (directory / "drawn.json").unlink()  # as of an earlier version
        (directory / "responses.parquet").unlink()
        if table:
            (directory / "responses.parquet").write_bytes(table)
        second = run(root, engine.url)
    assert second.reused == 0
    registration = read_registration(root / "evaluation" / second.summary.run)
    assert registration is not None and registration.seen == [first]


def test_weights_that_were_trained_again_are_asked_again(root: Path) -> None:
    with stub_engine(list(SCORES)) as engine:
        first = run(root, engine.url)
        (root / "policies" / "policy-00" / "adapter_model.safetensors").write_bytes(b"trained again")
        again = run(root, engine.url)
    assert again.summary.run != first.summary.run
    assert [body["model"] for body in engine.asked[TOTAL:]] == ["policy-00"] * len(PROMPTS)


def test_an_engine_that_fails_midway_keeps_what_came_and_the_repeated_run_asks_for_the_rest(root: Path) -> None:
    failing = True

    def fault(body: Body, before: int) -> Response | None:
        return error(500, "out of memory") if failing and body["model"] == "policy-02" else None

    with stub_engine(list(SCORES), fault) as engine:
        with pytest.raises(
            EngineError, match=r"out of memory.* (\d+) of the 60 answers that were missing came and are"
        ) as e:
            run(root, engine.url)
        assert not list(root.glob("evaluation/*/run.json"))
        kept = read_spool(next(root.glob(f"evaluation/*/{SPOOL}")), Answer)
        assert f"{len(kept)} of the 60" in str(e.value)
        assert {answer.policy for answer in kept} <= {"reference", "policy-00", "policy-01"} and kept
        failing = False
        before = len(engine.asked)
        made = run(root, engine.url)
    assert len(engine.asked) - before == TOTAL - len(kept) == TOTAL - made.reused


def test_an_engine_that_dies_midway_keeps_what_came_and_the_repeated_run_asks_for_the_rest(root: Path) -> None:
    def end() -> None:
        for _ in range(4):  # all four workers wait: the twenty answers have been kept
            engine.held.acquire(timeout=60)
        engine.die()

    with stub_engine(list(SCORES), answered=20) as engine:
        threading.Thread(target=end).start()
        with pytest.raises(EngineError, match=r"failed 3 times in a row; Client.* 20 of the 60 answers .* are kept"):
            run(root, engine.url)
    with stub_engine(list(SCORES)) as engine:
        assert run(root, engine.url).reused == 20
    assert len(engine.asked) == TOTAL - 20


def test_prompts_that_the_engine_refuses_are_named_and_the_other_answers_kept(root: Path) -> None:
    def fault(body: Body, before: int) -> Response | None:
        return error(400, "context length is 8.") if body["messages"][0]["content"] == "Question 3?" else None

    with stub_engine(list(SCORES), fault) as engine:
        with pytest.raises(EngineError, match=r"refused 1 prompts \(p3\): context length is 8\. Remove.* 55 of the 60"):
            run(root, engine.url)
    assert len(read_spool(next(root.glob(f"evaluation/*/{SPOOL}")), Answer)) == TOTAL - len(SCORES)


def test_a_judge_that_fails_loses_no_answer(root: Path) -> None:
    with stub_engine(list(SCORES)) as engine:
        with pytest.raises(
            JudgeError, match=r"scoring.above_one.*prompt 'p0' \(reference\).*1.5.*All 60 answers are kept"
        ):
            run(root, engine.url, {"safety": "tests.mopo_eval.scoring.above_one"})
        assert not (root / "scorecards").exists()
        assert run(root, engine.url).reused == TOTAL
    assert len(engine.asked) == TOTAL


def test_cut_and_empty_answers_are_counted(root: Path) -> None:
    def fault(body: Body, before: int) -> Response | None:
        question = body["messages"][0]["content"]
        if body["model"] == "policy-01" and question in ("Question 1?", "Question 2?"):
            return JSONResponse(completion("and so on", "length"))
        return JSONResponse(completion(" \n")) if body["model"] == "reference" and question == "Question 5?" else None

    with stub_engine(list(SCORES), fault) as engine:
        made = run(root, engine.url)
    assert (made.summary.cut, made.summary.empty) == ({"policy-01": 2}, {"reference": 1})


def test_profiles_are_proposed_once_and_all_feasible(root: Path) -> None:
    with stub_engine(list(SCORES)) as engine:
        made = run(root, engine.url)
        path = root / "profiles.yaml"
        members = read_family(root)
        found = read_profiles(path, members.objectives, [policy.id for policy in members.policies])
        cards = {card.policy: card for card in made.cards}
        assert all(select(profile, cards).feasible for profile in found.profiles.values())
        assert "judge scores" in path.read_text(encoding="utf-8")
        path.write_text("# mine\n", encoding="utf-8")
        run(root, engine.url)
    assert path.read_text(encoding="utf-8") == "# mine\n"


def test_without_a_judge_of_the_primary_nothing_is_proposed(root: Path) -> None:
    with stub_engine(list(SCORES)) as engine:
        run(root, engine.url, {"safety": JUDGES["safety"]})
    assert not (root / "profiles.yaml").exists()


def test_without_judges_answers_are_collected_and_nothing_is_scored(root: Path) -> None:
    with stub_engine(list(SCORES)) as engine:
        made = run(root, engine.url, {})
    assert (made.cards, made.summary.hypervolume, made.summary.front) == ([], None, [])
    assert len(pd.read_parquet(root / "evaluation" / made.summary.run / "responses.parquet")) == TOTAL
    assert not (root / "scorecards").exists() and not (root / "profiles.yaml").exists()


def test_prompts_of_the_training_data_are_refused_before_anything_is_asked(root: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    row = {"response_a": "x", "response_b": "y", "preferences": {"helpfulness": 1, "safety": 0}}
    lines = [json.dumps({"prompt": f"Question {i}?"} | row) for i in (3, 5, 99)]
    pairs.write_text("\n".join(lines), encoding="utf-8")
    made = read_family(root)
    write_family(root, made.model_copy(update={"data": made.data.model_copy(update={"source": [str(pairs)]})}))
    with stub_engine(list(SCORES)) as engine:
        with pytest.raises(DataError, match="2 of the prompts are training prompts"):
            run(root, engine.url)
        assert not engine.asked
        allowed = Plan(**vars(plan(engine.url)) | {"allow_trained": True})
        assert measure(root, read_family(root), allowed).summary.answers == TOTAL
        with pytest.raises(DataError, match="2 of the prompts are training prompts"):
            run(root, engine.url)  # that their answers are there already excuses nothing


def test_a_run_that_was_killed_asks_nothing_twice(root: Path) -> None:
    prompts, judges = root / "prompts.jsonl", root / "judges.yaml"
    prompts.write_text("".join(json.dumps({"id": p.id, "prompt": p.prompt}) + "\n" for p in PROMPTS), encoding="utf-8")
    judges.write_text(json.dumps({"judges": JUDGES}), encoding="utf-8")

    def command(url: str) -> list[str]:
        options = ["--engine", url, "--prompts", str(prompts), "--judges", str(judges), "--concurrency", "4", "--json"]
        return [sys.executable, "-c", "from mopo_eval.cli import main; main()", "run", str(root), *options]

    with stub_engine(list(SCORES), answered=20) as engine:
        killed = subprocess.Popen(command(engine.url), cwd=REPOSITORY, stderr=subprocess.DEVNULL)
        for _ in range(4):  # all four workers wait: the twenty answers have been kept
            assert engine.held.acquire(timeout=60)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        first, engine.answered = list(engine.asked), None
        done = subprocess.run(command(engine.url), cwd=REPOSITORY, capture_output=True, check=True)
        second = engine.asked[len(first) :]
    assert (len(first), len(second)) == (24, TOTAL - 20)
    assert not [body for body in second if body in first[:20]]
    told = json.loads(done.stdout)
    assert (told["answers"], told["reused"], told["prompts"], told["policies"]) == (TOTAL, 20, 12, list(SCORES))
    assert read_summary(Path(told["directory"]) / "run.json").run == told["run"]


def tiny_plan(choice: str) -> Plan:
    sampling = Sampling(max_tokens=8)
    engine = EngineChoice(choice, concurrency=8, patience=Patience(3, 0.01))
    return Plan(prompts=PROMPTS[:5], judges=load_judges(JUDGES), sampling=sampling, engine=engine)


def check_measured(root: Path, engine: Engine) -> None:
    members = read_family(root)
    made = measure(root, members, tiny_plan(engine.url))
    answers = pd.read_parquet(root / "evaluation" / made.summary.run / "responses.parquet")
    assert len(answers) == 5 * len(members.policies)
    assert (answers.completion_tokens > 0).all() and (answers.prompt_tokens > 0).all()
    assert answers.groupby("prompt_id").response.nunique().min() > 1  # policies answer differently
    assert set(answers.finish_reason) <= {"stop", "length"}
    assert made.summary.cut == answers.query("finish_reason == 'length'").groupby("policy").size().to_dict()


def test_the_embedded_engine_is_measured(tiny_copy: Path, embedded_engine: Engine) -> None:
    check_measured(tiny_copy, embedded_engine)


@pytest.mark.vllm
def test_vllm_is_measured(tiny_copy: Path, vllm_engine: Engine) -> None:
    check_measured(tiny_copy, vllm_engine)


def test_an_engine_that_cannot_start_is_told_before_anything_is_lost(root: Path) -> None:
    with pytest.raises(EngineError, match="base model.* 0 of the 60 answers that were missing came"):
        run(root, "embedded")
    assert not (root / "scorecards").exists()
