"""Answers of the reference to the prompts of preference data: candidates for a preference model to label.

Written by the embedded engine, or by any server that speaks OpenAI's chat completions (vLLM). Finished prompts are kept
as they come; the same command continues after a kill. Not covered: policies other than the reference.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mopo_train.console import progress, say
from mopo_train.errors import DataError, EngineError
from mopo_train.preferences import PreferenceData
from mopo_train.rows import Message, plain, to_json

TOGETHER = 32
"""Answers that the embedded engine writes at once."""
IN_FLIGHT = 16
"""Requests to a server at once."""


class SampleSettings(NamedTuple):
    """How candidates are drawn."""

    per_prompt: int = 8
    max_tokens: int = 256
    temperature: float = 1.0
    """1 draws from the reference itself."""
    seed: int = 0


def write_candidates(
    data: PreferenceData, out: Path, settings: SampleSettings, *, model: str, engine: str | None = None
) -> int:
    """Write ``out``: rows {prompt, response}, ``per_prompt`` for each prompt of ``data``. Returns their number.

    ``engine``: base URL of a server that serves ``model`` under that name; None: ``model`` is loaded here. ``out`` is
    whole or absent. Raises DataError where it is there already, ModelError, EngineError.
    """
    if out.exists():
        raise DataError(f"'{out}' is there already; delete it or give another --out.")
    talks: list[list[Message]] = [data.messages(prompt) for prompt in range(len(data.group))]
    partial = out.with_name(out.name + ".partial")
    identity = to_json([settings._asdict(), model, engine, data.summary.sha256])
    done = _begin(partial, identity)
    if done:
        say(f"{done} of {len(talks)} prompts are answered already")
    left = talks[done:]
    answered = _asked(left, settings, model, engine) if engine else _generated(left, settings, model, first=done)
    with partial.open("a", encoding="utf-8") as kept, progress("candidates", len(talks), done) as line:
        for talk, answers in zip(left, answered, strict=True):
            kept.write(to_json({"prompt": plain(talk), "responses": answers}) + "\n")
            kept.flush()
            line.advance()
    return _finish(partial, out)


def _begin(partial: Path, identity: str) -> int:
    """Prompts that an earlier run with the same ``identity`` answered; begins ``partial`` where there is none."""
    if partial.is_file():
        lines = partial.read_text(encoding="utf-8").splitlines(keepends=True)
        if lines and lines[0] == identity + "\n":
            whole = [each for each in lines if each.endswith("\n")]
            partial.write_text("".join(whole), encoding="utf-8")  # a line that was cut off goes
            return len(whole) - 1
        say(f"'{partial}' was made with other settings: beginning again")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(identity + "\n", encoding="utf-8")
    return 0


def _finish(partial: Path, out: Path) -> int:
    """Turn the lines of ``partial`` into ``out``; answers without text are left out."""
    written = 0
    whole = out.with_name(out.name + ".whole")
    with partial.open(encoding="utf-8") as kept, whole.open("w", encoding="utf-8") as rows:
        next(kept)
        for each in kept:
            found = json.loads(each)
            for answer in found["responses"]:
                if answer.strip():
                    rows.write(to_json({"prompt": found["prompt"], "response": answer}) + "\n")
                    written += 1
    whole.replace(out)
    partial.unlink()
    return written


def _generated(
    talks: Sequence[Sequence[Message]], settings: SampleSettings, model: str, *, first: int
) -> Iterator[list[str]]:
    """The answers to each conversation by ``model`` in this process."""
    from mopo_train.generation import Generator, Piece, Row, Sampling

    generator = Generator(model, {})
    step = max(1, TOGETHER // settings.per_prompt)
    for begin in range(0, len(talks), step):
        part = talks[begin : begin + step]
        texts: dict[int, str] = {}
        rows = []
        for place, talk in enumerate(part):
            prompt = generator.chat_prompt(talk)
            room = min(settings.max_tokens, generator.max_length - len(prompt))
            if room < 1:
                raise DataError(f"a prompt of {len(prompt)} tokens leaves no room for an answer by '{model}'.")
            number = (first + begin + place) * settings.per_prompt
            rows += [
                Row(None, prompt, Sampling(room, settings.temperature, seed=hash((settings.seed, number + turn))))
                for turn in range(settings.per_prompt)
            ]

        def emit(row: Row, piece: Piece, texts: dict[int, str] = texts) -> None:
            texts[id(row)] = texts.get(id(row), "") + piece.text

        generator.generate(rows, emit)
        for place in range(len(part)):
            own = rows[place * settings.per_prompt : (place + 1) * settings.per_prompt]
            yield [texts.get(id(row), "") for row in own]


def _asked(
    talks: Sequence[Sequence[Message]], settings: SampleSettings, model: str, engine: str
) -> Iterator[list[str]]:
    """The answers to each conversation by a server, in order, several requests at once. Raises EngineError."""
    import httpx

    key = os.environ.get("OPENAI_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body: Mapping[str, Any] = {
        "model": model,
        "n": settings.per_prompt,
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
    }
    with httpx.Client(base_url=engine.rstrip("/") + "/", headers=headers, timeout=600) as client:

        def ask(number: int) -> list[str]:
            messages = [dict(message) for message in talks[number]]
            try:
                answer = client.post("chat/completions", json={**body, "messages": messages})
                answer.raise_for_status()
                return [str(choice["message"]["content"] or "") for choice in answer.json()["choices"]]
            except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
                told = getattr(getattr(error, "response", None), "text", "") or str(error)
                raise EngineError(
                    f"'{engine}' gave no answers of '{model}': {' '.join(told.split())[:300]}. Check that it is an "
                    "OpenAI-compatible base URL such as http://127.0.0.1:8000/v1 and serves that name; then repeat the "
                    "command: what is answered is kept."
                ) from error

        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            for begin in range(0, len(talks), IN_FLIGHT):  # no further ahead than what a kill may lose
                yield from pool.map(ask, range(begin, min(begin + IN_FLIGHT, len(talks))))
