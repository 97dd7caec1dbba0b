"""Files of preference data for tests."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def row(prompt: Any = "Why?", a: Any = "Because.", b: Any = "No idea.", labels: Any = None, **more: Any) -> Row:
    """One comparison in our own format; a is helpful and b is safe unless ``labels`` says otherwise."""
    preferences = {"helpfulness": 1, "safety": 0} if labels is None else labels
    return {"prompt": prompt, "response_a": a, "response_b": b, "preferences": preferences, **more}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """``rows`` as JSON Lines, compressed where the name ends in .gz."""
    text = "".join(json.dumps(item) + "\n" for item in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path
