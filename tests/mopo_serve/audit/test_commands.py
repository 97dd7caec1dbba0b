"""``mopo-serve audit`` as a user calls it."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from mopo_serve.audit.store import AuditStore
from mopo_serve.cli import main
from tests.mopo_serve.audit.records import append, decision


@pytest.fixture
def filled(store: AuditStore) -> AuditStore:
    append(store, [decision(number, text='{"prompt":"Grüße"}' if number else None) for number in range(7)])
    return store


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["audit", *arguments])


def test_a_store_is_verified_against_a_head_that_was_kept(filled: AuditStore, place: str, tmp_path: Path) -> None:
    first = call("verify", place, "--json")
    assert (first.exit_code, json.loads(first.stdout)["ok"]) == (0, True)
    (tmp_path / "kept.json").write_text(first.stdout)
    append(filled, [decision(8)], first=8)
    again = call("verify", place, "--head", str(tmp_path / "kept.json"))
    assert again.exit_code == 0
    assert "every chain is whole" in again.stdout and "kept.json" in again.stdout


def test_tampering_exits_with_3_and_names_the_row(sqlite_store: AuditStore, tmp_path: Path) -> None:
    append(sqlite_store, [decision(number) for number in range(5)])
    with sqlite_store.engine.begin() as connection:
        connection.execute(text("DROP TRIGGER decisions_no_update"))
        connection.execute(text("UPDATE decisions SET policy = 'policy-00' WHERE seq = 3"))
    found = call("verify", str(tmp_path / "audit.db"))
    assert found.exit_code == 3
    assert "decisions: row 3 was altered" in found.stdout
    told = json.loads(call("verify", str(tmp_path / "audit.db"), "--json").stdout)
    assert (told["ok"], told["problems"][0]["seq"]) == (False, 3)


def test_json_lines_on_stdout_are_what_was_recorded(filled: AuditStore, place: str) -> None:
    result = call("export", place)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["request_id"] for line in lines] == [f"req-{number}" for number in range(7)]
    assert lines[1]["floors"] == {"factuality": 0.1 + 0.2, "safety": 0.9}
    assert (lines[0]["text"], lines[1]["text"]) == (None, {"prompt": "Grüße"})
    assert "7 rows" in result.stderr


def test_parquet_has_the_same_rows(filled: AuditStore, place: str, tmp_path: Path) -> None:
    assert call("export", place, "--format", "parquet", "--out", str(tmp_path / "rows.parquet")).exit_code == 0
    table = pd.read_parquet(tmp_path / "rows.parquet")
    assert table["seconds"].tolist() == [0.1 + number / 7 for number in range(7)]
    assert table["request_id"].iloc[-1] == "req-6"
    streamed = call("export", place, "--format", "parquet").stdout_bytes
    assert len(pd.read_parquet(io.BytesIO(streamed))) == 7


def test_an_export_is_cut_by_time(sqlite_store: AuditStore, tmp_path: Path) -> None:
    times = [1_700_000_000, 1_700_006_400, 1_700_090_000]  # 2023-11-14 22:13:20, 15th 00:00:00, 15th 23:13:20
    append(sqlite_store, [decision(number, time=time) for number, time in enumerate(times)])
    period = ("--since", "2023-11-15", "--until", "2023-11-15T23:00:00")
    lines = call("export", str(tmp_path / "audit.db"), *period).stdout.splitlines()
    assert [json.loads(line)["request_id"] for line in lines] == ["req-1"]
    assert call("export", str(tmp_path / "audit.db"), "--table", "events").stdout == ""


def test_a_store_that_is_not_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    for command in ("verify", "export"):
        result = call(command, str(tmp_path / "none.db"))
        assert result.exit_code == 1
        assert "no audit store" in result.stderr
