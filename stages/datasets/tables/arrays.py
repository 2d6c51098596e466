"""NumPy files that are mapped when read, and written piece by piece where they may be larger than memory should hold."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray


def opened(folder: Path, name: str) -> NDArray[Any]:
    """Map an array of a folder for reading.

    Raises:
        OSError: it does not exist.
        ValueError: it is damaged.
    """
    found: NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    return found


def written(folder: Path, name: str, values: NDArray[Any]) -> None:
    """Write an array of a folder."""
    np.save(folder / f"{name}.npy", values, allow_pickle=False)


def streamed(folder: Path, name: str, pieces: Iterable[bytes], length: int, kind: DTypeLike) -> None:
    """Write a vector of known length from the bytes of its pieces, of which only one is in memory."""
    with (folder / f"{name}.npy").open("wb") as file:
        npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": (length,)})
        file.writelines(pieces)


def ends(lengths: Iterable[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of several pieces begins, and where the last one ends."""
    return np.cumsum([0, *lengths], dtype=np.int64)
