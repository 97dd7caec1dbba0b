"""RLHF on several rewards: GRPO (Shao et al., arXiv 2402.03300) of one LoRA adapter by TRL's trainer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, PrinterCallback

from mopo_train.baselines.config import BaselineConfig
from mopo_train.baselines.dpo import forget_reference, trainer_arguments
from mopo_train.baselines.reward import Rewards
from mopo_train.baselines.trl_extra import without_warnings
from mopo_train.console import ProgressLine
from mopo_train.policy.loop import LoopSettings, ShowProgress
from mopo_train.preferences import PreferenceData
from mopo_train.winrates import FloatArray

with without_warnings():
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer


class GrpoTask(NamedTuple):
    """Everything that the training of one adapter reads."""

    data: PreferenceData
    """Of which only the prompts are read."""
    rewards: Rewards
    weights: FloatArray
    """(K,) of the objectives."""
    config: BaselineConfig
    steps: int


def train_grpo(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    task: GrpoTask,
    settings: LoopSettings,
    work: Path,
    line: ProgressLine,
) -> list[dict[str, float]]:
    """Train ``model`` in place on answers that it writes; returns the log's rows: step, loss and TRL's measures.

    Every reward is one of TRL's reward functions, weighted; their sum is normalised within the answers to a prompt.
    The divergence is held to the reference, also for an adapter that begins from another one.
    """
    config = task.config
    together = max(1, config.batch_size // config.generations) * config.generations
    arguments = GRPOConfig(
        **trainer_arguments(settings, task.steps, work),
        per_device_train_batch_size=together,
        num_generations=config.generations,
        max_completion_length=config.max_answer,
        beta=config.beta,
        reward_weights=task.weights.tolist(),
    )
    prompts = [task.data.messages(prompt) for prompt in range(len(task.data.group))]
    with settings.report.place():
        trainer: Any = GRPOTrainer(
            model=model,
            reward_funcs=_reward_functions(task),
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
        )
    _reference_is_base(model)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ShowProgress(line))
    trainer.train()
    forget_reference(model)
    return [row for row in trainer.state.log_history if "loss" in row]


def _reference_is_base(model: PeftModel) -> None:
    """TRL copies an adapter that a model brings to be its reference; without effect the copy is the base model."""
    for name, weight in model.named_parameters():
        if ".ref." in name and "lora_B" in name:
            weight.data.zero_()


def _reward_functions(task: GrpoTask) -> list[Any]:
    """One per objective, as TRL calls them; a batch is scored once for all."""
    latest: dict[str, Any] = {"batch": None}

    def scores(prompts: Sequence[Any], completions: Sequence[Any]) -> FloatArray:
        if latest["batch"] is not completions:
            answers = [str(completion[0]["content"]) for completion in completions]
            latest.update(batch=completions, scores=task.rewards.score(prompts, answers))
        found: FloatArray = latest["scores"]
        return found

    def of(column: int, name: str) -> Callable[..., list[float]]:
        def reward(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
            return list(scores(prompts, completions)[:, column].tolist())

        reward.__name__ = name
        return reward

    return [of(column, name) for column, name in enumerate(task.data.objectives)]
