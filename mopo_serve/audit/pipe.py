"""How a gateway and its audit worker talk: frames of pickled values one way, lines of text the other.

A frame is its length (4 bytes, big endian) and a pickle. Both ends are one program, started by the same person: a
worker reads pickles from its parent and from nobody else.
"""

import pickle
from typing import IO, Any, NamedTuple

LENGTH_BYTES = 4


class Settings(NamedTuple):
    """The first frame. Not on the command line, where everybody on the machine could read the password in ``place``."""

    place: str
    writer: str
    spill: str
    """Directory of spill files."""
    spill_bytes: int


def frame(value: Any) -> bytes:
    """``value`` as a frame."""
    content = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return len(content).to_bytes(LENGTH_BYTES, "big") + content


def read_frame(stream: IO[bytes]) -> Any:
    """The next value; None at the end, also in the middle of a frame: it was never acknowledged."""
    length = stream.read(LENGTH_BYTES)
    if len(length) < LENGTH_BYTES:
        return None
    size = int.from_bytes(length, "big")
    content = stream.read(size)
    return pickle.loads(content) if len(content) == size else None
