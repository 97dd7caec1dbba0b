"""Asking an engine for the answers of every policy: concurrent, with bounded retries, each answer handed over at once.

Speaks ``/v1/chat/completions`` with the policy's id as the model. Nothing is written here; ``spool`` keeps answers.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import httpx
from pydantic import BaseModel, ConfigDict, Field

from mopo_eval.endpoint import Endpoint, error_message, in_flight, post_chat
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


async def ask(
    endpoint: Endpoint, asked: Iterable[Question], sampling: Sampling, on_answer: Callable[[Answer], None]
) -> list[Refusal]:
    """Ask every question, ``concurrency`` at a time, and hand each answer to ``on_answer`` as it comes.

    Returns the questions that the engine refused for good. Raises EngineError when the engine cannot be reached,
    stays unable after all retries, or answers something other than a chat completion.
    """
    refused: list[Refusal] = []

    async def work(client: httpx.AsyncClient, question: Question) -> None:
        outcome = await ask_one(client, endpoint, question, sampling)
        refused.append(outcome) if isinstance(outcome, Refusal) else on_answer(outcome)

    await in_flight(endpoint, asked, work)
    return refused


async def ask_one(
    client: httpx.AsyncClient, endpoint: Endpoint, question: Question, sampling: Sampling
) -> Answer | Refusal:
    """The outcome of one question. Raises EngineError as `ask`."""
    body = {
        "model": question.key.policy,
        "messages": question.messages,
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "seed": question.seed,
    }
    response = await post_chat(client, endpoint, body)
    if response.status_code in (400, 413, 422):
        return Refusal(question.key, error_message(response))
    if response.status_code != 200:
        raise EngineError(
            f"the engine at {endpoint.url} answered {response.status_code} for '{question.key.policy}': "
            f"{error_message(response)}"
        )
    try:
        found = response.json()
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
        raise EngineError(f"{endpoint.url} gave no chat completion: {response.text[:200]!r}") from error


def _valid_text(text: str) -> str:
    """``text`` with halves of surrogate pairs, which no file can hold, replaced."""
    return text.encode("utf-8", "replace").decode()
