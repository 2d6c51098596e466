"""Dense NMS against a greedy loop written here, and against torchvision."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou, nms

from stages.nms import dense_nms, pairwise_iou, select


def greedy(boxes: np.ndarray, labels: np.ndarray, threshold: float) -> list[int]:
    """Indices kept by plain greedy suppression within each class; boxes by descending score."""
    kept: list[int] = []
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        for j in kept:
            a, b = boxes[j], boxes[i]
            w = np.float32(max(np.float32(0), min(a[2], b[2]) - max(a[0], b[0])))
            h = np.float32(max(np.float32(0), min(a[3], b[3]) - max(a[1], b[1])))
            union = np.float32((a[2] - a[0]) * (a[3] - a[1]) + (x2 - x1) * (y2 - y1) - w * h)
            if labels[i] == labels[j] and union > 0 and np.float32(w * h) / union > threshold:
                break
        else:
            kept.append(i)
    return kept


def crowded(generator: torch.Generator, num_boxes: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping boxes with whole-number corners, some without area, some identical."""
    corner = torch.randint(0, 40, (num_boxes, 2), generator=generator).float()
    size = torch.randint(0, 30, (num_boxes, 2), generator=generator).float()
    boxes = torch.cat((corner, corner + size), dim=1)
    boxes[num_boxes // 2 :: 7] = boxes[0].clone()
    return boxes, torch.randint(0, num_classes, (num_boxes,), generator=generator)


@pytest.mark.parametrize("num_boxes", [1, 2, 30, 200])
@pytest.mark.parametrize("num_classes", [1, 10, 80])
def test_dense_nms_keeps_what_a_greedy_loop_keeps(num_boxes: int, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(num_boxes * 100 + num_classes)
    for _ in range(10):
        boxes, labels = crowded(generator, num_boxes, num_classes)
        keep, converged = dense_nms(boxes[None], labels[None], 0.5)
        assert bool(converged)
        assert keep[0].nonzero().flatten().tolist() == greedy(boxes.numpy(), labels.numpy(), 0.5)


def test_one_class_equals_torchvision() -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        corner = torch.rand(300, 2, generator=generator) * 100
        boxes = torch.cat((corner, corner + torch.rand(300, 2, generator=generator) * 60 + 1), dim=1)
        keep, converged = dense_nms(boxes[None], torch.zeros(1, 300), 0.6)
        assert bool(converged)
        assert keep[0].nonzero().flatten().tolist() == nms(boxes, torch.arange(300, 0, -1).float(), 0.6).tolist()


def test_a_chain_longer_than_the_repeats_is_reported() -> None:
    starts = torch.arange(40).float() * 4
    boxes = torch.stack((starts, torch.zeros(40), starts + 10, torch.full((40,), 10.0)), dim=1)[None]
    labels = torch.zeros(1, 40)
    assert not bool(dense_nms(boxes, labels, 0.3, repeats=3)[1])
    keep, converged = dense_nms(boxes, labels, 0.3, repeats=45)
    assert bool(converged)
    assert keep[0].nonzero().flatten().tolist() == greedy(boxes[0].numpy(), labels[0].numpy(), 0.3)


def test_pairwise_iou_equals_torchvision() -> None:
    corner = torch.rand(1, 50, 2) * 50
    boxes = torch.cat((corner, corner + torch.rand(1, 50, 2) * 30), dim=2)
    torch.testing.assert_close(pairwise_iou(boxes)[0], box_iou(boxes[0], boxes[0]))


def test_select_pads_with_zero_scores_and_boxes() -> None:
    boxes = torch.tensor([[[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]]]).float()
    scores, labels = torch.tensor([[0.5, 0.9, 0.0]]), torch.tensor([[1, 1, 2]])
    found, kept, classes, converged = select(boxes, scores, labels, 0.5, 3)
    assert kept.tolist() == [[pytest.approx(0.9), 0, 0]]
    assert found[0, 0].tolist() == [0, 0, 10, 9]
    assert found[0, 1:].abs().sum() == 0
    assert int(classes[0, 0]) == 1
    assert bool(converged)


def test_images_of_a_batch_do_not_touch_each_other() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = (crowded(generator, 60, 3) for _ in range(2))
    both, _ = dense_nms(torch.stack((first[0], second[0])), torch.stack((first[1], second[1])), 0.5)
    for index, (boxes, labels) in enumerate((first, second)):
        assert torch.equal(both[index], dense_nms(boxes[None], labels[None], 0.5)[0][0])
