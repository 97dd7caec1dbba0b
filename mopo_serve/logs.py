"""Structured logs: one JSON object a line, on stderr. Never a prompt, an answer or a key."""

import datetime
import json
import logging
import sys

from mopo_serve.decisions import Decision


class JsonFormatter(logging.Formatter):
    """A record of Python's logging as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Called by logging."""
        line = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line | getattr(record, "fields", {}))


class RequestLog:
    """A sink that writes one line per finished request."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._log = logger or logging.getLogger("mopo_serve.requests")

    def record(self, decision: Decision) -> None:
        """Write ``decision``, without what its text or its reason may tell of the prompt."""
        fields = {
            "request_id": decision.request_id,
            "key": decision.key,
            "profile": decision.profile,
            "policy": decision.policy,
            "family": decision.family,
            "engine": decision.engine,
            "status": decision.status,
            "seconds": round(decision.seconds, 6),
            "first_token_seconds": decision.first_token_seconds and round(decision.first_token_seconds, 6),
            "prompt_tokens": decision.prompt_tokens,
            "completion_tokens": decision.completion_tokens,
        }
        self._log.info("request", extra={"fields": fields})


def log_as_json(*, requests: bool) -> None:
    """Send everything that is logged to stderr as JSON; lines of requests only where ``requests``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("mopo_serve.requests").setLevel(logging.INFO if requests else logging.WARNING)
