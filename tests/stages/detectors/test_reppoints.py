"""What is special about RepPoints: whom its points learn from, what boxes they stand for, and how slowly some of it learns."""

import pytest
import torch
from detector_samples import TINY, images, tiny
from oracle_samples import answers, group
from torch import Tensor

from stages.config import DetectorConfig
from stages.detectors.boxes.matching import assign
from stages.detectors.dense.point_assignment import nearest_point
from stages.detectors.dense.points import PointsHead, with_share
from stages.detectors.reppoints import _RULE, RepPointsDetector
from stages.training.checkpoint import build_detector

CASES = ("random", "none", "ties", "tiny", "huge", "both")


def reppoints() -> RepPointsDetector:
    detector = build_detector(DetectorConfig.model_validate({"name": "reppoints", **TINY["reppoints"]}), 5)
    assert isinstance(detector, RepPointsDetector)
    return detector


def head_of(detector: RepPointsDetector) -> PointsHead:
    assert isinstance(detector.model.head, PointsHead)
    return detector.model.head


def squares(*places: tuple[float, float, float]) -> Tensor:
    """Around (x, y), for a level of a stride."""
    return torch.tensor([[x - 2 * stride, y - 2 * stride, x + 2 * stride, y + 2 * stride] for x, y, stride in places])


@pytest.mark.parametrize("case", CASES)
def test_first_points_are_assigned_as_an_independent_implementation_does(case: str) -> None:
    found = group(answers("reppoints"), "assignment")
    own = nearest_point(found["anchors"], 4.0, found[f"{case}/boxes"])
    assert torch.equal(own, found[f"{case}/nearest"])
    assert (own >= 0).any() == (case != "none")


@pytest.mark.parametrize("case", CASES)
def test_last_points_and_classes_are_assigned_as_an_independent_implementation_does(case: str) -> None:
    found = group(answers("reppoints"), "assignment")
    own = assign(found["start"], found[f"{case}/boxes"], _RULE).objects
    assert torch.equal(own, found[f"{case}/found"])
    assert (own >= 0).any() == (case != "none")


def test_an_object_is_learned_at_the_level_of_its_size_by_the_nearest_point() -> None:
    """By hand: 16 x 64 px have a mean side of 32, which are 4 strides of 8 px; 63 px are not yet 4 strides of 16, 64 px are."""
    points = squares((8, 32, 8), (16, 32, 8), (16, 32, 16))
    assert nearest_point(points, 4.0, torch.tensor([[5.0, 0, 21, 64]])).tolist() == [-1, 0, -1]
    assert nearest_point(points, 4.0, torch.tensor([[0.0, 0, 63, 63]])).tolist() == [-1, 0, -1]
    assert nearest_point(points, 4.0, torch.tensor([[0.0, 0, 64, 64]])).tolist() == [-1, -1, 0]


def test_an_object_whose_level_is_left_out_is_learned_at_the_next_finer_one() -> None:
    points = squares((8, 8, 8), (32, 32, 32))
    assert nearest_point(points, 4.0, torch.tensor([[0.0, 0, 70, 70], [0, 0, 130, 130], [0, 0, 999, 999]])).tolist() == [0, 1]


def test_a_point_of_two_objects_learns_the_nearer_one_and_of_equals_the_first() -> None:
    point = squares((32, 32, 8))
    near, far = [10.0, 10, 52, 52], [20.0, 20, 56, 56]
    assert nearest_point(point, 4.0, torch.tensor([far, near])).tolist() == [1]
    assert nearest_point(point, 4.0, torch.tensor([near, near])).tolist() == [0]


def test_a_box_is_the_points_mean_and_their_deviation() -> None:
    """By hand: y of -4 to 4 in steps of 1, whose sum of squares is 60; x of 1 throughout; the height is scaled by 2."""
    head = head_of(reppoints())
    with torch.no_grad():
        head.moment.copy_(torch.tensor([0.0, 2.0]).log().clamp(min=0))
    points = torch.stack((torch.arange(-4.0, 5.0), torch.ones(9)), dim=1).flatten()
    half = 2 * (60 / 8) ** 0.5
    assert head.boxes(points).tolist() == pytest.approx([1, -half, 1, half])


def test_points_in_one_place_give_no_gradient_that_is_not_a_number() -> None:
    points = torch.full((18,), 3.0, requires_grad=True)
    head_of(reppoints()).boxes(points).sum().backward()
    assert points.grad is not None
    assert torch.isfinite(points.grad).all()


def test_a_share_of_the_gradient_passes() -> None:
    values = torch.tensor([3.3, -1e-7], requires_grad=True)
    kept = with_share(values, 0.1)
    assert torch.equal(kept, values)
    kept.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([0.1, 0.1])


def test_first_points_learn_from_the_last_ones_only_through_where_they_read() -> None:
    """About a tenth as much as the scores change when they are moved."""
    head = head_of(tiny("reppoints"))  # type: ignore[arg-type]
    assert head.start_points.bias is not None
    generator = torch.Generator().manual_seed(1)
    torch.nn.init.normal_(head.start_points.weight, std=0.3, generator=generator)
    features = torch.randn(1, 32, 6, 8, generator=generator)
    weights = torch.randn(1, 48, 5, generator=generator)

    def score() -> Tensor:
        logits: Tensor = head([features])["cls_logits"]
        return (logits * weights).sum()

    score().backward()
    grad = head.start_points.bias.grad
    assert grad is not None
    step = 1e-3
    with torch.no_grad():
        head.start_points.bias[3] += step
        more = score()
        head.start_points.bias[3] -= 2 * step
        slope = (more - score()) / (2 * step)
    assert abs(float(slope)) > 0.01
    assert grad[3].item() == pytest.approx(0.1 * slope.item(), rel=0.1)


def test_the_box_scale_learns_at_a_hundredth() -> None:
    head = head_of(reppoints())
    points = torch.randn(18, generator=torch.Generator().manual_seed(0))
    width = head.boxes(points)[2] - head.boxes(points)[0]
    width.backward()
    assert head.moment.grad is not None
    assert head.moment.grad[0].item() == pytest.approx(0.01 * width.item(), rel=1e-5)


def test_between_the_overlaps_nothing_is_learned() -> None:
    """Three positions, whose first boxes overlap the object by 1, 0.45 and 0: the second's classes get no gradient."""
    detector = reppoints()
    anchors = squares((32, 32, 8), (32, 40, 8), (96, 96, 8))
    object_ = torch.tensor([[16.0, 16, 48, 48]])
    start = torch.tensor([[[-2.0, -2, 2, 2], [-2, -3, 2, -1.2], [-1, -1, 1, 1]]])
    logits = torch.zeros(1, 3, 5, requires_grad=True)
    rows = [{"boxes": object_, "labels": torch.tensor([2])}]
    head = {"cls_logits": logits, "bbox_start": start, "bbox_regression": start.clone()}
    losses = detector.losses(rows, head, [anchors], [3])
    assert losses["bbox_regression"].item() == pytest.approx(0, abs=1e-6)
    losses["classification"].backward()
    assert logits.grad is not None
    assert logits.grad[0, 0, 2] < 0
    assert not logits.grad[0, 1].any()
    assert (logits.grad[0, 2] > 0).all()


def test_an_object_that_no_box_overlaps_makes_no_position_learn_it() -> None:
    boxes = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [40, 40, 40, 40]])
    small, met = [20.0, 20.0, 24.0, 24.0], [10.0, 0.0, 30.0, 20.0]
    assert assign(boxes, torch.tensor([small]), _RULE).objects.tolist() == [-1, -1, -1]
    assert assign(boxes, torch.tensor([small, met]), _RULE).objects.tolist() == [-1, 1, -1]


def test_losses_may_read_the_boxes_in_strides() -> None:
    outputs = tiny("reppoints")(images("reppoints"))
    assert set(outputs.head) == {"class_logits", "box_deltas"}
    assert [level.shape for level in outputs.head["box_deltas"]] == [(2, 192, 4), (2, 48, 4), (2, 12, 4)]
