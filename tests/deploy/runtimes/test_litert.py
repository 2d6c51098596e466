"""What LiteRT's engines refuse, and what the conversion names."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_samples
import pytest
from onnx import helper

from deploy.errors import ArtifactError, BuildError
from deploy.runtimes import litert

pytestmark = pytest.mark.skipif(litert.why_not() is not None, reason="ai-edge-litert is not installed")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    onnx.save(onnx_samples.raw_detector(), tmp_path / "model.onnx")
    return litert.compile(tmp_path / "model.onnx", onnx_samples.HEADS, tmp_path).file


def test_a_graph_that_decodes_boxes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"export again with export\.decode: host"):
        litert.compile(onnx_samples.write(tmp_path / "model.onnx"), onnx_samples.HEADS, tmp_path)


def test_an_operator_that_is_not_converted_is_named(tmp_path: Path) -> None:
    model = onnx_samples.raw_detector()
    at, node = next((at, node) for at, node in enumerate(model.graph.node) if node.op_type == "Mul")
    kept, node.output[0] = node.output[0], "before"
    model.graph.node.insert(at + 1, helper.make_node("Softsign", ["before"], [kept]))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(BuildError, match="operator Softsign is not converted"):
        litert.compile(tmp_path / "model.onnx", onnx_samples.HEADS, tmp_path)


def test_a_mean_over_all_axes_is_refused(tmp_path: Path) -> None:
    model = onnx_samples.raw_detector()
    at, node = next((at, node) for at, node in enumerate(model.graph.node) if node.op_type == "Mul")
    kept, node.output[0] = node.output[0], "before"
    model.graph.node.insert(at + 1, helper.make_node("ReduceMean", ["before"], ["mean"]))
    model.graph.node.insert(at + 2, helper.make_node("Add", ["before", "mean"], [kept]))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(BuildError, match=r"ReduceMean over axes \[0, 1, 2, 3\] is not converted"):
        litert.compile(tmp_path / "model.onnx", onnx_samples.HEADS, tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"\x20\0\0\0TFL3", b"\x20\0\0\0TFL3" + bytes(500)], ids=["empty", "short", "cut", "zeros"]
)
def test_a_foreign_file_is_refused_with_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "engine.tflite").write_bytes(content)
    with pytest.raises(ArtifactError, match="not an engine that LiteRT can open") as refused:
        litert.open(tmp_path / "engine.tflite")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_cut_engine_is_refused(engine: Path, share: float) -> None:
    content = engine.read_bytes()
    engine.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArtifactError, match="not an engine that LiteRT can open"):
        litert.open(engine)


def test_other_outputs_and_other_sizes_are_refused(engine: Path) -> None:
    with litert.open(engine, threads=1) as session:
        with pytest.raises(ArtifactError, match="has no output quality"):
            session.heads(np.zeros((1, 3, 64, 64), np.float32), ("quality",))
        with pytest.raises(ArtifactError, match="failed on images"):
            session.heads(np.zeros((1, 3, 32, 64), np.float32), onnx_samples.HEADS.outputs)
        with pytest.raises(ArtifactError, match="decoded on the host"):
            session.infer(np.zeros((1, 3, 64, 64), np.float32))


def test_opening_an_engine_writes_nothing_to_stderr_and_holds_back_nothing_else(engine: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from deploy.runtimes import litert\n"
        "from deploy.runtimes.litert_files.quiet import without_greeting\n"
        "litert.open(pathlib.Path(sys.argv[1]), threads=1).close()\n"
        "with without_greeting():\n"
        "    os.write(2, b'INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\\nmine\\n')\n"
        "print('after', file=sys.stderr)\n"
        "os.close(2)\n"
        "litert.open(pathlib.Path(sys.argv[1]), threads=1).close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(engine)], capture_output=True, text=True, check=True)
    assert done.stderr == "mine\nafter\n"
