"""What the gateway counts, for Prometheus. Each gateway has a registry of its own; nothing is global."""

import functools
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mopo_serve.decisions import NOBODY, Decision
from mopo_serve.engines import Replica

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SHORT = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1)


class GatewayMetrics:
    """Counters of one gateway."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        which = ("policy", "profile")
        self._requests = Counter(
            "mopo_requests", "Finished requests for completions.", (*which, "status"), registry=registry
        )
        self._seconds = Histogram(
            "mopo_request_seconds", "From the request's head to the answer's end.", which, buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self._first_token = Histogram(
            "mopo_first_token_seconds", "From the request's head to a stream's first bytes.", which, buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self._tokens = Counter("mopo_tokens", "Tokens that engines counted.", (*which, "kind"), registry=registry)
        self._infeasible = Counter(
            "mopo_infeasible", "Requests answered 422: no policy holds the floors.", ("profile",), registry=registry
        )
        self._retries = Counter(
            "mopo_engine_retries", "Requests sent on to another replica.", ("engine",), registry=registry
        )
        stages = Histogram(
            "mopo_stage_seconds", "Time in the gateway until the engine was asked, and until it began to answer.",
            ("stage",), buckets=(*SHORT, *SECONDS[7:]), registry=registry,
        )  # fmt: skip
        self.decided, self.answered = stages.labels("decide"), stages.labels("engine")
        # Looking a child up by its labels costs more than counting; names are few, because only known ones are labels.
        self._count, self._times = functools.cache(self._counter), functools.cache(self._histograms)
        self.in_flight = Gauge("mopo_requests_in_flight", "Requests being answered.", registry=registry)
        self._live = Gauge(
            "mopo_version_share", "Share of conversations of what is live.", ("version",), registry=registry
        )

    def follow(self, replicas: Sequence[Replica]) -> None:
        """Show the state of every replica."""
        up = Gauge("mopo_engine_up", "1, or 0 from a row of failures on until it answers again.", ("engine",),
                   registry=self.registry)  # fmt: skip
        waiting = Gauge("mopo_engine_outstanding", "Requests that an engine is answering.", ("engine",),
                        registry=self.registry)  # fmt: skip
        for replica in replicas:
            up.labels(replica.name).set_function(_number(replica, lambda each: float(each.well)))
            waiting.labels(replica.name).set_function(_number(replica, lambda each: float(each.outstanding)))

    def retried(self, engine: str) -> None:
        """A request was sent on because ``engine`` failed."""
        self._retries.labels(engine).inc()

    def live(self, shares: dict[str, float]) -> None:
        """Show which versions are live, and their shares of conversations."""
        self._live.clear()
        for version, share in shares.items():
            self._live.labels(version).set(share)

    def record(self, decision: Decision) -> None:
        """Count a finished request."""
        self._count(decision.policy, decision.profile, decision.status).inc()
        if decision.status == 422:
            self._infeasible.labels(decision.profile).inc()
        if decision.policy == NOBODY:
            return  # nothing was generated: its latency would only hide that of those that were
        seconds, first_token, prompt, completion = self._times(decision.policy, decision.profile)
        seconds.observe(decision.seconds)
        if decision.first_token_seconds is not None:
            first_token.observe(decision.first_token_seconds)
        if decision.prompt_tokens:
            prompt.inc(decision.prompt_tokens)
        if decision.completion_tokens:
            completion.inc(decision.completion_tokens)

    def _counter(self, policy: str, profile: str, status: int) -> Counter:
        return self._requests.labels(policy, profile, str(status))

    def _histograms(self, policy: str, profile: str) -> tuple[Histogram, Histogram, Counter, Counter]:
        return (
            self._seconds.labels(policy, profile),
            self._first_token.labels(policy, profile),
            self._tokens.labels(policy, profile, "prompt"),
            self._tokens.labels(policy, profile, "completion"),
        )

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)


def _number(replica: Replica, of: Callable[[Replica], float]) -> Callable[[], float]:
    return lambda: of(replica)
