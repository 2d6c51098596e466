"""A file that can be decoded in more than one way gives the same pixels and the same objects on every path."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import artifact_samples as samples
import numpy as np
import onnx_samples
import pytest
import tiny
from numpy.typing import NDArray
from PIL import Image, ImageOps

import edgedistill
from deploy.accuracy.judge import LabeledSplit, judge
from deploy.bundles.bundle import Bundle
from deploy.bundles.manifest import MANIFEST
from deploy.contract import Preprocessing
from deploy.predict import predict_images
from deploy.prediction import preprocess
from deploy.prediction.image_files import load
from deploy.prediction.predictor import SessionPredictor
from deploy.serving.logs import Log
from deploy.serving.options import ServeConfig
from stages.artifacts import Dataset
from stages.config import DataConfig
from stages.measurement import latency_images
from stages.measurement.splits import labeled_split
from stages.prepare import prepare
from stages.training.batches.loader import TrainingImages

testclient = pytest.importorskip("starlette.testclient")
api = pytest.importorskip("deploy.serving.api")
service = pytest.importorskip("deploy.serving.service")

CELLS = {(0, 1): 0, (2, 3): 2}
SHOWN = onnx_samples.picture(CELLS)
CONTRACT = Preprocessing(height=64, width=64, mean=(0, 0, 0), std=(1, 1, 1), alpha="ignore", white=4095)
Pixels = NDArray[np.uint8]


def deep_png(values: NDArray[np.uint16]) -> bytes:
    """[H, W, 1 to 4] as PNG with 16 bits per channel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def twelve_bits(pixels: Pixels) -> NDArray[np.uint16]:
    return ((pixels.astype(np.uint32) * 4095 + 127) // 255).astype(np.uint16)


def gray() -> tuple[str, bytes, Pixels]:
    level = SHOWN.max(axis=2, keepdims=True) // 3 + np.arange(64, dtype=np.uint8)[:, None, None]
    return "gray.png", deep_png(twelve_bits(level)), level.repeat(3, axis=2)


def color() -> tuple[str, bytes, Pixels]:
    return "color.png", deep_png(twelve_bits(SHOWN)), SHOWN


def color_with_alpha() -> tuple[str, bytes, Pixels]:
    return "deep.png", deep_png(np.concatenate((twelve_bits(SHOWN), np.zeros((64, 64, 1), np.uint16)), axis=2)), SHOWN


def gray_with_alpha() -> tuple[str, bytes, Pixels]:
    _, _, level = gray()
    return "la.png", deep_png(np.concatenate((twelve_bits(level[..., :1]), np.zeros((64, 64, 1), np.uint16)), axis=2)), level


def unused_alpha() -> tuple[str, bytes, Pixels]:
    hidden = Image.fromarray(SHOWN).copy()
    hidden.putalpha(0)
    return "alpha.png", encoded(hidden, "PNG"), SHOWN


def turned() -> tuple[str, bytes, Pixels]:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = encoded(Image.fromarray(SHOWN[:, :48]), "JPEG", quality=100, exif=exif)
    return "turned.jpg", file, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file))))


def palette() -> tuple[str, bytes, Pixels]:
    return "palette.png", encoded(Image.fromarray(SHOWN).quantize(4), "PNG", transparency=b"\0\0\0\0"), SHOWN


def cmyk() -> tuple[str, bytes, Pixels]:
    file = encoded(Image.fromarray(SHOWN).convert("CMYK"), "JPEG", quality=100)
    return "cmyk.jpg", file, np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def camera() -> tuple[str, bytes, Pixels]:
    file = encoded(Image.fromarray(SHOWN), "MPO", quality=100, save_all=True, append_images=[Image.new("RGB", (64, 64))])
    return "camera.mpo", file, np.asarray(Image.open(io.BytesIO(file)))


@pytest.fixture(
    params=[gray, color, color_with_alpha, gray_with_alpha, unused_alpha, turned, palette, cmyk, camera], ids=lambda f: f.__name__
)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Pixels]:
    make: Callable[[], tuple[str, bytes, Pixels]] = request.param
    name, content, shown = make()
    path = tmp_path / "data" / "images" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path, shown


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(tmp_path_factory.mktemp("bundle"), CONTRACT)


def bundle_of(place: Path, contract: Preprocessing) -> Bundle:
    """The sample bundle with this contract."""
    root = samples.bundle(place).root
    manifest = json.loads((root / MANIFEST).read_text())
    manifest["contract"]["preprocessing"] = contract.model_dump(mode="json")
    samples.resign(root, manifest)
    return Bundle.load(root)


def prepared(path: Path, contract: Preprocessing = CONTRACT) -> Dataset:
    """A COCO folder of this one image, in both splits."""
    root = path.parents[1]
    rows = {
        "images": [{"id": 1, "file_name": path.name}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [16, 0, 16, 16]}],
        "categories": categories(),
    }
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(rows))
    (root / "out").mkdir()
    return prepare(root / "out", DataConfig.model_validate({"dataset": "coco", "root": str(root), "preprocessing": contract.model_dump()}))


def test_the_pixels_are_the_same_in_training_and_measurement(case: tuple[Path, Pixels]) -> None:
    path, shown = case
    dataset = prepared(path)
    tensor, _ = preprocess.apply(shown, CONTRACT)
    assert np.array_equal(TrainingImages(dataset, tiny.schedule(augment=[]), 0)[(0, 0)][0].numpy(), tensor)
    [timed] = latency_images.of(labeled_split(dataset, "val").images, CONTRACT)
    assert np.array_equal(timed, shown)


def test_the_pixels_are_the_same_at_the_front_door(case: tuple[Path, Pixels], bundle: Bundle) -> None:
    path, shown = case
    with edgedistill.Predictor(bundle) as predictor, Image.open(path) as picture:
        for image in (path, path.read_bytes(), picture):
            assert np.array_equal(predictor(image).image, shown)


def test_the_objects_are_the_same_when_judged_predicted_and_served(case: tuple[Path, Pixels], bundle: Bundle, tmp_path: Path) -> None:
    path, shown = case
    truth = {"images": [{"id": 1, "file_name": path.name}], "annotations": [], "categories": categories()}
    with bundle.open(threads=1) as session:
        predictor = SessionPredictor(session, bundle.manifest.contract)
        expected = judge(predictor, LabeledSplit("val", truth, (path,)), "val").detections
        assert len(predictor.detect(shown).boxes) == len(expected)
    predicted = predict_images(bundle, [path], tmp_path / "out")["annotations"]
    made = service.Service(bundle.root, ServeConfig(threads=1), log=Log(io.StringIO()))
    made.load()
    answer = testclient.TestClient(api.app(made), base_url="http://localhost").post("/v1/detect", content=path.read_bytes())
    made.close()
    assert answer.status_code == 200
    assert plain(predicted) == plain(expected) == plain(answer.json()["annotations"])
    if np.array_equal(shown, SHOWN):
        assert {row["category_id"] for row in expected} == {3, 90}


def test_a_reduced_image_and_its_objects_are_the_same_on_every_path(tmp_path: Path) -> None:
    contract = CONTRACT.model_copy(update={"reduced_decoding": True})
    path = tmp_path / "data" / "images" / "large.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(encoded(Image.fromarray(SHOWN.repeat(4, axis=0).repeat(4, axis=1)), "JPEG", quality=100))
    seen = load(path, contract)
    assert (seen.pixels.shape, seen.size) == ((64, 64, 3), (256, 256))

    view = TrainingImages(prepared(path, contract), tiny.schedule(augment=[]), 0)[(0, 0)]
    assert np.array_equal(view[0].numpy(), preprocess.apply(seen.pixels, contract, seen.size)[0])
    assert view[1].boxes.tolist() == [[4, 0, 8, 4]]
    reduced = bundle_of(tmp_path, contract)
    test_the_objects_are_the_same_when_judged_predicted_and_served((path, np.asarray(Image.open(path))), reduced, tmp_path)
    with edgedistill.Predictor(reduced, min_score=0) as predictor, reduced.open(threads=1) as session:
        expected = SessionPredictor(session, reduced.manifest.contract).detect(seen.pixels, seen.size)
        for image in (path, path.read_bytes()):
            found = predictor(image)
            assert found.image.shape == (256, 256, 3)
            assert np.allclose(found.boxes, expected.boxes)
            assert found.boxes.max() > 64


def categories() -> list[dict[str, Any]]:
    return [{"id": i, "name": name} for i, name in zip(onnx_samples.CATEGORY_IDS, onnx_samples.CLASSES, strict=True)]


def plain(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["category_id"], round(row["score"], 5), *(round(side, 2) for side in row["bbox"])) for row in rows]
