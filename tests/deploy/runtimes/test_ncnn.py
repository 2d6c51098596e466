"""The archive of ncnn's engines, and what they refuse."""

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_samples
import pytest
from onnx import helper

from deploy.errors import ArtifactError, BuildError
from deploy.runtimes import ncnn
from deploy.runtimes.ncnn_files import archive
from deploy.runtimes.ncnn_files.archive import NcnnFiles

PARAM = "7767517\n1 1\nInput in0 0 1 in0\n"
ABOUT = b'{"outputs":["class_logits"],"blobs":["out0"],"shape":[3,64,64],"precision":"fp32","digest":"DIGEST"}'
WEIGHTS = b"1234"


def parts(param: bytes = PARAM.encode(), about: bytes = ABOUT, compression: int = zipfile.ZIP_STORED, extra: str = "") -> bytes:
    written, about = io.BytesIO(), about.replace(b"DIGEST", hashlib.sha256(param + WEIGHTS).hexdigest().encode())
    with zipfile.ZipFile(written, "w", compression) as made:
        for name, data in {archive.PARAM: param, archive.BIN: WEIGHTS, archive.ABOUT: about, **({extra: b""} if extra else {})}.items():
            made.writestr(name, data)
    return written.getvalue()


FOREIGN: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "random": lambda: np.random.default_rng(0).bytes(2000),
    "an onnx file": lambda: onnx_samples.raw_detector().SerializeToString(),
    "cut": lambda: parts()[:-30],
    "damaged": lambda: parts().replace(b"1234", b"1334"),
    "compressed": lambda: parts(compression=zipfile.ZIP_DEFLATED),
    "more in it": lambda: parts(extra="../outside"),
    "about is no json": lambda: parts(about=b"{"),
    "about lacks blobs": lambda: parts(about=ABOUT.replace(b'["out0"]', b"[]")),
    "another network": lambda: parts(param=b"layers: 3"),
    "of another network": lambda: parts(about=ABOUT.replace(b"DIGEST", b"0" * 64)),
    "not text": lambda: parts(param=b"7767517 \xff"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_or_damaged_file_is_refused_with_one_line(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "engine.ncnn.zip"
    file.write_bytes(FOREIGN[kind]())
    with pytest.raises(ArtifactError, match="not an engine that ncnn can open") as refused:
        archive.read(file)
    assert "\n" not in str(refused.value)


def test_what_is_written_is_read_and_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    content = NcnnFiles(outputs=("class_logits",), blobs=("out0",), shape=(3, 64, 64), precision="fp16", param=PARAM, weights=b"\0\1\2")
    for name in ("one", "other"):
        archive.write(tmp_path / name, content)
    digest = hashlib.sha256(PARAM.encode() + b"\0\1\2").hexdigest()
    assert archive.read(tmp_path / "one") == content.model_copy(update={"digest": digest})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_graph_that_decodes_boxes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"export again with export\.decode: host"):
        ncnn.compile(onnx_samples.write(tmp_path / "model.onnx"), onnx_samples.HEADS, tmp_path)


@pytest.mark.skipif(ncnn.why_not_build({}) is not None or ncnn.why_not() is not None, reason="ncnn or pnnx is not installed")
class TestConverted:
    def test_an_operator_that_it_lacks_is_named(self, tmp_path: Path) -> None:
        model = onnx_samples.raw_detector()
        node = next(node for node in model.graph.node if node.op_type == "Mul")
        hidden = helper.make_node("IsNaN", [node.output[0]], ["is_nan"])
        chosen = helper.make_node("Where", ["is_nan", "one", node.output[0]], ["chosen"])
        at = list(model.graph.node).index(node) + 1
        for later in model.graph.node[at:]:
            later.input[:] = ["chosen" if name == node.output[0] else name for name in later.input]
        model.graph.node.insert(at, chosen)
        model.graph.node.insert(at, hidden)
        onnx.save(model, tmp_path / "model.onnx")
        with pytest.raises(BuildError, match=r"(ncnn has no operator|pnnx cannot convert)"):
            ncnn.compile(tmp_path / "model.onnx", onnx_samples.HEADS, tmp_path)

    def test_weights_that_are_cut_are_refused(self, tmp_path: Path) -> None:
        onnx.save(onnx_samples.raw_detector(), tmp_path / "model.onnx")
        file = ncnn.compile(tmp_path / "model.onnx", onnx_samples.HEADS, tmp_path).file
        content = archive.read(file)
        archive.write(file, content.model_copy(update={"weights": content.weights[:100]}))
        with pytest.raises(ArtifactError, match="not an engine that ncnn can open"):
            ncnn.open(file)
