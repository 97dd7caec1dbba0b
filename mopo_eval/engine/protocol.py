"""OpenAI's request and answer formats, as far as the embedded engine speaks them.

Pure: bytes to a checked request, results to JSON values. A field that would change the answer and is not
supported is refused with 400, never ignored.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mopo_train.family import first_problem

MAX_CHOICES = 128

_HARMLESS = {  # say who asks, or how to schedule: the answer is the same without them
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls",
    "cache_salt", "priority", "request_id",
}  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {  # values that ask for what happens anyway
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "min_p": (0,),
    "top_k": (0, -1),
    "min_tokens": (0,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "ignore_eos": (False,),
    "skip_special_tokens": (True,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}


class RequestError(Exception):
    """A request that cannot be answered as asked."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class UnscoredToken(NamedTuple):
    """The first token of a prompt, which nothing predicts."""

    token: int
    logprob: None = None
    alternatives: tuple[()] = ()


class StreamOptions(_Model):
    """What a stream carries beside the text."""

    include_usage: bool = False
    """A last chunk with the token counts."""


class GenerationRequest(_Model):
    """What both kinds of request share."""

    model_config = ConfigDict(extra="allow")

    model: str
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    seed: int | None = None
    stop: str | list[str] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: int | None = Field(default=None, ge=1)

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings, always as a tuple."""
        return tuple([self.stop] if isinstance(self.stop, str) else self.stop)


class TextPart(_Model):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(_Model):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """Role and text, as chat templates take them."""
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class ChatRequest(GenerationRequest):
    """The body of ``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)


class CompletionRequest(GenerationRequest):
    """The body of ``POST /v1/completions``."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: bool = False
    """Answer with the prompt before the text, and with its log-probabilities."""
    max_tokens: int | None = Field(default=None, ge=0)
    """0 only with ``echo``: the prompt is scored and nothing generated."""

    @property
    def prompts(self) -> list[str | list[int]]:
        """Every prompt, as text or tokens."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if tokens := [part for part in self.prompt if isinstance(part, int)]:
            return [tokens]
        return [part for part in self.prompt if not isinstance(part, int)]


Body = TypeVar("Body", bound=GenerationRequest)


def parse_request(body: Any, form: type[Body], models: Sequence[str]) -> Body:
    """``body`` as ``form``, with fields set to null left out. Raises RequestError (400, or 404 for the model)."""
    if not isinstance(body, dict):
        raise RequestError(400, "the body must be a JSON object")
    given = {name: value for name, value in body.items() if value is not None}
    try:
        request = form.model_validate(given)
    except ValidationError as error:
        place = error.errors(include_url=False)[0]["loc"]
        raise RequestError(400, first_problem(error), param=str(place[0]) if place else None) from error
    for name, value in (request.model_extra or {}).items():
        if name not in _HARMLESS and value not in _NEUTRAL.get(name, ()):
            raise RequestError(
                400,
                f"the embedded engine does not support '{name}'; leave it out, or use --engine vllm",
                param=name,
                code="unsupported_parameter",
            )
    if isinstance(request, CompletionRequest):
        if request.max_tokens == 0 and not request.echo:
            raise RequestError(400, "max_tokens: 0 is for 'echo' alone; ask for a token or more", param="max_tokens")
        if request.echo and request.stream:
            raise RequestError(400, "the embedded engine does not stream with 'echo'", "echo", "unsupported_parameter")
    if "" in request.stops:
        raise RequestError(400, "stop: an empty stop string would end every answer at once", param="stop")
    if request.model not in models:
        raise RequestError(
            404,
            f"the model '{request.model}' does not exist; there are {', '.join(models)}",
            param="model",
            code="model_not_found",
        )
    return request


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Token counts."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class AnswerFormat:
    """Builds the JSON values of one answer, chat or plain, whole or in chunks."""

    def __init__(self, model: str, chat: bool, show: Callable[[int], str]) -> None:
        """``show`` gives the text of one token, for log-probabilities."""
        self._chat, self._show = chat, show
        self._kind = "chat.completion" if chat else "text_completion"
        prefix = "chatcmpl" if chat else "cmpl"
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, choices: list[dict[str, Any]], counts: dict[str, int]) -> dict[str, Any]:
        """The answer to a request without streaming."""
        return {**self._head, "object": self._kind, "choices": choices, "usage": counts}

    def choice(self, index: int, text: str, finish: str, logprobs: Iterable[Any] | None) -> dict[str, Any]:
        """One finished choice."""
        content = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return {"index": index, **content, "finish_reason": finish, "logprobs": self._logprobs(logprobs)}

    def opening(self, index: int) -> dict[str, Any]:
        """The first chunk of a choice in a chat stream."""
        return self._chunk([self._delta(index, {"role": "assistant", "content": ""}, None, None)])

    def piece(self, index: int, text: str, finish: str | None, logprobs: Iterable[Any] | None) -> dict[str, Any]:
        """A chunk with some text of a choice; ``finish`` in its last one."""
        if not self._chat:
            choice = {"index": index, "text": text, "finish_reason": finish, "logprobs": self._logprobs(logprobs)}
            return self._chunk([choice])
        return self._chunk([self._delta(index, {"content": text} if text else {}, finish, logprobs)])

    def closing(self, counts: dict[str, int]) -> dict[str, Any]:
        """The chunk with the token counts."""
        return {**self._chunk([]), "usage": counts}

    def _delta(
        self, index: int, delta: dict[str, str], finish: str | None, logprobs: Iterable[Any] | None
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "finish_reason": finish, "logprobs": self._logprobs(logprobs)}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices}

    def _logprobs(self, found: Iterable[Any] | None) -> dict[str, Any] | None:
        if found is None:
            return None
        tokens = list(found)
        if self._chat:
            entries = []
            for entry in tokens:
                others = [self._entry(token, value) for token, value in entry.alternatives]
                entries.append({**self._entry(entry.token, entry.logprob), "top_logprobs": others})
            return {"content": entries}
        texts = [self._show(entry.token) for entry in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [entry.logprob for entry in tokens],
            "top_logprobs": [
                None if entry.logprob is None else {self._show(token): value for token, value in entry.alternatives}
                for entry in tokens
            ],
            "text_offset": [sum(map(len, texts[:at])) for at in range(len(texts))],
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._show(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
