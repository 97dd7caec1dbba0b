"""API keys: who may ask for what, and the floors that hold for each key.

A key is ``mopo-<id>-<secret>``; only the SHA-256 of the whole is kept. The secret has 256 random bits, so a slow
password hash would add cost and no safety. Files are in ``key_file``.
"""

import hashlib
import hmac
import secrets
from collections.abc import Collection, Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mopo_eval.profiles import Floors, ProfileName
from mopo_serve.openai_errors import ApiError

Limit = Annotated[int, Field(ge=1, le=10**9)]


class ApiKey(BaseModel):
    """One key as it is stored: everything but the secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    """Names the key in logs, in the audit and for revoking."""
    name: str = Field(min_length=1, max_length=100)
    """For people; also looked up in the table of users."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    """Of the whole key."""
    created_at: str
    revoked_at: str | None = None
    profiles: list[ProfileName] | None = None
    """Profiles that it may ask for; None: every one, and requests that name none."""
    pin: bool = False
    """May name a policy itself."""
    audit: bool = False
    """May read the audit."""
    admin: bool = False
    """May reload and roll out. An admin key made without profiles may do nothing else."""
    floors: Floors = {}
    """Floors that nothing lowers for this key."""
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    """Prompt and completion tokens together."""
    concurrency: Limit | None = None
    """Requests at the same time."""


class KeyRing:
    """The keys that a gateway knows; never changed, only replaced."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self.keys = {key.id: key for key in keys}
        self._digests = {key.id: bytes.fromhex(key.sha256) for key in self.keys.values() if key.revoked_at is None}

    def __bool__(self) -> bool:
        """True if any key was ever made, revoked ones included: revoking the last one opens nothing."""
        return bool(self.keys)

    def find(self, authorization: bytes | None) -> ApiKey:
        """The key in an ``Authorization`` header. Raises ApiError (401)."""
        if authorization is None:
            raise _unauthorised("no API key: send 'Authorization: Bearer KEY'")
        scheme, _, token = authorization.partition(b" ")
        token = token.strip()
        parts = token.split(b"-", 2)
        if scheme.lower() != b"bearer" or len(parts) != 3:
            raise _unauthorised("not an API key of this gateway")
        found = parts[1].decode("latin-1")
        known = self._digests.get(found)
        # An unknown id takes the same path and time as a wrong secret.
        right = hmac.compare_digest(known or bytes(32), hashlib.sha256(token).digest())
        if known is None or not right:
            raise _unauthorised("not an API key of this gateway, or it was revoked")
        return self.keys[found]


def make_key(name: str, created_at: str, **scope: object) -> tuple[ApiKey, str]:
    """A new key and its text, which nobody can tell again. ``scope``: more fields of ``ApiKey``."""
    identity = secrets.token_hex(6)
    text = f"mopo-{identity}-{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(text.encode("ascii")).hexdigest()
    values = {"id": identity, "name": name, "sha256": digest, "created_at": created_at, **scope}
    return ApiKey.model_validate(values), text


def may_ask(key: ApiKey | None, profile: str | None) -> bool:
    """True if ``key`` (None: the gateway is open) may ask for ``profile`` (None: for none)."""
    return key is None or key.profiles is None or profile in key.profiles


def forbidden(message: str, param: str | None = None) -> ApiError:
    """403: the key is good, but not for this."""
    return ApiError(403, message, code="out_of_scope", param=param)


def unknown_profiles(keys: Iterable[ApiKey], profiles: Collection[str]) -> dict[str, list[str]]:
    """Profiles that a key may ask for but that do not exist, by key name."""
    gone = {key.name: [name for name in key.profiles or [] if name not in profiles] for key in keys}
    return {name: profiles for name, profiles in gone.items() if profiles}


def _unauthorised(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", authenticate=True)
