"""A reward or classifier model of transformers as the judge, run in batches on this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mopo_eval.judges.case import Case, OnJudgement
from mopo_eval.judges.fingerprint import of_files, of_settings
from mopo_train.errors import JudgeError
from mopo_train.hub import settle_offline
from mopo_train.judgement import Judgement
from mopo_train.rows import read_prompt


class ClassifierJudge(NamedTuple):
    """Score of an answer by a sequence classifier that reads prompt and answer.

    A model with one output is a reward model: the score is the logistic function of its reward, which keeps its order
    but is no probability. Otherwise it is the probability of ``label``.
    """

    name: str
    model: str
    label: str | None = None
    batch_size: int = 16
    max_length: int = 1024
    """Tokens of prompt and answer; the beginning of longer ones is cut off, so that the answer is read."""
    costly: bool = True
    compares: bool = False

    @property
    def fingerprint(self) -> str:
        """Of the model's files; of its hub name where they are not here."""
        here = Path(self.model)
        return of_files(self.name, [here]) if here.is_dir() else of_settings(self.name, {})

    def judge(self, cases: Sequence[Case], on_judgement: OnJudgement) -> None:
        """Every judgement, longest first. Raises JudgeError for a model that cannot be used."""
        import torch

        model, tokenizer = self._load()
        column = self._column(model.config)
        texts = [_text(tokenizer, case) for case in cases]
        order = sorted(range(len(cases)), key=lambda index: -len(texts[index]))
        for begin in range(0, len(order), self.batch_size):
            chosen = order[begin : begin + self.batch_size]
            batch = tokenizer(
                [texts[index] for index in chosen],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=self.max_length,
            )
            with torch.inference_mode():
                logits = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).logits.float()
            scores = logits[:, 0].sigmoid() if column is None else logits.softmax(dim=1)[:, column]
            for index, score, row in zip(chosen, scores.tolist(), logits.tolist(), strict=True):
                if not all(value == value for value in row):
                    raise JudgeError(f"judge '{self.name}' on {cases[index].where}: the model's output is NaN.")
                label = f"reward {row[0]:.2f}" if column is None else None
                on_judgement(index, Judgement(min(1.0, max(0.0, score)), label))

    def _load(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        if not Path(self.model).is_dir():
            settle_offline()
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model, truncation_side="left")
            model = AutoModelForSequenceClassification.from_pretrained(self.model)
        except (OSError, ValueError, KeyError) as error:
            told = str(error).splitlines()[0]
            raise JudgeError(f"judge '{self.name}': cannot load the classifier '{self.model}': {told}") from error
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
            model.config.pad_token_id = tokenizer.pad_token_id
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer

    def _column(self, config: Any) -> int | None:
        """Which output is the score; None for a reward. Raises JudgeError."""
        known = {str(name): int(index) for index, name in config.id2label.items()}
        if self.label is not None:
            if self.label not in known:
                raise JudgeError(
                    f"judge '{self.name}': '{self.model}' has no label '{self.label}'; it has: {', '.join(known)}."
                )
            return known[self.label] if len(known) > 1 else None
        if len(known) > 1:
            raise JudgeError(f"judge '{self.name}': say which label is the score, 'label: ...': {', '.join(known)}.")
        return None


def _text(tokenizer: Any, case: Case) -> str:
    """Prompt and answer as the model was trained to read them, or as plain paragraphs without a chat template."""
    messages = [*read_prompt(case.prompt), {"role": "assistant", "content": case.response}]
    if tokenizer.chat_template:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    return "\n\n".join(message["content"] for message in messages)
