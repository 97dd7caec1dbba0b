"""Nothing is lost: killed at random points, or out of disk, training and measuring end as if nothing had happened."""

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from mopo_eval.answers import Answer
from mopo_eval.spool import read_spool
from mopo_train.cli import main
from mopo_train.family import read_family
from tests.comparisons import row, write_rows
from tests.families import SCORES
from tests.mopo_eval.measurable import measurable
from tests.mopo_eval.stub_engine import stub_engine

KILLS = 20
REPOSITORY = Path(__file__).resolve().parents[1]
TRAINING = ["--primary", "helpfulness", "--policies", "3", "--steps", "30", "--batch-size", "8", "--rank", "2"]
TRAINING += ["--max-length", "64", "--learning-rate", "0.005"]
PROMPTS = 60


def train(arguments: list[str]) -> None:
    """In a process of its own, with a checkpoint after every step."""
    import torch

    from mopo_train import run
    from mopo_train.cli import main
    from mopo_train.execution import Execution

    torch.set_num_threads(1)
    whole = run.run_family
    impatient = Execution(checkpoint_seconds=0)
    run.run_family = lambda *args, **options: whole(*args, **options | {"execution": impatient})
    main(arguments)


def measure(arguments: list[str]) -> None:
    """In a process of its own."""
    from mopo_eval.cli import main

    main(arguments)


def nothing(arguments: list[str]) -> None:
    """Starts the server of processes, which imports what the others need."""


def seconds_of(target: Callable[[list[str]], None], arguments: list[str]) -> float:
    """How long an undisturbed process takes once everything is imported."""
    started(nothing, [], None)
    began = time.monotonic()
    assert started(target, arguments, None) == 0
    return time.monotonic() - began


def moments(seed: int, takes: float) -> Iterator[float]:
    """Random points of a process that takes so many seconds."""
    generator = np.random.default_rng(seed)
    while True:
        yield float(generator.uniform(0, takes))


def started(target: Callable[[list[str]], None], arguments: list[str], killed_after: float | None) -> int | None:
    """Exit status of a fresh process; it is killed if it still runs after so many seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mopo_train.run", "mopo_eval.measure"])
    process = context.Process(target=target, args=(arguments,))
    process.start()
    process.join(killed_after)
    if process.is_alive():
        process.kill()
    process.join()
    return process.exitcode


def weights(root: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(root.glob("policies/*/adapter_model.safetensors"))}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What ``run`` takes: data in which the longer answer helps and the shorter is safe, and a tiny reference model."""
    root = tmp_path_factory.mktemp("inputs")
    rows = [
        row(
            f"How do I make dish {i}?", f"Mix {i} parts and stir.", f"Mix {i}.", {"helpfulness": 1, "safety": i % 3 / 2}
        )
        for i in range(12)
    ]
    data = write_rows(root / "pairs.jsonl", rows)
    size = ["--steps", "20", "--hidden-size", "32", "--layers", "1", "--heads", "1", "--vocab-size", "300"]
    command = ["reference", str(data), "--model", "scratch", "--out", str(root / "model"), *size, "--max-length", "64"]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return [str(data), "--model", str(root / "model")]


@pytest.fixture(scope="module")
def undisturbed(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A family that was trained without interruption, and how long that took."""
    out = tmp_path_factory.mktemp("undisturbed") / "family"
    return out, seconds_of(train, ["run", *inputs, *TRAINING, "--out", str(out)])


def check_same_family(root: Path, other: Path) -> None:
    assert weights(root) == weights(other)
    assert len(weights(root)) == 3
    ignored = {"created_at"}
    assert read_family(root).model_dump(exclude=ignored) == read_family(other).model_dump(exclude=ignored)
    for name in weights(root):
        mine, others = (pd.read_parquet(each / "training" / f"{name}.parquet") for each in (root, other))
        pd.testing.assert_frame_equal(mine, others)


def test_training_killed_at_random_points_ends_with_the_same_weights(
    inputs: list[str], undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    whole, takes = undisturbed
    delays = moments(0, takes)
    finished = kills = 0
    while kills < KILLS:
        out = tmp_path / f"family-{finished}"
        arguments = ["run", *inputs, *TRAINING, "--out", str(out)]
        while (status := started(train, arguments, next(delays) if kills < KILLS else None)) != 0:
            assert status == -9
            kills += 1
        check_same_family(out, whole)
        finished += 1


@pytest.fixture
def unmeasured(tmp_path: Path) -> list[str]:
    """What ``run`` of mopo-eval takes, for a family whose engine is a stand-in that counts questions."""
    _, arguments = measurable(tmp_path, PROMPTS)
    return ["run", *arguments]


def evidence(root: Path) -> dict[str, Any]:
    """Everything that was measured, without times."""
    (run,) = (root / "evaluation").glob("*/run.json")
    tables = {name: pd.read_parquet(run.parent / f"{name}.parquet").to_dict() for name in ("responses", "judgements")}
    cards = {path.name: path.read_text(encoding="utf-8") for path in (root / "scorecards").glob("*.json")}
    return tables | cards | {"profiles": (root / "profiles.yaml").read_text(encoding="utf-8")}


def test_measuring_killed_at_random_points_asks_nothing_twice_and_ends_with_the_same_answers(
    unmeasured: list[str], tmp_path: Path
) -> None:
    root, whole = Path(unmeasured[1]), tmp_path / "whole"
    shutil.copytree(root, whole)
    with stub_engine(list(SCORES)) as engine:
        takes = seconds_of(measure, ["run", str(whole), *unmeasured[2:], "--engine", engine.url])
    truth = evidence(whole)
    delays = moments(1, takes)
    kills = 0
    while kills < KILLS:
        shutil.rmtree(root / "evaluation", ignore_errors=True)
        shutil.rmtree(root / "scorecards", ignore_errors=True)
        (root / "profiles.yaml").unlink(missing_ok=True)
        kept: set[tuple[str, str]] = set()
        with stub_engine(list(SCORES)) as engine:
            status = None
            while status != 0:
                before = len(engine.asked)
                status = started(
                    measure, [*unmeasured, "--engine", engine.url], next(delays) if kills < KILLS else None
                )
                asked = {(body["model"], body["messages"][-1]["content"]) for body in engine.asked[before:]}
                assert not asked & kept
                assert status in (0, -9)
                kills += status == -9
                for spool in (root / "evaluation").glob("*/answers.jsonl"):
                    kept |= {(a.policy, f"Question {a.prompt_id[1:]}?") for a in read_spool(spool, Answer)}
                if list((root / "evaluation").glob("*/responses.parquet")):
                    kept = {(policy, f"Question {i}?") for policy in SCORES for i in range(PROMPTS)}
        assert evidence(root) == truth


def on_small_disks(commands: list[list[str]], place: Path, sizes: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """Run each of ``commands`` in turn with the disk at ``place`` grown to each of ``sizes``; then keep a copy of it.

    The disk is a tmpfs in a namespace of its own, so that nobody else sees it; skips where the system forbids that.
    """
    script = f"""
import json, subprocess, shutil, sys
commands, sizes = json.loads(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + sizes[0], "tmpfs", {str(place)!r}], check=True)
shutil.copytree({str(place) + "-before"!r}, {str(place)!r}, dirs_exist_ok=True)
for command, size in zip(commands, sizes):
    subprocess.run(["mount", "-o", "remount,size=" + size, {str(place)!r}], check=True)
    done = subprocess.run(command, capture_output=True, text=True, cwd={str(REPOSITORY)!r})
    print(json.dumps([done.returncode, done.stdout, done.stderr]))
shutil.copytree({str(place)!r}, {str(place) + "-after"!r}, symlinks=True)
"""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("needs a mount namespace of its own (unshare -rm), which this system does not give")
    place.mkdir()
    Path(str(place) + "-before").mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(place.parent)}
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", script, json.dumps([commands, sizes])],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    return [subprocess.CompletedProcess([], status, out, err) for status, out, err in results]


def test_training_on_a_full_disk_says_so_and_continues_when_there_is_room(
    inputs: list[str], undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    place = tmp_path / "disk"
    unaware = "import mopo_train.run; mopo_train.run.check_room = lambda *_: None; "  # others take the room meanwhile
    begun, checked = (
        [sys.executable, "-c", f"{first}from mopo_train.cli import main; main()", "run", *inputs, *TRAINING]
        + ["--out", str(place / "family")]
        for first in (unaware, "")
    )
    sizes = ["64k", "64k", "300k", "64m"]
    refused, small, larger, enough = on_small_disks([checked, begun, begun, checked], place, sizes)
    assert re.search("no space left on device: .* are needed at .*, 65.5 kB are free; make room", refused.stderr)
    assert "log-probabilities: " not in refused.stderr  # nothing was spent
    for done in (refused, small, larger):
        assert done.returncode == 1
        assert "no space left on device" in done.stderr.lower()
        assert "Traceback" not in done.stderr
    assert enough.returncode == 0, enough.stderr
    check_same_family(Path(str(place) + "-after") / "family", undisturbed[0])


def test_measuring_on_a_full_disk_says_so_and_asks_nothing_twice(unmeasured: list[str], tmp_path: Path) -> None:
    root, place = Path(unmeasured[1]), tmp_path / "disk"
    shutil.copytree(root, Path(str(place) + "-before") / "family")
    with stub_engine(list(SCORES)) as engine:
        options = [*unmeasured[2:], "--engine", engine.url]
        command = [
            sys.executable,
            "-c",
            "from mopo_eval.cli import main; main()",
            "run",
            str(place / "family"),
            *options,
        ]
        small, larger, enough = on_small_disks([command] * 3, place, ["48k", "80k", "64m"])
    for done in (small, larger):
        assert done.returncode == 1
        assert "no space left on device" in done.stderr.lower()
        assert "Traceback" not in done.stderr
    assert enough.returncode == 0, enough.stderr
    asked = [(body["model"], body["messages"][-1]["content"]) for body in engine.asked]
    in_flight = 4
    assert len(asked) <= PROMPTS * len(SCORES) + 2 * in_flight
    table = next((Path(str(place) + "-after") / "family" / "evaluation").glob("*/responses.parquet"))
    assert len(pd.read_parquet(table)) == PROMPTS * len(SCORES)
