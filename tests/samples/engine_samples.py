"""Engines of a graph without the stages around them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_samples
from onnx import ModelProto

from deploy.contract import Heads
from deploy.engines.builder import Builder, TypedGraphs
from deploy.engines.request import BuildRequest, GraphSource
from deploy.precision import Calibration, Precision, RangeMethod, Recipe
from deploy.precision.int8 import Quantizer
from deploy.runtimes import Compiled


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
