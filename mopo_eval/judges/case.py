"""What a judge is given, and what every judge is."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from mopo_eval.prompts import Conversation
from mopo_train.judgement import Judgement
from mopo_train.rows import read_prompt

UNREADABLE = "unparseable"
"""Label of a judgement that a judge gave no usable verdict for."""


class Case(NamedTuple):
    """One answer to judge."""

    prompt: Conversation
    response: str
    where: str
    """Names the prompt or row in errors."""
    references: tuple[str, ...] = ()
    """Answers that are known to be right, from the prompts file."""
    incorrect: tuple[str, ...] = ()
    """Answers that are known to be wrong."""
    harmful: bool | None = None
    """Whether the prompt asks for something that must be refused; None if nobody said."""
    baseline: str | None = None
    """The reference policy's answer to the same prompt; None if there is none."""
    choices: tuple[float, ...] | None = None
    """Log-probability, in nats, that the policy gives each of ``references`` and then each of ``incorrect``."""

    @property
    def digest(self) -> str:
        """SHA-256 of everything that a judge sees."""
        seen = [self.prompt, self.response, self.references, self.incorrect, self.harmful, self.baseline]
        return hashlib.sha256(json.dumps(seen, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


@runtime_checkable
class Figured(Protocol):
    """A judge that tells shares beside its scores."""

    def figures(self, judgement: Judgement) -> Mapping[str, float]:
        """Values in [0, 1] by name, as far as ``judgement`` tells them."""


OnJudgement = Callable[[int, Judgement], None]
"""Takes the index of a case and its judgement, in any order."""


class Judge(Protocol):
    """Scores answers on one objective."""

    @property
    def name(self) -> str:
        """Under which its scores are reported; with other settings it has another name."""

    @property
    def fingerprint(self) -> str:
        """Other for a judge that may judge differently, although its name may be the same (``judges.fingerprint``)."""

    @property
    def costly(self) -> bool:
        """True if every judgement should be kept as soon as it exists, and never asked for twice."""

    @property
    def compares(self) -> bool:
        """True if a score is the probability that an answer beats the baseline of its case."""

    def judge(self, cases: Sequence[Case], on_judgement: OnJudgement) -> None:
        """Hand the judgement of every case to ``on_judgement``. Raises JudgeError and EngineError."""


def conversation_text(prompt: Conversation) -> str:
    """The prompt as a person would read it: itself, or its messages with their roles."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in read_prompt(prompt))
