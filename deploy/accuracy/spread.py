"""An evenly spread selection of items."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def spread(items: Sequence[T], wanted: int) -> list[T]:
    """At most `wanted` of the items, evenly spread, in their order, including the first and the last."""
    chosen = np.unique(np.linspace(0, len(items) - 1, min(wanted, len(items))).round().astype(int))
    return [items[index] for index in chosen.tolist()]
