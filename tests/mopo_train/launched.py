"""Processes that train together, as ``torchrun`` starts them, but forked from one that has imported everything."""

import multiprocessing
import os
import socket
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from mopo_train.execution import Execution
from mopo_train.family import PolicyFamily

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["mopo_train.run", "mopo_eval.measure"])


def start(arguments: Sequence[str], size: int, log: Path) -> list[BaseProcess]:
    """``mopo-train`` with ``arguments`` in ``size`` processes, a checkpoint after every logged step.

    What they print goes to ``log``.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes: list[BaseProcess] = []
    for rank in range(size):
        mine = told | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if size > 1 else {}
        processes.append(CONTEXT.Process(target=_command, args=(list(arguments), mine, log)))
        processes[-1].start()
    return processes


def finish(arguments: Sequence[str], size: int, log: Path) -> str:
    """The same to the end; returns what was printed."""
    processes = start(arguments, size, log)
    for process in processes:
        process.join()
    told = log.read_text(encoding="utf-8")
    assert [process.exitcode for process in processes] == [0] * size, told
    return told


def _command(arguments: list[str], environment: dict[str, str], log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    import torch

    from mopo_train import run
    from mopo_train.cli import main

    torch.set_num_threads(1)
    whole = run.run_family

    def impatient(*args: Any, execution: Execution, **options: Any) -> PolicyFamily:
        return whole(*args, execution=execution._replace(checkpoint_seconds=0), **options)

    run.run_family = impatient  # type: ignore[assignment]
    main(arguments, prog_name="mopo-train")
