import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_samples
import pytest
from numpy.typing import NDArray

from deploy.contract import MaskFrame, ModelContract, Preprocessing
from deploy.errors import ArtifactError
from deploy.precision import Batch
from deploy.prediction import masks
from deploy.prediction.detections import Detections, to_coco
from deploy.prediction.draw import color, draw
from deploy.prediction.predictor import SessionPredictor, decide
from deploy.prediction.preprocess import Placement
from deploy.runtimes import Raw, Session, ort

AS_IT_IS = Placement(1.0, 1.0, 0, 0, 64, 64)
ONE_CLASS = ModelContract(preprocessing=Preprocessing(height=64, width=64), classes=("a",), category_ids=(5,))


def raw(boxes: list[list[float]], scores: list[float], labels: list[int], *, converged: bool = True) -> Raw:
    return Raw(
        np.array([boxes], np.float32).reshape(1, -1, 4), np.array([scores], np.float32), np.array([labels], np.int64), np.array([converged])
    )


class Fixed(Session):
    """Answers the same whatever it is given."""

    def __init__(self, answer: Raw) -> None:
        self.answer = answer
        self.shapes: list[tuple[int, ...]] = []

    def infer(self, images: Batch) -> Raw:
        self.shapes.append(images.shape)
        return self.answer

    def close(self) -> None:
        pass


def test_boxes_come_back_in_pixels_of_the_original_image() -> None:
    contract = ONE_CLASS
    session = Fixed(raw([[0, 16, 32, 32], [32, 8, 64, 70]], [0.9, 0.8], [0, 0]))
    found = SessionPredictor(session, contract).detect(np.zeros((64, 128, 3), np.uint8))  # halved, 16 px of padding above and below
    assert session.shapes == [(1, 3, 64, 64)]
    assert found.boxes.tolist() == [[0, 0, 64, 32], [64, 0, 128, 64]]
    assert to_coco(found, 7, contract)[0] == {"image_id": 7, "category_id": 5, "bbox": [0, 0, 64, 32], "score": pytest.approx(0.9)}
    json.dumps(to_coco(found, 7, contract))


def test_padding_is_dropped_and_no_detection_is_fine() -> None:
    found = decide(raw([[0, 0, 1, 1], [0, 0, 2, 2]], [0.5, 0], [0, 99]), AS_IT_IS, ONE_CLASS)
    assert found.scores.tolist() == [0.5]
    nothing = decide(raw([[0, 0, 1, 1]], [0], [0]), AS_IT_IS, ONE_CLASS)
    assert len(nothing) == 0
    assert nothing.boxes.shape == (0, 4)
    assert to_coco(nothing, 1, onnx_samples.contract()) == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (raw([[0, 0, 1, 1]], [0.5], [0], converged=False), "did not converge"),
        (raw([[0, 0, 1, 1]], [np.nan], [0]), "not finite"),
        (raw([[0, np.inf, 1, 1]], [0.5], [0]), "not finite"),
        (raw([[0, 0, 1, 1]], [0.5], [1]), "label 1"),
        (raw([[0, 0, 1, 1]], [0.5], [-1]), "label -1"),
    ],
)
def test_an_answer_that_cannot_be_used_is_refused_in_one_line(answer: Raw, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        decide(answer, AS_IT_IS, ONE_CLASS)
    assert "\n" not in str(caught.value)


def test_the_parts_of_a_pass_add_up_to_its_time() -> None:
    predictor = SessionPredictor(Fixed(raw([[0, 0, 1, 1]], [0.5], [0])), onnx_samples.contract())
    _, timings = predictor.timed(np.zeros((64, 64, 3), np.uint8))
    assert min(timings.pre_ms, timings.infer_ms, timings.post_ms) > 0
    assert timings.pre_ms + timings.infer_ms + timings.post_ms == pytest.approx(timings.end_to_end_ms)


def test_above_keeps_the_certain_ones() -> None:
    found = Detections(np.zeros((3, 4)), np.array([0.9, 0.5, 0.1], np.float32), np.array([0, 1, 2]))
    assert found.above(0.5).labels.tolist() == [0, 1]
    assert found.above(0.5).masks is None


class TestMasks:
    """Through ONNX Runtime: an image of twice the network's width, halved, 16 px of padding above and below."""

    def image(self) -> NDArray[np.uint8]:
        return np.repeat(np.repeat(onnx_samples.picture({(1, 1): 2, (2, 3): 0})[16:48], 2, axis=0), 2, axis=1)

    def detect(self, folder: Path, frame: MaskFrame) -> tuple[Detections, ModelContract]:
        contract = onnx_samples.contract(mask_frame=frame)
        with ort.open(onnx_samples.write(folder / "model.onnx", mask_frame=frame), threads=1) as session:
            return SessionPredictor(session, contract).detect(self.image()), contract

    def test_a_mask_of_the_image_comes_back_in_its_pixels(self, tmp_path: Path) -> None:
        found, _ = self.detect(tmp_path, "image")
        assert found.masks is not None
        assert len(found) == len(found.masks) == 2
        for box, label, code in zip(found.boxes.tolist(), found.labels.tolist(), found.masks, strict=True):
            inside = masks.decode(code, (64, 128))
            drawn = self.image()[..., label] == 255
            assert not (inside & ~drawn).any()
            assert inside.sum() > 0.98 * drawn.sum()  # interpolation rounds corners
            assert [int(value) for value in box] == [*np.argwhere(inside).min(axis=0)[::-1], *(np.argwhere(inside).max(axis=0)[::-1] + 1)]

    def test_a_mask_of_a_box_lies_in_it(self, tmp_path: Path) -> None:
        found, contract = self.detect(tmp_path, "box")
        assert found.masks is not None
        for box, code in zip(found.boxes, found.masks, strict=True):
            points = np.argwhere(masks.decode(code, (64, 128)))
            left_half = [box[1], box[0], box[3], (box[0] + box[2]) / 2]
            assert np.abs([*points.min(axis=0), *(points.max(axis=0) + 1)] - np.array(left_half)).max() <= 1
        results = to_coco(found, 7, contract)
        assert [result["segmentation"] for result in json.loads(json.dumps(results))] == list(found.masks)

    def test_above_keeps_masks_with_their_objects(self) -> None:
        codes = tuple(masks.encode(np.ones((1, n + 1), bool), (4, 4)) for n in range(3))
        found = Detections(np.zeros((3, 4)), np.array([0.9, 0.1, 0.5], np.float32), np.array([0, 1, 2]), codes)
        assert found.above(0.5).masks == (codes[0], codes[2])

    def test_masks_that_should_be_there_and_are_not_are_refused(self) -> None:
        contract = ONE_CLASS.model_copy(update={"mask_frame": "box"})
        with pytest.raises(ArtifactError, match="returned no masks"):
            decide(raw([[0, 0, 1, 1]], [0.5], [0]), AS_IT_IS, contract)

    def test_only_masks_of_what_is_found_must_be_finite(self) -> None:
        contract = ONE_CLASS.model_copy(update={"mask_frame": "box"})
        probabilities = np.full((1, 2, 28, 28), np.nan, np.float32)
        probabilities[0, 0] = 1
        answer = raw([[8, 8, 24, 24], [0, 0, 2, 2]], [0.5, 0], [0, 0])
        found = decide(replace(answer, masks=probabilities), AS_IT_IS, contract)
        assert found.masks is not None
        assert len(found.masks) == 1
        assert 16 * 16 <= masks.area(found.masks[0]) <= 18 * 18
        probabilities[0, 0, 3, 3] = np.nan
        with pytest.raises(ArtifactError, match="not finite"):
            decide(replace(answer, masks=probabilities), AS_IT_IS, contract)

    def test_masks_that_the_contract_does_not_name_are_left_alone(self) -> None:
        answer = replace(raw([[8, 8, 24, 24]], [0.5], [0]), masks=np.ones((1, 1, 28, 28), np.float32))
        assert decide(answer, AS_IT_IS, ONE_CLASS).masks is None

    def test_they_are_drawn_translucent_and_nothing_else_changes(self) -> None:
        image = np.full((600, 600, 3), 100, np.uint8)
        inside = np.zeros((600, 600), bool)
        inside[200:300, 100:400] = True
        found = Detections(
            np.array([[100.0, 200, 400, 300]]), np.array([0.9], np.float32), np.array([0]), (masks.encode(inside, (600, 600)),)
        )
        plain, painted = (np.asarray(draw(image, one, ["a"])).astype(int) for one in (replace(found, masks=None), found))
        changed = (plain != painted).any(axis=2)
        assert changed[210:290, 110:390].all()
        assert not changed[~inside].any()
        assert painted[250, 250].tolist() == (0.55 * 100 + 0.45 * np.array(color(0))).round().astype(int).tolist()
        assert (image == 100).all()
