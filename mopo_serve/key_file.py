"""The file that keys are kept in: JSON, readable by its owner alone, changed under a lock and by rename.

A running gateway looks at the file every second, so that a revoked key is refused at once.
"""

import datetime
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mopo_serve.keys import ApiKey, KeyRing, make_key
from mopo_train.errors import MopoError
from mopo_train.family import first_problem

ENVIRONMENT = "MOPO_KEYS"


class KeyFileError(MopoError):
    """The file of keys cannot be read or written, or a key is not in it."""


class _Contents(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[ApiKey] = []


def default_key_file() -> Path:
    """``$MOPO_KEYS``, else ``mopo/keys.json`` in the user's configuration directory."""
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or (os.environ.get("APPDATA") if sys.platform == "win32" else None)
    return (Path(base) if base else Path.home() / ".config") / "mopo" / "keys.json"


def read_keys(path: Path) -> KeyRing:
    """The keys in ``path``; none where there is no file. Raises KeyFileError."""
    try:
        return KeyRing(_Contents.model_validate_json(path.read_bytes()).keys)
    except FileNotFoundError:
        return KeyRing()
    except ValidationError as error:
        raise KeyFileError(
            f"'{path}' is not a file of API keys: {first_problem(error)}. Restore it from a copy, or name another one "
            f"with --keys. The gateway does not guess: without its keys it would be open."
        ) from error
    except OSError as error:
        raise KeyFileError(f"cannot read API keys from '{path}': {error}. Check owner and permissions.") from error


def keys_to_serve(path: Path) -> KeyRing:
    """The keys in ``path`` for a gateway that starts. Raises KeyFileError, also where keys were made and are gone.

    The lock's file, which stays, tells that some were made.
    """
    ring, lock = read_keys(path), _lock_of(path)
    if not ring and lock.exists():
        raise KeyFileError(
            f"API keys were made in '{path}', and now it holds none. Restore it from a copy or make one with "
            f"'mopo-serve key create NAME'; if the gateway shall be open again, remove '{lock}'."
        )
    return ring


def create_key(path: Path, name: str, **scope: object) -> tuple[ApiKey, str]:
    """Add a key to ``path``; returns it and its text. Raises KeyFileError."""
    try:
        key, text = make_key(name, _now(), **scope)
    except ValidationError as error:
        raise KeyFileError(f"no such key can be made: {first_problem(error)}") from error
    with _changing(path) as keys:
        if any(other.name == name and other.revoked_at is None for other in keys):
            raise KeyFileError(f"a key named '{name}' exists in '{path}'; revoke it first, or choose another name.")
        keys.append(key)
    return key, text


def revoke_key(path: Path, which: str) -> ApiKey:
    """Revoke the key whose id or name is ``which``. Raises KeyFileError."""
    with _changing(path) as keys:
        for index, key in enumerate(keys):
            if which in (key.id, key.name) and key.revoked_at is None:
                keys[index] = key.model_copy(update={"revoked_at": _now()})
                return keys[index]
        raise KeyFileError(f"no key '{which}' in '{path}' that is not revoked; see 'mopo-serve key list'.")


@contextmanager
def _changing(path: Path) -> Iterator[list[ApiKey]]:
    """The keys in ``path``, written back when the block ends without an exception; others wait meanwhile."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(_lock_of(path), os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise KeyFileError(f"cannot write API keys to '{path}': {error}") from error
    try:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        keys = list(read_keys(path).keys.values())
        yield keys
        _write(path, keys)
    finally:
        os.close(lock)


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _write(path: Path, keys: list[ApiKey]) -> None:
    """By rename, and never readable by others, not even for a moment."""
    content = json.dumps({"keys": [key.model_dump(exclude_defaults=True) for key in keys]}, indent=2) + "\n"
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise KeyFileError(f"cannot write API keys to '{path}': {error}") from error


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
