"""transformers' ``Trainer`` on batches planned in advance: deterministic, resumable, with our progress line.

The plan fixes which rows every step sees, so a run that is killed and continued from a checkpoint makes
the same steps. Checkpoints are taken by the clock: the work lost is bounded whatever a step costs.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from mopo_train.console import ProgressLine
from mopo_train.errors import FamilyError, RoomError
from mopo_train.policy.distributed import Group, from_leader, group
from mopo_train.policy.models import Precision, choose_products, hide_file_progress, is_half
from mopo_train.policy.reporting import Report

Batch = dict[str, Any]
IDENTITY = "training.sha256"
"""File of a checkpoint that says what was trained."""


class LoopSettings(NamedTuple):
    """How to optimise."""

    learning_rate: float
    warmup: int = 10
    """Steps over which the learning rate rises from 0."""
    schedule: str = "cosine"
    """Name of transformers' schedule after the warm-up."""
    weight_decay: float = 0.0
    log_every: int = 10
    """Steps between rows of the log."""
    checkpoint_seconds: float = 60.0
    seed: int = 0
    precision: Precision = "auto"
    report: Report = Report()
    identity: str = ""
    """Of what is trained, with its settings: kept in checkpoints, and asked for where one is continued from."""


class Task(NamedTuple):
    """What to optimise: a plan of batches, how to build one, and its loss."""

    plan: Sequence[Any]
    """One entry per step."""
    build: Callable[[Any], Batch]
    """Tensors of a batch from its entry."""
    loss: Callable[[PreTrainedModel, Batch], Tensor]
    """Scalar."""
    measures: Callable[[], Mapping[str, float]] = dict
    """Further columns of a row of the log, over the steps since the last one."""
    begin: Callable[[int], None] | None = None
    """Told the number of steps that are done when training begins or continues."""
    after_step: Callable[[PreTrainedModel, int], None] | None = None
    """Told the model and the number of steps after each, before a checkpoint of it is taken."""
    share: Callable[[Any, Group], Any] | None = None
    """What one of several processes builds of an entry; the mean of their losses is that of the entry. None: all of it,
    so that further processes gain nothing."""


def optimise(
    model: PreTrainedModel, task: Task, settings: LoopSettings, work: Path, line: ProgressLine
) -> list[dict[str, float]]:
    """Train ``model`` in place through the plan, continuing from the last whole checkpoint in ``work``.

    Returns the log: one row per ``log_every`` steps with step, loss and the task's measures. All processes of a `group`
    call it alike, and average their gradients. Raises FamilyError for a checkpoint of another training, RoomError where
    the memory of a GPU does not do.
    """
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=len(task.plan),
        per_device_train_batch_size=1,  # an item of the data set is a whole batch
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=min(settings.warmup, len(task.plan) // 2),
        weight_decay=settings.weight_decay,
        logging_steps=min(settings.log_every, len(task.plan)),
        save_strategy="no",
        save_total_limit=1,
        seed=settings.seed,
        bf16=torch.cuda.is_available() and is_half(settings.precision),
        disable_tqdm=True,
        report_to=list(settings.report.to),
        run_name=settings.report.name,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        use_cpu=group().size > 1 and not torch.cuda.is_available(),  # or it would not look for other processes
    )
    choose_products(settings.precision)
    hide_file_progress()
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # DataParallel would split the planned batches
    with settings.report.place():  # transformers' callbacks look for it as they are made
        trainer = _PlannedTrainer(
            model=model,
            args=arguments,
            train_dataset=_PlannedBatches(task, group()),
            data_collator=_only_item,
            callbacks=[ShowProgress(line), _Clock(settings.checkpoint_seconds), _Steps(task)],
        )
    trainer.task, trainer.identity = task, settings.identity
    trainer.remove_callback(PrinterCallback)
    checkpoint = from_leader(lambda: last_checkpoint(work, settings.identity))
    if checkpoint is not None:
        line.advance(int(checkpoint.name.rpartition("-")[2]), "continued")
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        reason = str(error).partition("\n")[0]
        raise RoomError(
            f"a step does not fit into the GPU's memory ({reason}). Take a smaller --batch-size or --max-length, or "
            "more GPUs, and repeat the command."
        ) from error
    return [row for row in trainer.state.log_history if "loss" in row]


def last_checkpoint(work: Path, identity: str = "") -> Path | None:
    """The newest whole checkpoint in ``work``; half-written ones are deleted.

    Raises FamilyError for one that another training than ``identity`` wrote.
    """
    found = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        try:
            json.loads((path / "trainer_state.json").read_bytes())  # the last file that Trainer writes
        except (OSError, ValueError):
            shutil.rmtree(path)
            continue
        mark = path / IDENTITY
        if identity != (mark.read_text(encoding="utf-8") if mark.is_file() else ""):
            raise FamilyError(
                f"the checkpoint '{path}' belongs to another training or another version of mopo-suite, so this one "
                f"cannot continue from it. Delete '{work}' to begin this policy anew."
            )
        return path
    return None


def whole_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of ``model`` without the parts of base weights that are spread over processes: an adapter, then."""
    return {name: values for name, values in model.state_dict().items() if not isinstance(values, DTensor)}


def _only_item(items: list[Batch]) -> Batch:
    (item,) = items
    return item


class _PlannedBatches(Dataset[Batch]):
    """Every entry of the plan once for each process: Trainer deals them out in turn."""

    def __init__(self, task: Task, us: Group) -> None:
        self.task, self.us = task, us

    def __len__(self) -> int:
        return len(self.task.plan) * self.us.size

    def __getitem__(self, index: int) -> Batch:
        step, rank = divmod(index, self.us.size)
        entry = self.task.plan[step]
        if self.task.share is not None:
            entry = self.task.share(entry, self.us._replace(rank=rank))
        return self.task.build(entry)


class _PlannedTrainer(Trainer):
    task: Task
    identity: str

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(train_dataset)

    def compute_loss(self, model: Any, inputs: Batch, *_: Any, **__: Any) -> Tensor:
        return self.task.loss(model, inputs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        model: Any = self.model
        super()._save(output_dir, state_dict=whole_tensors(model) if state_dict is None else state_dict)
        if self.identity and output_dir is not None:
            (Path(output_dir) / IDENTITY).write_text(self.identity, encoding="utf-8")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs = {"loss": logs["loss"], **self.task.measures()}
        super().log(logs, start_time)


class ShowProgress(TrainerCallback):
    """Advances a progress line with every step, the last loss beside it."""

    def __init__(self, line: ProgressLine) -> None:
        self.line, self.note = line, ""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Remember the loss."""
        if logs and "loss" in logs:
            self.note = note_of(logs)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count the step."""
        self.line.advance(1, self.note)


def note_of(logs: Mapping[str, float]) -> str:
    """A row of the log in a few words: loss, divergence (nats), effective sample size, multipliers."""
    shown = [("loss", "loss"), ("kl", "KL"), ("ess", "ESS")]
    shown += [(name, "λ " + name.removeprefix("lambda.")) for name in logs if name.startswith("lambda.")]
    return "  ".join(f"{label} {logs[name]:.3g}" for name, label in shown if name in logs)


class _Steps(TrainerCallback):
    """Tells the task where training is."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.task.begin is not None:
            self.task.begin(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self.task.after_step is not None:
            self.task.after_step(model, state.global_step)


class _Clock(TrainerCallback):
    """Asks for a checkpoint at the first logged step after ``seconds`` have passed since the last; none at the end.

    Only at logged steps: what is measured between two rows of the log is not part of a checkpoint.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        between = state.global_step % args.logging_steps or state.global_step == state.max_steps
        if not between and from_leader(lambda: time.monotonic() - self.last >= self.seconds):
            control.should_save, self.last = True, time.monotonic()
        return control
