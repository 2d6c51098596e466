"""What is special about Grid R-CNN: the order of its points, what its maps show, its jitter, and boxes after suppression."""

import numpy as np
import pytest
import torch
from detector_samples import SIZE, TINY, confident, decisions, images, targets
from places import ROOT
from torch import Tensor
from torchvision.ops import batched_nms

from stages.config import DetectorConfig
from stages.detectors.two_stage.grid.detector import GridDetector, jittered
from stages.detectors.two_stage.grid.heads import GridHead, neighbors
from stages.detectors.two_stage.grid.heat_maps import draw, read
from stages.training.checkpoint import build_detector

THEIRS = np.load(ROOT / "tests" / "stages" / "detectors" / "fixtures" / "grid_rcnn.npz")
"""Written by mmdet 3.3 from the same regions, objects and maps."""
REGION = torch.tensor([[28.0, 56.0, 56.0, 112.0]])
"""Seen from (14, 28) to (70, 140): a cell is 1 px wide and 2 px high."""


def grid(**options: int) -> GridDetector:
    detector = build_detector(DetectorConfig.model_validate({"name": "grid_rcnn", **TINY["grid_rcnn"], **options}), 5)
    assert isinstance(detector, GridDetector)
    return detector


def test_maps_are_drawn_as_an_independent_implementation_draws_them() -> None:
    """Regions next to their objects, one too small, one much too large, one far away and one whose object begins outside."""
    maps = draw(torch.from_numpy(THEIRS["maps/regions"]), torch.from_numpy(THEIRS["maps/objects"]))
    wanted = np.unpackbits(THEIRS["maps/drawn"])[: maps.numel()].reshape(maps.shape)
    assert np.array_equal(maps.numpy(), wanted)
    assert not maps[0].any()
    assert maps.flatten(1).sum(dim=1).max() == 45  # nine points of five cells


def test_maps_are_read_as_an_independent_implementation_reads_them() -> None:
    generator = np.random.RandomState(7)
    generator.rand(12, 2), generator.rand(12, 2), generator.standard_normal((12, 4))
    maps = torch.from_numpy(generator.standard_normal((12, 9, 28, 28)).astype(np.float32) * 2)
    found = read(maps, torch.from_numpy(THEIRS["maps/regions"]))
    torch.testing.assert_close(found, torch.from_numpy(THEIRS["maps/read"]), rtol=1e-5, atol=1e-3)


def hot(places: list[tuple[int, int]]) -> Tensor:
    """Maps of one region with one hot cell (column, row) for each point."""
    maps = torch.full((1, 9, 28, 28), -20.0)
    for point, (column, row) in enumerate(places):
        maps[0, point, row, column] = 20.0
    return maps


def test_points_are_numbered_column_by_column() -> None:
    """The first three are the left edge, from the top to the bottom; their maps begin at column 0, and at rows 0, 14 and 28."""
    places = [(4, 6), (4, 6), (4, 6), (9, 6), (9, 6), (9, 6), (2, 6), (2, 6), (2, 6)]
    left, top, right, bottom = read(hot(places), REGION)[0].tolist()
    assert (left, right) == pytest.approx((14 + 4.5, 14 + 28 + 2.5))
    assert (top, bottom) == pytest.approx((28 + 2 * 6.5, 28 + 2 * (28 + 6.5)))


def test_an_edge_is_the_mean_of_its_points_weighted_by_probability() -> None:
    maps = hot([(4, 6)] * 9)
    maps[0, 0] = -20.0
    maps[0, 0, 6, 10] = 0.0  # half as probable as the two others
    assert read(maps, REGION)[0, 0].item() == pytest.approx(14 + (10.5 * 0.5 + 4.5 * 2) / 2.5, abs=1e-4)


def test_the_largest_logit_is_read_where_float32_has_one_sigmoid_for_several() -> None:
    """Only there can boxes differ from those of mmdet, which takes the first of them: column 4, not 10."""
    maps = hot([(4, 6)] * 9)
    maps[..., 6, 10] = 25.0
    sigmoids = maps.sigmoid()
    assert (sigmoids == sigmoids.amax(dim=(-2, -1), keepdim=True)).sum(dim=(-2, -1)).tolist() == [[2] * 9]
    left, _, right, _ = read(maps, REGION)[0].tolist()
    assert (left, right) == pytest.approx((14 + 10.5, 14 + 28 + 10.5))


def test_what_is_drawn_is_read_again() -> None:
    box = torch.tensor([[30.5, 61.0, 50.5, 109.0]])
    maps = draw(REGION, box)
    assert maps[0, 0].nonzero().tolist() == [[15, 16], [16, 15], [16, 16], [16, 17], [17, 16]]
    center = torch.zeros_like(maps)
    for point in range(9):
        center[0, point, *maps[0, point].nonzero()[2].tolist()] = 1
    assert (read(20 * center - 10, REGION) - box).abs().max() <= 1  # half a cell


def test_neighbors_are_those_of_the_grid() -> None:
    assert [neighbors(point) for point in range(9)] == [
        [1, 3],
        [0, 2, 4],
        [1, 5],
        [0, 4, 6],
        [1, 3, 5, 7],
        [2, 4, 8],
        [3, 7],
        [4, 6, 8],
        [5, 7],
    ]


def test_a_point_hears_of_points_two_steps_away_and_no_farther() -> None:
    head = GridHead(8, 4).double()
    own = torch.randn(1, 36, 7, 7, dtype=torch.float64, requires_grad=True)
    for target, reached in ((0, {0, 1, 2, 3, 4, 6}), (4, set(range(9)))):
        heard = head._exchanged(own).chunk(9, dim=1)[target]
        (grad,) = torch.autograd.grad(heard.sum(), own)
        assert {point for point, part in enumerate(grad.chunk(9, dim=1)) if part.any()} == reached


def test_jitter_moves_and_stretches_by_its_share_and_stays_within_the_image() -> None:
    boxes = torch.tensor([[40.0, 20.0, 80.0, 40.0]]).repeat(500, 1)
    torch.manual_seed(0)
    found = jittered(boxes, 0.15, SIZE)
    extent, middle = found[:, 2:] - found[:, :2], (found[:, 2:] + found[:, :2]) / 2
    for values, low, high in ((extent[:, 0], 34, 46), (extent[:, 1], 17, 23), (middle[:, 0], 54, 66), (middle[:, 1], 27, 33)):
        assert low <= values.min() < low + 0.5
        assert high - 0.5 < values.max() <= high + 1e-4
    assert torch.equal(jittered(boxes, 0.0, SIZE), boxes)
    assert jittered(torch.tensor([[-9.0, -9, 200, 200]]), 0.0, SIZE).tolist() == [[0, 0, 127, 95]]


def test_no_more_grids_are_learned_than_its_limit() -> None:
    detector, seen = grid(), list[int]()
    detector.model.roi_head.grid_head.convs.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    given = targets(detector, "grid_rcnn")
    detector(images("grid_rcnn"), given)
    detector.most_grids = 1
    detector(images("grid_rcnn"), given)
    assert seen[0] >= 2
    assert seen[1] == 1


@pytest.mark.parametrize("agnostic", [False, True])
def test_overlaps_are_those_of_proposals_and_boxes_those_of_grids(agnostic: bool) -> None:
    detector = confident(grid(rpn_candidates=1000))
    nms = "agnostic" if agnostic else "per_class"
    options = decisions(max_detections=1000, candidates=1000, score_threshold=0.2, iou_threshold=0.3, proposals=300, nms=nms)
    with torch.no_grad():
        outputs, answer = detector(images("grid_rcnn")), detector.graph(options).eval()(images("grid_rcnn"))
        assert outputs.proposals is not None
        given = [boxes[:300] for boxes in outputs.proposals]
        regions = outputs.regions(given)
    likely = torch.cat((regions.class_logits, regions.background[:, None]), dim=1).softmax(dim=1)[:, :-1]
    counts = [len(boxes) for boxes in given]
    for index, (scores, found) in enumerate(zip(likely.split(counts), regions.boxes[:, 0].split(counts), strict=True)):
        row, label = torch.where(scores > 0.2)
        kept = batched_nms(given[index][row], scores[row, label], label * (0 if agnostic else 1), 0.3)
        real = answer.scores[index] > 0
        assert 3 < len(kept) == int(real.sum()) < len(row)
        torch.testing.assert_close(answer.scores[index][real], scores[row, label][kept], rtol=1e-3, atol=1e-4)
        assert answer.labels[index][real].tolist() == label[kept].tolist()
        inside = torch.minimum(found[row[kept]].clamp(min=0), torch.tensor([SIZE[1], SIZE[0]] * 2))
        near = (answer.boxes[index][real] - inside).abs().amax(dim=1) < 0.05
        assert near.float().mean() > 0.9  # the likeliest of two nearly equal cells may differ
