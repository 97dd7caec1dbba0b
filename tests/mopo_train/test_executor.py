"""What decides how policies are handed out, and what carries their files."""

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mopo_train.cli import main
from mopo_train.errors import ClusterError
from mopo_train.executor.cluster import Cluster, check_machines
from mopo_train.executor.parcel import kept, pack, unpack
from mopo_train.run import RunConfig, begin_cold, steps_of_policies
from tests.comparisons import row, write_rows


def test_a_missing_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", [row("Q?", "A", "B", {"helpfulness": 1, "safety": 0})])
    command = ["run", str(data), "--model", "some/model", "--out", str(tmp_path / "family"), "--executor", "ray"]
    command += ["--primary", "helpfulness", "--policies", "2"]
    monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(main, command)
    assert (result.exit_code, "pip install 'mopo-suite[ray]'" in result.stderr) == (1, True)


def test_a_policy_that_no_machine_has_the_memory_for_is_refused() -> None:
    nodes = [{"CPU": 8.0, "memory": 16e9}, {"CPU": 1.0, "memory": 64e9}]
    check_machines(nodes, Cluster(cpus=8, memory=16_000_000_000))
    with pytest.raises(
        ClusterError, match=r"has 8 CPUs, 0 GPUs, 17 GB of memory for a task \(they have 8 CPUs, 0 GPUs, 16"
    ):
        check_machines(nodes, Cluster(cpus=8, memory=17_000_000_000))


def test_the_first_policy_of_each_chain_begins_cold() -> None:
    def cold(policies: int, **options: Any) -> str:
        config = RunConfig(primary="helpfulness", policies=policies, **options)
        return "".join("c" if begins else "w" for begins in begin_cold(config, policies))

    assert [cold(5), cold(5, chains=2), cold(5, chains=5), cold(2, chains=9)] == ["cwwww", "cwwcw", "ccccc", "cc"]
    assert cold(3, t0=10) == "ccc"
    assert steps_of_policies(RunConfig(primary="helpfulness", policies=3, chains=2, steps=9), 3) == [9, 4, 9]


def test_what_is_kept_on_a_machine_is_fetched_once(tmp_path: Path) -> None:
    fetched = list[int]()

    def fetch() -> dict[str, bytes]:
        fetched.append(1)
        return {"weights": b"1"}

    for _ in range(2):
        assert (kept(tmp_path / "cache" / "base", fetch) / "weights").read_bytes() == b"1"
    assert len(fetched) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["base"]


def test_of_two_that_fetch_at_once_the_first_is_kept(tmp_path: Path) -> None:
    def late() -> dict[str, bytes]:
        kept(tmp_path / "base", lambda: {"weights": b"first"})
        return {"weights": b"second"}

    assert (kept(tmp_path / "base", late) / "weights").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


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
