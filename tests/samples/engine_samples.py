"""Engines of a graph without the stages around them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_samples
from numpy.typing import NDArray
from onnx import ModelProto

from deploy.contract import Heads
from deploy.engines.builder import Builder, TypedGraphs
from deploy.engines.request import BuildRequest, GraphSource
from deploy.precision import Calibration, Precision, RangeMethod, Recipe
from deploy.precision.int8 import Quantizer
from deploy.prediction import preprocess
from deploy.runtimes import Compiled, Raw

CELLS = {(0, 1): 0, (2, 3): 2, (3, 0): 1}
FOUND = {(16.0, 0.0, 32.0, 16.0, 0), (48.0, 32.0, 64.0, 48.0, 2), (0.0, 48.0, 16.0, 64.0, 1)}
"""Cells of a picture, and what the sample detector finds in it: corners and label."""


def images(*cells: dict[tuple[int, int], int]) -> NDArray[np.float32]:
    """The network's input for pictures with these cells."""
    preprocessing = onnx_samples.contract().preprocessing
    return np.stack([preprocess.apply(onnx_samples.picture(one), preprocessing)[0] for one in cells])


def found(raw: Raw, index: int = 0) -> set[tuple[float, ...]]:
    """The objects in an image of an answer."""
    keep = raw.scores[index] > 0
    return {(*box, label) for box, label in zip(raw.boxes[index, keep].tolist(), raw.labels[index, keep].tolist(), strict=True)}


def builder(
    runtime: str,
    model: Path,
    scratch: Path,
    calibration: Calibration = (),
    heads: Heads = onnx_samples.HEADS,
    ranges: RangeMethod = "min_max",
    **options: Any,
) -> Builder:
    """What types and compiles the graph in this file."""
    source = GraphSource(model, heads, onnx_samples.contract(), calibration)
    return Builder(TypedGraphs(source, ranges, scratch), BuildRequest(runtime, "fp32", options, ranges))


def compiled(
    runtime: str,
    model: Path,
    scratch: Path,
    precision: Precision,
    calibration: Calibration = (),
    heads: Heads = onnx_samples.HEADS,
    options: Mapping[str, Any] | None = None,
) -> Compiled:
    """The graph's engine, in a folder of `scratch`."""
    return builder(runtime, model, scratch, calibration, heads, **(options or {})).compiled(precision)


def integers(model: ModelProto, calibration: Calibration, recipe: Recipe, scratch: Path) -> ModelProto:
    """A graph like onnx_samples' with every layer in int8."""
    quantizer = Quantizer(model, onnx_samples.HEADS, calibration, recipe, "min_max", scratch)
    return quantizer.quantized(quantizer.layers)
