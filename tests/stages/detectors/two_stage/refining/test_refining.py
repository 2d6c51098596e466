"""Detectors that refine their proposals: against mmdet's numbers, and by hand.

The files in fixtures/ were written with mmdet 3.3, once, in an environment of its own. Networks there are small forms of its published
configurations (a ResNet-18 of base width 8, 16 channels in the pyramid, 32 in the second stages, 5 classes), with weights that `number`
draws from the names of our tensors; nothing of them is random, because its samplers were allowed more boxes than there are.
"""

import copy
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from detector_samples import TINY, decisions
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy.errors import ConfigError, DataError
from stages.config import DetectorConfig
from stages.detectors import GraphOutput, Target
from stages.detectors.boxes.coding import clip, decode, encode
from stages.detectors.boxes.matching import MatchRule, assign
from stages.detectors.two_stage.assignment import sample
from stages.detectors.two_stage.grid.detector import GridDetector
from stages.detectors.two_stage.proposals import propose
from stages.detectors.two_stage.refining import dynamic_rules
from stages.detectors.two_stage.refining.detector import ProposingDetector, RefinementDetector
from stages.detectors.two_stage.refining.dynamic_rules import DynamicRules
from stages.training.checkpoint import build_detector

FIXTURES = Path(__file__).parents[2] / "fixtures"
NAMES = ("cascade_rcnn", "dynamic_rcnn", "cascade_mask_rcnn", "grid_rcnn")
HEIGHT, WIDTH = 128, 160
SMALL: dict[str, Any] = {"backbone": "resnet18", "width": 8, "fpn_channels": 16, "box_head_channels": 32, "box_batch_size_per_image": 4096}
P = TypeVar("P", bound=ProposingDetector)
BOXES = torch.tensor([[10.0, 12.0, 50.0, 60.0], [60.0, 60.0, 90.0, 114.0], [5.0, 3.0, 150.0, 120.0], [70.0, 10.0, 78.0, 17.0]])
ZOO = decisions(max_detections=100, candidates=1000, score_threshold=0.05, iou_threshold=0.5, proposals=1000)
"""What mmdet does by default."""
OF_GRID = decisions(max_detections=100, candidates=1000, score_threshold=0.03, iou_threshold=0.3, proposals=1000)
"""What it does with Grid R-CNN."""
HEADS: dict[str, dict[str, Any]] = {"cascade_mask_rcnn": {"mask_head_channels": 16}, "grid_rcnn": {"point_channels": 8}}
"""Options of some in their small forms."""
SCALES = {"fc_reg": 0.15, "rpn_reg": 0.15, "fc_cls": 2.0, "layer_blocks": 0.02}
"""Of some layers' weights, so that scores are spread out."""
LOSSES = {
    "cascade_rcnn": {
        "loss_rpn_cls": "loss_objectness",
        "loss_rpn_bbox": "loss_rpn_box_reg",
        **{f"s{i}.loss_cls": f"loss_classifier_{i + 1}" for i in range(3)},
        **{f"s{i}.loss_bbox": f"loss_box_reg_{i + 1}" for i in range(3)},
    },
    "dynamic_rcnn": {
        "loss_rpn_cls": "loss_objectness",
        "loss_rpn_bbox": "loss_rpn_box_reg",
        "loss_cls": "loss_classifier",
        "loss_bbox": "loss_box_reg",
    },
    "grid_rcnn": {
        "loss_rpn_cls": "loss_objectness",
        "loss_rpn_bbox": "loss_rpn_box_reg",
        "loss_cls": "loss_classifier",
        "loss_grid": "loss_grid",
    },
}
LOSSES["cascade_mask_rcnn"] = LOSSES["cascade_rcnn"] | {f"s{i}.loss_mask": f"loss_mask_{i + 1}" for i in range(3)}
"""Our names of mmdet's losses."""


def proposing(name: str, num_classes: int = 5, **options: Any) -> ProposingDetector:
    detector = build_detector(DetectorConfig.model_validate({"name": name, **options}), num_classes, 0)
    assert isinstance(detector, ProposingDetector)
    return detector


def build(name: str, num_classes: int = 5, **options: Any) -> RefinementDetector:
    detector = proposing(name, num_classes, **options)
    assert isinstance(detector, RefinementDetector)
    return detector


def number(name: str, shape: torch.Size) -> Tensor:
    """Values that depend only on the name: NumPy keeps this generator's numbers from version to version."""
    generator = np.random.RandomState(zlib.crc32(name.encode()) % 2**31)
    return torch.from_numpy(generator.standard_normal(size=tuple(shape))).float()


def fill(detector: P) -> P:
    """Weights that give varied scores; statistics of normalization too."""
    for name, tensor in detector.model.state_dict().items():
        if name.endswith("num_batches_tracked") or name.startswith("rules."):
            continue
        value = number(name, tensor.shape)
        if name.endswith("running_var"):
            value = 1 + 0.2 * value.abs()
        elif name.endswith(("running_mean", "bias")):
            value = 0.1 * value
        elif tensor.ndim == 1:
            value = 1 + 0.1 * value
        else:
            value = value * (2.0 / tensor[0].numel()) ** 0.5
            value *= next((scale for part, scale in SCALES.items() if part in name), 1.0)
        tensor.copy_(value)
    return detector.eval()


def pictures() -> Tensor:
    generator = np.random.RandomState(5)
    total = torch.zeros(2, 3, HEIGHT, WIDTH)
    for s in (4, 8, 16, 32):
        patch = torch.from_numpy(generator.standard_normal(size=(2, 3, HEIGHT // s, WIDTH // s))).float()
        total += nn.functional.interpolate(patch, (HEIGHT, WIDTH))
    return total


def targets(*, masks: bool = False) -> list[Target]:
    """Four objects, a tiny and a huge one among them; none."""
    filled = torch.zeros(4, HEIGHT, WIDTH, dtype=torch.bool)
    for one, (x1, y1, x2, y2) in zip(filled, BOXES.int().tolist(), strict=True):
        one[y1 + (y2 - y1) // 4 : y2, x1 : x2 - (x2 - x1) // 3] = True
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), filled[:0] if masks else None)
    return [Target(BOXES, torch.tensor([1, 4, 0, 2]), filled if masks else None), empty]


class Theirs:
    """mmdet's numbers for a network, and ours with the same weights."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.numbers: dict[str, NDArray[np.float32]] = dict(np.load(FIXTURES / f"{name}.npz"))
        self.masks = name == "cascade_mask_rcnn"
        self.detector = fill(proposing(name, **SMALL, **HEADS.get(name, {})))
        if isinstance(self.detector, GridDetector):
            self.detector.jitter, self.detector.most_grids = 0.0, 10**6
        self.detector.model.rpn_head.recipe = replace(self.detector.model.rpn_head.recipe, batch_size=10**6)

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self.numbers[key])


@pytest.fixture(scope="module", params=NAMES)
def theirs(request: pytest.FixtureRequest) -> Theirs:
    with torch.no_grad():
        return Theirs(request.param)


def test_the_pyramid_is_theirs(theirs: Theirs) -> None:
    with torch.no_grad():
        levels = theirs.detector(pictures()).pyramid
    for index, level in enumerate(levels):
        torch.testing.assert_close(level[:1, ::4], theirs[f"level_{index}"], rtol=1e-5, atol=1e-5)


def test_the_losses_are_theirs(theirs: Theirs) -> None:
    with torch.no_grad():
        losses = theirs.detector(pictures(), targets(masks=theirs.masks)).losses
    names = LOSSES[theirs.name]
    assert losses.keys() == set(names.values())
    for name, own in names.items():
        torch.testing.assert_close(losses[own], theirs[f"loss/{name}"], rtol=1e-4, atol=1e-6)
        assert losses[own] > 0


def paired(own: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> Tensor:
    """Which rows of boxes, scores and labels have a partner among others."""
    near = (own[0][:, None] - other[0]).abs().amax(dim=2) < 0.01
    near &= (own[1][:, None] - other[1]).abs() < 1e-4
    return (near & (own[2][:, None] == other[2])).any(dim=1)


def test_the_proposals_are_theirs_one_to_one(theirs: Theirs) -> None:
    network, images = theirs.detector.model.rpn_head, pictures()
    with torch.no_grad():
        levels = theirs.detector.model.levels(images)
        logits, deltas = network(levels)
        found = propose(logits, deltas, torch.cat(network.anchors(levels)), (HEIGHT, WIDTH), network.recipe.of_graph(1000, 1000))
    assert torch.cat([level.flatten() for level in logits]).sigmoid().std() > 0.1
    for index in range(2):
        expected, boxes = theirs[f"proposals_{index}"], found.boxes[index][found.valid[index]]
        near = (boxes[:, None] - expected).abs().amax(dim=2) < 0.01
        assert len(boxes) == len(expected) >= 200
        assert near.any(dim=0).all()
        assert near.any(dim=1).all()


def test_the_detections_are_theirs_one_to_one(theirs: Theirs) -> None:
    with torch.no_grad():
        answer: GraphOutput = theirs.detector.graph(OF_GRID if theirs.name == "grid_rcnn" else ZOO).eval()(pictures())
    assert answer.converged.all()
    for index in range(2):
        # mmdet means to clip the boxes of Grid R-CNN, but clips a copy
        expected = clip(theirs[f"boxes_{index}"], HEIGHT, WIDTH), theirs[f"scores_{index}"], theirs[f"labels_{index}"]
        real = answer.scores[index] > 0
        found = answer.boxes[index][real], answer.scores[index][real], answer.labels[index][real]
        assert len(found[0]) == len(expected[0]) >= 20
        assert paired(found, expected).all()
        assert paired(expected, found).all()
        if theirs.masks:
            assert answer.masks is not None
            masks = theirs[f"masks_{index}"].float()
            rows = torch.stack([(found[0] - box).abs().amax(dim=1).argmin() for box in expected[0][: len(masks)]])
            own = answer.masks[index][real][rows]
            assert (own - masks).abs().max() < 2e-3  # theirs are kept in half precision
            assert masks.std() > 0.05


def test_what_a_batch_shows_is_what_they_observe() -> None:
    theirs = dict(np.load(FIXTURES / "dynamic_rcnn.npz"))
    detector = fill(build("dynamic_rcnn", **SMALL)).train()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    rules = detector.model.rules
    assert isinstance(rules, DynamicRules)
    detector.eval()(pictures(), targets())
    assert rules.counts.tolist() == [0, 0]  # what is only validated is not observed
    detector.training = True
    detector(pictures(), targets())
    assert rules.counts.tolist() == [1, 1]
    torch.testing.assert_close(rules.overlaps[0].item(), float(theirs["iou_history"][0]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rules.errors[0].item(), float(theirs["beta_history"][0]), rtol=1e-5, atol=1e-6)


ASSIGNMENT = np.load(FIXTURES / "two_stage_assignment.npz")


@pytest.mark.parametrize("case", ["random", "none", "ties", "tiny and huge"])
def test_boxes_learn_the_objects_that_they_learn_in_mmdet(case: str) -> None:
    boxes, objects = (torch.from_numpy(ASSIGNMENT[f"{case}/{kind}"]) for kind in ("boxes", "objects"))
    for rule, key in ((MatchRule(0.7, 0.3, 0.3), "rpn"), (MatchRule(0.6, 0.6), "region")):
        assert assign(boxes, objects, rule).objects.tolist() == ASSIGNMENT[f"{case}/{key}"].tolist()


def test_boxes_are_coded_as_in_mmdet() -> None:
    boxes, deltas, decoded, objects, encoded = (
        torch.from_numpy(ASSIGNMENT[f"coder/{kind}"]) for kind in ("boxes", "deltas", "decoded", "objects", "encoded")
    )
    weights = 1 / 0.033, 1 / 0.033, 1 / 0.067, 1 / 0.067
    torch.testing.assert_close(clip(decode(deltas, boxes, weights, limit_shrinking=True), 150, 180), decoded, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(encode(boxes, objects, weights), encoded, rtol=1e-4, atol=1e-4)


def test_a_later_object_takes_the_boxes_that_it_claims_from_an_earlier_one() -> None:
    objects = torch.tensor([[0.0, 0.0, 10.0, 10.0], [4.0, 0.0, 14.0, 10.0]])
    boxes = torch.tensor([[1.0, 0.0, 11.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
    assert assign(boxes, objects, MatchRule(0.7, 0.3)).objects.tolist() == [0, -1]
    assert assign(boxes, objects, MatchRule(0.7, 0.3, claim=0.3)).objects.tolist() == [1, -1]
    assert assign(boxes, objects, MatchRule(0.9, 0.3)).objects.tolist() == [-2, -1]


def test_a_sample_has_its_size_and_no_more_than_its_share_of_objects() -> None:
    objects = torch.tensor([0] * 40 + [-1] * 40 + [-2] * 40)
    positive, negative = sample(objects, 32, 0.25)
    assert len(set(positive.tolist())) == 8
    assert len(set(negative.tolist())) == 24
    assert (objects[positive] == 0).all()
    assert (objects[negative] == -1).all()
    few, rest = sample(objects[37:80], 32, 0.25)
    assert (few.tolist(), len(rest)) == ([0, 1, 2], 29)


def test_each_stage_gets_what_the_one_before_it_moved_without_the_objects_own_boxes() -> None:
    detector = fill(build("cascade_rcnn", **SMALL))
    pooled: list[Tensor] = []
    heads = [*detector.model.roi_head.bbox_head]
    for head in heads:
        head.register_forward_hook(lambda _, given, __: pooled.append(given[0]))
    with torch.no_grad():
        proposals = detector(pictures(), targets()).proposals
    count, objects = sum(map(len, proposals or ())), len(BOXES)
    # every proposal and every object at first; then the same proposals, moved, and the objects again
    assert [len(regions) for regions in pooled] == [count + objects] * 3
    assert not torch.equal(pooled[0], pooled[1])


def test_masks_are_refused_to_be_missing() -> None:
    with pytest.raises(DataError, match="learns masks, which the data set lacks; choose a detector without masks"):
        build("cascade_mask_rcnn", **TINY["cascade_mask_rcnn"])(pictures(), targets())


def test_regions_have_masks_if_they_are_asked_for() -> None:
    detector = fill(build("cascade_mask_rcnn", **SMALL, mask_head_channels=16))
    given = [BOXES, BOXES[:0]]
    with torch.no_grad():
        outputs = detector(pictures())
        found, without = outputs.regions(given, masks=True), outputs.regions(given)
    assert without.masks is None
    assert found.masks is not None
    assert found.masks.shape == (4, 5, 28, 28)
    assert found.masks.std() > 0.1


def test_a_region_without_size_is_pooled_and_judged() -> None:
    detector = fill(build("cascade_rcnn", **SMALL))
    with torch.no_grad():
        outputs = detector(pictures())
        found = outputs.regions([torch.tensor([[5.0, 5.0, 5.0, 5.0]]), torch.tensor([[0.0, 0.0, 30.0, 30.0]])])
    assert torch.isfinite(found.boxes).all()
    assert found.boxes.shape == (2, 1, 4)
    assert torch.isfinite(found.class_logits).all()


class TestDynamicRules:
    def watched(self, batches: int, overlap: float = 0.6, error: float = 0.2) -> DynamicRules:
        rules = DynamicRules()
        for _ in range(batches):
            rules.observe([torch.full((80,), overlap), torch.full((3,), overlap)], torch.full((5, 4), error))
        return rules

    def test_nothing_changes_before_the_hundredth_batch(self) -> None:
        rules = self.watched(99)
        assert rules.overlap(0) == 0.5
        assert rules.beta() == 1.0

    def test_both_follow_the_last_hundred_batches(self) -> None:
        rules = self.watched(100)
        torch.testing.assert_close(rules.overlap(0), torch.tensor(0.6))
        torch.testing.assert_close(rules.beta(), torch.tensor(0.2))
        assert rules.counts.tolist() == [0, 0]

    def test_they_stay_within_their_limits(self) -> None:
        rules = self.watched(100, overlap=0.1, error=7.0)
        torch.testing.assert_close(rules.overlap(0), torch.tensor(0.4))
        assert rules.beta() == 1.0

    def test_errors_of_zero_and_batches_without_objects_keep_the_old_beta(self) -> None:
        rules = self.watched(100)
        for _ in range(100):
            rules.observe([torch.rand(80)], torch.zeros(4, 4))
        torch.testing.assert_close(rules.beta(), torch.tensor(0.2))
        for _ in range(100):
            rules.observe([torch.rand(80), torch.zeros(0)], torch.zeros(0, 4))
        torch.testing.assert_close(rules.beta(), torch.tensor(0.2))

    def test_the_75th_overlap_of_each_image_and_the_tenth_error_per_image_count(self) -> None:
        rules = DynamicRules()
        overlaps = torch.arange(1, 101) / 100
        errors = torch.arange(1, 31)[:, None].expand(-1, 4) * torch.tensor([0.01, 0.03, 9.0, 9.0])
        rules.observe([overlaps, overlaps[:2]], errors)
        torch.testing.assert_close(rules.overlaps[0], torch.tensor((0.26 + 0.01) / 2))
        torch.testing.assert_close(rules.errors[0], torch.tensor(20 * 0.02))

    def test_beta_is_the_median(self) -> None:
        rules = DynamicRules()
        for step in range(100):
            rules.observe([torch.rand(80)], torch.full((1, 4), 0.001 * (step + 1) ** 1.2))
        torch.testing.assert_close(rules.beta(), torch.tensor(0.0005 * (50**1.2 + 51**1.2)))

    def test_processes_observe_their_mean_of_the_values_that_they_have(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two processes: the other has an overlap of 0.8, and no object and so no error."""
        others = iter([torch.tensor([0.8, 1.0]), torch.tensor([0.0, 0.0])])
        monkeypatch.setattr(dynamic_rules, "mean_over_processes", lambda pair: (pair + next(others)) / 2)
        rules = self.watched(1)
        torch.testing.assert_close(rules.overlaps[0], torch.tensor(0.7))
        torch.testing.assert_close(rules.errors[0], torch.tensor(0.2))

    def test_what_was_observed_survives_saving(self) -> None:
        rules, fresh = self.watched(140), DynamicRules()
        fresh.load_state_dict(copy.deepcopy(rules.state_dict()))
        for one in (rules, fresh):
            for _ in range(60):
                one.observe([torch.full((80,), 0.8)], torch.full((5, 4), 0.4))
        for one in (rules, fresh):
            torch.testing.assert_close(one.overlap(0), torch.tensor(0.72))
            torch.testing.assert_close(one.beta(), torch.tensor(0.4))


@pytest.mark.parametrize(
    ("name", "millions"), [("cascade_rcnn", 69.4), ("dynamic_rcnn", 41.8), ("cascade_mask_rcnn", 77.3), ("grid_rcnn", 64.5)]
)
def test_the_default_form_has_as_many_parameters_as_the_published_one(name: str, millions: float) -> None:
    count = sum(parameter.numel() for parameter in proposing(name, 80).parameters())
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_weights_of_another_number_of_classes_leaves_only_the_class_layers_fresh(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = proposing(name, num_classes=7, **TINY[name]).model.state_dict()
    torch.save(given, tmp_path / "given.pth")
    built = proposing(name, **TINY[name], weights=str(tmp_path / "given.pth")).model.state_dict()
    fresh = {key for key in built if built[key].shape != given[key].shape}
    assert all("fc_cls" in key or "fc_reg" in key or "conv_logits" in key for key in fresh)
    assert len(fresh) == {"cascade_rcnn": 6, "dynamic_rcnn": 4, "cascade_mask_rcnn": 12, "grid_rcnn": 2}[name]
    assert all(torch.equal(built[key], given[key]) for key in built.keys() - fresh)
    said = capsys.readouterr().err
    assert all(key in said for key in fresh)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": (8, 32)}, "adjacent levels"),
        ({"weights": "a.pth", "backbone_weights": "IMAGENET1K_V1"}, "set backbone_weights to null"),
        ({"weights": "COCO_V1"}, "no weights 'COCO_V1'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("cascade_rcnn", **{**TINY["cascade_rcnn"], **options})
