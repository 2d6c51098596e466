"""What holds of every detector, in a tiny form, and FCOS against torchvision's own."""

import copy
from typing import Any

import pytest
import torch
from detector_samples import TINY
from torch import Tensor

from deploy import plugins
from deploy.errors import ConfigError
from stages.checkpoint import build_detector
from stages.config import DetectorConfig
from stages.detectors import Detector, GraphOptions, Target
from stages.detectors.fcos import FcosDetector


def tiny(name: str, seed: int = 0) -> Detector:
    """A small detector of 5 classes."""
    return build_detector(DetectorConfig.model_validate({"name": name, **TINY.get(name, {})}), 5, seed)


def some_targets() -> tuple[Target, Target]:
    """An image with two objects, and an empty one."""
    boxes = torch.tensor([[10.0, 12.0, 50.0, 60.0], [60.0, 60.0, 90.0, 94.0]])
    return Target(boxes, torch.tensor([1, 4])), Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def confident(detector: Detector) -> Detector:
    """The detector with random head weights of such a size that many scores pass the threshold."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in detector.named_parameters():
        if "cls_logits.weight" in name or "bbox_reg.weight" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.15
        if "cls_logits.bias" in name:
            parameter.data.zero_()
    return detector.eval()


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 96, 128, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", plugins.names("stages.detectors"))
class TestEveryDetector:
    def test_gives_the_pyramid_that_it_announces(self, name: str) -> None:
        detector = tiny(name)
        outputs = detector(images())
        assert outputs.strides == detector.strides
        for level, stride, channels in zip(outputs.pyramid, detector.strides, detector.channels, strict=True):
            assert level.shape == (2, channels, -(-96 // stride), -(-128 // stride))
        assert not outputs.losses
        for levels in outputs.head.values():
            assert len(levels) == len(detector.strides)

    def test_every_trained_parameter_gets_gradient(self, name: str) -> None:
        detector = tiny(name).train()
        losses = detector(images(), some_targets()).losses
        assert losses
        assert all(torch.isfinite(loss) for loss in losses.values())
        torch.stack(list(losses.values())).sum().backward()
        missing = [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing

    def test_learns_from_a_batch_without_objects(self, name: str) -> None:
        empty = some_targets()[1]
        losses = tiny(name).train()(images(), (empty, empty)).losses
        assert all(torch.isfinite(loss) for loss in losses.values())

    def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state(self, name: str) -> None:
        torch.manual_seed(7)
        before = torch.get_rng_state()
        first, second, third = tiny(name, 1), tiny(name, 1), tiny(name, 2)
        assert torch.equal(before, torch.get_rng_state())
        weights = [d.state_dict() for d in (first, second, third)]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
        assert any(not torch.equal(weights[0][key], weights[2][key]) for key in weights[0])

    def test_the_graph_answers_at_a_fixed_shape_and_each_image_alone(self, name: str) -> None:
        detector = confident(tiny(name))
        graph = detector.graph(GraphOptions(max_detections=20, candidates=50)).eval()
        with torch.no_grad():
            answer = graph(images())
            alone = graph(images()[1:])
        boxes, scores, labels = answer.boxes, answer.scores, answer.labels
        assert boxes.shape == (2, 20, 4)
        assert scores.shape == labels.shape == (2, 20)
        assert answer.converged.tolist() == [True, True]
        assert answer.head
        assert (scores[:, :-1] >= scores[:, 1:]).all()
        assert (scores[:, 0] > 0).all()
        assert ((labels >= 0) & (labels < 5)).all()
        assert boxes.min() >= 0
        assert boxes[..., 0::2].max() <= 128
        assert boxes[..., 1::2].max() <= 96
        torch.testing.assert_close(alone.scores[0], scores[1], rtol=1e-4, atol=1e-5)


def test_fcos_decides_as_torchvision_does() -> None:
    detector = confident(tiny("fcos"))
    assert isinstance(detector, FcosDetector)
    own = copy.deepcopy(detector.model)
    transform: Any = own.transform
    transform.min_size, transform.max_size = (96,), 128
    transform.image_mean, transform.image_std = [0.0] * 3, [1.0] * 3
    own.topk_candidates, own.score_thresh, own.nms_thresh, own.detections_per_img = 50, 0.3, 0.6, 30
    graph = detector.graph(GraphOptions(max_detections=30, candidates=50, score_threshold=0.3, iou_threshold=0.6)).eval()
    with torch.no_grad():
        expected = own(list(images()))
        boxes, scores, labels = graph(images())[:3]
    for index, answer in enumerate(expected):
        count = len(answer["scores"])
        assert count >= 10
        torch.testing.assert_close(scores[index, :count], answer["scores"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(boxes[index, :count], answer["boxes"], rtol=1e-4, atol=1e-3)
        assert torch.equal(labels[index, :count], answer["labels"])
        assert not scores[index, count:].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": (16, 8)}, "ascending"),
        ({"strides": (8, 8)}, "ascending choice of 4, 8, 16, 32, 64"),
        ({"strides": (64,)}, "at least one of"),
        ({"strides": (8, 64)}, "32 for 64, which is made from it"),
        ({"backbone": "resnet18", "backbone_weights": "IMAGENET1K_V2", "width": 64}, "choose from IMAGENET1K_V1"),
        ({"backbone_weights": "IMAGENET1K_V1", "width": 16}, "width 64"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object], message: str) -> None:
    choice = DetectorConfig.model_validate({"name": "fcos", **TINY["fcos"], **options})
    with pytest.raises(ConfigError, match=message):
        build_detector(choice, 5)
