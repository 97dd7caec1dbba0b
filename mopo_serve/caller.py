"""Who asks: the API key, and what the request says of its user and conversation."""

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from mopo_serve.keys import ApiKey

CONVERSATION = b"x-mopo-conversation"
"""Header that names the conversation; ``metadata.conversation_id`` in the body does too."""
LONGEST = 512
"""Characters of a user's or conversation's name that count."""


class Caller(NamedTuple):
    """Who asks."""

    key: ApiKey | None = None
    """None while no keys exist: everybody may do everything but administer."""
    user: str | None = None
    """The request's ``user`` or, where it has none, ``safety_identifier``: the client's word, not a proof."""
    conversation: str | None = None

    def sticky(self, otherwise: str) -> str:
        """What draws are made by: the conversation, else the user, else ``otherwise``."""
        if self.conversation is not None:
            return f"conversation {self.conversation}"
        return otherwise if self.user is None else f"user {self.user}"


ANYBODY = Caller()


def caller_of(key: ApiKey | None, headers: Iterable[tuple[bytes, bytes]], body: dict[str, Any]) -> Caller:
    """The caller of a request with ``headers`` and ``body``, whatever nonsense stands in them."""
    user = _name(body.get("user")) or _name(body.get("safety_identifier"))
    metadata = body.get("metadata")
    conversation = _name(metadata.get("conversation_id")) if isinstance(metadata, dict) else None
    for name, value in headers:
        if name == CONVERSATION:
            conversation = _name(value.decode("latin-1"))
    return Caller(key, user, conversation)


def hashed(name: str | None) -> str:
    """What the audit keeps of a user's or conversation's name: 128 bits of SHA-256; empty for none."""
    return "" if name is None else hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _name(value: Any) -> str | None:
    return value[:LONGEST] if isinstance(value, str) and value else None
