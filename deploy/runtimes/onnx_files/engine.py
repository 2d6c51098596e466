"""Engines that are ONNX files, compiled for the machine when they are opened."""

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from deploy.contract import Heads
from deploy.errors import ArtifactError
from deploy.runtimes import HOST_OUTPUT, Compiled

OUTPUTS = ("boxes", "scores", "labels", "converged")
"""Outputs of every engine; engines with masks also have `masks`."""


def write(typed: Path, heads: Heads, out: Path) -> Compiled:
    """Write the graph as out/engine.onnx.

    Raises:
        BuildError: the graph is damaged or lacks a head output.
    """
    # Only building needs the onnx package: an edge box has just its runtime.
    from deploy.precision.network import read
    from deploy.precision.proof import proof

    found = proof(read(typed), heads)
    return Compiled(Path(shutil.copyfile(typed, out / "engine.onnx")), found)


def outputs(file: Path, inputs: Sequence[str], names: Collection[str]) -> tuple[str, ...]:
    """The outputs to request from an engine with these inputs and outputs; none if boxes are decoded on the host.

    Raises:
        ArtifactError: it is not an edgedistill engine.
    """
    if list(inputs) == ["images"] and HOST_OUTPUT in names:
        return ()
    if list(inputs) != ["images"] or not set(names).issuperset(OUTPUTS):
        raise ArtifactError(f"{file}: not an edgedistill engine; it needs the input images and the outputs {', '.join(OUTPUTS)}")
    return (*OUTPUTS, "masks") if "masks" in names else OUTPUTS
