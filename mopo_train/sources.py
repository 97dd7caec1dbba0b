"""Where preference data lies, and its raw rows with their places.

A source is a file (JSON Lines, also compressed with gzip, or Parquet; told apart by content, not by name), a directory
with such files, or a data set on the hub. JSON Lines are read here line by line, because the reader of `datasets`
infers types from the first 10 MB (text that looks like a date becomes a date, a label of 1 makes 0.5 an error) and
cannot name the line that is wrong. Does not know what the rows mean.
"""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

from mopo_train.errors import DataError
from mopo_train.hub import settle_offline

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".parquet")
TRAINING = re.compile(r"(train|preferences)(\b|[-_]?\d)")
"""Files that a directory with several is read from; the others hold evaluation data or prompts."""
KEPT_APART = re.compile(r"(^|[-_.])(test|eval[a-z]*|valid[a-z]*|dev|held[a-z]*|prompts)(?![a-z])")
"""Names of files that are not taken for training without being named."""
SHARD = re.compile(r"-\d+-of-\d+(?=\.)")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

Row = Mapping[str, Any]


class RawRows(Protocol):
    """Rows of one file or data set."""

    @property
    def name(self) -> str:
        """As messages call it."""

    @property
    def unit(self) -> str:
        """What the numbers of ``rows`` count: ``line`` or ``row``."""

    def key(self) -> str:
        """Changes whenever the content does."""

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Every row with its number, from 1. Raises DataError."""


def find(given: str) -> list[RawRows]:
    """The files or the hub's data set that ``given`` names. Raises DataError."""
    path = Path(given)
    try:
        if path.is_dir():
            return [_open_file(file) for file in _choose(path)]
        if path.exists():
            return [_open_file(path)]
    except OSError as error:
        raise DataError(f"'{given}' cannot be read: {error.strerror or error}; check its permissions.") from error
    # a name inside a directory that exists is a misspelt path, and asking the hub for it would take long
    if HUB_NAME.fullmatch(given) and not path.parent.exists() and not given.endswith((*SUFFIXES, ".json")):
        return [HubRows(given)]
    raise DataError(
        f"no file or directory '{given}'; expected JSON Lines (also .gz), Parquet, a directory of such files, or a "
        "hub name such as owner/data-set. Check the spelling and the working directory."
    )


def _choose(root: Path) -> list[Path]:
    """The files of a directory to read: those for training, or all there are, in the order of their names."""
    found = sorted(file for place in (root, root / "data") if place.is_dir() for file in place.iterdir())
    files = [file for file in found if file.is_file() and file.name.endswith(SUFFIXES)]
    if not files:
        inside = ", ".join(file.name for file in found[:10]) or "nothing"
        raise DataError(
            f"no preference data in the directory '{root}': expected files that end in {', '.join(SUFFIXES)}; "
            f"it holds {inside}. Name the directory that holds them, or a file."
        )
    if _is_one(files):
        return files
    wanted = [file for file in files if TRAINING.match(file.name)] or files
    suffixes = {
        next(end for end in sorted(SUFFIXES, key=len, reverse=True) if file.name.endswith(end)) for file in wanted
    }
    if len(suffixes) > 1 or any(KEPT_APART.search(file.name) for file in wanted):
        listed = ", ".join(str(file.relative_to(root)) for file in files)
        raise DataError(
            f"the directory '{root}' holds several data files ({listed}); "
            "name the one to read, or each of them to join them."
        )
    return wanted


def _is_one(files: list[Path]) -> bool:
    """True for one file, or for the shards of one."""
    return len({SHARD.sub("", str(file)) for file in files}) == 1 and (
        len(files) == 1 or all(SHARD.search(file.name) for file in files)
    )


def _open_file(path: Path) -> RawRows:
    if not path.is_file():
        raise DataError(f"'{path}' is not a regular file; write the data to a file and name that.")
    with path.open("rb") as stream:
        head = stream.read(64)
    if not head:
        raise DataError(f"'{path}' is empty; expected one comparison per line.")
    return ParquetRows(path) if head.startswith(b"PAR1") else JsonLines(path, compressed=head.startswith(b"\x1f\x8b"))


def _content_key(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _RepeatedKey(Exception):
    """A key that an object has twice; a JSON reader would keep the last value silently."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return found


@dataclass(frozen=True)
class JsonLines:
    """A file with one JSON object per line."""

    path: Path
    compressed: bool
    unit: str = "line"

    @property
    def name(self) -> str:
        """The path as given."""
        return str(self.path)

    def key(self) -> str:
        """Digest of the content."""
        return _content_key(self.path)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Objects with their line numbers; blank lines are passed over."""
        number = 0
        try:
            with self._open() as stream:
                for number, line in enumerate(stream, start=1):
                    if line.strip():
                        yield number, self._parse(line, number, stream)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"'{self.path}' is cut off or damaged after line {number}: its gzip stream cannot be read ({error}). "
                "Copy or download it again."
            ) from error
        except OSError as error:
            raise DataError(f"'{self.path}' cannot be read: {error.strerror or error}.") from error

    def _open(self) -> IO[bytes]:
        return cast(IO[bytes], gzip.open(self.path, "rb")) if self.compressed else self.path.open("rb")

    def _parse(self, line: bytes, number: int, rest: IO[bytes]) -> Row:
        where = f"'{self.path}' line {number}"
        if b"\0" in line:
            raise DataError(
                f"'{self.path}' is binary, not text in UTF-8 (line {number}); expected JSON Lines or Parquet."
            )
        try:
            value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"), object_pairs_hook=_distinct)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where} is not text in UTF-8 ({error.reason}, byte {error.start}); expected JSON Lines in UTF-8 or "
                "Parquet. Save the file again in that encoding."
            ) from error
        except (ValueError, RecursionError) as error:
            cause = self._not_json(line, error, last=lambda: not rest.read(1))
            raise DataError(f"{where} {cause}.") from error
        except _RepeatedKey as error:
            raise DataError(f"{where} has the key '{error}' twice in one object; keep one of them.") from error
        if not isinstance(value, dict):
            raise DataError(
                f"{where} is {json.dumps(value)[:40]}; expected one JSON object per line, one per comparison."
            )
        return value

    def _not_json(self, line: bytes, error: Exception, last: Callable[[], bool]) -> str:
        """What ``line`` is instead of a JSON object, and what to write."""
        if line.startswith(b"version https://git-lfs"):
            return "is a pointer of Git LFS, not the data; fetch the file with 'git lfs pull'"
        if line.lstrip().startswith(b"["):
            return "begins a JSON array; write one object per line instead (JSON Lines)"
        if self.path.suffix in (".csv", ".tsv"):
            return (
                "is not JSON, and tables are not read; write one object per line (JSON Lines), or Parquet, with "
                'the labels of a row together: "preferences": {"helpfulness": 1, "safety": null}'
            )
        if not line.lstrip().startswith(b"{"):
            return f"is not JSON ({error}); expected one object per line (JSON Lines), or Parquet"
        if last():
            return f"is the last line and not a whole JSON object ({error}); the file may have been cut off"
        return f"is not a JSON object ({error}); expected one object per line"


@dataclass(frozen=True)
class ParquetRows:
    """A Parquet file."""

    path: Path
    unit: str = "row"

    @property
    def name(self) -> str:
        """The path as given."""
        return str(self.path)

    def key(self) -> str:
        """Digest of the content."""
        return _content_key(self.path)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Rows as Python objects, in batches that fit in memory."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        number = 0
        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=1000):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise DataError(
                f"'{self.path}' begins like Parquet but cannot be read after row {number} ({_short(error)}); "
                "it may have been cut off. Copy or download it again."
            ) from error


@dataclass(frozen=True)
class HubRows:
    """A data set on the Hugging Face hub (or in the cache of `datasets`)."""

    name: str
    unit: str = "row"

    def key(self) -> str:
        """Fingerprint that `datasets` gives the downloaded split."""
        return str(self._load()._fingerprint)

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Rows of the split for training."""
        yield from enumerate(self._load(), start=1)

    def _load(self) -> Any:
        """The split called train, or the only one."""
        import datasets

        settle_offline()
        try:
            splits = datasets.load_dataset(self.name)
        except Exception as error:  # the library's errors have no common base
            raise DataError(
                f"no file '{self.name}' here, and no data set of that name could be loaded from the hub "
                f"({type(error).__name__}: {_short(error)}). Check the name, the connection and HF_HUB_OFFLINE, "
                "or download the data and name the file."
            ) from error
        if len(splits) == 1:
            return next(iter(splits.values()))
        if "train" in splits:
            return splits["train"]
        raise DataError(
            f"the data set '{self.name}' has the splits {', '.join(splits)} and none is called train; "
            "download the one to read and name the file."
        )


def _short(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
