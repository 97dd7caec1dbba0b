"""The embedded engine's server: transformers and peft behind OpenAI's API.

``python -m mopo_eval.engine.server --base DIR --adapter id=DIR ... --port N`` serves on loopback. Model loading and
generation are in ``mopo_train.generation``; nothing here imports torch before ``main`` runs.
"""

import argparse
import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mopo_eval.engine.batching import Job, Worker
from mopo_eval.engine.protocol import (
    AnswerFormat,
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    RequestError,
    UnscoredToken,
    parse_request,
    usage,
)
from mopo_train.errors import ModelError
from mopo_train.family import REFERENCE

if TYPE_CHECKING:
    from mopo_train.generation import Generator, Row


def create_app(generator: "Generator", policies: list[str]) -> Starlette:
    """The API over ``generator``; ``policies`` are the model names, of which ``reference`` is the base model."""
    worker = Worker(generator.generate)
    models = [{"id": name, "object": "model", "created": 0, "owned_by": "mopo"} for name in policies]

    async def answer(request: Request) -> Response:
        chat = request.url.path.endswith("/chat/completions")
        try:
            asked = parse_request(await _json(request), ChatRequest if chat else CompletionRequest, policies)
            prompts = _prompts(generator, asked)
            rows = [row for prompt in prompts for row in _rows(asked, prompt, generator.max_length)]
        except RequestError as error:
            return JSONResponse(error.body(), error.status)
        job = Job(rows, stream=asked.stream)
        form = AnswerFormat(asked.model, chat, lambda token: str(generator.tokenizer.decode([token])))
        prompt_tokens = sum(map(len, prompts))
        worker.submit(job)
        if asked.stream:
            events = _events(job, form, asked, prompt_tokens)
            return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        echoed = _echoed(generator, asked, prompts) if isinstance(asked, CompletionRequest) and asked.echo else None
        return await _whole(request, job, form, prompt_tokens, echoed)

    async def list_models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": models})

    async def health(_: Request) -> Response:
        return Response(status_code=200)

    async def load(_: Request) -> Response:
        return JSONResponse({"server_load": worker.load()})

    async def not_found(request: Request, _: Exception) -> Response:
        error = RequestError(404, f"the embedded engine has no route {request.method} {request.url.path}")
        return JSONResponse(error.body(), 404)

    async def not_allowed(request: Request, _: Exception) -> Response:
        error = RequestError(405, f"{request.url.path} does not take {request.method}")
        return JSONResponse(error.body(), 405)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", answer, methods=["POST"]),
            Route("/v1/completions", answer, methods=["POST"]),
            Route("/v1/models", list_models),
            Route("/health", health),
            Route("/load", load),
        ],
        exception_handlers={404: not_found, 405: not_allowed},
    )


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error


def _prompts(generator: "Generator", asked: GenerationRequest) -> list[list[int]]:
    """Token ids of every prompt of a request. Raises RequestError."""
    if isinstance(asked, ChatRequest):
        try:
            return [generator.chat_prompt([message.plain() for message in asked.messages])]
        except Exception as error:  # noqa: BLE001 - chat templates are programs: they raise what they like
            raise RequestError(400, f"the chat template refuses these messages: {error}", "messages") from error
    assert isinstance(asked, CompletionRequest)
    size = len(generator.tokenizer)
    prompts = []
    for prompt in asked.prompts:
        tokens = generator.text_prompt(prompt) if isinstance(prompt, str) else prompt
        if not tokens:
            raise RequestError(400, "prompt: it is empty; give text or tokens", "prompt")
        if not all(0 <= token < size for token in tokens):
            raise RequestError(400, f"prompt: a token is outside 0..{size - 1}", "prompt")
        prompts.append(tokens)
    if not prompts:
        raise RequestError(400, "prompt: the list is empty", "prompt")
    return prompts


def _echoed(generator: "Generator", asked: CompletionRequest, prompts: list[list[int]]) -> list[str]:
    """The prompt of every row as text: as it was given, or its tokens with special ones."""
    given = zip(asked.prompts, prompts, strict=True)
    texts = [prompt if isinstance(prompt, str) else str(generator.tokenizer.decode(tokens)) for prompt, tokens in given]
    return [text for text in texts for _ in range(asked.n)]


def _rows(asked: GenerationRequest, prompt: list[int], max_length: int) -> "list[Row]":
    """One row per choice that ``asked`` wants for ``prompt``. Raises RequestError for a prompt that is too long."""
    from mopo_train.generation import Row, Sampling

    room = max_length - len(prompt)
    if isinstance(asked, ChatRequest):
        limit = asked.max_completion_tokens or asked.max_tokens or room
        top_logprobs = asked.top_logprobs if asked.logprobs else None
    else:
        assert isinstance(asked, CompletionRequest)
        limit = 16 if asked.max_tokens is None else asked.max_tokens  # OpenAI's default
        top_logprobs = asked.logprobs
    if room < min(limit, 1) or limit > max_length:
        raise RequestError(
            400,
            f"the model takes {max_length} tokens; the prompt has {len(prompt)} and the answer may have "
            f"{max(limit, 1)}. Shorten the prompt or ask for fewer tokens.",
            param="messages" if isinstance(asked, ChatRequest) else "prompt",
            code="context_length_exceeded",
        )
    limit = min(limit, room)  # as vLLM does
    echo = isinstance(asked, CompletionRequest) and asked.echo
    sampling = Sampling(limit, asked.temperature, asked.top_p, asked.seed, asked.stops, top_logprobs, echo)
    seeds = [None if asked.seed is None else asked.seed + index for index in range(asked.n)]
    policy = None if asked.model == REFERENCE else asked.model
    return [Row(policy, prompt, sampling._replace(seed=seed)) for seed in seeds]


async def _whole(
    request: Request, job: Job, form: AnswerFormat, prompt_tokens: int, echoed: list[str] | None
) -> Response:
    """The complete answer, after the texts ``echoed``; generation stops when the client leaves."""
    watch = asyncio.create_task(_cancel_when_gone(request, job))
    texts, finishes = [""] * len(job.rows), [""] * len(job.rows)
    logprobs: list[list[Any]] = [[] for _ in job.rows]
    try:
        async for pieces in job.pieces():
            for index, piece in pieces:
                texts[index] += piece.text
                finishes[index] = piece.finish or finishes[index]
                logprobs[index] += [piece.logprob] if piece.logprob else []
    except Exception as error:  # noqa: BLE001 - whatever the model raised, the client gets OpenAI's shape
        return JSONResponse(RequestError(500, f"generation failed: {error}").body(), 500)
    finally:
        watch.cancel()
        job.cancel()
    wanted = job.rows[0].sampling.top_logprobs is not None
    if echoed is not None:
        for index, row in enumerate(job.rows):
            texts[index] = echoed[index] + texts[index]
            logprobs[index] = [UnscoredToken(row.prompt[0]), *row.prompt_logprobs, *logprobs[index]]
    choices = [
        form.choice(index, texts[index], finishes[index], logprobs[index] if wanted else None)
        for index in range(len(job.rows))
    ]
    return JSONResponse(form.whole(choices, usage(prompt_tokens, sum(row.tokens for row in job.rows))))


async def _cancel_when_gone(request: Request, job: Job) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancel()


async def _events(job: Job, form: AnswerFormat, asked: GenerationRequest, prompt_tokens: int) -> AsyncIterator[bytes]:
    """Server-sent events of a stream; Starlette closes this when the client leaves, which cancels the job."""
    try:
        if isinstance(asked, ChatRequest):
            for index in range(len(job.rows)):
                yield _event(form.opening(index))
        async for pieces in job.pieces():
            for index, piece in pieces:
                if piece.text or piece.finish or piece.logprob:
                    entries = [piece.logprob] if piece.logprob else None
                    yield _event(form.piece(index, piece.text, piece.finish, entries))
        if asked.stream_options.include_usage:
            yield _event(form.closing(usage(prompt_tokens, sum(row.tokens for row in job.rows))))
        yield b"data: [DONE]\n\n"
    except Exception as error:  # noqa: BLE001 - no [DONE]: the client must not take a torn stream for a whole one
        yield _event(RequestError(500, f"generation failed: {error}").body())
    finally:
        job.cancel()


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def main() -> None:
    """Serve on a loopback port until told to end."""
    parser = argparse.ArgumentParser(prog="python -m mopo_eval.engine.server")
    parser.add_argument("--base", required=True)
    parser.add_argument("--adapter", action="append", default=[], metavar="ID=DIR")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-model-len", type=int)
    arguments = parser.parse_args()
    with socket.socket() as listener:  # first of all, so that a port in use is found before the model is loaded
        if sys.platform != "win32":  # there the option would let others take the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", arguments.port))
        except OSError as error:
            sys.exit(f"port {arguments.port}: {error.strerror}")
        _serve(listener, arguments)


def _serve(listener: socket.socket, arguments: argparse.Namespace) -> None:
    import uvicorn

    from mopo_train.generation import Generator

    adapters = dict(given.split("=", 1) for given in arguments.adapter)
    try:
        generator = Generator(
            arguments.base, {name: Path(path) for name, path in adapters.items()}, arguments.max_model_len
        )
    except ModelError as error:
        sys.exit(str(error))
    app = create_app(generator, [REFERENCE, *adapters])
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
