"""Engines that are ONNX files, compiled for the machine when they are opened."""

import importlib.util
from collections.abc import Collection, Sequence
from pathlib import Path

from deploy.contract import Heads
from deploy.errors import ArtifactError, RuntimeUnavailable
from deploy.precision import Calibration, Precision, Quantization, Recipe
from deploy.runtimes import Compiled

OUTPUTS = ("boxes", "scores", "labels", "converged")
"""Outputs of every engine; engines with masks also have `masks`."""


def write(
    onnx: Path, out: Path, precision: Precision, calibration: Calibration, heads: Heads, recipe: Recipe, quantization: Quantization
) -> Compiled:
    """Write out/engine.onnx in the precision.

    Raises:
        RuntimeUnavailable: the onnx package is missing.
        BuildError: the graph cannot be converted.
    """
    if importlib.util.find_spec("onnx") is None:
        raise RuntimeUnavailable('onnx is not installed: pip install "edgedistill[build]"')
    # Only converting needs the onnx package: an edge box has just its runtime.
    from deploy.precision import network, typed

    model = typed.typed(network.read(onnx), precision, heads, calibration, recipe, quantization)
    file = out / "engine.onnx"
    file.write_bytes(onnx.read_bytes() if precision == "fp32" else model.SerializeToString())
    return Compiled(file, typed.proof(network.read(file), heads))


def outputs(file: Path, inputs: Sequence[str], names: Collection[str]) -> tuple[str, ...]:
    """The outputs to request from an engine with these inputs and outputs.

    Raises:
        ArtifactError: it is not an edgedistill engine.
    """
    if list(inputs) != ["images"] or not set(names).issuperset(OUTPUTS):
        raise ArtifactError(f"{file}: not an edgedistill engine; it needs the input images and the outputs {', '.join(OUTPUTS)}")
    return (*OUTPUTS, "masks") if "masks" in names else OUTPUTS
