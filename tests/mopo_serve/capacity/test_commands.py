"""``mopo-serve capacity`` as a user calls it."""

import json
from pathlib import Path

from click.testing import CliRunner, Result

from mopo_serve.audit.store import open_store
from mopo_serve.cli import main
from tests.mopo_serve.audit.records import append, decision

MEASURED = ("--throughput", "1=100", "--throughput", "8=500", "--throughput", "32=1300")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["capacity", *arguments])


def test_a_plan_names_replicas_and_gateway_cores() -> None:
    done = call("--rate", "20", "--p99", "6", *MEASURED, "--tokens", "64", "--json")
    plan = json.loads(done.stdout)
    assert plan["high"] <= 6
    assert 1 <= plan["replicas"] <= 4
    assert plan["gateway_cores"] == 1
    assert plan["replicas"] in [point["replicas"] for point in plan["tried"]]
    told = call("--rate", "20", "--p99", "6", *MEASURED, "--tokens", "64")
    assert f"{plan['replicas']} replicas and 1 gateway cores for a p99 of 6 s" in told.stdout


def test_a_plan_is_fed_from_an_audit_store(tmp_path: Path) -> None:
    """One request at a time, a second each, 50 tokens: a replica of 50 tokens a second."""
    store = open_store(str(tmp_path / "audit.db"))
    answers = [decision(n, time=1e9 + 2 * n, seconds=1.0, completion_tokens=50) for n in range(40)]
    other = [decision(50, engine="vllm-1", completion_tokens=7), decision(51, status=500)]
    append(store, answers + other)
    store.close()
    done = call("--rate", "0.01", "--p99", "2", "--from", str(tmp_path / "audit.db"), "--json")
    plan = json.loads(done.stdout)
    assert plan["throughput"] == {"1": 50.0}
    assert plan["replicas"] == 1
    unknown = call("--rate", "1", "--p99", "2", "--from", str(tmp_path / "audit.db"), "--engine", "x")
    assert unknown.exit_code == 1 and "known: ['vllm-0', 'vllm-1']" in unknown.stderr


def test_what_is_missing_or_out_of_reach_is_said() -> None:
    for arguments in ((), MEASURED, ("--tokens", "5"), (*MEASURED, "--tokens", "5", "--from", "x")):
        assert call("--rate", "1", "--p99", "1", *arguments).exit_code == 2
    slow = call("--rate", "1", "--p99", "0.1", *MEASURED, "--tokens", "64")
    assert slow.exit_code == 1 and "no number of replicas" in slow.stderr
