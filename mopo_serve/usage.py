"""Token counts in an engine's answers, read without decoding the rest, and taken out of streams that hide them."""

import json
import re
from typing import NamedTuple

_COUNT = re.compile(rb'"(prompt|completion)_tokens"\s*:\s*(\d{1,15})\b')
LONGEST_EVENT = 1 << 20
"""Bytes of an unfinished event that are held back at most."""


class Tokens(NamedTuple):
    """How many tokens an engine counted; None where it did not say."""

    prompt: int | None = None
    completion: int | None = None

    @property
    def total(self) -> int:
        """Both together; what was not said counts nothing."""
        return (self.prompt or 0) + (self.completion or 0)


def tokens_of(answer: bytes) -> Tokens:
    """The counts in an answer's JSON. A quotation mark in a text is escaped there, so this finds only the key."""
    place = answer.rfind(b'"usage"')
    if place < 0:
        return Tokens()
    found = {kind: int(count) for kind, count in reversed(_COUNT.findall(answer, place))}
    return Tokens(found.get(b"prompt"), found.get(b"completion"))


class EventStream:
    """Server-sent events on their way to a client: passed on as they are, but for a count that it did not ask for."""

    def __init__(self, *, hides_usage: bool) -> None:
        self.tokens = Tokens()
        self.events = 0
        """Whole ones so far: of text, a token each or more."""
        self._hides = hides_usage
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What of ``data``, and of earlier unfinished events, goes to the client now."""
        self.events += data.count(b"\n\n")
        if not self._hides:
            self._watch(data)
            return data
        if not self._held and data.endswith(b"\n\n") and b'"usage"' not in data:
            return data
        whole, separator, self._held = (self._held + data).rpartition(b"\n\n")
        if b"\r" in self._held or len(self._held) > LONGEST_EVENT:  # other line ends than those of the engines we know
            whole, separator, self._held = whole + separator + self._held, b"", b""
        if b'"usage"' not in whole:
            return whole + separator
        kept = [event for event in whole.split(b"\n\n") if not self._only_counts(event)]
        return b"\n\n".join(kept) + separator if kept else b""

    def rest(self) -> bytes:
        """What was held back when the stream ended."""
        held, self._held = self._held, b""
        return held if self._hides else b""

    def _watch(self, data: bytes) -> None:
        """Take note of counts in a stream that goes on as it is, also where ``data`` ends within an event."""
        if self._held or b'"usage"' in data:
            whole, _, rest = (self._held + data).rpartition(b"\n\n")
            self._note(whole)
            self._held = rest if b'"usage"' in rest and len(rest) < LONGEST_EVENT else b""

    def _note(self, events: bytes) -> None:
        found = tokens_of(events)
        if found.total:
            self.tokens = found

    def _only_counts(self, event: bytes) -> bool:
        """Take note of the counts in ``event``; True if it holds nothing else."""
        if b'"usage"' not in event:
            return False
        self._note(event)
        try:
            content = json.loads(event.removeprefix(b"data:"))
        except (ValueError, RecursionError):
            return False
        return isinstance(content, dict) and content.get("choices") == [] and isinstance(content.get("usage"), dict)
