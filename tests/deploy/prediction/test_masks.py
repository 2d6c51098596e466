"""Masks in px of the original image against torchvision's pasting and torch's interpolation; codes against pycocotools."""

from typing import Any

import numpy as np
import onnx_samples
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as reference
from torchvision.models.detection.roi_heads import paste_masks_in_image

from deploy.contract import Preprocessing
from deploy.prediction import masks, preprocess
from deploy.prediction.masks import Window
from deploy.prediction.preprocess import Placement


def whole(window: Window, size: tuple[int, int]) -> NDArray[np.bool_]:
    image = np.zeros(size, np.bool_)
    height, width = window.inside.shape
    image[window.top : window.top + height, window.left : window.left + width] = window.inside
    return image


def random_boxes(random: np.random.Generator, count: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Of all sizes, some on whole px, some over the edge, some outside."""
    corners = random.uniform(-0.3, 1.1, (count, 2)) * [size[1], size[0]]
    extent = np.exp(random.uniform(-1, np.log(max(size)), (count, 2)))
    boxes = np.concatenate([corners, corners + extent], axis=1).astype(np.float32)
    boxes[::3] = boxes[::3].round()
    return boxes


def smooth(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Blobs of probability."""
    coarse = torch.from_numpy(random.random((1, shape[0], 5, 5), np.float32))
    found = torch.nn.functional.interpolate(coarse, shape[1:], mode="bicubic").clamp(0, 1)[0].numpy()
    return np.asarray(found, np.float32)


class TestBoxFrame:
    @pytest.mark.parametrize("size", [(120, 160), (77, 33), (1, 1)], ids=str)
    @pytest.mark.parametrize("side", [28, 14, 1])
    def test_torchvision_pastes_the_same(self, size: tuple[int, int], side: int) -> None:
        random = np.random.default_rng(side)
        found = np.concatenate([smooth(random, 60, side, side), random.random((60, side, side), np.float32)])
        boxes = random_boxes(random, len(found), size)
        boxes = boxes[(boxes[:, 0] < size[1]) & (boxes[:, 1] < size[0]) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)]  # where theirs works
        theirs = paste_masks_in_image(torch.from_numpy(found[: len(boxes), None]), torch.from_numpy(boxes), size)[:, 0].numpy()
        ours = np.stack([whole(masks.paste_box(mask, box, size), size) for mask, box in zip(found, boxes, strict=False)])
        different = ours != (theirs >= 0.5)
        assert different.mean() <= 1e-3
        assert (np.abs(theirs[different] - 0.5) < 1e-5).all()
        assert ours.any() == (theirs >= 0.5).any()

    def test_a_box_outside_the_image_has_no_px(self) -> None:
        full = np.ones((28, 28), np.float32)
        for box in ([200, 10, 240, 30], [-50, 10, -20, 30], [10, -90, 20, -40], [10, 90, 20, 95]):
            window = masks.paste_box(full, np.array(box, np.float32), (50, 100))
            assert whole(window, (50, 100)).sum() == 0
            assert masks.area(masks.encode(window.inside, (50, 100), window.left, window.top)) == 0

    def test_a_box_that_reaches_into_the_padding_keeps_its_place(self) -> None:
        """The box is clipped to the image in the answer; its mask was found for the whole of it."""
        preprocessing = Preprocessing(height=64, width=64)
        placement = preprocess.place(128, 64, preprocessing)  # 64 x 32 at 16 px from the top
        upper = np.zeros((1, 28, 28), np.float32)
        upper[:, :14] = 1
        (code,) = masks.to_rle(upper, np.array([[16, 0, 32, 32]], np.float32), "box", placement, preprocessing)
        assert masks.decode(code, (64, 128))[2:].sum() == 0  # its upper half is padding
        (code,) = masks.to_rle(upper[:, ::-1].copy(), np.array([[16, 0, 32, 32]], np.float32), "box", placement, preprocessing)
        inside = np.argwhere(masks.decode(code, (64, 128)))
        assert np.abs(inside.min(axis=0) - [0, 32]).max() <= 1
        assert np.abs(inside.max(axis=0) + 1 - [32, 64]).max() <= 2


class TestImageFrame:
    @pytest.mark.parametrize("size", [(50, 70), (300, 20), (64, 96), (1, 1)], ids=str)
    def test_stretched_it_is_torchs_interpolation(self, size: tuple[int, int]) -> None:
        preprocessing = Preprocessing(height=64, width=96, resize="stretch")
        self.check(preprocessing, size, (slice(None), slice(None)))

    @pytest.mark.parametrize(
        ("size", "resize", "shown"),
        [
            ((64, 192), "letterbox", (slice(4, 12), slice(0, 24))),
            ((128, 64), "letterbox", (slice(0, 16), slice(8, 16))),
            ((64, 192), "shortest_edge", (slice(0, 8), slice(0, 24))),
            ((37, 37), "shortest_edge", (slice(0, 16), slice(0, 16))),
        ],
    )
    def test_the_padding_is_cut_away_before(self, size: tuple[int, int], resize: Any, shown: tuple[slice, slice]) -> None:
        self.check(Preprocessing(height=64, width=96, resize=resize), size, shown)

    def check(self, preprocessing: Preprocessing, size: tuple[int, int], shown: tuple[slice, slice]) -> None:
        random = np.random.default_rng(0)
        found = np.concatenate([smooth(random, 20, 16, 24), random.random((20, 16, 24), np.float32), np.zeros((1, 16, 24), np.float32)])
        found[:20, 6:] = 0  # small objects, of which a window suffices
        placement = preprocess.place(size[1], size[0], preprocessing)
        content = torch.from_numpy(found[:, *shown].copy())[None]
        theirs = torch.nn.functional.interpolate(content, size, mode="bilinear", align_corners=False)[0].numpy()
        for mask, expected in zip(found, theirs, strict=True):
            ours = whole(masks.paste_image(mask, placement, preprocessing), size)
            different = ours != (expected >= 0.5)
            assert (np.abs(expected[different] - 0.5) < 1e-5).all()

    def test_padding_between_two_samples(self) -> None:
        """333 x 777 px leaves 20.5 px of padding on a side, which no sample boundary matches."""
        preprocessing = Preprocessing(height=64, width=96)
        placement = preprocess.place(777, 333, preprocessing)
        full = np.ones((16, 24), np.float32)
        assert whole(masks.paste_image(full, placement, preprocessing), (333, 777)).all()

    def test_only_a_window_of_a_small_object_is_made(self) -> None:
        mask = np.zeros((16, 24), np.float32)
        mask[3, 5] = 1
        window = masks.paste_image(mask, Placement(0.1, 0.1, 0, 0, 960, 640), Preprocessing(height=64, width=96, resize="stretch"))
        assert window.inside.shape[0] < 90
        assert window.inside.shape[1] < 90
        assert window.inside.any()


class TestCodes:
    def test_they_are_pycocotools_own(self) -> None:
        random = np.random.default_rng(0)
        for _ in range(60):
            size = int(random.integers(1, 40)), int(random.integers(1, 40))
            top, left = int(random.integers(size[0])), int(random.integers(size[1]))
            extent = int(random.integers(size[0] - top + 1)), int(random.integers(size[1] - left + 1))
            inside = random.random(extent) < random.choice([0, 0.2, 0.9, 1])
            expected = whole(Window(inside, left, top), size)
            code = masks.encode(inside, size, left, top)
            theirs = reference.encode(np.asfortranarray(expected.astype(np.uint8)))
            assert code == {"size": list(size), "counts": theirs["counts"].decode()}
            assert np.array_equal(masks.decode(code, size), expected)
            assert masks.area(code) == expected.sum()

    @pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools' own
    def test_every_form_of_an_annotation_is_read(self) -> None:
        polygons = [[1.5, 1, 14, 2.5, 10, 9], [15, 3, 19, 3, 19, 8, 15, 8]]
        expected = reference.decode(reference.merge(reference.frPyObjects(polygons, 10, 20))).astype(bool)
        assert np.array_equal(masks.decode(polygons, (10, 20)), expected)
        counts = {"size": [10, 20], "counts": [3, 50, 147]}
        assert np.array_equal(masks.decode(counts, (10, 20)), reference.decode(reference.frPyObjects(counts, 10, 20)).astype(bool))
        assert np.array_equal(masks.decode(masks.rectangle([2, 3, 5, 4]), (10, 20)), np.pad(np.ones((4, 5), bool), ((3, 3), (2, 13))))

    @pytest.mark.parametrize(
        "bad",
        [{"size": [20, 10], "counts": [0, 200]}, {"size": [10, 20], "counts": [0, 100]}, {"size": [10, 20], "counts": "zzzz"}],
        ids=["size", "sum", "text"],
    )
    def test_a_code_of_another_image_is_refused(self, bad: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"run-length|RLE"):
            masks.decode(bad, (10, 20))


@pytest.mark.parametrize("frame", ["box", "image"])
def test_no_detection_has_no_mask(frame: Any) -> None:
    placement = preprocess.place(64, 64, onnx_samples.contract().preprocessing)
    nothing = np.zeros((0, 8, 8), np.float32)
    assert masks.to_rle(nothing, np.zeros((0, 4), np.float32), frame, placement, onnx_samples.contract().preprocessing) == ()
