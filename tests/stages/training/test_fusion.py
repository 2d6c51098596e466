"""Detections of several views of an image: where they are, what is cut off, what becomes of boxes that show the same object."""

import numpy as np
import pytest

from deploy.prediction.detections import Detections
from stages.training.unlabeled.finding import windows
from stages.training.unlabeled.fusion import CORNERS, WHOLE, ViewWindow, fused, mirrored


def found(*rows: tuple[list[float], float, int]) -> Detections:
    boxes = np.array([box for box, _, _ in rows], dtype=np.float64).reshape(-1, 4)
    return Detections(boxes, np.array([s for _, s, _ in rows], np.float32), np.array([c for _, _, c in rows], np.int64))


def test_what_is_looked_at() -> None:
    assert windows(()) == (WHOLE,)
    assert windows(("mirror",)) == (WHOLE, mirrored(WHOLE))
    assert windows(("zoom",)) == (WHOLE, *CORNERS)
    assert len(windows(("mirror", "zoom"))) == 10


def test_a_mirrored_box_is_where_the_object_is() -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    image[2:4, 1:5] = 255
    view = mirrored(WHOLE)
    assert np.argwhere(view.cut(image)[2, :, 0]).ravel().tolist() == [15, 16, 17, 18]
    undone = view.undo(found(([15, 2, 19, 4], 0.9, 0)), 20, 10)
    assert undone.boxes.tolist() == [[1, 2, 5, 4]]


@pytest.mark.parametrize("mirror", [False, True])
def test_boxes_in_a_corner_are_moved_and_those_that_it_may_cut_are_left_out(*, mirror: bool) -> None:
    corner = CORNERS[3]  # 20 to 100 px, 10 to 50 px
    view = mirrored(corner) if mirror else corner
    image = np.zeros((50, 100, 3), np.uint8)
    image[20:30, 40:60] = 255
    seen = np.argwhere(view.cut(image)[..., 0])
    (top, left), (bottom, right) = seen.min(axis=0), seen.max(axis=0) + 1
    inside: list[float] = [float(left), float(top), float(right), float(bottom)]
    at_cut = [79.0, 10, 80, 20] if mirror else [0.0, 10, 5, 20]
    at_border = [0.0, 10, 5, 20] if mirror else [75.0, 10, 80, 20]
    undone = view.undo(found((inside, 0.9, 0), (at_cut, 0.8, 0), (at_border, 0.7, 0)), 100, 50)
    assert undone.boxes.tolist() == [[40, 20, 60, 30], [95, 20, 100, 30]]


def test_boxes_of_one_object_are_averaged_by_their_scores() -> None:
    views = [
        (WHOLE, found(([0, 0, 10, 10], 0.9, 0), ([50, 0, 60, 10], 0.4, 0))),
        (mirrored(WHOLE), found(([0, 0, 12, 10], 0.3, 0), ([0, 0, 10, 10], 0.8, 1))),
    ]
    joined = fused(views, 100, 50, most=10)
    assert joined.boxes.tolist() == [pytest.approx([0, 0, 10.5, 10]), [0, 0, 10, 10], [50, 0, 60, 10]]
    assert joined.scores.tolist() == pytest.approx([0.6, 0.4, 0.2])
    assert joined.labels.tolist() == [0, 1, 0]
    assert len(fused(views, 100, 50, most=1)) == 1


def test_a_window_that_does_not_show_an_object_does_not_speak_against_it() -> None:
    left = ViewWindow(0, 0, 0.5, 1)
    views = [(WHOLE, found(([70, 10, 90, 30], 0.8, 0), ([10, 10, 30, 30], 0.8, 0))), (left, found())]
    assert fused(views, 100, 50, most=10).scores.tolist() == pytest.approx([0.8, 0.4])


def test_two_boxes_of_a_view_are_two_objects() -> None:
    boxes: list[tuple[list[float], float, int]] = [([0, 0, 10, 10], 0.9, 0), ([1, 0, 11, 10], 0.5, 0)]
    assert len(fused([(WHOLE, found(*boxes))], 100, 50, most=10)) == 2


def test_nothing_is_found_in_nothing() -> None:
    assert len(fused([(WHOLE, found()), (mirrored(WHOLE), found())], 100, 50, most=10)) == 0
