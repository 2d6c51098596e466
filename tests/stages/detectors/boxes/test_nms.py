"""Dense NMS against a greedy loop written here, against torchvision, and in ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import box_iou, nms

from stages.detectors.boxes.nms import REPEATS, TOGETHER, dense_nms, pairwise_iou, select, select_per_class

Answer = tuple[Tensor, Tensor, Tensor, Tensor]
Indices = NDArray[np.int64]


def greedy(boxes: NDArray[np.float32], scores: NDArray[np.float32], threshold: float) -> Indices:
    """Indices kept by plain greedy suppression, best first; among equal scores the lower index is the better."""
    left = np.argsort(-scores, kind="stable")
    left = left[scores[left] > 0]
    kept: list[int] = []
    while len(left):
        first, left = left[0], left[1:]
        kept.append(int(first))
        if not len(left):
            break
        low, high = np.maximum(boxes[first, :2], boxes[left, :2]), np.minimum(boxes[first, 2:], boxes[left, 2:])
        overlap = np.maximum(high - low, np.float32(0)).prod(axis=1)
        areas = [(box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (boxes[first], boxes[left])]
        union = areas[0] + areas[1] - overlap
        iou = np.divide(overlap, union, out=np.zeros_like(union), where=union > 0)
        left = left[~(iou > np.float32(threshold))]
    return np.array(kept, dtype=np.int64)


def greedy_per_label(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Indices:
    """Greedy suppression run for one label after the other, then all by score; equal scores by label, then by index."""
    parts: list[Indices] = [np.zeros(0, np.int64)]
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().flatten().numpy()
        parts.append(own[greedy(boxes.numpy()[own], scores.numpy()[own], threshold)])
    kept = np.concatenate(parts)
    return kept[np.argsort(-scores.numpy()[kept], kind="stable")]


class Sample(NamedTuple):
    """Boxes [N, 4], scores [N] and labels [N], and the threshold to suppress at."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    threshold: float


def sample(seed: int, most_boxes: int = 1000) -> Sample:
    """Crowded boxes of up to 80 classes: on a grid or not, around few objects or not, some without area, identical or equal in score."""
    g = torch.Generator().manual_seed(seed)
    num_boxes = 1 + int(torch.rand((), generator=g) ** 2 * most_boxes)
    num_classes = (1, 3, 10, 80)[seed % 4]
    threshold = (0.3, 0.45, 0.5, 0.55, 0.6, 0.7)[seed % 6]
    if seed % 3 == 0:  # whole numbers: IoUs of exactly the threshold
        corner = torch.randint(0, 40, (num_boxes, 2), generator=g).float()
        boxes = torch.cat((corner, corner + torch.randint(0, 30, (num_boxes, 2), generator=g)), dim=1)
    elif seed % 3 == 1:
        corner = torch.rand(num_boxes, 2, generator=g) * 300
        boxes = torch.cat((corner, corner + torch.rand(num_boxes, 2, generator=g) * 120), dim=1)
    else:
        objects = torch.rand(8, 2, generator=g) * 500, torch.rand(8, 2, generator=g) * 80 + 10
        chosen = torch.randint(0, 8, (num_boxes,), generator=g)
        center = objects[0][chosen] + torch.randn(num_boxes, 2, generator=g) * 0.2 * objects[1][chosen]
        half = objects[1][chosen] / 2 * torch.exp(torch.randn(num_boxes, 2, generator=g) * 0.2)
        boxes = torch.cat((center - half, center + half), dim=1)
    boxes[num_boxes // 2 :: 7] = boxes[0].clone()
    boxes[num_boxes // 3 :: 11, 2] = boxes[num_boxes // 3 :: 11, 0]
    scores = torch.rand(num_boxes, generator=g)
    if seed % 2:
        scores = (scores * 50).round() / 50  # many ties, some 0
    return Sample(boxes, scores, torch.randint(0, num_classes, (num_boxes,), generator=g), threshold)


def sample_of(num_boxes: int, seed: int) -> Sample:
    """A sample of exactly so many boxes."""
    one = sample(seed)
    rows = torch.arange(num_boxes) % len(one.boxes)
    return Sample(one.boxes[rows], one.scores[rows], one.labels[rows], one.threshold)


def check_all(one: Sample) -> None:
    """Every form, on boxes ordered by label, so that equal scores go the same way in all."""
    order = one.labels.argsort(stable=True)
    one = Sample(one.boxes[order], one.scores[order], one.labels[order], one.threshold)
    expected = greedy_per_label(*one)
    check_flat(one, expected)
    check_blocks(one, expected)


def check_flat(one: Sample, expected: Indices) -> None:
    """All boxes in one list."""
    boxes, scores, labels, threshold = one
    descending = scores.argsort(descending=True, stable=True)
    live = torch.where(scores[:, None] > 0, boxes, torch.zeros_like(boxes))[descending]
    keep, settled = dense_nms(live[None], labels[descending][None], threshold)
    kept = descending[keep[0] > 0]
    assert bool(settled)
    assert kept[scores[kept] > 0].tolist() == expected.tolist()
    check(select(boxes[None], scores[None], labels[None], threshold, len(boxes)), one, expected)


def check_blocks(one: Sample, expected: Indices) -> None:
    """A list for each class, and a list that they share."""
    num_classes, num_boxes, total = int(one.labels.max()) + 1, int(torch.bincount(one.labels).max()), len(one.boxes)
    alone = torch.where(one.labels == torch.arange(num_classes)[:, None], one.scores, torch.zeros(num_classes, 1))
    check(select_per_class(one.boxes[None], alone[None], one.threshold, total, num_boxes), one, expected)
    boxes, scores = torch.zeros(1, num_classes, num_boxes, 4), torch.zeros(1, num_classes, num_boxes)
    for label in range(num_classes):
        own = one.labels == label
        boxes[0, label, : own.sum()], scores[0, label, : own.sum()] = one.boxes[own], one.scores[own]
    check(select_per_class(boxes, scores, one.threshold, total), one, expected)


def check(answer: Answer, one: Sample, expected: Indices) -> None:
    """The answer is exactly the expected boxes in their order, padded with zeros."""
    count = len(expected)
    assert bool(answer[3])
    assert torch.equal(answer[0][0, :count], one.boxes[expected])
    assert torch.equal(answer[1][0, :count], one.scores[expected])
    assert torch.equal(answer[2][0, :count], one.labels[expected])
    assert not answer[0][0, count:].any()
    assert not answer[1][0, count:].any()


def check_across_classes(one: Sample) -> None:
    """Every form, on boxes ordered by label, against greedy suppression of all boxes together."""
    order = one.labels.argsort(stable=True)
    boxes, scores, labels, threshold = one = Sample(one.boxes[order], one.scores[order], one.labels[order], one.threshold)
    expected = greedy(boxes.numpy(), scores.numpy(), threshold)
    check(select(boxes[None], scores[None], labels[None], threshold, len(boxes), agnostic=True), one, expected)
    num_classes = int(labels.max()) + 1
    alone = torch.where(labels == torch.arange(num_classes)[:, None], scores, torch.zeros(num_classes, 1))
    most = int(torch.bincount(labels).max())
    check(select_per_class(boxes[None], alone[None], threshold, len(boxes), most, agnostic=True), one, expected)


@pytest.mark.parametrize("start", range(0, 150, 50))
def test_across_classes_every_form_keeps_what_a_greedy_loop_keeps(start: int) -> None:
    for seed in range(start, start + 50):
        check_across_classes(sample(seed, 300))


def test_across_classes_by_hand() -> None:
    """Overlaps of 10 x 10 px boxes shifted by 1 and 4 px: 90 / 110 and 60 / 140 of their union."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [4, 0, 14, 10], [30, 0, 40, 10]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 1, 1, 0])
    for agnostic, threshold, kept in ((False, 0.6, [0.9, 0.8, 0.7, 0.6]), (True, 0.6, [0.9, 0.7, 0.6]), (True, 0.4, [0.9, 0.6])):
        answer = select(boxes[None], scores[None], labels[None], threshold, 4, agnostic=agnostic)
        assert answer[1][answer[1] > 0].tolist() == pytest.approx(kept)
        by_class = torch.where(labels == torch.arange(2)[:, None], scores, torch.zeros(2, 1))
        assert torch.equal(select_per_class(boxes[None], by_class[None], threshold, 4, agnostic=agnostic)[1], answer[1])


def test_across_classes_the_best_of_many_are_considered() -> None:
    scores = torch.rand(1, 30, 100, generator=torch.Generator().manual_seed(0)) + 0.1
    corner = torch.arange(3000.0).reshape(30, 100, 1) * 2
    boxes = torch.cat((corner, corner, corner + 1, corner + 1), dim=-1)[None]
    answer = select_per_class(boxes, scores, 0.5, 3000, agnostic=True)
    assert torch.equal(answer[1][0], scores.flatten().sort(descending=True).values[:TOGETHER])


@pytest.mark.parametrize("start", range(0, 300, 50))
def test_every_form_keeps_what_greedy_loops_keep_in_their_order(start: int) -> None:
    for seed in range(start, start + 50):
        check_all(sample(seed, 300))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 10_000, 500))
def test_ten_thousand_sets_keep_what_greedy_loops_keep_in_their_order(start: int) -> None:
    for seed in range(start, start + 500):
        check_all(sample(seed))


@pytest.mark.parametrize("block", [1, 7, 64])
def test_the_size_of_the_blocks_does_not_matter(block: int) -> None:
    for seed in (0, 4, 8):
        one = sample(seed, 200)
        boxes, labels = one.boxes[one.scores.argsort(descending=True)], one.labels
        whole = dense_nms(boxes, labels, one.threshold, block=200)
        assert torch.equal(dense_nms(boxes, labels, one.threshold, block=block)[0], whole[0])


class Called(nn.Module):
    """A function as a module, for the exporter."""

    def __init__(self, function: Callable[..., Answer]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Answer:
        return self.function(*tensors)


def in_onnx_runtime(function: Callable[..., Answer], file: Path, *inputs: Tensor) -> list[Tensor]:
    """What the exported function answers."""
    program = torch.onnx.export(Called(function).eval(), inputs, dynamo=True, opset_version=18, verbose=False)
    assert program is not None
    program.save(str(file))
    nodes = {node.op_type for node in onnx.load(file).graph.node}
    assert not nodes & {"NonMaxSuppression", "NonZero", "Loop", "If", "Scan"}
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return [torch.from_numpy(value) for value in session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))]


def test_onnx_runtime_answers_as_torch_does_ties_included(tmp_path: Path) -> None:
    boxes = torch.stack([sample_of(60, seed).boxes for seed in range(3)])
    scores = (torch.rand(3, 2, 60, generator=torch.Generator().manual_seed(0)) * 9).floor() / 9
    labels = torch.arange(60).expand(3, -1) % 2

    def flat(boxes: Tensor, scores: Tensor, labels: Tensor) -> Answer:
        return select(boxes, scores[:, 0], labels, 0.5, 20)

    def blocks(boxes: Tensor, scores: Tensor) -> Answer:
        return select_per_class(boxes, scores, 0.5, 20, 40)

    for function, inputs in ((flat, (boxes, scores, labels)), (blocks, (boxes, scores))):
        theirs = in_onnx_runtime(function, tmp_path / "nms.onnx", *inputs)
        for mine, other in zip(function(*inputs), theirs, strict=True):
            assert torch.equal(mine, other)


def test_equal_scores_go_by_class_then_by_index() -> None:
    boxes = torch.arange(4).float()[:, None] * 20 + torch.tensor([0.0, 0.0, 10.0, 10.0])
    scores = torch.tensor([[0.5, 0.0, 0.5, 0.5], [0.5, 0.9, 0.0, 0.5]])
    found, kept, labels, _ = select_per_class(boxes[None], scores[None], 0.5, 6)
    assert kept[0].tolist() == pytest.approx([0.9, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert labels[0].tolist() == [1, 0, 0, 0, 1, 1]
    assert found[0, :, 0].tolist() == [20, 0, 40, 60, 0, 60]


def test_boxes_without_a_score_do_not_hold_up_what_settles() -> None:
    starts = torch.arange(100).float() * 4
    boxes = torch.stack((starts, torch.zeros(100), starts + 10, torch.full((100,), 10.0)), dim=1)[None]
    scores = torch.zeros(1, 1, 100)
    assert not bool(select_per_class(boxes, scores + torch.linspace(1, 0.5, 100), 0.3, 5)[3])
    scores[0, 0, :REPEATS] = torch.linspace(1, 0.5, REPEATS)
    found, kept, _, converged = select_per_class(boxes, scores, 0.3, 100)
    assert bool(converged)
    assert int((kept > 0).sum()) == REPEATS // 2
    assert found[0, :, 0].max() <= 4 * REPEATS


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
    assert keep[0].nonzero().flatten().tolist() == list(range(0, 40, 2))


def test_pairwise_iou_equals_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(1, 50, 2, generator=generator) * 50
    boxes = torch.cat((corner, corner + torch.rand(1, 50, 2, generator=generator) * 30), dim=2)
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
    first, second = sample_of(60, 1), sample_of(60, 2)
    both, _ = dense_nms(torch.stack((first.boxes, second.boxes)), torch.stack((first.labels, second.labels)), 0.5)
    for index, one in enumerate((first, second)):
        assert torch.equal(both[index], dense_nms(one.boxes[None], one.labels[None], 0.5)[0][0])
