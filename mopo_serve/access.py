"""Who may in: the keys of a gateway, followed while they change, and what each has used."""

import logging
import time
from pathlib import Path

from starlette.types import Scope

from mopo_serve.key_file import KeyFileError, read_keys
from mopo_serve.keys import ApiKey, KeyRing, forbidden
from mopo_serve.limits import KeyUse, Usage
from mopo_serve.openai_errors import ApiError

KEY = "mopo.key"
"""Name in the ASGI scope of the caller's ``ApiKey``; None while the gateway is open."""
log = logging.getLogger("mopo_serve")


class Access:
    """The keys of one gateway. Without any, everybody may do everything but administer."""

    def __init__(self, ring: KeyRing | None = None, path: Path | None = None) -> None:
        self.ring = ring or KeyRing()
        self._path = path
        self._seen = self._look()
        self._usage = Usage()

    @property
    def open(self) -> bool:
        """True while no key was ever made."""
        return not self.ring

    def key_of(self, headers: list[tuple[bytes, bytes]]) -> ApiKey | None:
        """The caller's key; None while the gateway is open. Raises ApiError (401)."""
        if not self.ring:
            return None
        given = [value for name, value in headers if name == b"authorization"]
        if len(given) > 1:
            raise ApiError(401, "give one Authorization header", code="invalid_api_key", authenticate=True)
        return self.ring.find(given[0] if given else None)

    def admit(self, key: ApiKey | None) -> KeyUse | None:
        """Count a request of ``key`` that begins; None where nothing is counted. Raises ApiError (429)."""
        if key is None:
            return None
        now = time.monotonic()
        use = self._usage.of(key, now)
        use.admit(now)
        return use

    def follow(self) -> None:
        """Read the file of keys again if it changed. One that cannot be read changes nothing, and says so."""
        if self._path is None or (seen := self._look()) == self._seen:
            return
        self._seen = seen
        self.reload()

    def reload(self) -> None:
        """Read the file of keys again. Keys that were known never make way for an open gateway."""
        if self._path is None:
            return
        try:
            ring = read_keys(self._path)
        except KeyFileError as error:
            log.error("the API keys stay as they were: %s", error)
            return
        if self.ring and not ring:
            log.error("the file of API keys is empty or gone: every key is refused until it is back")
            ring = KeyRing(key.model_copy(update={"revoked_at": "gone"}) for key in self.ring.keys.values())
        self.ring = ring

    def _look(self) -> tuple[int, int, int] | None:
        """What tells one state of the file from another."""
        try:
            found = self._path.stat() if self._path else None
        except OSError:
            return None
        return found and (found.st_mtime_ns, found.st_size, found.st_ino)


def require(scope: Scope, right: str) -> ApiKey:
    """The caller's key if it has ``right`` (``admin``, ``audit``, ``pin``). Raises ApiError (403)."""
    key: ApiKey | None = scope.get(KEY)
    if key is None:
        raise forbidden(f"this route needs a key with the right '{right}': 'mopo-serve key create NAME --{right}'")
    if not getattr(key, right):
        raise forbidden(f"this key has not the right '{right}'")
    return key
