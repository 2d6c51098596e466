"""A COCO dictionary as a file, whether its rows are in memory or not."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from deploy.machine.parallel import mapped
from stages.datasets.tables.rows import Rows

_encode = json.JSONEncoder(allow_nan=False).encode


def write(file: Path, coco: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write it in parts: the whole text would need as much memory again as all polygons.

    Rows that are not in memory are written out with all cores.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as written:
        written.writelines(_text(coco))


def _text(coco: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    for number, (key, rows) in enumerate(coco.items()):
        parts = mapped(partial(_block, rows), range(rows.num_blocks)) if isinstance(rows, Rows) else map(_encode, rows)
        yield f"{', ' if number else '{'}{_encode(key)}: ["
        for place, part in enumerate(parts):
            yield f"{', ' if place else ''}{part}"
        yield "]"
    yield "}"


def _block(rows: Rows, number: int) -> str:
    return ", ".join(map(_encode, rows.block(number)))
