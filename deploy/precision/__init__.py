"""Numeric precision of a graph: its types, and the recipe for lowering it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Precision = Literal["fp32", "fp16", "int8"]
Batch = NDArray[np.float32]


class Calibration(Protocol):
    """A fixed number of preprocessed images [1, 3, H, W], each read when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Batch: ...


@dataclass(frozen=True)
class Recipe:
    """The kind of int8 that a runtime requires. Weights are always signed, symmetric and per channel; `narrow_weights` have 7 bits.

    `quantize_joins` also rounds what sums and concatenations of features read; only networks that are trained for int8 have that.
    """

    signed_activations: bool
    quantize_bias: bool
    quantize_outputs: bool
    narrow_weights: bool = False
    quantize_joins: bool = False

    @property
    def for_training(self) -> "Recipe":
        """The kind of int8 that a network is trained for: where outputs of layers are not rounded, a sum would otherwise stay float."""
        return replace(self, quantize_joins=self.signed_activations and not self.quantize_outputs)


RangeMethod = Literal["min_max", "entropy", "percentile"]
"""How int8 ranges are derived from the calibration images."""


Ranges = Mapping[str, tuple[float, float]]
"""The least and the largest value of each tensor of a graph."""


class LayerError(NamedTuple):
    """Effect of int8 in a single layer: the mean square change of a head output over its mean square, for the worst head output."""

    layer: str
    error: float
