"""What the gateway reads in a request's body, and what it sends on to the engine.

Only ``model`` and ``objective_profile`` are the gateway's; everything else is the engine's and passes through.
"""

import functools
import itertools
import json
import math
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mopo_eval.profiles import Floors, OnInfeasible, SelectionKind
from mopo_serve.openai_errors import ApiError, malformed, shown
from mopo_train.family import ObjectiveName

WITHHELD = ("cache_salt", "priority")
"""Fields that a client may not set: one reaches into other callers' prefix cache, the other jumps the queue."""
STRAY = frozenset({"floors", "on_infeasible", "objective_profiles", "objective-profile", "objectiveProfile"})
"""Names that only a misplaced or misspelt ``objective_profile`` has. Engines ignore them, and floors with them."""
PROMPTS = ("messages", "prompt")
"""Fields that hold what is asked."""
MOST_ENTRIES = 1000
"""Names in an ``objective_profile``, and in its floors: every wrong one costs an error."""
SEARCHED = 10_000
"""Entries of a body that are searched for the one that is no JSON, to name it."""
Model = TypeVar("Model", bound=BaseModel)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class RequestedProfile(BaseModel):
    """The body field ``objective_profile``: what a request states itself, on top of the profile it names."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    primary: ObjectiveName | None = None
    """Objective to maximise instead of the profile's."""
    floors: Floors = {}
    """Further floors; each effective floor is the largest that anybody asks for."""
    selection: SelectionKind | None = None
    """One policy that holds every floor, or a mixture that holds them on average, instead of what the profile says."""
    on_infeasible: OnInfeasible | None = None
    """What to do where no policy holds every floor, instead of what the profile says."""


class ResolveBody(BaseModel):
    """The body of ``POST /v1/profiles/resolve``, of which ``objective_profile`` was taken out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    profile: str | None = None
    """Name of a profile, without ``mopo/``."""
    user: str | None = None
    """Whose profile, by the table of users, where no profile is named, and whose floors are added where one is."""


def parse_body(raw: bytes) -> dict[str, Any]:
    """The JSON object in ``raw``. Raises ApiError (400).

    One that states a profile may give no name twice, anywhere: JSON's readers silently keep the last, perhaps the
    lower of two floors.
    """
    try:
        text = raw.decode("utf-8")
        body = json.loads(text)
        if isinstance(body, dict) and "objective_profile" in body:
            json.loads(text, object_pairs_hook=_named_once)
    except UnicodeDecodeError as error:
        raise malformed(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise malformed("the body is nested too deeply") from error
    except ValueError as error:  # malformed, or a number with thousands of digits
        raise malformed(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise malformed(f"the body must be a JSON object, not {_kind(body)}")
    return body


def _named_once(pairs: list[tuple[str, Any]]) -> None:
    """Raise ApiError (400) if two of an object's ``pairs`` have one name."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise malformed(f"{shown(name)} is given twice in one object", "objective_profile")
        seen.add(name)


def take_model(body: dict[str, Any]) -> str:
    """The name in ``body["model"]``. Raises ApiError (400)."""
    model = body.get("model")
    if not isinstance(model, str):
        given = "is missing" if "model" not in body else f"must be a string, not {_kind(model)}"
        raise malformed(f"'model' {given}; give 'mopo/PROFILE', GET /v1/models lists them", "model")
    return model


def take_profile(body: dict[str, Any]) -> RequestedProfile | None:
    """Take ``objective_profile`` out of ``body``; None if there is none. Raises ApiError (400) naming the field."""
    if not STRAY.isdisjoint(body):
        stray = min(STRAY & body.keys())
        raise malformed(f'\'{stray}\' is not read; write "objective_profile": {{"floors": {{...}}}}', stray)
    value = body.pop("objective_profile", None)
    if value is None:
        return None
    for part in (value, value.get("floors")) if isinstance(value, dict) else ():
        if isinstance(part, dict) and len(part) > MOST_ENTRIES:
            raise malformed(f"'objective_profile' holds more than {MOST_ENTRIES} names", "objective_profile")
    try:
        return validated(RequestedProfile, value, "objective_profile")
    except ApiError:
        encode(value, "objective_profile")  # names what is no JSON, with its place
        raise


def validated(model: type[Model], value: Any, param: str) -> Model:
    """``value`` as ``model``. Raises ApiError (400) whose ``param`` names the field that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join([param, *map(str, problem["loc"])]).removesuffix(".[key]").strip(".")
        told = f": {problem['msg']}"
        if problem["type"] in ("model_type", "dict_type"):
            told = f" must be an object, not {_kind(problem['input'])}"
        elif problem["type"] == "extra_forbidden":
            told = " is not known here" + ("" if problem["loc"][1:] else f"; known: {', '.join(model.model_fields)}")
        raise malformed(f"'{field or 'body'}'{told}", field or None) from error


class EngineRequest(NamedTuple):
    """What is sent to an engine."""

    before: bytes
    """JSON of the body up to the model's name."""
    after: bytes
    prompt: bytes
    """JSON of the messages or the prompt; empty where there is neither."""
    stream: bool
    hides_usage: bool
    """True if the gateway asks for token counts in the stream and the client did not."""

    def body(self, model: str) -> bytes:
        """The client's body with ``model``, an engine's name of a policy, and without what is withheld."""
        return b"%b%b%b" % (self.before, _encoded_name(model), self.after)


def engine_request(body: dict[str, Any]) -> EngineRequest:
    """What an engine gets of ``body``, which is used up. Raises ApiError (400).

    A stream is asked to count its tokens: without that nobody could limit or bill them. The count is taken out of the
    stream again (``usage``) where the client did not ask for it. An engine may read 1 or "yes" as true: here nothing
    but true and false is taken, so that both mean the same.
    """
    for name in (*WITHHELD, "model"):
        body.pop(name, None)
    stream = _switch(body, "stream")
    hides = False
    if stream:
        options = body.get("stream_options")
        if options is None:
            body["stream_options"], hides = {"include_usage": True}, True
        elif isinstance(options, dict) and not _switch(options, "include_usage", "stream_options."):
            body["stream_options"], hides = options | {"include_usage": True}, True
    prompt = b""
    parts = []
    for name in PROMPTS:
        if name in body:
            prompt = encode(body.pop(name), name)
            parts.append(b',"%b":%b' % (name.encode("ascii"), prompt))
    rest = encode(body)
    after = b"".join(parts) + (b"," + rest[1:] if body else b"}")
    return EngineRequest(b'{"model":', after, prompt, stream, hides)


def _switch(values: dict[str, Any], name: str, place: str = "") -> bool:
    """``values[name]``, false where it is absent or null. Raises ApiError (400)."""
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise malformed(f"'{place}{name}' must be true or false, not {_kind(value)}", f"{place}{name}")
    return bool(value)


def encode(value: Any, place: str = "") -> bytes:
    """``value`` as JSON bytes; raises ApiError (400) naming the field that is no JSON (NaN, a lone surrogate)."""
    try:
        return _ENCODER.encode(value).encode("utf-8")
    except RecursionError as error:
        raise malformed("the body is nested too deeply") from error
    except ValueError as error:  # UnicodeEncodeError is one
        raise _unsendable(value, place) from error


@functools.lru_cache(maxsize=1024)
def _encoded_name(model: str) -> bytes:
    """JSON of an engine's name of a policy: there are few."""
    return encode(model)


def request_id(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The client's ``x-request-id`` if it is short and plain, otherwise a new one."""
    for name, value in headers:
        if name == b"x-request-id" and SANE_REQUEST_ID.fullmatch(value):
            return value
    return next(_NEW_IDS)


def _new_ids() -> Iterator[bytes]:
    """Ids that nobody can guess, for ever; the system is asked for randomness once for many."""
    while True:
        drawn = os.urandom(12 * 256).hex().encode("ascii")
        for start in range(0, len(drawn), 24):
            yield b"req-" + drawn[start : start + 24]


_NEW_IDS = _new_ids()


def _unsendable(value: Any, place: str) -> Exception:
    """The error that names the first number or text in ``value`` that JSON cannot carry, if it is found soon."""
    for where, item in itertools.islice(_entries(value, place), SEARCHED):
        if isinstance(item, float) and not math.isfinite(item):
            return malformed(f"'{where}' is not a finite number", where)
        if isinstance(item, str) and _has_surrogate(item):
            return malformed(f"'{where}' holds a lone surrogate, which is not Unicode text", where)
        if isinstance(item, dict) and any(_has_surrogate(key) for key in item):
            return malformed(f"a name in '{where or 'the body'}' holds a lone surrogate", where or None)
    return malformed("the body holds a number that is not finite, or a lone surrogate, which is not Unicode text")


def _entries(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Everything in ``value``, itself first, with its place."""
    waiting = [iter([(place, value)])]
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
        else:
            yield found
            waiting.append(_inside(*found))


def _inside(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The entries of ``value`` with their places; none of what is neither an array nor an object."""
    if isinstance(value, list):
        for index, entry in enumerate(value):
            yield f"{place}[{index}]", entry
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield f"{place}.{key}".strip("."), entry


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _kind(value: Any) -> str:
    """JSON's name for the type of ``value``."""
    names: dict[type, str] = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")
