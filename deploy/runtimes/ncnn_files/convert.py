"""Converts a graph of raw outputs to ncnn, by pnnx."""

import importlib.util
import subprocess
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from onnx import ModelProto

from deploy.contract import Heads
from deploy.errors import BuildError
from deploy.precision import network
from deploy.precision.proof import proof
from deploy.runtimes import Compiled
from deploy.runtimes.ncnn_files import archive
from deploy.runtimes.ncnn_files.skipping import pick_by_convolution
from deploy.runtimes.onnx_files.plain import fix_batch, sorting, to_float

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
        raise BuildError(
            f"ncnn computes raw outputs only, and this graph decodes boxes{sorting(model)}; export again with export.decode: host"
        )
    shape = fix_batch(model)
    half = found["convolutions_fp16"] > 0
    if half:
        to_float(model)
    pick_by_convolution(model)
    with TemporaryDirectory() as scratch:
        param, weights = _pnnx(model, Path(scratch), shape, half=half)
    _refuse_unknown(param)
    blobs = tuple(f"out{index}" for index in range(len(outputs)))
    stored: Literal["fp32", "fp16"] = "fp16" if half else "fp32"
    content = archive.NcnnFiles(outputs=outputs, blobs=blobs, shape=shape, precision=stored, param=param, weights=weights)
    file = out / "engine.ncnn.zip"
    archive.write(file, content)
    return Compiled(file, found)


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
