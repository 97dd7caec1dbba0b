"""Policies as tasks of a Ray cluster of several nodes: the same family as on one machine, also when one is lost."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from mopo_train.cli import main
from mopo_train.errors import ClusterError
from mopo_train.execution import Execution
from mopo_train.executor.cluster import QUIET, Cluster
from mopo_train.executor.parcel import pack, unpack
from mopo_train.family import read_family
from mopo_train.run import RunConfig, begin_cold, run_family
from tests.mopo_train import launched
from tests.mopo_train.test_run import CONFIG, World, adapters

ON_RAY = CONFIG.model_copy(update={"chains": 2, "own_anchor": 0.1, "steps": 40})
NODE = {"num_gpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def here(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family as it is trained on one machine."""
    out = tmp_path_factory.mktemp("here") / "family"
    world.train(out, ON_RAY)
    return out


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A cluster whose head takes no tasks: what joins it does."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'mopo-suite[ray]'")
    from ray.cluster_utils import Cluster as Machines

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUIET, "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        machines = Machines(initialize_head=True, head_node_args=NODE | {"num_cpus": 0})
        yield machines
        machines.shutdown()  # type: ignore[no-untyped-call]


def check_same(root: Path, truth: Path) -> None:
    assert adapters(root) == adapters(truth)
    assert len(adapters(root)) == 3
    ignored = {"created_at"}
    assert read_family(root).model_dump(exclude=ignored) == read_family(truth).model_dump(exclude=ignored)
    for name in adapters(root):
        mine, others = (pd.read_parquet(each / "training" / f"{name}.parquet") for each in (root, truth))
        pd.testing.assert_frame_equal(mine, others)
    assert {path.name for path in root.iterdir()} == {path.name for path in truth.iterdir()}


@pytest.mark.ray
def test_a_machine_is_lost_while_it_trains_and_the_family_is_that_of_an_undisturbed_run(
    machines: Any, world: World, here: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "family", tmp_path / "log"
    command = ["run", str(world.data), "--model", str(world.model), "--out", str(out), "--own-anchor", "0.1"]
    for name in ("primary", "policies", "steps", "batch_size", "learning_rate", "rank", "max_length", "kl_prompts"):
        command += [f"--{name.replace('_', '-')}", str(getattr(ON_RAY, name))]
    doomed = machines.add_node(**NODE, num_cpus=1)
    ray = ["--executor", "ray", "--ray-address", machines.address, "--chains", "2"]
    (driver,) = launched.start([*command, *ray], 1, log)
    while not list(out.glob(".work/policy-*/checkpoint-*/trainer_state.json")):
        driver.join(0.02)
        assert driver.is_alive(), log.read_text(encoding="utf-8")
    machines.remove_node(doomed, allow_graceful=False)
    assert not list(out.glob("policies/*"))
    machines.add_node(**NODE, num_cpus=1)
    driver.join()
    told = log.read_text(encoding="utf-8")
    assert driver.exitcode == 0, told
    assert "Ray: 2 machines" in told
    assert "policies: 100/100" in told
    check_same(out, here)


@pytest.mark.ray
def test_machines_that_share_no_directory_send_files(machines: Any, world: World, here: Path, tmp_path: Path) -> None:
    """With chains: the adapter that a policy begins from travels, too."""
    cluster = Cluster(machines.address, shared=False)
    run_family([world.data], tmp_path / "away", ON_RAY, model=str(world.model), execution=Execution(cluster=cluster))
    check_same(tmp_path / "away", here)


@pytest.mark.ray
def test_more_than_any_machine_has_is_refused(machines: Any, world: World, tmp_path: Path) -> None:
    asked = Execution(cluster=Cluster(machines.address, gpus=0.25))
    with pytest.raises(ClusterError, match="no machine of the cluster has 1 CPUs and 0.25 GPUs"):
        run_family([world.data], tmp_path / "family", ON_RAY, model=str(world.model), execution=asked)
    rounds = ON_RAY.model_copy(update={"on_policy_rounds": 1})
    with pytest.raises(ClusterError, match="--executor local"):
        run_family([world.data], tmp_path / "family", rounds, model=str(world.model), execution=asked)


def test_an_address_without_a_cluster_and_a_missing_package_are_told(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["run", str(world.data), "--model", str(world.model), "--out", str(tmp_path / "family"), "--executor"]
    command += ["ray", "--primary", "helpfulness", "--policies", "2"]
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(main, command)
    assert (result.exit_code, "pip install 'mopo-suite[ray]'" in result.stderr) == (1, True)


def test_the_first_policy_of_each_chain_begins_cold() -> None:
    def cold(policies: int, **options: Any) -> str:
        config = RunConfig(primary="helpfulness", policies=policies, **options)
        return "".join("c" if begins else "w" for begins in begin_cold(config, policies))

    assert [cold(5), cold(5, chains=2), cold(5, chains=5), cold(2, chains=9)] == ["cwwww", "cwwcw", "ccccc", "cc"]
    assert cold(3, t0=10) == "ccc"


def test_a_parcel_brings_files_and_whole_directories(tmp_path: Path) -> None:
    (tmp_path / "a/policies/one").mkdir(parents=True)
    (tmp_path / "a/policies/one/weights").write_bytes(b"1")
    (tmp_path / "a/log").write_bytes(b"2")
    parcel = pack(tmp_path / "a", [tmp_path / "a/policies/one", tmp_path / "a/log"])
    assert parcel == {"policies/one": {"weights": b"1"}, "log": b"2"}
    (tmp_path / "b/policies/one.partial").mkdir(parents=True)  # of an attempt that was killed
    (tmp_path / "b/policies/one.partial/rest").touch()
    unpack(parcel, tmp_path / "b")
    files = {path.relative_to(tmp_path / "b").as_posix() for path in (tmp_path / "b").rglob("*") if path.is_file()}
    assert files == {"policies/one/weights", "log"}
