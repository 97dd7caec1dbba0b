"""Files and directories as bytes, for machines without a file system in common."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mopo_train.cache import stored

Parcel = dict[str, bytes | dict[str, bytes]]
"""By path relative to a directory of the receiver's: the contents of a file, or of each file in a directory."""


def pack(root: Path, paths: Iterable[Path]) -> Parcel:
    """The files and flat directories at ``paths`` in ``root``."""
    return {path.relative_to(root).as_posix(): files_of(path) if path.is_dir() else path.read_bytes() for path in paths}


def files_of(directory: Path) -> dict[str, bytes]:
    """The contents of the files in a directory, by name."""
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir()) if file.is_file()}


def kept(place: Path, fetch: Callable[[], dict[str, bytes]]) -> Path:
    """The directory ``place`` with the files that ``fetch`` gives, which is asked once: it stays (`cache.stored`)."""
    stored(place, Path.is_dir, lambda partial: _write(fetch(), partial))
    return place


def unpack(parcel: Parcel, root: Path) -> None:
    """Write ``parcel`` into ``root``, each piece whole, by rename; a directory that is there stays."""
    for name, content in parcel.items():
        whole = root / name
        if whole.is_dir():
            continue
        partial = whole.with_name(whole.name + ".partial")
        whole.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            partial.write_bytes(content)
        else:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _write(content, partial)
        partial.replace(whole)


def _write(files: Mapping[str, bytes], directory: Path) -> None:
    for name, content in files.items():
        (directory / name).write_bytes(content)
