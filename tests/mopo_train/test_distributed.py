"""Several processes train the policy that one process trains: plain (DDP) and with the base model spread (FSDP)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from mopo_train.cli import main
from mopo_train.family import read_family
from mopo_train.policy.batches import Planned, make_units, plan_steps, shares
from mopo_train.winrates import FloatArray
from tests.mopo_train import launched
from tests.mopo_train.test_run import World

REPOSITORY = Path(__file__).resolve().parents[2]
ROUNDING = 1e-5  # adapters have weights of 0.2 after these steps; sums in another order move them by 2e-7


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def command(world: World, out: Path, *options: str) -> list[str]:
    sizes = ["--steps", "20", "--batch-size", "8", "--rank", "2", "--max-length", "64", "--learning-rate", "0.005"]
    told = ["run", str(world.data), "--model", str(world.model), "--out", str(out), "--primary", "helpfulness"]
    return [*told, "--policies", "2", "--kl-prompts", "4", "--own-anchor", "0.1", *sizes, *options]


@pytest.fixture(scope="module")
def single(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family of one process."""
    out = tmp_path_factory.mktemp("single") / "family"
    launched.finish(command(world, out), 1, out.with_name("log"))
    return out


def check_same(root: Path, truth: Path) -> None:
    """The families are equal but for rounding: adapters, logs, and what family.json says of the policies."""
    mine, others = read_family(root), read_family(truth)
    assert mine.config == others.config
    assert len(mine.policies) >= 2
    for policy, other in zip(mine.policies[1:], others.policies[1:], strict=True):
        weights, expected = (
            load_file(place / str(policy.adapter) / "adapter_model.safetensors") for place in (root, truth)
        )
        assert weights.keys() == expected.keys()
        for name, values in weights.items():
            np.testing.assert_allclose(values, expected[name], rtol=0, atol=ROUNDING)
        log, wanted = (pd.read_parquet(place / "training" / f"{policy.id}.parquet") for place in (root, truth))
        pd.testing.assert_frame_equal(log, wanted, rtol=1e-3, atol=ROUNDING)
        assert policy.generated_kl is not None
        assert other.generated_kl is not None
        assert policy.generated_kl.kl == pytest.approx(other.generated_kl.kl, abs=1e-3)
    same = {path.relative_to(truth) for path in truth.rglob("*") if path.is_file()}
    assert {path.relative_to(root) for path in root.rglob("*") if path.is_file()} == same


def test_torchrun_with_two_processes_gives_the_family_of_one(world: World, single: Path, tmp_path: Path) -> None:
    together = command(world, tmp_path / "together")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, "-m", "mopo_train", *together], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    check_same(tmp_path / "together", single)
    assert done.stdout.count("policy-01") == 1  # one of them speaks
    assert done.stderr.count("policies: 30/30") == 1


def test_a_model_spread_over_two_processes_gives_the_same_family_also_when_they_are_killed(
    world: World, single: Path, tmp_path: Path
) -> None:
    out = tmp_path / "spread"
    spread = command(world, out, "--fsdp")
    processes = launched.start(spread, 2, tmp_path / "log")
    while not (out / ".work" / "policy-00" / "checkpoint-10" / "trainer_state.json").exists():
        processes[0].join(0.02)
        assert processes[0].is_alive(), (tmp_path / "log").read_text(encoding="utf-8")
    for process in processes:
        process.kill()
        process.join()
    assert not (out / "policies").exists()
    told = launched.finish(spread, 2, tmp_path / "again")
    assert "policies: 10/30  continued" in told or "policies: 12/30" in told
    check_same(out, single)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (3, ["--step", "weighted-bc", "--t0", "4", "--floor-schedule", "adaptive"]),
        (2, ["--on-policy-rounds", "1", "--on-policy-answers", "4", "--step", "pairwise-logistic"]),
    ],
)
def test_what_is_written_and_read_between_steps_is_the_leaders(
    size: int, options: list[str], world: World, tmp_path: Path
) -> None:
    """Batches have two prompts or three: of three processes one stands by at times."""
    small = [*options, "--policies", "1", "--steps", "10", "--own-anchor", "0"]
    launched.finish(command(world, tmp_path / "alone", *small), 1, tmp_path / "log")
    launched.finish(command(world, tmp_path / "together", *small), size, tmp_path / "log")
    check_same(tmp_path / "together", tmp_path / "alone")


def test_a_reference_that_several_train_is_that_of_one(world: World, tmp_path: Path) -> None:
    """Batches of seven: of three processes one has three examples and the others two."""
    sizes = ["--hidden-size", "32", "--layers", "1", "--heads", "1", "--vocab-size", "300", "--max-length", "64"]
    told = ["reference", str(world.data), "--model", "scratch", "--steps", "12", "--batch-size", "7", *sizes]
    for name, size in [("alone", 1), ("together", 3)]:
        launched.finish([*told, "--out", str(tmp_path / name)], size, tmp_path / "log")
    weights, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("together", "alone"))
    assert weights.keys() == expected.keys()
    for name, values in weights.items():
        np.testing.assert_allclose(
            values, expected[name], rtol=0, atol=1e-4
        )  # Adam's first steps divide by tiny slopes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "log", "together"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--floor", "safety=0.95", "--floor", "helpfulness=0.95"],  # the leader finds it
        ["--objective", "kindness"],  # each finds it
    ],
)
def test_a_users_error_is_told_once_and_ends_all(wrong: list[str], world: World, tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = launched.start(command(world, tmp_path / "out", *wrong), 2, log)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [1, 1]
    assert log.read_text(encoding="utf-8").count("mopo-train: ") == 1


def test_not_every_command_takes_several_processes_and_only_several_are_spread_over(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = CliRunner().invoke(main, command(world, tmp_path / "out", "--fsdp"))
    assert (result.exit_code, "this is a single one" in result.stderr) == (1, True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(main, ["plan", str(world.data)])
    assert (result.exit_code, "'plan' runs in one process" in result.stderr) == (1, True)
    monkeypatch.setenv("RANK", "1")
    result = CliRunner().invoke(main, ["plan", str(world.data)])
    assert (result.exit_code, result.stderr) == (0, "")  # the first has told it, and fails
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    result = CliRunner().invoke(
        main, ["reference", str(world.data), "--model", "scratch", "--out", str(tmp_path / "out")]
    )
    assert (result.exit_code, "start it without --use_fsdp" in result.stderr) == (1, True)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_the_mean_of_shares_is_the_mean_of_the_step(parts: int) -> None:
    generator = np.random.default_rng(0)
    compared = np.array([(3 * x + a, 3 * x + b) for x in range(9) for a, b in [(0, 1), (1, 2)][: 1 + x % 2]])
    lengths, value = generator.integers(5, 60, 27), generator.normal(size=27)
    for step in plan_steps(make_units(compared, np.arange(27) // 3, 12), lengths, 12, 6, seed=1):
        made = shares(step, lengths, parts)
        means = [share.weight * _mean_over_units(share.planned, value) for share in made]
        assert np.mean(means) == pytest.approx(_mean_over_units(step, value))
        seen = np.concatenate([share.planned.responses for share in made if share.weight])
        assert sorted(seen) == sorted(step.responses)
        pairs = [share.planned.responses[share.planned.pairs] for share in made if share.weight]
        assert sorted(map(tuple, np.concatenate(pairs))) == sorted(map(tuple, step.responses[step.pairs]))
        for share in made:
            assert (
                share.planned.unit[share.planned.pairs[:, 0]].tolist()
                == share.planned.unit[share.planned.pairs[:, 1]].tolist()
            )
            assert np.unique(share.planned.unit).tolist() == list(range(share.planned.unit[-1] + 1))


def _mean_over_units(step: Planned, value: FloatArray) -> float:
    """Written out: the mean over units of the mean over their pairs of the difference of values."""
    means = []
    for unit in range(step.unit[-1] + 1):
        pairs = [pair for pair in step.pairs if step.unit[pair[0]] == unit]
        means.append(np.mean([value[step.responses[a]] - value[step.responses[b]] for a, b in pairs]))
    return float(np.mean(means))
