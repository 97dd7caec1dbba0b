"""What the gateway counts, for Prometheus. Each gateway has a registry of its own; nothing is global."""

import functools
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Record(NamedTuple):
    """One finished request, as metrics, logs and (later) the audit see it. Holds no prompt text."""

    request_id: str
    profile: str
    """``-`` where none was named or the request failed before that."""
    policy: str
    """``-`` where no policy was selected."""
    status: int
    """HTTP status; 499 if the client left, 502 or 504 if the engine failed in the middle of a stream."""
    seconds: float
    first_token_seconds: float | None
    """Until the first bytes of a stream were there; None for answers that do not stream."""


class GatewayMetrics:
    """Counters of one gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        which = ("policy", "profile")
        self._requests = Counter(
            "mopo_requests", "Finished requests for completions.", (*which, "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "mopo_request_seconds", "From the request's head to the answer's end.", which, buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._first_token = Histogram(
            "mopo_first_token_seconds", "From the request's head to a stream's first bytes.", which, buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._infeasible = Counter(
            "mopo_infeasible", "Requests answered 422: no policy holds the floors.", ("profile",),
            registry=self.registry,
        )  # fmt: skip
        # Looking a child up by its labels costs more than counting; names are few, because only known ones are labels.
        self._count, self._times = functools.cache(self._counter), functools.cache(self._histograms)
        self.in_flight = Gauge("mopo_requests_in_flight", "Requests being answered.", registry=self.registry)

    def observe(self, record: Record) -> None:
        """Count a finished request."""
        self._count(record.policy, record.profile, record.status).inc()
        if record.status == 422:
            self._infeasible.labels(record.profile).inc()
        if record.policy == "-":
            return  # nothing was generated: its latency would only hide that of those that were
        seconds, first_token = self._times(record.policy, record.profile)
        seconds.observe(record.seconds)
        if record.first_token_seconds is not None:
            first_token.observe(record.first_token_seconds)

    def _counter(self, policy: str, profile: str, status: int) -> Counter:
        return self._requests.labels(policy, profile, str(status))

    def _histograms(self, policy: str, profile: str) -> tuple[Histogram, Histogram]:
        return self._seconds.labels(policy, profile), self._first_token.labels(policy, profile)

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)
