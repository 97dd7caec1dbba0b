import importlib
import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from mopo_train.cli import main
from mopo_train.errors import DataError
from mopo_train.preferences import read_preferences
from mopo_train.sandbox.build import FILES, SandboxConfig, build_sandbox, read_sandbox
from mopo_train.sandbox.questions import read_question

SMALL = SandboxConfig(seed=3, prompts=20, held_out=10, base=False)


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["sandbox", *map(str, arguments)])


def small(root: Path, *more: object) -> Result:
    return command("--out", root, "--seed", 3, "--prompts", 20, "--held-out", 10, "--no-model", *more)


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


def test_the_command_writes_every_file_and_nothing_else(tmp_path: Path) -> None:
    result = small(tmp_path / "world")
    assert result.exit_code == 0, result.output
    assert set(contents(tmp_path / "world")) == {*FILES, "sandbox.json"}
    assert "helpfulness" in result.stdout


def test_the_training_data_is_read_like_any_other(tmp_path: Path) -> None:
    build_sandbox(tmp_path, SMALL)
    data = read_preferences([tmp_path / "preferences.jsonl"])
    assert set(data.objectives) == {"helpfulness", "safety", "factuality"}
    assert len(data.labels) == 20 * 6 * 2
    assert len(data.response_prompt) == 20 * 4


def test_prompts_judges_and_front_have_the_promised_form(tmp_path: Path) -> None:
    build_sandbox(tmp_path, SMALL)
    prompts = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text("utf-8").splitlines()]
    assert len({row["id"] for row in prompts}) == 10
    assert all(set(row) == {"id", "prompt", "category"} for row in prompts)
    assert all(read_question(row["prompt"]).category == row["category"] for row in prompts)
    for name, dotted in yaml.safe_load((tmp_path / "judges.yaml").read_text("utf-8"))["judges"].items():
        module, _, function = dotted.rpartition(".")
        assert function == name
        assert getattr(importlib.import_module(module), function)(prompts[0]["prompt"], "").score >= 0
    front = json.loads((tmp_path / "front.json").read_bytes())
    assert (front["tau"], front["primary"]) == (0.15, "helpfulness")
    for point in (front["reference"], *front["points"]):
        assert set(point) == {"multipliers", "win_rates", "scores", "kl"}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        build_sandbox(tmp_path / name, SMALL.model_copy(update={"seed": seed}))
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert all(one[name] != other[name] for name in ("preferences.jsonl", "prompts.jsonl", "front.json"))


def test_a_finished_sandbox_is_recognised_and_left_alone(tmp_path: Path) -> None:
    build_sandbox(tmp_path, SMALL)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = small(tmp_path)
    assert again.exit_code == 0
    assert "already in" in again.stderr
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


def test_another_sandbox_is_not_overwritten_without_force(tmp_path: Path) -> None:
    build_sandbox(tmp_path, SMALL)
    before = contents(tmp_path)
    refused = small(tmp_path, "--seed", 4)
    assert refused.exit_code == 1
    assert "seed 3, not 4" in refused.stderr and "--force" in refused.stderr
    assert contents(tmp_path) == before
    assert small(tmp_path, "--seed", 4, "--force").exit_code == 0
    assert read_sandbox(tmp_path).config.seed == 4


def test_a_sandbox_that_lacks_a_file_is_not_repaired_silently(tmp_path: Path) -> None:
    build_sandbox(tmp_path, SMALL)
    (tmp_path / "front.json").unlink()
    with pytest.raises(DataError, match=r"lacks front\.json; make it again with --force"):
        build_sandbox(tmp_path, SMALL)
    assert build_sandbox(tmp_path, SMALL, force=True) == read_sandbox(tmp_path)


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    build_sandbox(tmp_path, SMALL)
    (tmp_path / "sandbox.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"sandbox\.json' is not readable.*--force"):
        build_sandbox(tmp_path, SMALL)
    build_sandbox(tmp_path, SMALL, force=True)
    assert read_sandbox(tmp_path).config == SMALL


def test_an_unfinished_sandbox_is_begun_again_and_the_user_is_told(tmp_path: Path) -> None:
    build_sandbox(tmp_path / "whole", SMALL)
    build_sandbox(tmp_path / "cut", SMALL)
    (tmp_path / "cut" / "sandbox.json").rename(tmp_path / "cut" / "sandbox.json.begun")  # as a killed run leaves it
    (tmp_path / "cut" / "preferences.jsonl").write_text("half", encoding="utf-8")
    with pytest.raises(DataError, match=r"sandbox\.json is missing"):
        read_sandbox(tmp_path / "cut")
    result = small(tmp_path / "cut")
    assert result.exit_code == 0
    assert "did not finish" in result.stderr
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_files_of_others_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "weights").write_text("precious", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    for more in ([], ["--force"]):
        refused = small(tmp_path, *more)
        assert refused.exit_code == 1
        assert "which no sandbox command wrote" in refused.stderr
    assert (tmp_path / "base" / "weights").read_text("utf-8") == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "notes.txt"]


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    result = small(tmp_path / "file")
    assert result.exit_code == 1
    assert "is a file; give a directory" in result.stderr


@pytest.mark.parametrize("arguments", [["--seed", "-1"], ["--prompts", "0"], ["--tau", "0"], ["--held-out", "x"]])
def test_numbers_out_of_range_are_usage_errors(tmp_path: Path, arguments: list[str]) -> None:
    assert small(tmp_path / "world", *arguments).exit_code == 2
    assert not (tmp_path / "world").exists()


def test_too_many_prompts_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    result = small(tmp_path / "world", "--prompts", 1_000_000)
    assert result.exit_code == 1
    assert "ask for at most" in result.stderr
    assert not (tmp_path / "world").exists()
