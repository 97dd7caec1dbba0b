"""What one key may use: requests and tokens per minute, requests at the same time.

Pure: every function is given the time, in seconds of a clock that never goes back.
"""

import math

from mopo_serve.keys import ApiKey
from mopo_serve.openai_errors import ApiError

MINUTE = 60.0


class Bucket:
    """Refills evenly to ``per_minute``. What turns out to cost more than is left is owed, and waited for."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level, self._at = float(per_minute), now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until ``amount`` is there; 0 if it is now."""
        self._refill(now)
        return max(0.0, (min(amount, self.per_minute) - self._level) * MINUTE / self.per_minute)

    def take(self, amount: float, now: float) -> None:
        """Take ``amount``, also where less is there."""
        self._refill(now)
        self._level -= amount

    def _refill(self, now: float) -> None:
        grown = max(0.0, now - self._at) * self.per_minute / MINUTE
        self._level, self._at = min(float(self.per_minute), self._level + grown), max(now, self._at)


class KeyUse:
    """What one key has used."""

    def __init__(self, key: ApiKey, now: float) -> None:
        self.in_flight = 0
        self.follow(key, now)

    def follow(self, key: ApiKey, now: float) -> None:
        """Hold the limits of ``key`` from now on; what is in flight stays counted."""
        self.key = key
        self._requests = None if key.requests_per_minute is None else Bucket(key.requests_per_minute, now)
        self._tokens = None if key.tokens_per_minute is None else Bucket(key.tokens_per_minute, now)

    def admit(self, now: float) -> None:
        """Count a request that begins. Raises ApiError (429), which counts nothing."""
        key = self.key
        if key.concurrency is not None and self.in_flight >= key.concurrency:
            raise _too_many(f"this key may have {key.concurrency} requests at the same time", "concurrency", 1.0)
        if self._tokens is not None and (wait := self._tokens.wait(1, now)) > 0:
            raise _too_many(f"this key may use {key.tokens_per_minute} tokens per minute", "tokens", wait)
        if self._requests is not None:
            if (wait := self._requests.wait(1, now)) > 0:
                raise _too_many(f"this key may make {key.requests_per_minute} requests per minute", "requests", wait)
            self._requests.take(1, now)
        self.in_flight += 1

    def finish(self, tokens: int, now: float) -> None:
        """Count the end of a request that was admitted, and what it used."""
        self.in_flight -= 1
        if self._tokens is not None:
            self._tokens.take(tokens, now)


class Usage:
    """Use of every key, kept when the keys are read again."""

    def __init__(self) -> None:
        self._known: dict[str, KeyUse] = {}

    def of(self, key: ApiKey, now: float) -> KeyUse:
        """The use of ``key``; its minutes begin anew when the key was changed."""
        known = self._known.get(key.id)
        if known is None:
            known = self._known[key.id] = KeyUse(key, now)
        elif known.key is not key and known.key != key:
            known.follow(key, now)
        return known


def _too_many(message: str, limit: str, seconds: float) -> ApiError:
    wait = max(1, math.ceil(round(seconds, 3)))
    return ApiError(429, f"{message}; try again in {wait} s", code=f"{limit}_limit", retry_after=wait)
