import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from starlette.responses import JSONResponse

from mopo_eval.cli import main
from mopo_train.family import write_family
from tests.families import OBJECTIVES, SCORES, family
from tests.mopo_eval.stub_engine import completion, stub_engine

HERE = "tests.mopo_eval.scoring"


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A trained family in ``family/`` with its data, prompts and judges beside each other in ``data/``."""
    data = tmp_path / "data"
    data.mkdir()
    pair = {"prompt": "Trained?", "response_a": "x", "response_b": "y", "preferences": {"helpfulness": 1, "safety": 0}}
    (data / "pairs.jsonl").write_text(json.dumps(pair), encoding="utf-8")
    rows = [{"prompt": f"Question {i}?", "category": "plain"} for i in range(6)]
    (data / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    names = {"helpfulness": f"{HERE}.digit", "safety": f"{HERE}.is_even", "factuality": f"{HERE}.length"}
    (data / "judges.yaml").write_text(json.dumps({"judges": names}), encoding="utf-8")
    made = family()
    for policy in made.policies:
        if policy.adapter:
            (tmp_path / "family" / policy.adapter).mkdir(parents=True)
            (tmp_path / "family" / policy.adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    source = made.data.model_copy(update={"source": [str(data / "pairs.jsonl")]})
    write_family(tmp_path / "family", made.model_copy(update={"data": source}))
    return tmp_path / "family"


def test_run_finds_prompts_and_judges_beside_the_data_and_prints_a_table(root: Path) -> None:
    with stub_engine(list(SCORES)) as engine:
        done = command("run", root, "--engine", engine.url)
    assert done.exit_code == 0, done.output
    assert "Judge scores: mean [95% interval] certified low, 6 prompts" in done.stdout
    for policy in SCORES:
        card = json.loads((root / "scorecards" / f"{policy}.json").read_text(encoding="utf-8"))
        line = next(line for line in done.stdout.splitlines() if f" {policy} " in line)
        for objective in OBJECTIVES:
            score = card["objectives"][objective]
            shown = f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}] {score['certified_low']:.3f}"
            assert shown in line
    assert "hypervolume 0." in done.stdout and "reference point helpfulness 0" in done.stdout
    assert "prompts.jsonl" in done.stderr and "judges.yaml" in done.stderr
    assert (root / "profiles.yaml").is_file()


def test_run_json_is_one_object_with_the_fields_of_the_contract(root: Path) -> None:
    with stub_engine(list(SCORES)) as engine:
        done = command("run", root, "--engine", engine.url, "--json", "--samples", "2", "--max-prompts", "4")
    told = json.loads(done.stdout)
    assert {"run", "policies", "prompts", "answers", "seconds"} <= set(told)
    assert (told["policies"], told["prompts"], told["answers"]) == (list(SCORES), 4, 4 * 2 * len(SCORES))
    assert 0 < told["seconds"] < 60


def test_options_reach_the_engine(root: Path) -> None:
    options = ["--temperature", "0.3", "--max-tokens", "9", "--seed", "5", "--concurrency", "1"]
    with stub_engine(list(SCORES)) as engine:
        assert command("run", root, "--engine", f"{engine.url}/v1/", *options).exit_code == 0
    assert {(body["temperature"], body["max_tokens"]) for body in engine.asked} == {(0.3, 9)}
    assert engine.most_inflight == 1


def test_cut_answers_and_unjudged_objectives_are_warned_about(root: Path, tmp_path: Path) -> None:
    judges = tmp_path / "some.yaml"
    judges.write_text(f"judges: {{helpfulness: {HERE}.digit}}", encoding="utf-8")
    with stub_engine(list(SCORES), lambda body, before: JSONResponse(completion("and", "length"))) as engine:
        done = command("run", root, "--engine", engine.url, "--judges", judges)
    assert done.exit_code == 0
    assert "no judge for safety, factuality" in done.stderr
    assert "of 6 answers per policy, so many were cut at 256 tokens: reference 6, policy-00 6" in done.stderr


def test_empty_answers_are_warned_about(root: Path) -> None:
    with stub_engine(list(SCORES), lambda body, before: JSONResponse(completion(" "))) as engine:
        done = command("run", root, "--engine", engine.url)
    assert "of 6 answers per policy, so many are empty: reference 6, policy-00 6" in done.stderr


def test_answers_only_needs_no_judges(root: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "judges.yaml").unlink()
    with stub_engine(list(SCORES)) as engine:
        assert command("run", root, "--engine", engine.url).exit_code == 1
        done = command("run", root, "--engine", engine.url, "--answers-only")
    assert done.exit_code == 0
    assert "nothing was judged" in done.stdout


@pytest.mark.parametrize(
    ("change", "arguments", "told"),
    [
        ("family.json", [], "no finished policy family.*was not completed"),
        ("policies/policy-01/adapter_config.json", [], "policy 'policy-01' has no adapter"),
        (None, ["--prompts", "none.jsonl"], "no file at 'none.jsonl'"),
        (None, ["--judges", "none.yaml"], "cannot read judges"),
        (None, ["--max-prompts", "1"], "an interval needs at least 2"),
        (None, ["--engine", "torch"], "unknown engine 'torch'"),
        (None, ["--engine", "http://127.0.0.1:9"], "no OpenAI-compatible engine answers"),
    ],
)
def test_what_a_user_can_fix_is_a_message_and_status_1(
    root: Path, change: str | None, arguments: list[str], told: str
) -> None:
    if change:
        (root / change).unlink()
    done = command("run", root, *arguments)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert re.search(told, done.stderr), done.stderr


def test_an_engine_without_the_policies_is_refused(root: Path) -> None:
    with stub_engine(["reference", "policy-00"]) as engine:
        done = command("run", root, "--engine", engine.url)
    assert done.exit_code == 1
    assert "does not serve policy-01, policy-02, policy-03" in done.stderr


def test_an_engine_that_wants_a_key_gets_the_one_in_the_environment(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_KEY", "sk-right")
    with stub_engine(list(SCORES)) as engine:
        engine.key = "sk-right"
        refused = command("run", root, "--engine", engine.url)
        assert (refused.exit_code, "401 Unauthorized" in refused.stderr) == (1, True)
        missing = command("run", root, "--engine", engine.url, "--api-key-variable", "NO_KEY")
        assert (missing.exit_code, "no key in the environment variable NO_KEY" in missing.stderr) == (1, True)
        done = command("run", root, "--engine", engine.url, "--api-key-variable", "ENGINE_KEY")
    assert done.exit_code == 0, done.output
    kept = [path for path in root.rglob("*") if path.is_file() and b"sk-right" in path.read_bytes()]
    assert not kept


@pytest.mark.parametrize(
    "option", [["--samples", "0"], ["--confidence", "1"], ["--temperature", "-1"], ["--max-tokens", "x"]]
)
def test_options_out_of_range_are_usage_errors(root: Path, option: list[str]) -> None:
    assert command("run", root, *option).exit_code == 2


def test_judge_prints_a_line_per_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "a", "response": "x" * 20}, {"prompt": "a", "response": "ünique"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = command("judge", path, "--judge", f"{HERE}.length", "--json")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"row": 0, "score": 0.2},
        {"row": 1, "score": 0.06},
    ]
    labelled = json.loads(command("judge", path, "--judge", f"{HERE}.digit", "--json").stdout.splitlines()[1])
    assert set(labelled) == {"row", "score", "label", "evidence"}
    assert labelled["evidence"] == "of ünique"
    assert "0.060" in command("judge", path, "--judge", f"{HERE}.length").stdout


def test_a_judge_in_the_users_own_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_judges_of_a_test.py").write_text("def fair(prompt, response):\n    return 0.5\n", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    done = command("judge", "rows.jsonl", "--judge", "own_judges_of_a_test.fair", "--json")
    assert json.loads(done.stdout) == {"row": 0, "score": 0.5}


@pytest.mark.parametrize(("judge", "told"), [("none.judge", "cannot import the judge"), (f"{HERE}.above_one", "row 1")])
def test_a_judge_that_cannot_score_is_a_message_and_status_1(tmp_path: Path, judge: str, told: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}', encoding="utf-8")
    done = command("judge", tmp_path / "rows.jsonl", "--judge", judge, "--json")
    assert done.exit_code == 1
    assert told in done.stderr


@pytest.mark.parametrize("arguments", [[], ["run"], ["judge"]])
def test_help_names_every_option(arguments: list[str]) -> None:
    done = command(*arguments, "--help")
    assert done.exit_code == 0 and "Usage:" in done.stdout
