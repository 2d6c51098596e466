"""What is special about YOLOX: who learns an object, when codes are learned, its pixels, and how it scores and suppresses."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from detector_samples import SIZE, TINY, confident, decisions, images
from oracle_samples import answers, group, random
from torch import Tensor
from torchvision.ops import batched_nms

from deploy import plugins
from deploy.contract import Preprocessing
from deploy.prediction import preprocess
from stages.config import DetectorConfig
from stages.detectors import Detector
from stages.detectors.boxes.coding import clip
from stages.detectors.dense.cheapest import cheapest
from stages.detectors.yolox import YoloxDetector, joint
from stages.training.checkpoint import build_detector
from stages.training.distillation import side_of

CASES = ("random", "none", "ties", "tiny", "huge", "both", "outside")
SQUARE = torch.tensor([[12.0, 12, 20, 20]])
"""Of a cell of stride 8 from (16, 16) to (24, 24)."""


def yolox(num_classes: int = 5, **options: Any) -> YoloxDetector:
    detector = build_detector(DetectorConfig.model_validate({"name": "yolox", **TINY["yolox"], **options}), num_classes)
    assert isinstance(detector, YoloxDetector)
    return detector


@pytest.mark.parametrize("case", CASES)
def test_assigns_as_an_independent_implementation_does(case: str) -> None:
    found = group(answers("yolox"), "assignment")
    places = len(found["anchors"])
    codes = torch.cat((random("yolox places", (places, 2), -1, 2), random("yolox extents", (places, 2), 0, 2)), dim=1)
    likely = random("yolox likely", (places, 3), 0.01, 0.9)
    boxes = yolox().decode(codes, found["anchors"])
    own = cheapest(found["anchors"], boxes, likely, found[f"{case}/boxes"], found[f"{case}/labels"])
    assert torch.equal(own.objects, found[f"{case}/found"])
    torch.testing.assert_close(own.overlaps, found[f"{case}/overlaps"])
    assert (own.objects >= 0).any() == (case not in ("none", "outside"))


def learns(predicted: list[float], box: list[float], square: Tensor = SQUARE) -> bool:
    found = cheapest(square, torch.tensor([predicted]), torch.full((1, 2), 0.5), torch.tensor([box]), torch.tensor([0]))
    return bool(found.objects[0] == 0)


def test_a_candidate_is_in_the_object_or_within_two_and_a_half_strides_of_its_center() -> None:
    """The cell's center is (20, 20); objects of 2 px around (40, 20) and (39, 20), and a wide one around (0, 20)."""
    predicted = [10.0, 10, 30, 30]
    assert not learns(predicted, [39.0, 19, 41, 21])
    assert learns(predicted, [38.0, 19, 40, 21])
    assert learns(predicted, [-40.0, 10, 40, 30])
    assert not learns(predicted, [-20.0, 10, 20, 30])


def test_an_object_has_as_many_learners_as_its_best_overlaps_add_up_to() -> None:
    """Four cells; the overlaps of three add up to 2.5, so the two cheapest learn it; with poor ones, at least one does."""
    squares = torch.tensor([[12.0, 12, 20, 20], [20, 12, 28, 20], [12, 20, 20, 28], [20, 20, 28, 28]])
    box = torch.tensor([[16.0, 16, 32, 32]])
    boxes = torch.tensor([[16.0, 16, 32, 32], [16, 16, 32, 32], [16, 16, 32, 24], [100, 100, 116, 116]])
    likely = torch.tensor([[0.9, 0.1]] * 4)
    assert cheapest(squares, boxes, likely, box, torch.tensor([0])).objects.tolist() == [0, 0, -1, -1]
    poor = boxes + torch.tensor([[12.0, 12, 12, 12], [9, 9, 9, 9], [12, 12, 12, 12], [0, 0, 0, 0]])
    assert cheapest(squares, poor, likely, box, torch.tensor([0])).objects.tolist() == [-1, 0, -1, -1]


def test_a_position_that_two_objects_would_take_goes_to_the_cheaper() -> None:
    boxes, likely = torch.tensor([[10.0, 10, 30, 30], [10, 10, 30, 30]]), torch.tensor([[0.2, 0.9]])
    found = cheapest(SQUARE, boxes[:1], likely, boxes, torch.tensor([0, 1]))
    assert found.objects.tolist() == [1]
    assert found.overlaps.tolist() == [1.0]


def test_codes_are_learned_in_the_last_part_of_a_training_only() -> None:
    head = {"cls_logits": torch.zeros(1, 1, 5), "bbox_regression": torch.zeros(1, 1, 4), "objectness": torch.zeros(1, 1, 1)}
    rows = [{"boxes": torch.tensor([[14.0, 10, 22, 26]]), "labels": torch.tensor([2])}]

    def terms(share: float, l1_share: float = 0.05) -> dict[str, Tensor]:
        detector = yolox(l1_share=l1_share)
        detector.progress(share)
        return detector.losses(rows, head, [SQUARE], [1])

    assert "bbox_l1" not in terms(0.94)
    # the center is 2 px to the right of the corner (16, 16) and 2 below it; 8 px wide, 16 high
    assert terms(0.95)["bbox_l1"].item() == pytest.approx(0.25 + 0.25 + torch.tensor(2.0).log().item())
    assert "bbox_l1" not in terms(0.99, l1_share=0.0)


def test_a_class_is_learned_as_far_as_the_box_overlaps_and_an_object_entirely() -> None:
    """A code of 0 is the square itself, half of which is in an object of the same height and twice the width: an overlap of a half."""
    head = {"cls_logits": torch.zeros(1, 1, 2), "bbox_regression": torch.zeros(1, 1, 4), "objectness": torch.zeros(1, 1, 1)}
    losses = yolox(2).losses([{"boxes": torch.tensor([[12.0, 12, 28, 20]]), "labels": torch.tensor([1])}], head, [SQUARE], [1])
    assert losses["bbox_regression"].item() == pytest.approx(5 * (1 - 0.25))
    two = torch.tensor(2.0).log().item()
    assert losses["classification"].item() == pytest.approx(2 * two)
    assert losses["objectness"].item() == pytest.approx(two)


def test_what_a_code_means_can_be_undone() -> None:
    squares = torch.tensor([[12.0, 12, 20, 20], [0, 16, 32, 48]])
    codes = torch.tensor([[0.25, -1.0, 0.5, -0.25], [0, 0, 1, 0]])
    boxes = yolox().decode(codes, squares)
    assert boxes[1].tolist() == pytest.approx([16 - 16 * np.e, 16, 16 + 16 * np.e, 48])
    torch.testing.assert_close(yolox().encode(boxes, squares), codes)


def test_its_published_preprocessing_can_be_configured() -> None:
    """As its file says: 0 to 255, blue first, at the top left, 114 around."""
    chosen = {"resize": "shortest_edge", "color": "bgr", "mean": [0, 0, 0], "std": [0.00392156862745098] * 3}
    pixels = np.arange(48 * 64 * 3, dtype=np.uint32).reshape(48, 64, 3).astype(np.uint8)
    found, placement = preprocess.apply(pixels, Preprocessing.model_validate({"height": 64, "width": 64, **chosen}))
    assert (placement.left, placement.top, placement.scale_x) == (0, 0, 1.0)
    np.testing.assert_allclose(found[:, :48], pixels[..., ::-1].transpose(2, 0, 1), atol=1e-4)
    np.testing.assert_allclose(found[:, 48:], 114, atol=1e-4)


@pytest.mark.parametrize("agnostic", [False, True])
def test_overlaps_are_those_of_boxes_that_are_not_clipped(agnostic: bool) -> None:
    """torchvision suppresses the head's own boxes, one class per position."""
    detector = confident(yolox())
    options = decisions(
        max_detections=300, candidates=300, score_threshold=0.0, iou_threshold=0.3, nms="agnostic" if agnostic else "per_class"
    )
    with torch.no_grad():
        outputs, answer = detector(images("yolox")), detector.graph(options).eval()(images("yolox"))
    boxes = torch.cat(outputs.decoded().boxes, dim=1)
    scores, labels = torch.cat(outputs.head["class_logits"], dim=1).sigmoid().max(dim=2)
    for index in range(2):
        inside = clip(boxes[index], *SIZE)
        there = torch.where((inside[:, 2:] > inside[:, :2]).all(dim=1))[0]
        own = labels[index][there] * (0 if agnostic else 1)
        kept = there[batched_nms(boxes[index][there], scores[index][there], own, 0.3)]
        count = int((answer.scores[index] > 0).sum())
        assert 5 < count == len(kept) < len(there)
        torch.testing.assert_close(answer.boxes[index, :count], inside[kept], atol=1e-3, rtol=1e-4)
        assert answer.labels[index, :count].tolist() == labels[index][kept].tolist()
    assert not torch.equal(boxes[0], clip(boxes[0], *SIZE))


def head_of(detector: Detector) -> Any:
    assert isinstance(detector, YoloxDetector)
    return detector.model.head


class TestWhatLossesRead:
    def test_the_probability_of_a_class_is_that_of_an_object_of_the_class(self) -> None:
        detector = confident(yolox())
        with torch.no_grad():
            outputs = detector(images("yolox"))
            raw = head_of(detector)(list(outputs.pyramid))
        assert outputs.head.keys() == {"class_logits", "box_deltas"}
        expected = raw["cls_logits"].double().sigmoid() * raw["objectness"].double().sigmoid()
        torch.testing.assert_close(torch.cat(outputs.head["class_logits"], dim=1).double().sigmoid(), expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("classes", "present"), [(0.0, 0.0), (3.0, -2.0), (-80.0, 60.0), (60.0, -80.0), (70.0, 70.0), (-90.0, -90.0)])
    def test_the_logit_of_a_product_is_exact_and_so_is_its_gradient(self, classes: float, present: float) -> None:
        """Logits a and b of p and q: that of pq is -log(exp(-a) + exp(-b) + exp(-a - b)), its slopes are (1 - p) / (1 - pq) and alike."""
        a, b = (torch.full((1, 1, 1), value, requires_grad=True) for value in (classes, present))
        found = joint(a, b)
        found.sum().backward()
        parts = [math.exp(-classes), math.exp(-present), math.exp(-classes - present)]
        assert found.item() == pytest.approx(-math.log(sum(parts)), rel=1e-6)
        for leaf, own in ((a, parts[0]), (b, parts[1])):
            assert leaf.grad is not None
            assert leaf.grad.item() == pytest.approx((own + parts[2]) / sum(parts), rel=1e-5, abs=1e-12)

    def test_a_teacher_that_is_sure_of_a_class_where_it_sees_no_object_teaches_none(self) -> None:
        teacher, student = yolox().eval(), yolox()
        for level in head_of(teacher).levels:
            level.cls_logits.bias.data[2], level.objectness.bias.data[:] = 8.0, -8.0
        built = plugins.load("stages.losses", "dense_labels").build(side_of(student), side_of(teacher))
        with torch.no_grad():
            given = teacher(images("yolox"))
        assert torch.cat(given.head["class_logits"], dim=1).sigmoid().max() < 0.01
        assert not any(term.startswith("quality") for term in built(student(images("yolox")), given, ()))


@pytest.mark.parametrize(("size", "millions"), [("nano", 0.91), ("tiny", 5.06), ("m", 25.3), ("l", 54.2), ("x", 99.1)])
def test_every_size_has_as_many_parameters_as_the_published_one(size: str, millions: float) -> None:
    with torch.device("meta"):
        detector = plugins.load("stages.detectors", "yolox").build(80, size=size)
    assert sum(parameter.numel() for parameter in detector.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
