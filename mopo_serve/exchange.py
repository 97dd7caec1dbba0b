"""What is known about one request while it is answered, and the decision that is left of it."""

import hashlib
import json
import time
from dataclasses import dataclass, field

from mopo_serve.caller import ANYBODY, Caller, hashed
from mopo_serve.decisions import NOBODY, Decision
from mopo_serve.deployment import Version
from mopo_serve.routing import Choice
from mopo_serve.usage import Tokens

CLIENT_LEFT = 499
"""Status under which a request is counted whose client hung up (nginx's number)."""
KEPT_TEXT = 1 << 20
"""Bytes of an answer that are kept where keeping text is switched on."""


@dataclass(slots=True)
class Exchange:
    """One request and its answer."""

    request_id: bytes
    version: Version
    keeps_text: bool = False
    started: float = field(default_factory=time.perf_counter)
    at: float = field(default_factory=lambda: time.time())
    caller: Caller = ANYBODY
    profile: str = NOBODY
    choice: Choice | None = None
    engine: str = NOBODY
    status: int = CLIENT_LEFT
    first_token: float | None = None
    tokens: Tokens = Tokens()
    events: int = 0
    """Of a stream, as far as it came."""
    prompt: bytes = b""
    answer: list[bytes] = field(default_factory=list)
    """Its bytes, where they are kept."""
    reason: str = ""
    """Why it was refused."""
    answering: bool = False
    """True once the answer's head was sent: a later failure can only be told inside the stream."""

    def keep(self, data: bytes) -> None:
        """Keep ``data`` of the answer, if that is switched on."""
        if self.keeps_text and sum(map(len, self.answer)) < KEPT_TEXT:
            self.answer.append(data)

    @property
    def used(self) -> int:
        """Tokens that count against the key's limit.

        What the engine counted or, where a client did not stay for that, at least as many: one for each event that
        came, and for four bytes of the prompt.
        """
        if self.tokens.total or self.engine == NOBODY:
            return self.tokens.total
        return self.events + (len(self.prompt) // 4 if self.events or self.status == CLIENT_LEFT else 0)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer says of itself."""
        headers = [(b"x-request-id", self.request_id), (b"x-mopo-family", self.version.family_header)]
        choice = self.choice
        if self.profile != NOBODY or choice is not None:
            headers.append((b"x-mopo-profile", self.profile.encode("ascii")))
        if choice is not None:
            headers.append((b"x-mopo-policy", choice.policy.encode("ascii")))
            if not choice.feasible:
                headers.append((b"x-mopo-feasible", b"false"))
            if choice.share is not None:
                headers.append((b"x-mopo-share", b"%.4f" % choice.share))
                headers.append((b"x-mopo-promise", b"average"))
        return headers

    def decision(self) -> Decision:
        """The finished request."""
        caller, choice = self.caller, self.choice
        return Decision(
            request_id=self.request_id.decode("ascii"),
            time=self.at,
            key=NOBODY if caller.key is None else caller.key.id,
            user=hashed(caller.user),
            conversation=hashed(caller.conversation),
            profile=self.profile,
            floors={} if choice is None else choice.floors,
            policy=NOBODY if choice is None else choice.policy,
            share=1.0 if choice is None or choice.share is None else choice.share,
            family=self.version.fingerprint or self.version.routing.identity,
            engine=self.engine,
            status=self.status,
            seconds=time.perf_counter() - self.started,
            first_token_seconds=self.first_token,
            prompt_tokens=self.tokens.prompt,
            completion_tokens=self.tokens.completion,
            prompt_sha256=hashlib.sha256(self.prompt).hexdigest() if self.prompt else "",
            reason=self.reason or ("" if choice is None else choice.reason),
            text=self._text() if self.keeps_text and self.prompt else None,
        )

    def _text(self) -> str:
        answer = b"".join(self.answer)[:KEPT_TEXT].decode("utf-8", "replace")
        return json.dumps({"prompt": json.loads(self.prompt), "answer": answer}, ensure_ascii=False)
