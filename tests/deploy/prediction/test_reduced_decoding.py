"""JPEGs that are decoded at a reduced size: no less than the network sees, the same on every path, boxes in px of the whole image."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.contract import ModelContract, Preprocessing
from deploy.precision import Batch
from deploy.prediction import image_files, preprocess
from deploy.prediction.decoder import _answer
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import Raw, Session

FULL = Preprocessing(height=96, width=128)
REDUCED = FULL.model_copy(update={"reduced_decoding": True})


class Middle(Session):
    """Finds one object, in the middle of the network's input."""

    def __init__(self) -> None:
        self.seen: list[Batch] = []

    def infer(self, images: Batch) -> Raw:
        self.seen.append(images)
        box = np.array([[[32, 24, 96, 72]]], np.float32)
        return Raw(box, np.ones((1, 1), np.float32), np.zeros((1, 1), np.int64), np.ones(1, np.bool_))

    def close(self) -> None:
        pass


def photograph(width: int, height: int, kind: str = "JPEG", orientation: int = 1) -> bytes:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack((x * 255 / width, y * 255 / height, (x + y) % 256), axis=2).astype(np.uint8)
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = orientation
    Image.fromarray(pixels).save(stream, kind, exif=exif)
    return stream.getvalue()


SIZES = {
    (128, 96): (128, 96),
    (250, 191): (250, 191),  # a half would be less than the network sees
    (255, 200): (128, 100),
    (512, 384): (128, 96),
    (640, 480): (160, 120),
    (4096, 3072): (512, 384),  # an eighth is the least
}


@pytest.mark.parametrize(("size", "decoded"), SIZES.items())
def test_a_jpeg_is_decoded_at_the_smallest_size_that_the_network_needs(size: tuple[int, int], decoded: tuple[int, int]) -> None:
    seen = image_files.load(photograph(*size), REDUCED)
    assert seen.size == size
    assert seen.pixels.shape[1::-1] == decoded


def test_by_default_and_in_other_formats_nothing_is_reduced() -> None:
    jpeg, png = photograph(640, 480), photograph(640, 480, "PNG")
    for content, how in ((jpeg, FULL), (png, REDUCED)):
        seen = image_files.load(content, how)
        assert np.array_equal(seen.pixels, image_files.load_image(content, FULL))
    assert not Preprocessing().reduced_decoding
    assert image_files.load_image(jpeg, REDUCED).shape == (480, 640, 3)  # what is drawn on


def test_a_rotated_camera_image_is_reduced_as_it_is_seen() -> None:
    seen = image_files.load(photograph(480, 640, orientation=6), REDUCED)
    assert seen.size == (640, 480)
    assert seen.pixels.shape == (120, 160, 3)
    assert np.abs(seen.pixels[60, 80].astype(int) - image_files.load_image(photograph(480, 640, orientation=6), FULL)[242, 322]).max() < 20


def test_boxes_are_in_px_of_the_whole_image() -> None:
    seen = image_files.load(photograph(1280, 960), REDUCED)
    predictor = SessionPredictor(Middle(), ModelContract(preprocessing=REDUCED, classes=("a",), category_ids=(1,)))
    assert predictor.detect(seen.pixels, seen.size).boxes.tolist() == [[320, 240, 960, 720]]


def test_a_decoding_process_of_the_server_gives_the_same_input_and_placement(tmp_path: Path) -> None:
    content = photograph(700, 301)
    (tmp_path / "a.jpg").write_bytes(content)
    seen = image_files.load(tmp_path / "a.jpg", REDUCED)
    tensor, placement = preprocess.apply(seen.pixels, REDUCED, seen.size)
    answer, raw = _answer(content, REDUCED, 10**7)
    assert np.array_equal(np.frombuffer(raw, np.float32).reshape(3, 96, 128), tensor)
    assert preprocess.Placement(**answer["placement"]) == placement == preprocess.place(700, 301, REDUCED)


def test_shrinking_a_reduced_image_goes_by_its_whole_size() -> None:
    seen = image_files.load(photograph(701, 303), REDUCED)
    small = preprocess.shrink(seen.pixels, REDUCED, size=seen.size)
    assert small.shape[1::-1] == preprocess.place(701, 303, REDUCED).fitted
