"""Long columns of numbers in memory-mapped files, so that what a process holds does not grow with the data.

The files lie with the cache, have no name and go with the process. The system takes their pages back at need, as it
cannot with memory that belongs to the process.
"""

import tempfile
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mopo_train.cache import cache_root

Number = TypeVar("Number", bound=np.generic)
LONG = 4 << 20
"""Bytes from which on a column is worth a file."""


def mapped(column: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """``column``, out of memory if it is long; what is written to it later stays with this process."""
    if column.nbytes < LONG:
        return column
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=root) as file:
        file.write(np.ascontiguousarray(column).data)  # unlike tofile, it says when a disk is full
        file.flush()
        # "c": a copy on write. Torch warns of arrays that cannot be written to.
        return np.asarray(np.memmap(file, dtype=column.dtype, mode="c", shape=column.shape))
