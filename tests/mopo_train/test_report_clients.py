"""The log of a training in MLflow and Weights & Biases, read back by their own clients, without a network.

Skipped where these are not installed: together they bring some sixty packages, which nothing else here needs.
"""

import importlib.util
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.mopo_train.test_run import World

REPOSITORY = Path(__file__).resolve().parents[2]


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


def trained(root: Path, to: str, **environment: str) -> pd.DataFrame:
    """The log of a policy that a process trained and reported."""
    world, out = World(root), root / "family"
    told = ["run", str(world.data), "--model", str(world.model), "--out", str(out), "--primary", "helpfulness"]
    sizes = ["--policies", "1", "--steps", "20", "--batch-size", "8", "--rank", "2", "--max-length", "64"]
    command = [sys.executable, "-m", "mopo_train", *told, *sizes, "--kl-prompts", "0", "--report-to", to]
    settings = os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment
    done = subprocess.run(command, cwd=root, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return pd.read_parquet(out / "training" / "policy-00.parquet")


@needs("mlflow")
@pytest.mark.filterwarnings("default")  # of the client's own imports
def test_mlflow_gets_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = (tmp_path / "mlflow").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # other stores bring a data base along
    log = trained(tmp_path, "mlflow", MLFLOW_TRACKING_URI=place)
    from mlflow import MlflowClient

    client = MlflowClient(place)
    (run,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert run.info.run_name == "policy-00"
    for name in ("loss", "kl", "ess"):
        written = client.get_metric_history(run.info.run_id, name)
        assert [each.step for each in written] == log["step"].tolist()
        assert [each.value for each in written] == pytest.approx(log[name].tolist())


@needs("wandb")
@pytest.mark.filterwarnings("default")
def test_wandb_gets_every_row(tmp_path: Path) -> None:
    log = trained(tmp_path, "wandb", WANDB_MODE="offline", WANDB_DIR=str(tmp_path))
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    records = [Record.FromString(data) for data in logged(path.read_bytes())]
    assert {record.run.display_name for record in records if record.HasField("run")} == {"policy-00"}
    histories = [record.history.item for record in records if record.HasField("history")]
    rows = [{item.key or item.nested_key[0]: item.value_json for item in items} for items in histories]
    found = [row for row in rows if "train/loss" in row]
    assert [int(float(row["train/global_step"])) for row in found] == log["step"].tolist()
    for name in ("loss", "kl", "ess"):
        assert [float(row[f"train/{name}"]) for row in found] == pytest.approx(log[name].tolist())


def logged(data: bytes) -> Iterator[bytes]:
    """Records of a log in LevelDB's format, after W&B's seven bytes: blocks of 32 KiB, parts of records in them."""
    at, record = 7, b""
    while len(data) - at >= 7:
        if (rest := -at % 2**15) < 7:
            at += rest
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)  # after a checksum
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""
