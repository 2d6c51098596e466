import json

import numpy as np
import onnx_samples
import pytest

from deploy.contract import ModelContract, Preprocessing
from deploy.detections import Detections, to_coco
from deploy.errors import ArtifactError
from deploy.predictor import Predictor, decide
from deploy.preprocess import Placement
from deploy.runtimes import Batch, Raw, Session

AS_IT_IS = Placement(1.0, 1.0, 0, 0, 64, 64)


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
    contract = ModelContract(preprocessing=Preprocessing(height=64, width=64), classes=("a",), category_ids=(5,))
    session = Fixed(raw([[0, 16, 32, 32], [32, 8, 64, 70]], [0.9, 0.8], [0, 0]))
    found = Predictor(session, contract).detect(np.zeros((64, 128, 3), np.uint8))  # halved, 16 px of padding above and below
    assert session.shapes == [(1, 3, 64, 64)]
    assert found.boxes.tolist() == [[0, 0, 64, 32], [64, 0, 128, 64]]
    assert to_coco(found, 7, contract)[0] == {"image_id": 7, "category_id": 5, "bbox": [0, 0, 64, 32], "score": pytest.approx(0.9)}
    json.dumps(to_coco(found, 7, contract))


def test_padding_is_dropped_and_no_detection_is_fine() -> None:
    found = decide(raw([[0, 0, 1, 1], [0, 0, 2, 2]], [0.5, 0], [0, 99]), AS_IT_IS, num_classes=1)
    assert found.scores.tolist() == [0.5]
    nothing = decide(raw([[0, 0, 1, 1]], [0], [0]), AS_IT_IS, num_classes=1)
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
        decide(answer, AS_IT_IS, num_classes=1)
    assert "\n" not in str(caught.value)


def test_the_parts_of_a_pass_add_up_to_its_time() -> None:
    predictor = Predictor(Fixed(raw([[0, 0, 1, 1]], [0.5], [0])), onnx_samples.contract())
    _, timings = predictor.timed(np.zeros((64, 64, 3), np.uint8))
    assert min(timings.pre_ms, timings.infer_ms, timings.post_ms) > 0
    assert timings.pre_ms + timings.infer_ms + timings.post_ms == pytest.approx(timings.end_to_end_ms)


def test_above_keeps_the_certain_ones() -> None:
    found = Detections(np.zeros((3, 4)), np.array([0.9, 0.5, 0.1], np.float32), np.array([0, 1, 2]))
    assert found.above(0.5).labels.tolist() == [0, 1]
