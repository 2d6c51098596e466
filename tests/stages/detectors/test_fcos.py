"""FCOS against torchvision's own, in its tiny form and in the one that torchvision has weights of."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from dense_samples import by_onnx, by_torch, difference, lively, torchvisions
from detector_samples import TINY, decisions
from torch import Tensor, nn
from torchvision.models.detection import fcos_resnet50_fpn
from torchvision.models.detection.fcos import FCOS_ResNet50_FPN_Weights
from torchvision.ops import FrozenBatchNorm2d

from deploy.errors import ArtifactError, ConfigError
from stages.config import DetectorConfig
from stages.detectors import GraphOptions, Target
from stages.detectors.dense.detector import DenseGraph, candidates
from stages.detectors.fcos import FcosDetector
from stages.training.checkpoint import build_detector


def fcos(num_classes: int = 5, **options: Any) -> FcosDetector:
    detector = build_detector(DetectorConfig.model_validate({"name": "fcos", **TINY["fcos"], **options}), num_classes)
    assert isinstance(detector, FcosDetector)
    return detector


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 96, 128, generator=torch.Generator().manual_seed(5))


FEW = decisions(max_detections=30, candidates=50, score_threshold=0.3, iou_threshold=0.6)
TORCHVISIONS = decisions(max_detections=100, candidates=1000, score_threshold=0.2, iou_threshold=0.6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("options", [FEW, TORCHVISIONS], ids=["few", "torchvision's"])
def test_decides_as_torchvision_does(options: GraphOptions, seed: int) -> None:
    detector = lively(fcos(), seed)
    expected = torchvisions(detector, images(), options)
    assert all(len(one["scores"]) >= 10 for one in expected)
    assert difference(by_torch(detector, images(), options), expected).within(box_px=0.01, score=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("options", [FEW, TORCHVISIONS], ids=["few", "torchvision's"])
def test_decides_so_in_onnx_runtime(options: GraphOptions, tmp_path: Path) -> None:
    detector = lively(fcos())
    expected = torchvisions(detector, images(), options)
    assert difference(by_onnx(detector, images(), options, tmp_path / "model.onnx"), expected).within(box_px=0.01, score=1e-4)


def test_losses_are_torchvisions() -> None:
    detector = fcos().train()
    own = copy.deepcopy(detector.model)
    targets = [Target(torch.tensor([[10.0, 12.0, 50.0, 60.0]]), torch.tensor([1])), Target(torch.zeros(0, 4), torch.zeros(0).long())]
    losses = detector(images(), targets).losses
    own.transform.fixed_size = (128, 96)
    own.transform.image_mean, own.transform.image_std = [0.0] * 3, [1.0] * 3
    expected = own.train()(list(images()), [{"boxes": one.boxes, "labels": one.labels} for one in targets])
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name])


@pytest.mark.parametrize("version", ["torchvision", "mmdet", "mmdet_normbbox"])
def test_losses_are_told_how_the_graph_scores(version: str) -> None:
    detector = fcos(version=version, range_scale=1.0)
    graph = detector.graph(FEW)
    assert isinstance(graph, DenseGraph)
    assert detector.head_shape.product == (graph.scoring != "mean") == (version != "torchvision")


class TestPretrained:
    """The defaults are torchvision's fcos_resnet50_fpn."""

    def test_its_state_dict_loads_and_detects_alike(self, tmp_path: Path) -> None:
        other = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).eval()
        detector = build_detector(DetectorConfig(name="fcos"), 91).eval()
        assert isinstance(detector, FcosDetector)
        detector.model.load_state_dict(other.state_dict(), strict=True)
        assert detector.strides == (8, 16, 32, 64, 128)
        assert detector.model.anchor_generator.sizes == other.anchor_generator.sizes
        assert detector.model.center_sampling_radius == other.center_sampling_radius
        with torch.no_grad():
            features, same = detector.features(images(1)), list(other.backbone(images(1)).values())
            assert all(torch.equal(level, twin) for level, twin in zip(features, same, strict=True))
            head, expected = detector.model.head(features), other.head(same)
        assert all(torch.equal(head[name], expected[name]) for name in expected)

    def test_coco_weights_keep_all_but_the_class_layers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        other = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
        torch.save(other.state_dict(), tmp_path / "hub" / "checkpoints" / FCOS_ResNet50_FPN_Weights.COCO_V1.url.rsplit("/", 1)[-1])
        detector = build_detector(DetectorConfig.model_validate({"name": "fcos", "weights": "COCO_V1"}), 7)
        assert isinstance(detector, FcosDetector)
        state = other.state_dict()
        fresh = [name for name, tensor in detector.model.state_dict().items() if not torch.equal(tensor, state[name])]
        assert fresh == [f"head.classification_head.cls_logits.{kind}" for kind in ("weight", "bias")]
        assert f"these are re-initialized: {', '.join(fresh)}\n" in capsys.readouterr().err
        assert any(isinstance(module, FrozenBatchNorm2d) for module in detector.modules())
        assert not any(isinstance(module, nn.BatchNorm2d) for module in detector.modules())

    def test_weights_of_another_form_are_refused(self, tmp_path: Path) -> None:
        torch.save(fcos(width=16).model.state_dict(), tmp_path / "w.pth")
        with pytest.raises(ArtifactError, match="size mismatch"):
            fcos(weights=str(tmp_path / "w.pth"), norm="batch")
        with pytest.raises(ConfigError, match="weights COCO_V1 include the backbone's; set backbone_weights to null"):
            fcos(weights="COCO_V1", backbone_weights="IMAGENET1K_V1")


class TestCandidates:
    """Narrowing down to positions first finds what looking at every pair finds."""

    @pytest.mark.parametrize("with_quality", [False, True])
    @pytest.mark.parametrize(("num_positions", "num_best"), [(100, 10), (40, 10), (39, 10), (8, 100)])
    def test_the_best_pairs(self, num_positions: int, num_best: int, with_quality: bool) -> None:
        generator = torch.Generator().manual_seed(num_positions)
        logits = torch.randn(2, num_positions, 4, generator=generator)
        quality = torch.randn(2, num_positions, 1, generator=generator) if with_quality else None
        scores, place, labels = candidates(logits, quality, num_best)
        every = torch.sigmoid(logits) if quality is None else torch.sqrt(torch.sigmoid(logits) * torch.sigmoid(quality))
        expected, order = torch.topk(every.flatten(1), min(num_best, num_positions * 4))
        assert torch.equal(scores, expected)
        assert torch.equal(place * 4 + labels, order)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": (16, 8)}, "ascending choice of 4, 8, 16, 32, 64, 128"),
        ({"strides": (8, 64)}, "32 is needed for 64, which is made from it"),
        ({"backbone": "resnet81"}, r"detector fcos: no backbone 'resnet81' \(did you mean resnet18\?\)"),
        ({"backbone": "resnet18", "backbone_weights": "IMAGENET1K_V2", "width": 64}, "choose from IMAGENET1K_V1"),
        ({"backbone_weights": "IMAGENET1K_V1", "width": 16}, "width 64"),
        ({"range_scale": 0.3}, r"range_scale 0.3: .* here 2.4 px, must be an even number"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fcos(**options)


def test_an_untrained_regression_reaches_to_every_side() -> None:
    with torch.no_grad():
        deltas = torch.cat(fcos()(images()).head["box_deltas"], dim=1)
    assert (deltas > 0).all()
