"""What the benchmark of training counts; on a GPU, that it runs."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.arithmetic import MatrixWeights, matrix_rate
from benchmarks.dpo_runs import Scale, dpo_loss, encoded, made_pairs, write_model
from benchmarks.training import main
from mopo_train.policy.adapter import new_adapter
from mopo_train.policy.models import empty_model, load_model
from mopo_train.policy.packing import collate
from mopo_train.policy.scoring import response_log_probabilities, traits

REPOSITORY = Path(__file__).resolve().parents[2]
SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 8,
    "num_attention_heads": 2,
}
SMALL = Scale("cpu", SIZES, ((16, 16, 16), (23, 23, 23), (23, 23, 23)), together=4, matrix=64)


def test_operations_are_those_that_torch_counts(tmp_path: Path) -> None:
    """Rows of 64 tokens have no padding. The first layer's input needs no slope, and the adapter is small."""
    write_model(SMALL, tmp_path / "model")
    pairs = made_pairs(SMALL, 4)
    adapter: Any = new_adapter(load_model(str(tmp_path / "model")), rank=1, seed=0, start=None)
    batch = collate(encoded(pairs), traits(adapter).worth)
    with FlopCounterMode(display=False) as counter:
        dpo_loss(response_log_probabilities(adapter, batch)).backward()  # type: ignore[no-untyped-call]
    products = {torch.ops.aten.mm, torch.ops.aten.addmm}  # without attention's
    counted = sum(count for kind, count in counter.get_flop_counts()["Global"].items() if kind in products)
    expected = MatrixWeights(empty_model(str(tmp_path / "model"))).operations(pairs)
    assert counted == pytest.approx(expected, rel=0.08)


def test_a_rate_is_of_this_machine() -> None:
    assert 1e8 < matrix_rate(SMALL.matrix, "cpu", SMALL.clock) < 1e14


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(main, ["--device", "cuda"])
    assert (result.exit_code, result.stderr) == (1, "Error: --device cuda: torch finds no GPU that it can use.\n")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use")
def test_the_benchmark_runs_on_a_gpu(tmp_path: Path) -> None:
    told = ["--device", "cuda", "--rounds", "1", "--pairs", "32", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.training", *told, "--only", "ours", "--only", "TRL, bfloat16"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"\d+%", done.stdout)) == 2
