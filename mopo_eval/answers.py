"""What is asked of an engine, and what it answers: ``/v1/chat/completions`` with the policy's id as the model.

``fleet`` asks many at once; nothing is written here, ``spool`` keeps answers.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from mopo_eval.endpoint import Client
from mopo_eval.prompts import EvaluationPrompt
from mopo_train.errors import EngineError


class Sampling(BaseModel):
    """How answers are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    max_tokens: int = Field(default=256, ge=1)
    seed: int = 0
    """Every request gets its own seed from it, its prompt and its sample, the same for all policies."""
    samples: int = Field(default=1, ge=1)
    """Answers per policy and prompt."""


class AnswerKey(NamedTuple):
    """Which answer."""

    policy: str
    prompt_id: str
    sample: int


class Answer(NamedTuple):
    """One answer as the engine gave it."""

    policy: str
    prompt_id: str
    sample: int
    response: str
    finish_reason: str
    """``stop``, or ``length`` where it was cut by the token limit."""
    prompt_tokens: int
    completion_tokens: int
    engine: str
    """Kind of the engine that gave it."""

    @property
    def key(self) -> AnswerKey:
        """Which answer this is."""
        return AnswerKey(self.policy, self.prompt_id, self.sample)


class Question(NamedTuple):
    """One answer to ask for."""

    key: AnswerKey
    messages: list[dict[str, str]]
    seed: int


class Refusal(NamedTuple):
    """A question that the engine will never answer, for example a prompt longer than its context."""

    key: AnswerKey
    message: str


def question_of(key: AnswerKey, prompts: Mapping[str, EvaluationPrompt], sampling: Sampling) -> Question:
    """The question whose answer is ``key``; ``prompts`` by id."""
    return Question(key, prompts[key.prompt_id].messages, request_seed(sampling.seed, key.prompt_id, key.sample))


def questions(policies: Sequence[str], prompts: Sequence[EvaluationPrompt], sampling: Sampling) -> Iterator[Question]:
    """Every answer to ask for; one policy after the other, since engines batch an adapter best."""
    known = {prompt.id: prompt for prompt in prompts}
    for policy in policies:
        for prompt in prompts:
            for sample in range(sampling.samples):
                yield question_of(AnswerKey(policy, prompt.id, sample), known, sampling)


def request_seed(seed: int, prompt_id: str, sample: int) -> int:
    """A seed in [0, 2^31) that does not depend on the policy: policies are compared under the same luck."""
    digest = hashlib.sha256(f"{seed}\0{prompt_id}\0{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


async def ask(client: Client, question: Question, sampling: Sampling) -> Answer | Refusal:
    """The outcome of a question: an answer, or that the engine refuses the question for good.

    Raises EngineError when the engine cannot be reached, stays unable after all retries, or answers something other
    than a chat completion.
    """
    endpoint = client.endpoint
    body = {
        "model": question.key.policy,
        "messages": question.messages,
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "seed": question.seed,
    }
    reply = await client.chat(body)
    if reply.status in (400, 413, 422):
        return Refusal(question.key, reply.message)
    if reply.status != 200:
        raise EngineError(
            f"the engine at {endpoint.url} answered {reply.status} for '{question.key.policy}': {reply.message}"
        )
    try:
        found = reply.json()
        choice, usage = found["choices"][0], found.get("usage") or {}
        return Answer(
            *question.key,
            response=_valid_text(choice["message"].get("content") or ""),
            finish_reason=choice.get("finish_reason") or "unknown",
            prompt_tokens=int(usage.get("prompt_tokens", 0)),
            completion_tokens=int(usage.get("completion_tokens", 0)),
            engine=endpoint.kind,
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise EngineError(f"{endpoint.url} gave no chat completion: {reply.text[:200]!r}") from error


def _valid_text(text: str) -> str:
    """``text`` with halves of surrogate pairs, which no file can hold, replaced."""
    return text.encode("utf-8", "replace").decode()
