"""Asking an engine for the answers of every policy: concurrent, with bounded retries, each answer handed over at once.

Speaks ``/v1/chat/completions`` with the policy's id as the model. Nothing is written here; ``spool`` keeps answers.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import httpx
from pydantic import BaseModel, ConfigDict, Field

from mopo_eval.prompts import EvaluationPrompt
from mopo_train.errors import EngineError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""Never behind a proxy of the environment."""
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT = 30.0
TIMEOUT = httpx.Timeout(connect=10.0, read=600.0, write=60.0, pool=None)
"""Seconds. A CPU engine with a full queue may take minutes over one answer."""


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


class Patience(NamedTuple):
    """How long to go on after failures that may pass: no connection, timeouts, 429 and 5xx."""

    attempts: int = 6
    first_wait: float = 0.5
    """Seconds before the second attempt; doubled each time, with jitter, or longer if the engine says so."""


def questions(policies: Sequence[str], prompts: Sequence[EvaluationPrompt], sampling: Sampling) -> Iterator[Question]:
    """Every answer to ask for; one policy after the other, since engines batch an adapter best."""
    for policy in policies:
        for prompt in prompts:
            for sample in range(sampling.samples):
                seed = request_seed(sampling.seed, prompt.id, sample)
                yield Question(AnswerKey(policy, prompt.id, sample), prompt.messages, seed)


def request_seed(seed: int, prompt_id: str, sample: int) -> int:
    """A seed in [0, 2^31) that does not depend on the policy: policies are compared under the same luck."""
    digest = hashlib.sha256(f"{seed}\0{prompt_id}\0{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


class Endpoint(NamedTuple):
    """Where and how to ask."""

    url: str
    """Base URL without ``/v1``."""
    kind: str
    concurrency: int = 32
    patience: Patience = Patience()


async def ask(
    endpoint: Endpoint, asked: Iterable[Question], sampling: Sampling, on_answer: Callable[[Answer], None]
) -> list[Refusal]:
    """Ask every question, ``concurrency`` at a time, and hand each answer to ``on_answer`` as it comes.

    Returns the questions that the engine refused for good. Raises EngineError when the engine cannot be reached,
    stays unable after all retries, or answers something other than a chat completion.
    """
    waiting = iter(asked)
    refused: list[Refusal] = []
    proxied = httpx.URL(endpoint.url).host not in LOOPBACK
    certificates = httpx.create_ssl_context(trust_env=proxied)

    async def work() -> None:
        # One client, with one connection, per worker: a shared pool looks through all connections for every request,
        # which at 32 in flight costs three times the processor time.
        async with httpx.AsyncClient(
            base_url=endpoint.url, timeout=TIMEOUT, verify=certificates, trust_env=proxied
        ) as client:
            for question in waiting:  # shared by the workers: each question is taken once
                outcome = await _ask_one(client, endpoint, question, sampling)
                refused.append(outcome) if isinstance(outcome, Refusal) else on_answer(outcome)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(endpoint.concurrency):
                group.create_task(work())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the others failed for the same reason
    return refused


async def _ask_one(
    client: httpx.AsyncClient, endpoint: Endpoint, question: Question, sampling: Sampling
) -> Answer | Refusal:
    body = {
        "model": question.key.policy,
        "messages": question.messages,
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "seed": question.seed,
    }
    response = await _post(client, endpoint, body)
    if response.status_code in (400, 413, 422):
        return Refusal(question.key, _error_message(response))
    if response.status_code != 200:
        raise EngineError(
            f"the engine at {endpoint.url} answered {response.status_code} for '{question.key.policy}': "
            f"{_error_message(response)}"
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


async def _post(client: httpx.AsyncClient, endpoint: Endpoint, body: dict[str, Any]) -> httpx.Response:
    """The first response that is not worth a retry. Raises EngineError after the last attempt."""
    patience, problem = endpoint.patience, ""
    for attempt in range(patience.attempts):
        wait = 0.0
        try:
            response = await client.post("/v1/chat/completions", json=body)
            if response.status_code not in RETRIED:
                return response
            problem = f"it answered {response.status_code}: {_error_message(response)}"
            wait = _retry_after(response)
        except httpx.TransportError as error:  # no connection, cut connection, timeout
            problem = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
        if attempt + 1 < patience.attempts:
            backoff = patience.first_wait * 2**attempt * random.uniform(0.5, 1.0)
            await asyncio.sleep(min(LONGEST_WAIT, max(wait, backoff)))
    raise EngineError(f"the engine at {endpoint.url} failed {patience.attempts} times in a row; {problem}")


def _valid_text(text: str) -> str:
    """``text`` with halves of surrogate pairs, which no file can hold, replaced."""
    return text.encode("utf-8", "replace").decode()


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the engine asks to wait; 0 if it does not say, or says it as a date."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "0")))
    except ValueError:
        return 0.0


def _error_message(response: httpx.Response) -> str:
    """The message of an OpenAI-shaped error, or the beginning of the body."""
    try:
        found = response.json()
        error = found.get("error", found) if isinstance(found, dict) else found
        return str(error["message"])[:300]
    except (ValueError, LookupError, TypeError, AttributeError):
        return response.text[:300]
