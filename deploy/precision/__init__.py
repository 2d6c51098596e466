"""Numeric precision of a graph: its types, and the recipe that makes a lower one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Precision = Literal["fp32", "fp16", "int8"]
Batch = NDArray[np.float32]


class Calibration(Protocol):
    """So many preprocessed images [1, 3, H, W], a fresh pass at each iteration."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Recipe:
    """How a runtime wants the integers of int8. Weights are always signed, symmetric and per channel; `narrow_weights` have 7 bits."""

    signed_activations: bool
    quantize_bias: bool
    quantize_outputs: bool
    narrow_weights: bool = False


RangeMethod = Literal["min_max", "entropy", "percentile"]


@dataclass(frozen=True)
class Quantization:
    """How int8's ranges are read from the calibration images, and the layers that stay float."""

    ranges: RangeMethod = "min_max"
    float_layers: frozenset[str] = frozenset()


PLAIN = Quantization()


class LayerError(NamedTuple):
    """What int8 in one layer alone does to the head outputs: the mean square of the change over that of the output, of the worst one."""

    layer: str
    error: float
