"""What is made of data and models and kept for the next run: converted rows, tokens, log-probabilities, shipped models.

Entries lie together, each named after the content that it was made of: a file (`replacing`) or a directory (`stored`),
whole or absent, and open to others as the umask says, so that a team may share them. Together they take at most
``MOPO_CACHE_GB`` gigabytes (50): beyond that the ones that were not used for longest go, but none that was used within
a day.
"""

import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mopo_train.errors import MopoError

LIMIT = "MOPO_CACHE_GB"
USUAL_LIMIT = 50.0
YOUNG = 24 * 3600
"""Seconds since its last use for which an entry is safe: longer than most runs."""


def cache_root() -> Path:
    """Where entries lie: with the cache of `datasets`."""
    import datasets

    return Path(os.environ.get("HF_DATASETS_CACHE") or datasets.config.HF_DATASETS_CACHE) / "mopo"


def used(entry: Path) -> None:
    """Say that ``entry``, a file or directory, is used now."""
    with suppress(PermissionError):  # somebody else's
        os.utime(entry)


@contextmanager
def replacing(entry: Path) -> Iterator[Path]:
    """A file beside ``entry`` to write, which takes its place, whole, when the block ends.

    It is this block's alone: other processes may write the same entry.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    partial = entry.with_suffix(f".{secrets.token_hex(8)}.partial{entry.suffix}")
    try:
        yield partial
        partial.replace(entry)
    finally:
        partial.unlink(missing_ok=True)


def stored(entry: Path, whole: Callable[[Path], bool], make: Callable[[Path], None]) -> None:
    """See that the directory ``entry`` is ``whole``: else ``make`` fills one beside it, which then takes its place.

    Processes that make the same entry at the same time do not wait for each other.
    """
    if whole(entry):
        return
    entry.parent.mkdir(parents=True, exist_ok=True)
    partial = entry.parent / f"partial-{secrets.token_hex(8)}"
    partial.mkdir()  # tempfile's would be this user's alone
    try:
        make(partial)
        if not whole(entry):  # else another process was first, and reads its own by now
            shutil.rmtree(entry, ignore_errors=True)
            partial.rename(entry)
    except OSError:
        if not whole(entry):  # otherwise another process was first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def tidy(root: Path) -> None:
    """Delete the entries of ``root`` that were not used for longest, as far as they exceed the limit together.

    What cannot be measured or deleted stays: somebody else's, or another process tidies up, too.
    """
    excess, found = -cache_limit(), list[tuple[float, int, Path]]()
    for path in root.glob("*"):
        with suppress(OSError):
            found.append((path.stat().st_mtime, _size(path), path))
    excess += sum(size for _, size, _ in found)
    for last, size, path in sorted(found):
        if excess <= 0 or time.time() - last < YOUNG:
            return
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            excess -= size


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def cache_limit() -> float:
    """Bytes that entries may take together. Raises MopoError for a ``MOPO_CACHE_GB`` that says no size."""
    told = os.environ.get(LIMIT) or str(USUAL_LIMIT)
    try:
        limit = float(told) * 1e9
    except ValueError:
        limit = math.nan
    if not limit >= 0:  # NaN as well, which would let everything go
        raise MopoError(f"{LIMIT} is '{told}', expected gigabytes, for example {LIMIT}=50.")
    return limit
