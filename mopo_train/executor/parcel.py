"""Files and directories as bytes, for machines without a file system in common."""

import shutil
from collections.abc import Iterable
from pathlib import Path

Parcel = dict[str, bytes | dict[str, bytes]]
"""By path relative to a directory of the receiver's: the contents of a file, or of each file in a directory."""


def pack(root: Path, paths: Iterable[Path]) -> Parcel:
    """The files and flat directories at ``paths`` in ``root``."""
    return {path.relative_to(root).as_posix(): files_of(path) if path.is_dir() else path.read_bytes() for path in paths}


def files_of(directory: Path) -> dict[str, bytes]:
    """The contents of the files in a directory, by name."""
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir()) if file.is_file()}


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
            for file, part in content.items():
                (partial / file).write_bytes(part)
        partial.replace(whole)
