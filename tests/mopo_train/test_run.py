"""The whole way from preference data to a family, in small: a Llama of 32 dimensions and a few steps."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from mopo_train.cli import main
from mopo_train.errors import DataError, FamilyError, FloorError, ModelError, RoomError
from mopo_train.extension import extend_family
from mopo_train.family import PolicyFamily, read_family
from mopo_train.policy import corpus, requirements
from mopo_train.policy.workspace import RunRecord, begin, is_finished, only_writer
from mopo_train.reference import Example, ReferenceConfig, fit_reference
from mopo_train.run import RunConfig, choose_points, run_family
from mopo_train.winrates import from_rates

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = RunConfig(
    primary="helpfulness", policies=3, steps=20, batch_size=8, learning_rate=5e-3, rank=2, max_length=64, kl_prompts=4
)


def rows() -> list[dict[str, Any]]:
    """Ten prompts with three answers, all compared: the longer the more helpful, the shorter the safer."""
    found = []
    for index in range(10):
        answers = [f"Mix {index} parts and stir well.", f"Mix {index}.", "I will not say."]
        for first, second in [(0, 1), (0, 2), (2, 1)]:
            labels = {"helpfulness": float(first < second), "safety": float(first > second)}
            labels = {"safety": labels["safety"]} if index == 9 else labels
            texts = {"response_a": answers[first], "response_b": answers[second]}
            found.append({"prompt": f"How do I make dish {index}?", **texts, "preferences": labels})
    return found


class World:
    """Data and a base model to train on, made once."""

    def __init__(self, root: Path) -> None:
        self.data = root / "inputs" / "pairs.jsonl"
        self.data.parent.mkdir()
        self.write(rows())
        self.model = root / "model"
        texts = {(row["prompt"], row[side]) for row in rows() for side in ("response_a", "response_b")}
        examples = [Example([{"role": "user", "content": x}], y) for x, y in sorted(texts)]
        sizes = ReferenceConfig(hidden_size=32, layers=1, heads=1, vocab_size=300, max_length=64, positions=128)
        fit_reference(examples, self.model, sizes._replace(steps=30, learning_rate=0.01), model=None)

    def write(self, lines: list[dict[str, Any]], name: str = "pairs.jsonl") -> Path:
        path = self.data.parent / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path

    def train(self, out: Path, config: RunConfig = CONFIG, **options: Any) -> PolicyFamily:
        return run_family([self.data], out, config, **({"model": str(self.model)} | options))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "family"
    world.train(out)
    return out


def adapters(root: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(root.glob("policies/*/adapter_model.safetensors"))}


def test_a_family_is_whole_and_describes_itself(finished: Path, world: World) -> None:
    family = read_family(finished)
    assert [policy.id for policy in family.policies] == ["reference", "policy-00", "policy-01", "policy-02"]
    assert family.base_model == "base"
    assert (family.data.pairs, family.data.prompts) == (30, 10)
    assert family.data.labelled == {"helpfulness": 27, "safety": 30}
    assert family.config["seed"] == 0
    assert {path.name for path in finished.iterdir()} == {
        ".work", "base", "family.json", "plan.html", "plan.json", "policies", "run.json", "training",
    }  # fmt: skip
    plan = json.loads((finished / "plan.json").read_bytes())
    for point, policy in zip(plan["points"], family.policies[1:], strict=True):
        assert (point["predicted"], point["multipliers"]) == (policy.predicted, policy.multipliers)
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert not [path for path in files if str(world.model).encode() in path.read_bytes() and path.name != "run.json"]


def test_the_front_runs_from_helpful_to_safe_and_the_policies_follow_it(finished: Path) -> None:
    members = read_family(finished).policies[1:]
    assert members[0].predicted["helpfulness"] > members[-1].predicted["helpfulness"]
    assert members[0].predicted["safety"] < members[-1].predicted["safety"]
    first, last = (pd.read_parquet(finished / "training" / f"policy-{index:02d}.parquet") for index in (0, 2))
    assert first["estimated.helpfulness"].iloc[-1] > 0.55
    assert last["estimated.safety"].iloc[-1] > first["estimated.safety"].iloc[-1]


def test_the_log_holds_what_was_wanted_beside_what_was_measured(finished: Path) -> None:
    family = read_family(finished)
    for index, steps in [(0, [10, 20]), (1, [10]), (2, [10])]:
        policy = family.policy(f"policy-{index:02d}")
        log = pd.read_parquet(finished / "training" / f"{policy.id}.parquet")
        assert log["step"].tolist() == steps
        for name, value in policy.predicted.items():
            assert set(log[f"predicted.{name}"]) == {value}
            assert log[f"estimated.{name}"].between(0, 1).all()
        for name, value in policy.multipliers.items():
            assert set(log[f"lambda.{name}"]) == {value}
            assert (log[f"chi.{name}"] >= 0).all()
        assert (log["kl"] >= 0).all()
        assert log["ess"].between(0, 1).all()
        assert np.isfinite(log["loss"]).all()


def test_an_adapter_changes_the_base_model_of_the_family(finished: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(finished / "base")
    base: Any = AutoModelForCausalLM.from_pretrained(finished / "base")
    talk = [{"role": "user", "content": "How do I make dish 3?"}]
    batch = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        before = base(**batch).logits[0, -1]
        policy: Any = PeftModel.from_pretrained(base, finished / "policies" / "policy-00")
        after = policy(**batch).logits[0, -1]
    assert (before - after).abs().max() > 0.01
    config = json.loads((finished / "policies" / "policy-00" / "adapter_config.json").read_bytes())
    assert (config["base_model_name_or_path"], config["r"]) == ("base", 2)


def test_the_same_seed_gives_the_same_adapters_and_another_seed_others(
    world: World, finished: Path, tmp_path: Path
) -> None:
    world.train(tmp_path / "again")
    assert adapters(tmp_path / "again") == adapters(finished)
    world.train(tmp_path / "other", CONFIG.model_copy(update={"seed": 1}))
    assert adapters(tmp_path / "other")["policy-00"] != adapters(finished)["policy-00"]


@pytest.mark.parametrize(("told", "expected"), [("policies: 16/40", ["checkpoint-10"]), ("policies: 24/40", [])])
def test_a_killed_run_continues_to_the_same_family(
    told: str, expected: list[str], world: World, finished: Path, tmp_path: Path
) -> None:
    """Killed in the first policy, which continues from a checkpoint, and in the second, with the first one whole."""
    out = tmp_path / "family"
    code = f"""
from pathlib import Path
from mopo_train.execution import Execution
from mopo_train.run import RunConfig, run_family
config, execution = RunConfig(**{CONFIG.model_dump()!r}), Execution(checkpoint_seconds=0)
run_family([{str(world.data)!r}], Path({str(out)!r}), config, model={str(world.model)!r}, execution=execution)
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(told):
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (out / "family.json").exists()
    assert [path.name for path in (out / ".work").glob("policy-00/checkpoint-*")] == expected
    world.train(out)
    assert adapters(out) == adapters(finished)
    ignored = {"created_at"}
    assert read_family(out).model_dump(exclude=ignored) == read_family(finished).model_dump(exclude=ignored)
    for name in ("policy-00", "policy-01", "policy-02"):
        path = f"training/{name}.parquet"
        pd.testing.assert_frame_equal(pd.read_parquet(out / path), pd.read_parquet(finished / path))


def test_a_new_run_finds_tokens_and_reference_of_the_same_data_and_model(
    world: World, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "_tokens", None)  # would fail if it were called
    capsys.readouterr()
    world.train(tmp_path / "other", CONFIG.model_copy(update={"policies": 1, "floors": {"safety": 0.55}}))
    assert "log-probabilities" not in capsys.readouterr().err
    model = tmp_path / "model"
    shutil.copytree(world.model, model)
    (model / "generation_config.json").unlink()  # another model, by its content
    world.train(tmp_path / "third", CONFIG.model_copy(update={"policies": 1}), model=str(model))
    assert "reference log-probabilities: " in capsys.readouterr().err


def test_a_finished_family_is_kept_and_other_settings_need_force(world: World, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "family"
    shutil.copytree(finished, out)
    before = (out / "family.json").read_bytes()
    world.train(out)  # the same: nothing to do
    assert (out / "family.json").read_bytes() == before
    other = CONFIG.model_copy(update={"policies": 1, "tau": 0.5})
    with pytest.raises(FamilyError, match="finished family.*policies was 3, now 1.*tau was 0.15, now 0.5.*--force"):
        world.train(out, other)
    (out / "profiles.yaml").write_text("profiles: {}", encoding="utf-8")
    (out / "scorecards").mkdir()
    (out / "cards").mkdir()
    assert len(world.train(out, other, force=True).policies) == 2
    assert not (out / "scorecards").exists()  # of policies that are gone
    assert not (out / "cards").exists()
    assert not (out / "policies" / "policy-02").exists()
    assert (out / "profiles.yaml").read_text(encoding="utf-8") == "profiles: {}"


def test_force_keeps_a_family_whose_new_model_cannot_be_loaded(world: World, finished: Path, tmp_path: Path) -> None:
    out, broken = tmp_path / "family", tmp_path / "broken"
    shutil.copytree(finished, out)
    shutil.copytree(world.model, broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="cannot load the model"):
        world.train(out, model=str(broken), force=True)
    assert read_family(out) == read_family(finished)
    assert adapters(out) == adapters(finished)


def test_force_deletes_nothing_that_no_run_made(world: World, tmp_path: Path) -> None:
    mine = tmp_path / "policies" / "privacy.md"
    mine.parent.mkdir()
    mine.write_text("mine", encoding="utf-8")
    (tmp_path / "run.json").write_text('{"lr": 1}', encoding="utf-8")
    with pytest.raises(FamilyError, match="other files \\(policies, run.json\\) and no family"):
        world.train(tmp_path, force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"policies", "run.json"}
    assert mine.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("deleted", range(4))
def test_a_kill_while_force_deletes_leaves_a_family_that_can_be_made_again(
    deleted: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "family"
    shutil.copytree(finished, out)
    record = RunRecord.model_validate_json((out / "run.json").read_bytes())
    there = iter(range(deleted))
    remove = shutil.rmtree

    def killed(path: Path) -> None:
        if next(there, None) is None:
            raise KeyboardInterrupt
        remove(path)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with contextlib.suppress(KeyboardInterrupt):
            begin(out, record, force=True)
    assert not is_finished(out, record)
    begin(out, record, force=False)
    assert {path.name for path in out.iterdir()} == {"run.json", ".work"}


def test_a_run_does_not_continue_on_other_data_or_another_model(world: World, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "family"
    shutil.copytree(finished, out)
    (out / "family.json").unlink()  # as if it were still in training
    changed = rows()
    changed[0]["preferences"]["safety"] = 0.25
    with pytest.raises(FamilyError, match="family in training.*the data has changed"):
        run_family([world.write(changed, "changed.jsonl")], out, CONFIG, model=str(world.model))
    model = tmp_path / "model"
    shutil.copytree(world.model, model)
    (model / "generation_config.json").unlink()
    with pytest.raises(FamilyError, match="the model was '.*model'"):
        world.train(out, model=str(model))
    record = RunRecord.model_validate_json((out / "run.json").read_bytes())
    old = record.model_copy(update={"package_version": "0.0.1"})
    (out / "run.json").write_text(old.model_dump_json(), encoding="utf-8")
    with pytest.raises(FamilyError, match="family in training.*mopo-suite was 0.0.1, now"):
        world.train(out)


def test_one_command_at_a_time_trains_a_family(world: World, tmp_path: Path) -> None:
    out = tmp_path / "family"
    with only_writer(out):
        with pytest.raises(FamilyError, match="another mopo-train is training in '.*family'; wait for it or stop it"):
            world.train(out, CONFIG.model_copy(update={"steps": 1, "policies": 1}))
        assert not list(out.iterdir())
    world.train(out, CONFIG.model_copy(update={"steps": 1, "policies": 1}))  # free again
    with only_writer(out):
        pass


def test_more_than_there_is_room_for_is_refused_before_anything_is_written(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "family"
    with pytest.raises(RoomError, match="1,000,000,000,000 policies on 30 responses take 480 TB of memory.*--policies"):
        world.train(out, CONFIG.model_copy(update={"policies": 10**12}))
    with pytest.raises(RoomError, match=r"training a policy takes .* \(weights .*, adapter and optimiser .*are free"):
        world.train(out, CONFIG.model_copy(update={"rank": 10**9}))
    monkeypatch.setattr(requirements, "free_memory", lambda **_: None)  # a system that does not tell
    with pytest.raises(RoomError, match=r"no space left on device: .* are needed at .* \(base model .*, adapters .*"):
        world.train(out, CONFIG.model_copy(update={"rank": 10**9}))
    assert not out.exists()


@pytest.mark.parametrize(("option", "value"), [("--batch-size", "0"), ("--policies", "0"), ("--rank", "0")])
def test_numbers_that_mean_nothing_are_usage_errors(option: str, value: str) -> None:
    told = ["run", "data.jsonl", "--model", "m", "--out", "o", "--primary", "helpfulness", "--policies", "2"]
    result = CliRunner().invoke(main, [*told, option, value])
    assert (result.exit_code, "is not in the range" in result.stderr) == (2, True)


def test_weighted_bc_trains_too(world: World, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"step": "weighted-bc", "policies": 1, "steps": 60})
    world.train(tmp_path / "family", config)
    log = pd.read_parquet(tmp_path / "family" / "training" / "policy-00.parquet")
    assert log["estimated.helpfulness"].iloc[-1] > log["estimated.helpfulness"].iloc[0] > 0.45


def test_members_between_neighbours_are_marked_and_every_policys_divergence_is_measured(
    world: World, tmp_path: Path
) -> None:
    options = {"policies": 3, "steps": 10, "interpolate": 2, "own_anchor": 0.1, "t0": 3, "floor_schedule": "adaptive"}
    family = world.train(tmp_path / "family", CONFIG.model_copy(update=options))
    names = [
        "policy-00",
        "policy-00.33333",
        "policy-00.66667",
        "policy-01",
        "policy-01.33333",
        "policy-01.66667",
        "policy-02",
    ]
    assert [policy.id for policy in family.policies] == ["reference", *names]
    between = family.policy("policy-01.33333")
    assert (between.kind, between.predicted, between.floors) == ("interpolated", {}, {})
    assert between.between is not None
    assert between.between.model_dump() == {"first": "policy-01", "second": "policy-02", "share": pytest.approx(1 / 3)}
    for policy in family.policies[1:]:
        assert policy.generated_kl is not None
        assert policy.generated_kl.prompts == 4
        assert policy.generated_kl.error is not None
    log = pd.read_parquet(tmp_path / "family" / "training" / "policy-02.parquet")
    assert (log["own_kl"].notna() & log["floor.safety"].notna()).all()
    assert list((tmp_path / "family" / ".work").iterdir()) == []


def test_a_family_for_some_of_the_objectives_and_one_more_policy_for_it(world: World, tmp_path: Path) -> None:
    third = [
        row | {"preferences": row["preferences"] | {"brevity": 1 - row["preferences"]["safety"]}} for row in rows()
    ]
    data = world.write(third, "third.jsonl")
    few = {"policies": 1, "steps": 2, "kl_prompts": 0, "objectives": ("safety", "helpfulness")}
    out = tmp_path / "family"
    family = run_family([data], out, CONFIG.model_copy(update=few), model=str(world.model))
    assert family.objectives == ["safety", "helpfulness"]
    more = extend_family(
        out, family, "more", {"safety": 1.0}, start=family.policy("policy-00"), adapter=out / "policies" / "more"
    )
    assert set(more.predicted) == {"safety", "helpfulness"}


RATES = from_rates(("help", "safe"), np.tile([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]], (20, 1)), np.arange(0, 61, 3))


def config(**changes: Any) -> RunConfig:
    return RunConfig(**({"primary": "help", "policies": 3, "epsilon": 0} | changes))


def test_floors_bound_every_point_and_the_first_holds_exactly_them() -> None:
    points = choose_points(RATES, config(floors={"safe": 0.55}))
    assert len(points) == 3
    assert points[0].predicted["safe"] == pytest.approx(0.55, abs=1e-6)
    assert all(point.predicted["safe"] >= 0.55 - 1e-6 for point in points)
    helps = [point.predicted["help"] for point in points]
    assert helps == sorted(helps, reverse=True)


def test_fewer_distinct_points_make_fewer_policies(capsys: pytest.CaptureFixture[str]) -> None:
    flat = from_rates(("help", "safe"), np.full((4, 2), 0.5), [0, 2, 4])
    assert len(choose_points(flat, config())) == 1
    assert "1 distinct points here, so 1 policies, not 3" in capsys.readouterr().err


def test_infeasible_and_unknown_floors_and_primaries_are_refused() -> None:
    with pytest.raises(FloorError, match="0.9"):
        choose_points(RATES, config(floors={"safe": 0.95}))
    with pytest.raises(FloorError, match="'speed', which is not an objective"):
        choose_points(RATES, config(floors={"speed": 0.5}))
    with pytest.raises(FloorError, match="'speed' is not an objective"):
        choose_points(RATES, config(primary="speed"))


def test_nothing_is_written_for_data_or_models_that_cannot_be_used(world: World, tmp_path: Path) -> None:
    out = tmp_path / "family"
    with pytest.raises(ModelError, match="no model directory"):
        world.train(out, model=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="10 of 10 prompts leave no room for an answer.*limit is 8"):
        world.train(out, CONFIG.model_copy(update={"max_length": 8}))
    with pytest.raises(FloorError):
        world.train(out, CONFIG.model_copy(update={"floors": {"safety": 0.95, "helpfulness": 0.95}}))
    broken = tmp_path / "broken"
    shutil.copytree(world.model, broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    (broken / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot load the tokenizer"):
        world.train(out, model=str(broken))
    assert not out.exists()


def test_the_family_lies_apart_from_data_model_and_other_files(world: World, tmp_path: Path) -> None:
    for place in (world.data.parent, world.model / "family", world.data):
        with pytest.raises(FamilyError, match="inside one another|is a file"):
            run_family([world.data.parent], place, CONFIG, model=str(world.model))
    (tmp_path / "thesis.tex").write_text("", encoding="utf-8")
    with pytest.raises(FamilyError, match="other files \\(thesis.tex\\)"):
        world.train(tmp_path)
    with pytest.raises(FamilyError, match="other files"):
        world.train(tmp_path, force=True)
    assert (tmp_path / "thesis.tex").exists()


def test_the_commands_train_a_reference_and_a_family(world: World, tmp_path: Path) -> None:
    sizes = "--hidden-size 32 --layers 1 --heads 1 --vocab-size 300 --max-length 64".split()
    made = [str(world.data), "--model", "scratch", "--out", str(tmp_path / "reference"), "--steps", "3", *sizes]
    result = CliRunner().invoke(main, ["reference", *made])
    assert result.exit_code == 0, result.output
    assert "trained on 30 responses" in result.stderr
    told = [str(world.data), "--model", str(tmp_path / "reference"), "--out", str(tmp_path / "family")]
    told += ["--primary", "helpfulness", "--policies", "2", "--steps", "4", "--floor", "safety=0.3"]
    result = CliRunner().invoke(main, ["run", *told])
    assert result.exit_code == 0, result.output
    assert "policy-01" in result.stdout
    assert read_family(tmp_path / "family").config["floors"] == {"safety": 0.3}
    result = CliRunner().invoke(main, ["run", *told, "--floor", "speed=0.3"])
    assert (result.exit_code, "speed" in result.stderr) == (1, True)
    assert CliRunner().invoke(main, ["run", *told, "--policies", "0"]).exit_code == 2


OPTIONS = {
    "reference": ["--model", "m", "--out", "o"],
    "run": ["--model", "m", "--out", "o", "--primary", "helpfulness", "--policies", "3"],
}


def test_the_command_and_the_configuration_have_the_same_defaults() -> None:
    needed = {"primary": "helpfulness", "policies": 3}
    configurations = {"run": RunConfig(**needed).model_dump(), "reference": ReferenceConfig()._asdict()}
    for command, configuration in configurations.items():
        context = main.commands[command].make_context(command, ["data", *OPTIONS[command]])
        shared = configuration.keys() & context.params.keys() - {"floors", "chains"}  # with ray one per policy
        assert len(shared) >= 8
        for name in shared:
            assert context.params[name] == configuration[name], name
