"""What is special about ATSS: whom it assigns, how central that is, and how it scores."""

import pytest
import torch
from detector_samples import TINY, decisions
from oracle_samples import answers, group

from stages.config import DetectorConfig
from stages.detectors.atss import AtssDetector, centerness
from stages.detectors.dense.assignment import nearest_above_average, positives
from stages.training.checkpoint import build_detector

CASES = ("random", "none", "ties", "tiny", "huge", "both")


@pytest.mark.parametrize("case", CASES)
def test_assigns_as_an_independent_implementation_does(case: str) -> None:
    found = group(answers("atss"), "assignment")
    own = nearest_above_average(found["anchors"], found["sizes"].tolist(), found[f"{case}/boxes"], 9)
    assert torch.equal(own, found[f"{case}/found"])
    assert (own >= 0).any() == (case != "none")


def test_the_threshold_is_the_mean_plus_the_deviation_of_all_candidates() -> None:
    """Anchors of one level, overlaps with the object by hand: 1, 1/3 and 1/3; their mean and deviation add up to 0.94."""
    anchors = torch.tensor([[0.0, 0, 8, 8], [4, 0, 12, 8], [-4, 0, 4, 8], [100, 0, 108, 8]])
    assert nearest_above_average(anchors, [4], anchors[:1], 3).tolist() == [0, -1, -1, -1]


def test_a_single_candidate_is_its_own_threshold() -> None:
    assert nearest_above_average(torch.tensor([[0.0, 0, 8, 8]]), [1], torch.tensor([[1.0, 1, 9, 9]]), 9).tolist() == [0]


def test_an_anchor_whose_center_is_at_the_edge_is_nobodys() -> None:
    assert nearest_above_average(torch.tensor([[0.0, 0, 8, 8]]), [1], torch.tensor([[4.005, 0, 8, 8]]), 9).tolist() == [-1]


def test_an_anchor_of_two_objects_is_that_of_the_one_it_overlaps_most() -> None:
    anchors, boxes = torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([[0.0, 0, 8, 4.5], [0, 0, 8, 7], [0, 0, 8, 7]])
    assert nearest_above_average(anchors, [1], boxes, 9).tolist() == [1]


def test_every_image_counts_as_one_positive_at_least() -> None:
    anchors = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8]])
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}
    found = positives([{"boxes": anchors, "labels": torch.tensor([2, 0])}, none], anchors, [2], 1)
    assert found.count == 3
    assert found.labels.tolist() == [2, 0]
    assert torch.equal(found.classes(3)[0], torch.tensor([[0.0, 0, 1], [1, 0, 0]]))
    assert not found.classes(3)[1].any()


def test_centerness_is_that_of_the_anchors_center() -> None:
    """By hand: 2 of 8 to the left and 6 to the right, 4 and 4 above and below: the root of 1/3."""
    own = centerness(torch.tensor([[-2.0, 0, 6, 8]]), torch.tensor([[0.0, 0, 8, 8]]))
    assert own.item() == pytest.approx((1 / 3) ** 0.5)


def test_a_score_is_the_product_of_both_and_the_threshold_that_of_the_class() -> None:
    detector = build_detector(DetectorConfig.model_validate({"name": "atss", **TINY["atss"]}), 5).eval()
    assert isinstance(detector, AtssDetector)
    head = detector.model.head
    with torch.no_grad():
        head.cls_logits.bias.fill_(0.0)  # type: ignore[union-attr, operator]
        for layer in (head.cls_logits, head.bbox_ctrness, head.bbox_reg):
            layer.weight.zero_()  # type: ignore[union-attr, operator]
        head.bbox_ctrness.bias.fill_(-2.0)  # type: ignore[union-attr, operator]
        images = torch.zeros(1, 3, 96, 128)
        kept = detector.graph(decisions(score_threshold=0.49))(images).scores
        gone = detector.graph(decisions(score_threshold=0.51))(images).scores
    assert kept[0, 0].item() == pytest.approx(0.5 * torch.tensor(-2.0).sigmoid().item())
    assert not gone.any()
