"""What is special about FSAF: whose position is whose, and at which level an object is learned."""

import pytest
import torch
from detector_samples import TINY
from oracle_samples import answers, group

from stages.config import DetectorConfig
from stages.detectors.dense.center_regions import at_their_best_level, in_core
from stages.detectors.fsaf import FsafDetector
from stages.training.checkpoint import build_detector

CASES = ("random", "none", "ties", "tiny", "huge", "both")


def fsaf() -> FsafDetector:
    detector = build_detector(DetectorConfig.model_validate({"name": "fsaf", **TINY["fsaf"]}), 5)
    assert isinstance(detector, FsafDetector)
    return detector


@pytest.mark.parametrize("case", CASES)
def test_assigns_as_an_independent_implementation_does(case: str) -> None:
    found = group(answers("fsaf"), "assignment")
    own, ignored = in_core(found["anchors"], found[f"{case}/boxes"], found[f"{case}/labels"], 0.2, 3)
    assert torch.equal(own, found[f"{case}/found"])
    expected = torch.zeros_like(ignored)
    expected[tuple(found[f"{case}/shadowed"].T)] = True
    assert torch.equal(ignored, expected)
    assert (own >= 0).any() == (case not in ("none", "tiny"))  # no center of a position is in the tiny ones


def test_of_two_objects_a_position_learns_the_smaller_and_ignores_the_others_class() -> None:
    square, boxes = torch.tensor([[12.0, 12, 20, 20]]), torch.tensor([[0.0, 0, 32, 32], [4, 4, 28, 28]])
    own, ignored = in_core(square, boxes, torch.tensor([2, 1]), 0.2, 4)
    assert own.tolist() == [1]
    assert ignored.tolist() == [[False, False, True, False]]


def test_between_two_objects_of_one_class_a_position_learns_neither() -> None:
    square, boxes = torch.tensor([[12.0, 12, 20, 20]]), torch.tensor([[0.0, 0, 32, 32], [4, 4, 28, 28]])
    own, ignored = in_core(square, boxes, torch.tensor([1, 1]), 0.2, 4)
    assert own.tolist() == [-1]
    assert ignored.tolist() == [[False, True, False, False]]


def test_a_square_that_touches_the_core_from_outside_the_object_ignores_its_class() -> None:
    square, boxes = torch.tensor([[0.0, 0, 32, 32]]), torch.tensor([[20.0, 20, 30, 30]])
    own, ignored = in_core(square, boxes, torch.tensor([3]), 0.8, 4)
    assert own.tolist() == [-1]
    assert ignored.tolist() == [[False, False, False, True]]


def test_an_object_is_learned_at_the_level_of_the_least_mean_loss() -> None:
    """The first object's means are 2, 1.5 and none, the second's 3 at its only level."""
    losses, objects = torch.tensor([1.0, 3, 1.5, 3]), torch.tensor([0, 0, 0, 1])
    assert at_their_best_level(losses, objects, torch.tensor([0, 0, 1, 2]), (3, 2)).tolist() == [False, False, True, True]
    none = torch.zeros(0)
    assert at_their_best_level(none, none.long(), none.long(), (3, 0)).shape == (0,)


def test_other_levels_neither_learn_the_objects_class_nor_unlearn_it() -> None:
    """An object of class 2 is learned at the finer level: at the coarser its logit gets no gradient, those of other classes do."""
    detector = fsaf()
    squares = torch.tensor([[12.0, 12, 20, 20], [8, 8, 24, 24], [24, 8, 40, 24]])
    logits = torch.zeros(1, 3, 5, requires_grad=True)
    codes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [9.0, 9, 9, 9], [0, 0, 0, 0]]], requires_grad=True)
    rows = [{"boxes": torch.tensor([[0.0, 0, 32, 32]]), "labels": torch.tensor([2])}]
    losses = detector.losses(rows, {"cls_logits": logits, "bbox_regression": codes}, [squares], [1, 2])
    assert losses["bbox_regression"].item() == pytest.approx(0.0, abs=1e-6)
    sum(losses.values(), torch.tensor(0.0)).backward()
    assert logits.grad is not None
    assert codes.grad is not None
    assert logits.grad[0, 0, 2] < 0
    assert logits.grad[0, 1, 2] == 0
    assert (logits.grad[0, 1, [0, 1, 3, 4]] > 0).all()
    assert not codes.grad[0, 1].any()


def test_a_code_is_up_down_left_and_right_in_four_strides() -> None:
    square = torch.tensor([[12.0, 12, 20, 20]])
    assert fsaf().decode(torch.tensor([[0.25, 0.5, 0.125, 1.0]]), square).tolist() == [[12, 8, 48, 32]]


def test_without_objects_losses_are_divided_by_the_number_of_positions() -> None:
    logits = torch.zeros(1, 2, 5)
    rows = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}]
    squares = torch.tensor([[12.0, 12, 20, 20], [20, 12, 28, 20]])
    losses = fsaf().losses(rows, {"cls_logits": logits, "bbox_regression": torch.ones(1, 2, 4)}, [squares], [2])
    assert losses["classification"].item() == pytest.approx(5 * 0.75 * 0.25 * torch.tensor(2.0).log().item())
    assert losses["bbox_regression"].item() == 0
