"""Builds an engine of LiteRT from a typed graph."""

from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.contract import Heads
from deploy.errors import BuildError
from deploy.precision import network
from deploy.precision.int8 import fold
from deploy.precision.proof import proof
from deploy.runtimes import Compiled
from deploy.runtimes.litert_files.convert import Converter
from deploy.runtimes.litert_files.rules import RULES
from deploy.runtimes.onnx_files.plain import fix_batch, sorting, to_float


def build(typed: Path, heads: Heads, out: Path) -> Compiled:
    """Write out/engine.tflite.

    Raises:
        BuildError: the graph decodes boxes itself, or has an operator that is not converted.
    """
    model = network.read(typed)
    found = proof(model, heads)
    outputs = tuple(value.name for value in model.graph.output)
    if not set(outputs) <= set(heads.outputs):
        raise BuildError(
            f"litert computes raw outputs only, and this graph decodes boxes{sorting(model)}; export again with export.decode: host"
        )
    fix_batch(model)
    half = found["convolutions_fp16"] > 0
    if half:
        to_float(model)
    if not any(count for name, count in found.items() if name.endswith("_int8")):
        with TemporaryDirectory() as scratch:
            model = fold(model, Heads(outputs=outputs), Path(scratch))
    # A graph in int8 was folded before it was quantized; ONNX Runtime would now move its roundings.
    file = out / "engine.tflite"
    file.write_bytes(Converter(model, RULES, half=half).content())
    return Compiled(file, found)
