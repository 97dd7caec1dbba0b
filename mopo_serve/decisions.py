"""What the gateway decided about one request, as metrics, logs and the audit see it.

The gateway makes a ``Decision`` of every finished completion and gives it to its sinks. Holds no prompt text unless
that is switched on.
"""

from typing import NamedTuple, Protocol

from mopo_eval.profiles import Floors

NOBODY = "-"
"""Stands for a key, profile, policy or engine that there is not."""


class Decision(NamedTuple):
    """One finished request."""

    request_id: str
    time: float
    """When the request came, in seconds since 1970 (UTC)."""
    key: str = NOBODY
    """Id of the API key; ``-`` where none was given or it was refused."""
    user: str = ""
    """Hash of the request's ``user``; empty where it named none."""
    conversation: str = ""
    """Hash of the conversation's id; empty where the request named none."""
    profile: str = NOBODY
    """``policy/<id>`` for a pinned policy; ``-`` where none was named or the request failed before that."""
    floors: Floors = {}
    """Effective floors: the largest of the organisation's, the key's, the profile's and the request's."""
    policy: str = NOBODY
    """Policy that answered, or would have; ``-`` where none was selected."""
    share: float = 1.0
    """Share of the policy in the mixture that it was drawn from; 1 where it answers every request."""
    family: str = NOBODY
    """Fingerprint of the family: directory name and digest of ``family.json``."""
    engine: str = NOBODY
    """Name of the replica that answered; never its address."""
    status: int = 499
    """HTTP status; 499 if the client left, 502 to 504 if the engine failed in the middle of a stream."""
    seconds: float = 0.0
    """From the request's head to the answer's end."""
    first_token_seconds: float | None = None
    """Until the first bytes of a stream were there; None for answers that do not stream."""
    prompt_tokens: int | None = None
    """As the engine counted them; None where it did not say."""
    completion_tokens: int | None = None
    prompt_sha256: str = ""
    """Hex digest of the request's ``messages`` or ``prompt`` as compact JSON; empty where they were not read."""
    reason: str = ""
    """Why this policy, in a sentence; for a refused request, why not."""
    text: str | None = None
    """JSON of the prompt and the answer, only where storing text is switched on."""


class Sink(Protocol):
    """Something that is told of every finished request."""

    def record(self, decision: Decision) -> None:
        """Take ``decision``. Called in the event loop: must never block and never raise; drop and count instead."""


class Keeper(Sink, Protocol):
    """A sink that keeps decisions for good. Started and closed in the gateway's event loop."""

    @property
    def accepting(self) -> bool:
        """False while it can take no more; new requests are answered 503 then, for none shall be without a trace."""
        ...

    async def start(self) -> None:
        """Begin; decisions may be recorded from then on."""

    async def close(self) -> object:
        """Write what was recorded, and end."""
