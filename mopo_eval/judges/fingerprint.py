"""What a judge was when it judged: a digest of everything at hand here that decides its verdicts.

Two judges of one name may differ: somebody edits a callable, trains a classifier again in the same directory, or
changes a judge's data. What lies elsewhere, such as the model behind an endpoint or a module that a callable imports,
cannot be seen; of it only the settings count.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

DIGITS = 12


def of_settings(name: str, settings: Mapping[str, Any]) -> str:
    """Of a judge that its ``settings``, which JSON has, describe in full."""
    return _short(json.dumps([name, settings], sort_keys=True).encode())


def of_source(name: str, *objects: ModuleType | Callable[..., Any]) -> str:
    """Of a judge that is the source of ``objects``, functions by their whole modules; of its name without a source."""
    texts = []
    for each in objects:
        module = each if isinstance(each, ModuleType) else inspect.getmodule(each)
        try:
            texts.append(inspect.getsource(module) if module else "")
        except (OSError, TypeError):  # built in, compiled, or typed into a console
            texts.append("")
    return _short(json.dumps([name, texts]).encode("utf-8", "surrogatepass"))


def of_files(name: str, paths: Sequence[Path]) -> str:
    """Of a judge that is what ``paths`` hold: files, or directories with all files below; missing ones by name."""
    digests = []
    for path in paths:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        digests += [[str(file.relative_to(path)), _file_digest(file)] for file in files]
    return _short(json.dumps([name, digests]).encode())


def _file_digest(path: Path) -> str:
    try:
        state = path.stat()
    except OSError:
        return f"not here: {path}"
    return _read_digest(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=256)
def _read_digest(path: Path, changed: int, size: int) -> str:
    """SHA-256 of a file, read once for each time that it ``changed``: weights are large."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]
