"""The programs of examples/cpp, compiled and run: they find what `predict` finds.

EDGEDISTILL_NCNN is where ncnn for C++ is installed, EDGEDISTILL_LITERT a folder with LiteRT's headers, in litert/c; its library comes with
the package ai-edge-litert. EDGEDISTILL_JSON is where nlohmann/json.hpp is, if it is not installed.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import detector_samples
import numpy as np
import pytest
from PIL import Image

from deploy import plugins
from deploy.contract import ModelContract, Preprocessing
from deploy.prediction.image_files import load_image
from deploy.prediction.predictor import SessionPredictor
from stages.detectors import GraphOptions
from stages.detectors.dense.detector import DenseGraph
from stages.exports.to_onnx import write_onnx

EXAMPLES = Path(__file__).parents[2] / "examples" / "cpp"
SIZE = detector_samples.SIZE
NEEDS = {"ncnn": "EDGEDISTILL_NCNN", "litert": "EDGEDISTILL_LITERT"}
PREPARED: dict[str, dict[str, Any]] = {
    "fcos": {"resize": "letterbox", "interpolation": "bilinear"},
    "retinanet": {"resize": "stretch", "interpolation": "bicubic", "color": "bgr"},
    "gfl": {"resize": "shortest_edge", "interpolation": "bilinear"},
    "yolox": {"resize": "letterbox", "interpolation": "nearest", "mean": (0, 0, 0), "std": (1, 1, 1)},
}
"""Detectors that differ in how scores and boxes are decoded, each with a different way of preparing images."""

pytestmark = pytest.mark.slow


def options() -> list[str]:
    """What CMake is told."""
    found = importlib.util.find_spec("ai_edge_litert")
    library = str(Path(next(iter(found.submodule_search_locations or ()))) / "libLiteRt.so") if found is not None else None
    given = {"CMAKE_PREFIX_PATH": os.environ.get("EDGEDISTILL_NCNN"), "LITERT_INCLUDE": os.environ.get("EDGEDISTILL_LITERT")}
    given |= {"LITERT_LIBRARY": library, "JSON_INCLUDE": os.environ.get("EDGEDISTILL_JSON")}
    return [f"-D{name}={value}" for name, value in given.items() if value]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the compiled programs."""
    if shutil.which("cmake") is None or not any(name in os.environ for name in NEEDS.values()):
        pytest.skip(f"no cmake, or neither of {', '.join(NEEDS.values())} is set")
    out = tmp_path_factory.mktemp("cpp")
    for command in (["cmake", "-S", str(EXAMPLES), "-B", str(out), *options()], ["cmake", "--build", str(out)]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


def shipped(name: str, runtime: str, folder: Path) -> tuple[ModelContract, Path]:
    """A folder with what a program reads of a bundle; the contract and the engine."""
    own = plugins.load("deploy.runtimes", runtime)
    graph = detector_samples.confident(detector_samples.tiny(name, num_classes=3)).graph(GraphOptions(20, 40, 0.05, 0.55, 50)).eval()
    assert isinstance(graph, DenseGraph)
    decoding = graph.decoding(SIZE)
    assert decoding is not None
    heads = write_onnx(graph, SIZE, folder / "model.onnx", raw=decoding.outputs)
    how: dict[str, Any] = {"height": SIZE[0], "width": SIZE[1], **PREPARED[name]}
    classes, ids = ("a", "b", "c"), (1, 2, 3)
    contract = ModelContract(preprocessing=Preprocessing(**how), classes=classes, category_ids=ids, decoding=decoding)
    engine = own.compile(folder / "model.onnx", heads, folder).file
    (folder / "manifest.json").write_text(json.dumps({"contract": contract.model_dump(mode="json")}), encoding="utf-8")
    if engine.suffix == ".zip":
        with zipfile.ZipFile(engine) as archive:
            archive.extractall(folder)
    return contract, engine


def photograph(file: Path) -> Path:
    """Colored blobs, 301 x 200 px."""
    rough = np.random.default_rng(3).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    Image.fromarray(rough).resize((301, 200), Image.Resampling.BICUBIC).save(file)
    return file


@pytest.mark.parametrize("name", PREPARED)
@pytest.mark.parametrize("runtime", NEEDS)
def test_a_program_finds_what_predict_finds(name: str, runtime: str, programs: Path, tmp_path: Path) -> None:
    program = programs / f"edge_{runtime}"
    if NEEDS[runtime] not in os.environ or not program.exists():
        pytest.skip(f"{NEEDS[runtime]} is not set")
    contract, engine = shipped(name, runtime, tmp_path)
    photo = photograph(tmp_path / "photo.ppm")
    with plugins.load("deploy.runtimes", runtime).open(engine, threads=1) as session:
        wanted = SessionPredictor(session, contract).detect(load_image(photo, contract.preprocessing))
    done = subprocess.run([str(program), str(tmp_path), str(photo)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert len(found) == len(wanted) > 0
    assert [one[0] for one in found] == [contract.classes[label] for label in wanted.labels]
    np.testing.assert_allclose([float(one[1]) for one in found], wanted.scores, atol=1e-3)
    np.testing.assert_allclose([[float(value) for value in one[2:]] for one in found], wanted.boxes, atol=0.05)


@pytest.mark.parametrize("runtime", NEEDS)
def test_what_is_damaged_is_refused_with_one_line(runtime: str, programs: Path, tmp_path: Path) -> None:
    program = programs / f"edge_{runtime}"
    if not program.exists():
        pytest.skip(f"{NEEDS[runtime]} is not set")
    for arguments in ([], [str(tmp_path), "none.ppm"]):
        done = subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 4
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
