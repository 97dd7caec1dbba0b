"""Errors as OpenAI's clients expect them: ``{"error": {"message", "type", "param", "code"}}``.

Also turns what an engine answers when it refuses or fails into that shape, without saying where the engine is.
"""

import json
from dataclasses import dataclass, field
from typing import Any

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""``type`` of each status that has one of its own."""
PASSED_THROUGH = frozenset({400, 413, 415, 422, 429})
"""Statuses of an engine that say something about the client's request, and keep their meaning here."""
LONGEST_MESSAGE = 2000
RETRY_AFTER_SECONDS = 1


@dataclass(eq=False)
class ApiError(Exception):
    """An answer other than success, to be sent to the client as it is."""

    status: int
    message: str
    code: str | None = None
    """Machine-readable cause, for example ``model_not_found``."""
    param: str | None = None
    """Field of the request that is wrong, for example ``objective_profile.floors.safety``."""
    details: dict[str, Any] = field(default_factory=dict)
    """More members of the error object."""
    retry_after: int | str | None = None
    """Seconds after which it makes sense to try again."""
    allow: str | None = None
    """Methods that the route knows (405)."""
    elsewhere: bool = False
    """True if another engine might answer instead."""
    authenticate: bool = False
    """True if a key is asked for (401)."""

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers that belong to this error."""
        headers = [(b"content-type", b"application/json")]
        if self.retry_after is not None:
            headers.append((b"retry-after", str(self.retry_after).encode("latin-1")))
        if self.authenticate:
            headers.append((b"www-authenticate", b"Bearer"))
        if self.allow is not None:
            headers.append((b"allow", self.allow.encode("latin-1")))
        return headers

    def body(self) -> bytes:
        """The error as JSON. Text that is no Unicode is escaped."""
        message = self.message[:LONGEST_MESSAGE].encode("utf-8", "backslashreplace").decode("utf-8")
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {
            "message": message,
            "type": kind,
            "param": self.param and self.param[:200],
            "code": self.code,
        } | self.details
        return json.dumps({"error": error}).encode("ascii")


def shown(text: str) -> str:
    """A client's ``text`` as it may appear in a message: quoted, printable, not longer than 100 characters."""
    return ascii(text if len(text) <= 100 else text[:97] + "...")


def malformed(message: str, param: str | None = None) -> ApiError:
    """400: the request cannot be understood; ``param`` names the field."""
    return ApiError(400, message, code="invalid_request", param=param)


def unavailable(message: str, code: str = "engine_unavailable") -> ApiError:
    """503: nothing answers now, but trying again makes sense."""
    return ApiError(503, message, code=code, retry_after=RETRY_AFTER_SECONDS)


def engine_error(status: int, body: bytes, *, address: str, retry_after: str | None = None) -> ApiError:
    """What an engine's answer with ``status`` and ``body`` means for the client.

    ``address`` (host:port of the engine) never reaches the client. A refusal that concerns the gateway's own set-up (an
    adapter that the engine does not have) is not the client's fault and becomes 503; a failure becomes 502, so
    that 500 always means a fault of the gateway itself.
    """
    if status in PASSED_THROUGH:
        said = _error_object(body)
        message = said.get("message") or f"the engine refused the request ({status})"
        code, param = said.get("code"), said.get("param")
        return ApiError(
            400 if status == 422 else status,  # some engines' answer to a malformed field; here 422 means a floor
            str(message).replace(address, "engine"),
            code=code if isinstance(code, str) else None,  # vLLM repeats the status here, as a number
            param=param if isinstance(param, str) else None,
            retry_after=(retry_after or RETRY_AFTER_SECONDS) if status == 429 else None,
        )
    if status == 503:
        error = unavailable("the engine is overloaded or starting; try again")
        error.retry_after = retry_after or RETRY_AFTER_SECONDS
    elif status == 504:
        return ApiError(504, "the engine ran into a timeout", code="engine_timeout")
    elif 400 <= status < 500:
        error = unavailable(f"the engine does not serve this policy or route (it answered {status})", "engine_refused")
    else:
        error = ApiError(502, f"the engine failed (it answered {status})", code="engine_error")
    error.elsewhere = True
    return error


def _error_object(body: bytes) -> dict[str, Any]:
    """The error in an engine's answer: OpenAI's shape, vLLM's older flat one, or FastAPI's ``detail``."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    error = content.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {"message": error}
    if "detail" in content:
        return {"message": json.dumps(content["detail"])}
    return content
