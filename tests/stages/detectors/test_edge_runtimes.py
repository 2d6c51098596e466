"""Every detector by every runtime of small machines: it agrees with ONNX Runtime, or is refused with one line that names an operator.

Of the table in docs/host-decoding.md, see `agrees`.
"""

import base64
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import detector_samples
import numpy as np
import pytest
import torch
import web_page
from dense_samples import lively

from deploy import plugins
from deploy.errors import BuildError, ConfigError
from deploy.runtimes import ort
from deploy.shipping.web import ORT_FILES
from stages.config import ExportConfig
from stages.detectors import GraphOptions
from stages.detectors.dense.detector import DenseGraph
from stages.exports.to_onnx import write_onnx
from stages.measurement.torch_accuracy import host_decoding

SIZE = detector_samples.SIZE
NAMES = plugins.names("stages.detectors")
HOST = ("atss", "fcos", "fsaf", "gfl", "retinanet", "yolox")
"""Detectors whose boxes a host can decode."""
TOLERANCE = {"ncnn": 5e-3, "litert": 1e-3}
BACKBONES = ("mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf")
REFUSED: dict[tuple[str, str], str] = {}
"""What is refused, by runtime and detector or backbone, with the operator that the message names."""
OPTIONS = GraphOptions(20, 40, 0.05, 0.55, 50)


def runtime(name: str) -> Any:
    """A runtime that can build and open engines here; otherwise the test is skipped."""
    own = plugins.load("deploy.runtimes", name)
    if (why := own.why_not() or (own.why_not_build({}) if hasattr(own, "why_not_build") else None)) is not None:
        pytest.skip(why)
    return own


def agrees(name: str, options: dict[str, object], chosen: str, tmp_path: Path, refused: str | None) -> None:
    """Convert a detector's raw outputs and compare them, or see that the refusal names the operator."""
    own, module = runtime(chosen), plugins.load("stages.detectors", name)
    torch.manual_seed(0)
    graph = lively(module.build(3, **{**module.TINY, **options})).graph(OPTIONS).eval()
    assert isinstance(graph, DenseGraph)
    decoding = graph.decoding(SIZE)
    assert decoding is not None
    heads = write_onnx(graph, SIZE, tmp_path / "raw.onnx", raw=decoding.outputs)
    if refused is not None:
        with pytest.raises(BuildError, match=refused):
            own.compile(tmp_path / "raw.onnx", heads, tmp_path)
        return
    file = own.compile(tmp_path / "raw.onnx", heads, tmp_path).file
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1)).numpy()
    with ort.open(tmp_path / "raw.onnx", threads=1) as session:
        expected = session.heads(images, decoding.outputs)
    with own.open(file, threads=1) as session:
        found = session.heads(images, decoding.outputs)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() < TOLERANCE[chosen] * max(1.0, float(np.abs(other).max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", HOST)
@pytest.mark.parametrize("chosen", sorted(TOLERANCE))
def test_the_raw_outputs_are_the_graphs(name: str, chosen: str, tmp_path: Path) -> None:
    agrees(name, {}, chosen, tmp_path, REFUSED.get((chosen, name)))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("chosen", sorted(TOLERANCE))
def test_so_are_those_of_mobile_backbones(backbone: str, chosen: str, tmp_path: Path) -> None:
    agrees("fcos", {"backbone": backbone, "width": 64}, chosen, tmp_path, REFUSED.get((chosen, backbone)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """A detector's graph that decodes boxes itself, and its heads; exported once."""
    known: dict[str, tuple[Path, Any]] = {}

    def exported(name: str) -> tuple[Path, Any]:
        if name not in known:
            file = tmp_path_factory.mktemp(name) / "model.onnx"
            detector = detector_samples.confident(detector_samples.tiny(name))
            known[name] = file, write_onnx(detector.graph(OPTIONS).eval(), SIZE, file)
        return known[name]

    return exported


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NAMES) - set(HOST)))
def test_others_are_refused_with_one_line(name: str, whole: Callable[[str], tuple[Path, Any]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name} decodes its boxes in the graph only; set it to graph, or choose") as refused:
        host_decoding(detector_samples.tiny(name), SIZE, ExportConfig(decode="host"))
    assert "\n" not in str(refused.value)
    file, heads = whole(name)
    for chosen in sorted(TOLERANCE):
        with pytest.raises(BuildError, match=r"decodes boxes \((TopK|NonMaxSuppression|NonZero|Gather|Scatter)") as unbuilt:
            runtime(chosen).compile(file, heads, tmp_path)
        assert "\n" not in str(unbuilt.value)


_RUN = """async ([text, shape]) => {
  const ort = await import("./ort.wasm.min.mjs");
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = new URL("./", location.href).href;
  const session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const found = await session.run({ images: new ort.Tensor("float32", new Float32Array(bytes.buffer), shape) });
  return ["boxes", "scores", "labels"].map((name) => Array.from(found[name].data, Number));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if (reason := web_page.why_not()) is not None:
        pytest.skip(reason)
    with web_page.browsing() as found:
        yield found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_browser_finds_the_same(name: str, whole: Callable[[str], tuple[Path, Any]], browser: Any, tmp_path: Path) -> None:
    file, _ = whole(name)
    for part in ORT_FILES:
        shutil.copyfile(Path(str(web_page.ORT_WEB)) / "dist" / part, tmp_path / part)
    shutil.copyfile(file, tmp_path / "model.onnx")
    (tmp_path / "index.html").write_text("<title>none</title>", encoding="utf-8")
    images = detector_samples.images(name, 1).numpy()
    with ort.open(file, threads=1) as session:
        expected = session.infer(images)
    page = browser.new_page()
    with web_page.served(tmp_path) as address:
        page.goto(address)
        boxes, scores, labels = page.evaluate(_RUN, [base64.b64encode(images.tobytes()).decode(), list(images.shape)])
    page.close()
    assert (expected.scores > 0).any()
    np.testing.assert_allclose(scores, expected.scores[0], atol=1e-4)
    certain = expected.scores[0] > 0
    assert np.array(labels)[certain].tolist() == expected.labels[0][certain].tolist()
    np.testing.assert_allclose(np.reshape(boxes, (-1, 4))[certain], expected.boxes[0][certain], atol=0.1)
