"""DPO (Rafailov et al., arXiv 2305.18290) of one LoRA adapter by TRL's trainer, on pairs that were drawn in advance."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, PrinterCallback

from mopo_train.baselines.pairs import DrawnPairs
from mopo_train.baselines.trl_extra import without_warnings
from mopo_train.console import ProgressLine
from mopo_train.policy.corpus import Corpus
from mopo_train.policy.loop import LoopSettings, ShowProgress
from mopo_train.winrates import FloatArray

with without_warnings():
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer


class DpoTask(NamedTuple):
    """Everything that the training of one adapter reads."""

    pairs: DrawnPairs
    """In order; a step takes the next ones."""
    steps: int
    corpus: Corpus
    reference: FloatArray
    """(Y,) log pi_ref of each response, in nats."""
    beta: float


def train_dpo(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    task: DpoTask,
    settings: LoopSettings,
    work: Path,
    line: ProgressLine,
) -> list[dict[str, float]]:
    """Train ``model`` in place; returns the log's rows: step, loss and TRL's measures."""
    with settings.report.place():
        trainer: Any = make_trainer(model, tokenizer, task, settings, work)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ShowProgress(line))
    trainer.train()
    forget_reference(model)
    return [row for row in trainer.state.log_history if "loss" in row]


def make_trainer(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, task: DpoTask, settings: LoopSettings, work: Path
) -> DPOTrainer:
    """TRL's trainer for ``task``."""
    arguments = DPOConfig(
        **trainer_arguments(settings, task.steps, work),
        per_device_train_batch_size=len(task.pairs.chosen) // task.steps,
        beta=task.beta,
        max_length=None,  # the corpus is cut already
        precompute_ref_log_probs=True,
    )
    return _TokenTrainer(model=model, args=arguments, train_dataset=_dataset(task), processing_class=tokenizer)


def trainer_arguments(settings: LoopSettings, steps: int, work: Path) -> dict[str, Any]:
    """What TRL's configurations share, with the schedule of `policy.loop`."""
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(work),
        "max_steps": steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": min(settings.warmup, steps // 2),
        "weight_decay": settings.weight_decay,
        "logging_steps": min(settings.log_every, steps),
        "save_strategy": "no",
        "seed": settings.seed,
        "bf16": cuda and torch.cuda.is_bf16_supported(),
        "gradient_checkpointing": False,
        "use_cpu": not cuda,
        "disable_tqdm": True,
        "report_to": list(settings.report.to),
        "run_name": settings.report.name,
        "dataloader_pin_memory": False,
    }


def forget_reference(model: PeftModel) -> None:
    """Delete the copy of the adapter that TRL made to be the reference."""
    if "ref" in model.peft_config:
        model.delete_adapter("ref")


class _TokenTrainer(DPOTrainer):  # type: ignore[misc, unused-ignore]
    """TRL's trainer on the suite's own tokens and reference log-probabilities, which the data set holds already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


def _dataset(task: DpoTask) -> Dataset:
    rows, (chosen, rejected) = task.corpus.rows, task.pairs
    return Dataset.from_dict(
        {
            "prompt_ids": [rows[index].prompt for index in chosen],
            "chosen_ids": [rows[index].response for index in chosen],
            "rejected_ids": [rows[index].response for index in rejected],
            "ref_chosen_logps": task.reference[chosen],
            "ref_rejected_logps": task.reference[rejected],
        }
    )
