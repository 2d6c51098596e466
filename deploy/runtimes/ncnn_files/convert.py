"""Converts a graph of raw outputs to ncnn, by pnnx."""

import importlib.util
import subprocess
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from deploy.contract import Heads
from deploy.errors import BuildError
from deploy.precision import network
from deploy.precision.proof import proof
from deploy.runtimes import Compiled
from deploy.runtimes.ncnn_files import archive

_SECONDS = 600
_UNKNOWN = "pnnx.Expression", "pnnx.Attribute"


def convert(typed: Path, heads: Heads, out: Path) -> Compiled:
    """Write out/engine.ncnn.zip.

    Raises:
        BuildError: the graph decodes boxes itself, or has an operator that pnnx or ncnn lacks; the message names it.
    """
    model = network.read(typed)
    found = proof(model, heads)
    outputs = tuple(value.name for value in model.graph.output)
    if not set(outputs) <= set(heads.outputs):
        raise BuildError("ncnn computes raw outputs only, and this graph decodes boxes; export again with export.decode: host")
    shape = _fixed(model)
    half = found["convolutions_fp16"] > 0
    if half:
        _in_float(model)
    with TemporaryDirectory() as scratch:
        param, weights = _pnnx(model, Path(scratch), shape, half=half)
    _refuse_unknown(param)
    blobs = tuple(f"out{index}" for index in range(len(outputs)))
    stored: Literal["fp32", "fp16"] = "fp16" if half else "fp32"
    content = archive.NcnnFiles(outputs=outputs, blobs=blobs, shape=shape, precision=stored, param=param, weights=weights)
    file = out / "engine.ncnn.zip"
    archive.write(file, content)
    return Compiled(file, found)


def _fixed(model: ModelProto) -> tuple[int, int, int]:
    """Fix the batch at one image, which ncnn computes at a time; the image's shape."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].ClearField("dim_param")
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    channels, height, width = (int(one.dim_value) for one in dims[1:])
    return channels, height, width


def _in_float(model: ModelProto) -> None:
    """Declare as float whatever is fp16; weights keep their rounded values, which pnnx stores in fp16."""
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT16:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32), attribute.t.name))
    _without_casts(model)


def _without_casts(model: ModelProto) -> None:
    """Remove casts from float to float, except those that make an output."""
    outputs = {value.name for value in model.graph.output}
    same: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        if node.op_type == "Cast" and node.output[0] not in outputs:
            same[node.output[0]] = node.input[0]
        elif node.op_type == "Cast":
            kept.append(onnx.helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name))
        else:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del model.graph.node[:]
    model.graph.node.extend(_renamed(kept, outputs))


def _renamed(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """Without the identities that make outputs: what they read is given the outputs' names."""
    names = {node.input[0]: node.output[0] for node in nodes if node.op_type == "Identity" and node.output[0] in outputs}
    rest = [node for node in nodes if not (node.op_type == "Identity" and node.output[0] in outputs)]
    for node in rest:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return rest


def _pnnx(model: ModelProto, scratch: Path, shape: tuple[int, int, int], *, half: bool) -> tuple[str, bytes]:
    """ncnn's two files."""
    file = scratch / "model.onnx"
    file.write_bytes(model.SerializeToString())
    command = [_program(), str(file), f"inputshape=[1,{','.join(map(str, shape))}]", f"fp16={int(half)}"]
    try:
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"pnnx did not end within {_SECONDS} s") from error
    param, weights = scratch / "model.ncnn.param", scratch / "model.ncnn.bin"
    if done.returncode or not param.exists() or not weights.exists():
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise BuildError(f"pnnx cannot convert the graph: {lines[-1][:300] if lines else f'exit code {done.returncode}'}")
    return param.read_text(encoding="ascii"), weights.read_bytes()


def _program() -> str:
    """The executable in the package, which needs nothing else; importing the package would import torch."""
    spec = importlib.util.find_spec("pnnx")
    folder = Path(next(iter(spec.submodule_search_locations or ()))) if spec is not None else Path()
    found = next((path for path in (folder / "pnnx", folder / "pnnx.exe") if path.is_file()), None)
    if found is None:
        raise BuildError("the package pnnx has no program for this system; build on Linux, macOS or Windows on x86-64 or ARM64")
    return str(found)


def _refuse_unknown(param: str) -> None:
    """Refuse a network with layers that ncnn does not have: pnnx leaves in what it cannot convert."""
    kinds = Counter(line.split()[0] for line in param.splitlines()[2:] if line.strip())
    unknown = sorted(kind for kind in kinds if "." in kind or "::" in kind or kind in _UNKNOWN)
    if unknown:
        raise BuildError(f"ncnn has no operator {', '.join(unknown)[:200]}; choose a different runtime, or a network without it")
