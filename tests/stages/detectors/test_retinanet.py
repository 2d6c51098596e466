"""Both versions of RetinaNet against torchvision's own."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from dense_samples import by_onnx, by_torch, difference, lively, overlapping, torchvisions
from detector_samples import TINY, decisions
from torch import Tensor, nn
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.models.detection.retinanet import RetinaNet, RetinaNet_ResNet50_FPN_V2_Weights, RetinaNet_ResNet50_FPN_Weights
from torchvision.ops import FrozenBatchNorm2d

from deploy.errors import ArtifactError, ConfigError
from stages.config import DetectorConfig
from stages.detectors import GraphOptions, Target
from stages.detectors.retinanet import RetinaNetDetector
from stages.training.checkpoint import build_detector

VERSIONS = {1: retinanet_resnet50_fpn, 2: retinanet_resnet50_fpn_v2}


FEW = decisions(max_detections=30, candidates=50, score_threshold=0.3, iou_threshold=0.5)
TORCHVISIONS = decisions(max_detections=300, candidates=1000, score_threshold=0.05, iou_threshold=0.5)


def retinanet(num_classes: int = 5, **options: Any) -> RetinaNetDetector:
    detector = build_detector(DetectorConfig.model_validate({"name": "retinanet", **TINY["retinanet"], **options}), num_classes)
    assert isinstance(detector, RetinaNetDetector)
    return detector


def whole(version: int, num_classes: int = 91, *, pretrained: bool = True, **options: Any) -> RetinaNetDetector:
    choice = DetectorConfig.model_validate({"name": "retinanet", "version": version, **options})
    detector = build_detector(choice, num_classes, pretrained=pretrained)
    assert isinstance(detector, RetinaNetDetector)
    return detector


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 96, 128, generator=torch.Generator().manual_seed(5))


def targets() -> list[Target]:
    boxes = torch.tensor([[10.0, 12.0, 50.0, 60.0], [60.0, 60.0, 90.0, 94.0]])
    return [Target(boxes, torch.tensor([1, 4])), Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))]


@pytest.mark.parametrize("version", [1, 2])
class TestBothVersions:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("options", [FEW, TORCHVISIONS], ids=["few", "torchvision's"])
    def test_decides_as_torchvision_does(self, version: int, options: GraphOptions, seed: int) -> None:
        detector = lively(retinanet(version=version), seed)
        expected = torchvisions(detector, images(), options)
        assert all(len(one["scores"]) >= 10 for one in expected)
        found = by_torch(detector, images(), options)
        assert difference(found, expected).within(box_px=0.01, score=1e-4)
        assert not any(overlapping(one, 0.5001) for one in found)

    def test_losses_are_torchvisions(self, version: int) -> None:
        detector = retinanet(version=version).train()
        own: Any = copy.deepcopy(detector.model).train()
        own.transform.fixed_size = (128, 96)
        own.transform.image_mean, own.transform.image_std = [0.0] * 3, [1.0] * 3
        losses = detector(images(), targets()).losses
        expected = own(list(images()), [{"boxes": one.boxes, "labels": one.labels} for one in targets()])
        assert losses.keys() == expected.keys() == {"classification", "bbox_regression"}
        for name, loss in losses.items():
            torch.testing.assert_close(loss, expected[name])
            assert loss > 0

    def test_processes_average_to_the_losses_of_the_whole_batch(self, version: int) -> None:
        detector = retinanet(version=version, norm="group")
        both = detector(images(), targets()).losses
        halves = [detector(images()[i : i + 1], targets()[i : i + 1]).losses for i in range(2)]
        for name, loss in both.items():
            torch.testing.assert_close(torch.stack([half[name] for half in halves]).mean(), loss)

    def test_torchvisions_own_state_dict_loads_and_computes_alike(self, version: int) -> None:
        other = VERSIONS[version](weights=None, weights_backbone=None, num_classes=91).eval()
        assert isinstance(other, RetinaNet)
        detector = whole(version).eval()
        detector.model.load_state_dict(other.state_dict(), strict=True)
        assert detector.strides == (8, 16, 32, 64, 128)
        assert detector.model.anchor_generator.sizes == other.anchor_generator.sizes
        assert detector.model.anchor_generator.aspect_ratios == other.anchor_generator.aspect_ratios
        for branch in ("classification_head", "regression_head"):
            assert repr(getattr(detector.model.head, branch)).replace("(0)", "") == repr(getattr(other.head, branch)).replace("(0)", "")
        assert detector.model.head.regression_head._loss_type == other.head.regression_head._loss_type
        with torch.no_grad():
            head, expected = detector.model.head(detector.features(images(1))), other.head(list(other.backbone(images(1)).values()))
        assert all(torch.equal(head[name], expected[name]) for name in expected)

    def test_coco_weights_keep_all_but_the_class_layers(
        self, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        choice = (RetinaNet_ResNet50_FPN_Weights if version == 1 else RetinaNet_ResNet50_FPN_V2_Weights)["COCO_V1"]
        state = VERSIONS[version](weights=None, weights_backbone=None, num_classes=91).state_dict()
        torch.save(state, tmp_path / "hub" / "checkpoints" / choice.url.rsplit("/", 1)[-1])
        detector = whole(version, 7, weights="COCO_V1")
        own = detector.model.state_dict()
        fresh = [name for name in own if not torch.equal(own[name], state[name])]
        assert fresh == [f"head.classification_head.cls_logits.{kind}" for kind in ("weight", "bias")]
        assert f"these are re-initialized: {', '.join(fresh)}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "options"),
    [(2, FEW), *(pytest.param(version, TORCHVISIONS, marks=pytest.mark.slow) for version in (1, 2))],
    ids=["few", "torchvision's of 1", "torchvision's of 2"],
)
def test_decides_as_torchvision_does_in_onnx_runtime(version: int, options: GraphOptions, tmp_path: Path) -> None:
    detector = lively(retinanet(version=version))
    expected = torchvisions(detector, images(), options)
    assert difference(by_onnx(detector, images(), options, tmp_path / "model.onnx"), expected).within(box_px=0.01, score=1e-4)


def test_names_of_torchvisions_older_files_are_read(tmp_path: Path) -> None:
    state = dict(retinanet(version=1, head_convs=4).model.state_dict())
    for branch in ("classification_head", "regression_head"):
        for index in range(4):
            for kind in ("weight", "bias"):
                state[f"head.{branch}.conv.{2 * index}.{kind}"] = state.pop(f"head.{branch}.conv.{index}.0.{kind}")
    for block in ("inner_blocks", "layer_blocks"):
        for index in range(3):
            for kind in ("weight", "bias"):
                state[f"backbone.fpn.{block}.{index}.{kind}"] = state.pop(f"backbone.fpn.{block}.{index}.0.{kind}")
    torch.save(state, tmp_path / "w.pth")
    expected = retinanet(version=1, head_convs=4).model.state_dict()
    own = retinanet(version=1, head_convs=4, weights=str(tmp_path / "w.pth"), norm="batch").model.state_dict()
    assert all(torch.equal(own[name], expected[name]) for name in expected)


def test_normalization_is_as_torchvision_trained_its_weights() -> None:
    first, second = (whole(version, weights="COCO_V1", pretrained=False) for version in (1, 2))
    assert {module.eps for module in first.modules() if isinstance(module, FrozenBatchNorm2d)} == {0.0}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in first.modules())
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in second.modules())


def test_weights_of_ones_own_keep_their_epsilon(tmp_path: Path) -> None:
    torch.save(retinanet(norm="frozen").model.state_dict(), tmp_path / "own.pth")
    loaded = retinanet(norm="frozen", weights=str(tmp_path / "own.pth"))
    assert {module.eps for module in loaded.modules() if isinstance(module, FrozenBatchNorm2d)} == {1e-5}


def test_anchors_are_multiples_of_the_strides() -> None:
    detector = retinanet(anchor_scale=3.0, anchor_sizes=2, anchor_ratios=(1.0,))
    assert detector.model.anchor_generator.sizes == ((24, 33), (48, 67), (96, 135))
    assert detector.model.anchor_generator.num_anchors_per_location() == [2, 2, 2]
    anchors = detector.anchors(images(), detector.features(images()))
    assert len(anchors) == 2
    assert anchors[0].shape == (2 * (12 * 16 + 6 * 8 + 3 * 4), 4)


@pytest.mark.parametrize(("version", "extra", "inputs"), [(1, None, 256), (2, None, 2048), (2, "p6p7", 256), (1, "p6p7_c5", 2048)])
def test_levels_above_the_backbone_are_the_versions_own(version: int, extra: str | None, inputs: int) -> None:
    assert whole(version, 2, extra=extra).state_dict()["model.backbone.fpn.extra_blocks.p6.weight"].shape[1] == inputs


def test_weights_of_the_other_version_are_refused(tmp_path: Path) -> None:
    torch.save(retinanet(version=1).model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ArtifactError, match=r"w\.pth lack tensor head\..*, so they are for a different architecture"):
        retinanet(version=2, weights=str(tmp_path / "w.pth"))
    with pytest.raises(ConfigError, match="weights COCO_V1 include the backbone's; set backbone_weights to null"):
        retinanet(weights="COCO_V1", backbone_weights="IMAGENET1K_V1")
