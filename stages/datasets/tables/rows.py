"""The rows of a COCO list as a sequence that is not in memory: kept in a temporary file, from which they are read in blocks.

The annotations of a large data set take gigabytes as dictionaries, most of them for the numbers of polygons.
"""

import os
import pickle
import sys
import tempfile
import threading
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

Row = dict[str, Any]
Change = Callable[[Row], Row]

_BLOCK = 256
"""Rows that are read together."""
_IN_MEMORY = 2**24
"""Bytes; what needs no more is not written to a file."""


class _Blocks:
    """Rows as bytes, those of a block together, the masks of a block apart from everything else."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed with this object
        weakref.finalize(self, self._file.close)
        self._starts = array("q")
        self.num_rows = 0
        left = iter(rows)
        while block := list(islice(left, _BLOCK)):
            self._write([row | {"segmentation": bool(row["segmentation"])} if "segmentation" in row else row for row in block])
            self._write([row["segmentation"] for row in block if "segmentation" in row])
            self.num_rows += len(block)
        self._starts.append(self._file.tell())
        self._file.flush()
        self._lock = threading.Lock()

    @property
    def num_blocks(self) -> int:
        """Each of _BLOCK rows, except the last one."""
        return len(self._starts) // 2

    def _write(self, part: list[Any]) -> None:
        self._starts.append(self._file.tell())
        try:
            self._file.write(pickle.dumps(part, pickle.HIGHEST_PROTOCOL))
        except OSError as error:
            raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from error

    def read(self, block: int, *, masks: bool) -> list[Row]:
        """New dictionaries of a block's rows; without masks, `segmentation` is only whether there is one."""
        rows = self._part(2 * block)
        if masks:
            found = iter(self._part(2 * block + 1))
            for row in rows:
                if "segmentation" in row:
                    row["segmentation"] = next(found)
        return rows

    def _part(self, number: int) -> list[Any]:
        part: list[Any] = pickle.loads(self._bytes(self._starts[number], self._starts[number + 1]))  # noqa: S301 - written above
        return part

    def _bytes(self, start: int, end: int) -> bytes:
        """A part of the file, whatever other threads, and processes that were forked from this one, are reading."""
        if self._starts[-1] > _IN_MEMORY and sys.platform != "win32":
            return os.pread(self._file.fileno(), end - start, start)
        with self._lock:
            self._file.seek(start)
            return self._file.read(end - start)


class Rows(Sequence[Row]):
    """Rows that are read again on each pass, as new dictionaries: whoever changes one changes nothing here."""

    def __init__(self, blocks: _Blocks, changes: tuple[Change, ...] = (), *, masks: bool = True) -> None:
        self._blocks = blocks
        self._changes = changes
        self._masks = masks

    @classmethod
    def kept(cls, rows: Iterable[Row]) -> "Rows":
        """Keep rows that consist of JSON's values.

        Raises:
            OSError: the temporary file cannot be written.
        """
        return cls(_Blocks(rows))

    def changed(self, change: Change) -> "Rows":
        """The rows as `change` returns them; it is called on each pass."""
        return Rows(self._blocks, (*self._changes, change), masks=self._masks)

    def light(self) -> "Rows":
        """The rows in a third of the time, in which `segmentation` is only whether there is one."""
        return Rows(self._blocks, self._changes, masks=False)

    def __len__(self) -> int:
        return self._blocks.num_rows

    def __iter__(self) -> Iterator[Row]:
        for block in range(self.num_blocks):
            yield from self.block(block)

    @property
    def num_blocks(self) -> int:
        """The blocks in which rows are read."""
        return self._blocks.num_blocks

    def block(self, number: int) -> Iterator[Row]:
        """The rows of a block, which other threads and processes forked from this one may read at the same time."""
        return map(self._change, self._blocks.read(number, masks=self._masks))

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """One row, or several as a list."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self._change(self._blocks.read(place // _BLOCK, masks=self._masks)[place % _BLOCK])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _change(self, row: Row) -> Row:
        for change in self._changes:
            row = change(row)
        return row


def light(rows: Sequence[Any]) -> Sequence[Any]:
    """The rows without masks if they would have to be read; rows in memory as they are."""
    return rows.light() if isinstance(rows, Rows) else rows
