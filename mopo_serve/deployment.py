"""What is live: one version of family and profiles, and perhaps a candidate that takes a share of the conversations.

A version is immutable; going live is replacing a reference, so no request is lost or sees half of a change. Requests
keep the version that they began with, and an adapter is unloaded when the last of them is done.
"""

import statistics
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mopo_eval.mixture import unit_interval
from mopo_serve.decisions import Decision
from mopo_serve.routing import Routing

REMEMBERED = 2000
"""Requests whose times are kept per version, for the comparison."""


@dataclass(eq=False)
class Version:
    """One family with its scores and profiles, as engines serve it."""

    routing: Routing
    names: Mapping[str, str] = field(default_factory=dict)
    """What engines call a policy, where that is not its id."""
    fingerprint: str = ""
    """The family's identity and a digest of scores and profiles."""
    root: Path | None = None
    """Directory of the family, where it can be read again."""
    profiles: Path | None = None
    """File of its profiles; None: the family's own."""
    in_flight: int = 0
    retired: bool = False
    """True once no new request can get it."""
    record: "Record" = field(default_factory=lambda: Record())

    @property
    def family_header(self) -> bytes:
        """Value of ``x-mopo-family``."""
        return self.routing.identity.encode("ascii")

    def engine_name(self, policy: str) -> str:
        """What engines call ``policy``."""
        return self.names.get(policy, policy)


class Record:
    """How the requests of one version went."""

    def __init__(self) -> None:
        self.requests = self.failures = self.infeasible = self.tokens = 0
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._first: deque[float] = deque(maxlen=REMEMBERED)

    def add(self, decision: Decision) -> None:
        """Count a finished request."""
        self.requests += 1
        self.failures += decision.status >= 500
        self.infeasible += decision.status == 422
        self.tokens += decision.completion_tokens or 0
        if decision.status == 200:
            self._seconds.append(decision.seconds)
            if decision.first_token_seconds is not None:
                self._first.append(decision.first_token_seconds)

    def summary(self) -> dict[str, Any]:
        """Counts, and times in seconds over the last requests; None where there is none."""
        return {
            "requests": self.requests,
            "failures": self.failures,
            "infeasible": self.infeasible,
            "completion_tokens": self.tokens,
            "seconds": _quantiles(self._seconds),
            "first_token_seconds": _quantiles(self._first),
        }


class Deployment:
    """The live version and, in a staged rollout, the candidate beside it."""

    def __init__(self, stable: Version) -> None:
        self.stable = stable
        self.candidate: Version | None = None
        self.share = 0.0
        """Of conversations that the candidate gets."""
        self.prepare: Callable[[Version], None] = lambda version: None
        """Is shown a version before it goes live."""

    @property
    def live(self) -> list["Version"]:
        """Every version that a new request may get."""
        return [version for version in (self.stable, self.candidate) if version is not None]

    def pick(self, sticky: str) -> Version:
        """The version of a conversation: always the same one while the share does not shrink."""
        if self.candidate is None:
            return self.stable
        place = unit_interval(sticky, f"rollout {self.candidate.fingerprint}")
        return self.candidate if place < self.share else self.stable

    def replace(self, version: Version) -> Version:
        """Make ``version`` the live one; returns the one that was."""
        self.prepare(version)
        old, self.stable = self.stable, version
        return old

    def stage(self, version: Version, share: float) -> None:
        """Give ``version`` a share of the conversations."""
        self.prepare(version)
        self.candidate, self.share = version, share

    def unstage(self) -> Version | None:
        """End the rollout; returns its candidate."""
        found, self.candidate, self.share = self.candidate, None, 0.0
        return found


def _quantiles(values: deque[float]) -> dict[str, float] | None:
    if len(values) < 2:
        return {"p50": values[0], "p95": values[0]} if values else None
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return {"p50": cuts[9], "p95": cuts[18]}
