"""Ray clusters of several nodes on this machine: policies and answers are as on one, also when a node is lost."""

import json
import multiprocessing
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mopo_eval.answers import Answer
from mopo_eval.cli import main as measuring
from mopo_eval.engine import Engine
from mopo_eval.evaluation import read_responses
from mopo_train.errors import ClusterError
from mopo_train.execution import Execution
from mopo_train.executor.cluster import Cluster
from mopo_train.run import run_family
from tests.families import SCORES
from tests.mopo_eval.measurable import measurable
from tests.mopo_eval.stub_engine import Body, stub_engine
from tests.mopo_train import launched
from tests.mopo_train.test_run import CONFIG, World
from tests.ray_machines import ray_machines, with_workers
from tests.test_interruptions import check_same_family

pytestmark = pytest.mark.ray
PROMPTS = 60
IN_FLIGHT = 4  # of each worker
ON_RAY = CONFIG.model_copy(update={"chains": 2, "own_anchor": 0.1, "steps": 40})


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
    with ray_machines() as made:
        yield made


def check_same(root: Path, truth: Path) -> None:
    check_same_family(root, truth)
    assert {path.name for path in root.iterdir()} == {path.name for path in truth.iterdir()}


def test_a_machine_is_lost_while_it_trains_and_the_family_is_that_of_an_undisturbed_run(
    machines: Any, world: World, here: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "family", tmp_path / "log"
    command = ["run", str(world.data), "--model", str(world.model), "--out", str(out), "--own-anchor", "0.1"]
    for name in ("primary", "policies", "steps", "batch_size", "learning_rate", "rank", "max_length", "kl_prompts"):
        command += [f"--{name.replace('_', '-')}", str(getattr(ON_RAY, name))]
    (doomed,) = with_workers(machines, 1)
    ray = ["--executor", "ray", "--ray-address", machines.address, "--chains", "2"]
    (driver,) = launched.start([*command, *ray], 1, log)
    while not list(out.glob(".work/policy-*/checkpoint-*/trainer_state.json")):
        driver.join(0.02)
        assert driver.is_alive(), log.read_text(encoding="utf-8")
    machines.remove_node(doomed, allow_graceful=False)
    assert len(list(out.glob("policies/*"))) < 3  # it was still training
    with_workers(machines, 1)
    driver.join()
    told = log.read_text(encoding="utf-8")
    assert driver.exitcode == 0, told
    assert "Ray: 2 machines" in told
    assert "policies: 100/100" in told
    check_same(out, here)


def test_machines_that_share_no_directory_send_files(machines: Any, world: World, here: Path, tmp_path: Path) -> None:
    """With chains: the adapter that a policy begins from travels, too."""
    with_workers(machines, 1)
    cluster = Cluster(machines.address, shared=False)
    run_family([world.data], tmp_path / "away", ON_RAY, model=str(world.model), execution=Execution(cluster=cluster))
    check_same(tmp_path / "away", here)


def test_more_than_any_machine_has_is_refused(machines: Any, world: World, tmp_path: Path) -> None:
    with_workers(machines, 1)
    asked = Execution(cluster=Cluster(machines.address, gpus=0.25))
    with pytest.raises(ClusterError, match="no machine of the cluster has 1 CPUs, 0.25 GPUs"):
        run_family([world.data], tmp_path / "family", ON_RAY, model=str(world.model), execution=asked)
    rounds = ON_RAY.model_copy(update={"on_policy_rounds": 1})
    with pytest.raises(ClusterError, match="--executor local"):
        run_family([world.data], tmp_path / "family", rounds, model=str(world.model), execution=asked)


def answers(root: Path) -> set[Answer]:
    (run,) = (root / "evaluation").glob("*/run.json")
    return {answer._replace(engine="") for answer in read_responses(run.parent)}


def measure(arguments: list[str]) -> None:
    """In a process of its own."""
    measuring(arguments)


def slowly(body: Body, before: int) -> None:
    """Takes a while over each answer, so that the run lasts longer than it takes a machine to die."""
    time.sleep(0.01)


def test_a_machine_is_lost_and_nothing_is_asked_twice_but_what_it_had_in_flight(machines: Any, tmp_path: Path) -> None:
    root, options = measurable(tmp_path, PROMPTS)
    shutil.copytree(tmp_path, tmp_path / "whole")
    with stub_engine(list(SCORES)) as engine:
        done = CliRunner().invoke(
            measuring, ["run", str(tmp_path / "whole" / "family"), *options[1:], "--engine", engine.url]
        )
        assert done.exit_code == 0, done.output
    doomed = with_workers(machines, 2)[0]
    ray = ["--executor", "ray", "--ray-address", machines.address]
    with stub_engine(list(SCORES), slowly) as one, stub_engine(list(SCORES), slowly) as other:
        command = ["run", *options, *ray, "--engine", one.url, "--engine", other.url]
        process = multiprocessing.get_context("forkserver").Process(target=measure, args=(command,))
        process.start()
        while min(len(one.asked), len(other.asked)) < 20:
            process.join(0.02)
            assert process.is_alive()
        machines.remove_node(doomed, allow_graceful=False)
        assert not list(root.glob("evaluation/*/responses.parquet"))  # it was still running
        with_workers(machines, 2)
        process.join()
    assert process.exitcode == 0
    assert answers(root) == answers(tmp_path / "whole" / "family")
    asked = Counter((body["model"], body["messages"][-1]["content"]) for body in one.asked + other.asked)
    assert len(asked) == PROMPTS * len(SCORES)
    assert max(asked.values()) <= 2
    assert sum(asked.values()) <= PROMPTS * len(SCORES) + IN_FLIGHT


def test_workers_start_engines_which_give_the_answers_of_one(
    machines: Any, tiny_family: Path, embedded_engine: Engine, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(json.dumps({"id": f"p{i}", "prompt": f"Q{i}"}) + "\n" for i in range(6)), encoding="utf-8"
    )
    options = ["--prompts", str(prompts), "--answers-only", "--temperature", "0", "--max-tokens", "8"]
    roots = [tmp_path / "one", tmp_path / "several"]
    for root in roots:
        shutil.copytree(tiny_family, root)
    with_workers(machines, 2)
    ray = ["--executor", "ray", "--ray-address", machines.address, "--engine", "embedded", "--workers", "2"]
    for root, engine in zip(roots, [["--engine", embedded_engine.url], ray], strict=True):
        done = CliRunner().invoke(measuring, ["run", str(root), *options, *engine, "--concurrency", "2"])
        assert done.exit_code == 0, done.output
    assert answers(roots[1]) == answers(roots[0])
    assert len(answers(roots[0])) == 18
