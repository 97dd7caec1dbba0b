"""The log of a training elsewhere, and in words."""

import re
import time
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from mopo_train.cli import main
from mopo_train.console import progress
from mopo_train.errors import MopoError
from mopo_train.policy.loop import note_of
from mopo_train.policy.reporting import check_integrations
from tests.comparisons import row, write_rows


def test_tensorboard_gets_every_row_of_the_logs_of_references_and_policies(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    labels = {"helpfulness": 1, "safety": 0.25}
    rows = [row(f"How do I make dish {i}?", f"Mix {i} and stir.", f"Mix {i}.", labels) for i in range(6)]
    data = str(write_rows(tmp_path / "pairs.jsonl", rows))
    model, family = tmp_path / "model", tmp_path / "family"
    told = ["--report-to", "tensorboard", "--max-length", "64", "--steps", "20", "--batch-size", "4"]
    size = ["--hidden-size", "32", "--layers", "1", "--heads", "1", "--vocab-size", "300"]
    one = ["--primary", "helpfulness", "--policies", "1", "--rank", "2", "--kl-prompts", "0", "--own-anchor", "0"]
    for command in (
        ["reference", data, "--model", "scratch", "--out", str(model), *size, *told],
        ["run", data, "--model", str(model), "--out", str(family), *one, *told],
    ):
        result = CliRunner().invoke(main, command, catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
    assert "KL" in result.stderr and "ESS" in result.stderr
    log = pd.read_parquet(family / "training" / "policy-00.parquet")
    events = EventAccumulator(str(family / "logs" / "policy-00")).Reload()
    for name in ("loss", "kl", "ess"):
        written = events.Scalars(f"train/{name}")
        assert [event.step for event in written] == log["step"].tolist()
        assert [event.value for event in written] == pytest.approx(log[name].tolist(), rel=1e-5)
    losses = EventAccumulator(str(tmp_path / "logs" / "model")).Reload().Scalars("train/loss")
    assert [event.step for event in losses] == [10, 20]


def test_a_missing_integration_is_named_before_anything_is_read() -> None:
    with pytest.raises(MopoError, match="the package nowhere is not installed; pip install nowhere"):
        check_integrations(["math", "nowhere"])


def test_a_row_of_the_log_in_words() -> None:
    told = {"loss": 0.12345, "kl": 1.5, "ess": 0.75, "lambda.safety": 2.0, "estimated.safety": 0.6, "epoch": 1.0}
    assert note_of(told) == "loss 0.123  KL 1.5  ESS 0.75  λ safety 2"


def test_a_line_says_how_much_time_is_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with progress("work", 10, 2) as line:
        monkeypatch.setattr(line, "_began", time.monotonic() - 1440)  # for 4 of 8
        line.advance(4, "note")
        line.advance(4)
    first, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"work: 6/10  note  0:24:\d\d left", first)
    assert last == "work: 10/10"
