"""SSD and SSDlite against torchvision's own, with the same weights."""

import copy
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import detector_samples
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenetv3, vgg
from torchvision.models.detection import ssd300_vgg16, ssdlite320_mobilenet_v3_large
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from deploy.contract import ModelContract, Preprocessing
from deploy.errors import ArtifactError, ConfigError
from stages.config import DetectorConfig
from stages.detectors import GraphOptions, Target
from stages.detectors.backbones import pretrained
from stages.detectors.single_shot import softmax_head
from stages.detectors.single_shot.detector import SsdDetector
from stages.detectors.ssd import _normalize
from stages.exports.to_onnx import write_onnx
from stages.training.checkpoint import build_detector, check_origin, check_size

SIZE = {"ssd": 300, "ssdlite": 320}
OWN_SETTINGS = {"ssd": GraphOptions(200, 400, 0.01, 0.45, 300), "ssdlite": GraphOptions(300, 300, 0.001, 0.55, 300)}
Arrays = dict[str, Tensor]


def torchvisions(name: str, num_classes: int, seed: int = 0, **options: Any) -> Any:
    """torchvision's model, its transform made to leave images as they are."""
    torch.manual_seed(seed)
    make: Any = {"ssd": ssd300_vgg16, "ssdlite": ssdlite320_mobilenet_v3_large}[name]
    model = make(weights=None, weights_backbone=None, num_classes=num_classes + 1, **options)
    model.transform.image_mean, model.transform.image_std = [0.0] * 3, [1.0] * 3
    return model


def built(name: str, num_classes: int = 5, **options: Any) -> SsdDetector:
    detector = build_detector(DetectorConfig.model_validate({"name": name, **options}), num_classes)
    assert isinstance(detector, SsdDetector)
    return detector


def images(name: str) -> Tensor:
    return torch.randn(2, 3, SIZE[name], SIZE[name], generator=torch.Generator().manual_seed(5))


def contract(size: int, **pixels: Any) -> ModelContract:
    return ModelContract(preprocessing=Preprocessing(height=size, width=size, **pixels), classes=("a",), category_ids=(1,))


@pytest.mark.parametrize("name", ["ssd", "ssdlite"])
def test_torchvisions_weights_give_torchvisions_features_boxes_and_losses(name: str) -> None:
    own, detector = torchvisions(name, 5).train(), built(name).train()
    detector.model.load_state_dict(own.state_dict())  # strict
    targets = [
        Target(torch.tensor([[10.0, 12.0, 90.0, 120.0], [200.0, 30.0, 290.0, 94.0]]), torch.tensor([0, 4])),
        Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
    ]
    rows = [{"boxes": target.boxes, "labels": target.labels + 1} for target in targets]
    with torch.no_grad():
        expected = own(list(images(name)), rows)
        outputs = detector(images(name), targets)
        features = own.eval().backbone(images(name))
        found = detector.eval().features(images(name))
    assert outputs.losses.keys() == expected.keys()
    for loss in expected:
        assert float(outputs.losses[loss]) == pytest.approx(float(expected[loss]), rel=1e-4)
    for mine, other in zip(found, features.values(), strict=True):
        torch.testing.assert_close(mine, other)
    boxes = own.anchor_generator(ImageList(images(name), [(SIZE[name], SIZE[name])]), found)[0]
    assert torch.equal(detector.default_boxes(images(name), found), boxes)
    sizes = [len(level[0]) for level in outputs.head["class_logits"]]
    assert sum(sizes) == len(boxes)


def randomized(detector: SsdDetector) -> SsdDetector:
    """In eval mode with last layers that give scores and boxes of every kind, whatever the features' size."""
    detector = copy.deepcopy(detector).eval()
    detector_samples.confident(detector, 1.0, images("ssdlite"))
    with torch.no_grad():
        features = detector.features(images("ssdlite"))
        head = detector.model.head(features)
        sizes = [len(level[0]) for level in detector.head_on(features, (1, 1)).head["box_deltas"]]
        for part, spread in (("classification", 2.5), ("regression", 1.0)):
            levels = head["cls_logits" if part == "classification" else "bbox_regression"].split(sizes, dim=1)
            for index, level in enumerate(levels):
                for parameter_name, parameter in detector.named_parameters():
                    if re.search(rf"{part}_head\.module_list\.{index}(\.1)?\.weight$", parameter_name):
                        parameter.mul_(spread / level.std())
    return detector


def check_same(expected: list[Arrays], boxes: Tensor, scores: Tensor, labels: Tensor) -> None:
    """Each detection of torchvision's has a partner of its own; there are no others."""
    for index, own in enumerate(expected):
        assert len(own["scores"]) >= 20
        assert int((scores[index] > 0).sum()) == len(own["scores"])
        free = torch.ones_like(labels[index], dtype=torch.bool)
        for box, score, label in zip(own["boxes"], own["scores"], own["labels"], strict=True):
            near = ((boxes[index] - box).abs().amax(dim=1) < 0.01) & ((scores[index] - score).abs() < 1e-4)
            partner = (free & near & (labels[index] == label - 1)).nonzero()
            assert len(partner), (index, box, score, label)
            free[partner[0]] = False


def check_parity(name: str, num_classes: int, folder: Path, onnx: bool = True) -> None:
    """torchvision's detections at its own settings are those of the graph, in torch and in ONNX Runtime."""
    own, detector = torchvisions(name, num_classes).eval(), randomized(built(name, num_classes))
    own.load_state_dict(detector.model.state_dict())
    graph = detector.graph(OWN_SETTINGS[name]).eval()
    with torch.no_grad():
        expected = own(list(images(name)))
        answer = graph(images(name))
    assert answer.converged.all()
    check_same(expected, answer.boxes, answer.scores, answer.labels)
    if onnx:
        write_onnx(graph, (SIZE[name], SIZE[name]), folder / "m.onnx")
        session = onnxruntime.InferenceSession(str(folder / "m.onnx"), providers=["CPUExecutionProvider"])
        raw = session.run(["boxes", "scores", "labels", "converged"], {"images": images(name).numpy()})
        assert raw[3].all()
        check_same(expected, *(torch.from_numpy(part) for part in raw[:3]))


@pytest.mark.parametrize("name", ["ssd", "ssdlite"])
def test_the_graph_decides_as_torchvision_does(name: str, tmp_path: Path) -> None:
    check_parity(name, 5, tmp_path, onnx=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd", "ssdlite"])
def test_onnx_runtime_decides_as_torchvision_does_with_90_classes(name: str, tmp_path: Path) -> None:
    check_parity(name, 90, tmp_path)


@pytest.mark.parametrize("name", ["ssd", "ssdlite"])
def test_weights_of_another_number_of_classes_leave_the_class_layers_anew(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = torchvisions(name, 7).state_dict()
    torch.save(own, tmp_path / "w.pth")
    capsys.readouterr()
    same = built(name, 7, weights=str(tmp_path / "w.pth")).model.state_dict()
    assert capsys.readouterr().err == ""
    assert all(torch.equal(same[key], own[key]) for key in own)
    other = built(name, 5, weights=str(tmp_path / "w.pth")).model.state_dict()
    line = capsys.readouterr().err
    changed = [key for key in own if own[key].shape != other[key].shape or not torch.equal(own[key], other[key])]
    last = "" if name == "ssd" else ".1"
    expected = [f"head.classification_head.module_list.{i}{last}.{kind}" for i in range(6) for kind in ("weight", "bias")]
    assert changed == [key for key in own if key in expected]
    assert len(changed) == 12
    assert all(key in line for key in changed)


def _vgg16_bn() -> nn.Module:
    """torchvision's VGG16 with a smaller classifier."""
    return nn.Sequential(OrderedDict(features=vgg.make_layers(vgg.cfgs["D"], batch_norm=True), classifier=nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("name", "options", "make"),
    [
        ("ssd", {"norm": "batch"}, _vgg16_bn),
        ("ssdlite", {}, mobilenetv3.mobilenet_v3_large),
        ("ssdlite", {"backbone": "mobilenet_v3_small", "norm": "frozen"}, mobilenetv3.mobilenet_v3_small),
    ],
)
def test_an_image_classifiers_weights_fill_the_backbone(name: str, options: dict[str, Any], make: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = make().eval()
    torch.save(classifier.state_dict(), tmp_path / "w.pth")
    detector = built(name, backbone_weights=str(tmp_path / "w.pth"), **options).eval()
    backbone: Any = detector.model.backbone
    own = {tuple(tensor.shape): tensor for tensor in classifier.features.state_dict().values()}
    first = next(backbone.features.parameters())
    assert torch.equal(first, own[tuple(first.shape)])
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        features = x
        if name == "ssd":
            for layer in classifier.features[:33]:
                features = layer(features)
            torch.testing.assert_close(backbone.features(x), features)
        else:
            torch.testing.assert_close(backbone.features(x), classifier.features(x))


def test_beside_a_frozen_backbone_what_starts_anew_is_not_frozen(tmp_path: Path) -> None:
    """Frozen normalization of fresh layers would let their maps vanish."""
    torch.save(mobilenetv3.mobilenet_v3_small().state_dict(), tmp_path / "w.pth")
    options: dict[str, Any] = {"backbone": "mobilenet_v3_small", "norm": "frozen", "backbone_weights": str(tmp_path / "w.pth")}
    backbone: Any = built("ssdlite", **options).model.backbone
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in backbone.features.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in backbone.extra.modules())
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in backbone.extra.modules())


@pytest.mark.parametrize(("levels", "smallest"), [(4, 32), (5, 140), (6, 268)])
def test_images_are_refused_where_a_level_would_be_empty(levels: int, smallest: int) -> None:
    choice = DetectorConfig.model_validate({"name": "ssd", "width": 8, "levels": levels})
    detector = build_detector(choice, 2)
    check_size(detector, choice, contract(smallest))
    pyramid = detector(torch.zeros(1, 3, smallest, smallest + 60)).pyramid
    assert len(pyramid) == levels
    assert pyramid[-1].numel() > 0
    if levels > 4:
        with pytest.raises(RuntimeError):
            detector(torch.zeros(1, 3, smallest - 4, smallest))
        with pytest.raises(ConfigError, match=rf"height: got {smallest - 4}, but ssd as configured needs at least {smallest}"):
            check_size(detector, choice, contract(smallest - 4))


@pytest.mark.parametrize("name", ["ssd", "ssdlite"])
def test_default_boxes_cover_images_of_any_size_evenly(name: str) -> None:
    narrow: dict[str, dict[str, Any]] = {"ssd": {"width": 8}, "ssdlite": {"width_mult": 0.25}}
    detector = built(name, **narrow[name]).eval()
    x = torch.zeros(1, 3, 512, 416)
    features = detector.features(x)
    boxes = detector.default_boxes(x, features)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert centers.min() > 0
    num_boxes = detector.model.anchor_generator.num_anchors_per_location()
    sizes = [level[0, 0].numel() * num for level, num in zip(features, num_boxes, strict=True)]
    for level, part in zip(features, centers.split(sizes), strict=True):
        middle = torch.tensor([416.0, 512.0]) / 2
        step = torch.tensor([416.0 / level.shape[-1], 512.0 / level.shape[-2]])
        assert ((part.mean(dim=0) - middle).abs() <= step / 2).all()
        assert (part.amax(dim=0) <= torch.tensor([416.0, 512.0])).all()


def test_normalization_keeps_to_the_range_of_half_precision() -> None:
    features = torch.relu(torch.randn(1, 512, 3, 3, generator=torch.Generator().manual_seed(0))) * 8000
    features[:, :, 0, 0] = 0
    expected = torch.nn.functional.normalize(features)
    torch.testing.assert_close(_normalize(features), expected)
    torch.testing.assert_close(_normalize(features.half()).float(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "ssd", "weights": "COCO_V1", "width": 32}, "weights COCO_V1 need width 64"),
        ({"name": "ssd", "weights": "COCO_V1", "backbone_weights": "IMAGENET1K_V1"}, "set backbone_weights to null"),
        ({"name": "ssd", "backbone_weights": "IMAGENET1K_FEATURES", "width": 8}, "need width 64, not 8"),
        ({"name": "ssd", "weights": "COCO", "width": 64}, "did you mean COCO_V1"),
        ({"name": "ssdlite", "weights": "COCO_V1", "width_mult": 0.5}, "need width_mult 1"),
        ({"name": "ssdlite", "weights": "COCO_V1", "backbone": "mobilenet_v3_small"}, "need backbone mobilenet_v3_large"),
        ({"name": "ssdlite", "weights": "COCO_V1", "backbone_weights": "IMAGENET1K_V1"}, "set backbone_weights to null"),
        ({"name": "ssdlite", "backbone_weights": "IMAGENET1K_V1", "norm": "group"}, "norm batch or frozen"),
        ({"name": "ssdlite", "backbone_weights": "IMAGENET1K_V1", "reduced_tail": True}, "reduced_tail"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_detector(DetectorConfig.model_validate(options), 5)


@pytest.mark.parametrize("name", ["ssd", "ssdlite"])
def test_torchvisions_coco_weights_need_its_pixels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make: Any = {"ssd": ssd300_vgg16, "ssdlite": ssdlite320_mobilenet_v3_large}[name]
    with torch.device("meta"):  # shapes alone
        own = make(weights=None, weights_backbone=None)
        monkeypatch.setattr(pretrained, "_fetch", lambda *_: own.state_dict())
        detector = build_detector(DetectorConfig.model_validate({"name": name, "weights": "COCO_V1"}), 90)
    theirs = {"mean": tuple(own.transform.image_mean), "std": tuple(own.transform.image_std)}
    check_origin(detector, contract(SIZE[name], **theirs))
    with pytest.raises(ArtifactError, match=r"weights COCO_V1 were trained with data\.preprocessing\.mean .*; set it to that"):
        check_origin(detector, contract(SIZE[name]))


def test_class_logits_have_no_background_and_their_sigmoid_is_the_probability() -> None:
    logits = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0)) * 20
    logits[0, 0] = 0  # a tie
    odds = softmax_head.log_odds(logits.requires_grad_())
    assert torch.isfinite(odds).all()
    torch.testing.assert_close(odds.sigmoid(), logits.softmax(dim=-1))
    exact = logits.detach().double()
    others = [torch.cat((exact[..., :k], exact[..., k + 1 :]), dim=-1).logsumexp(dim=-1) for k in range(6)]
    torch.testing.assert_close(odds.double(), exact - torch.stack(others, dim=-1), rtol=1e-4, atol=1e-4)
    odds.sum().backward()
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


def test_class_logits_are_computed_only_when_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Tensor] = []

    def noted(logits: Tensor) -> Tensor:
        read.append(logits)
        return logits

    monkeypatch.setattr(softmax_head, "log_odds", noted)
    outputs = detector_samples.tiny("ssdlite").eval()(images("ssdlite"))
    assert outputs.decoded()
    assert list(outputs.head) == ["class_logits", "box_deltas"]
    assert not read
    assert len(outputs.head["class_logits"]) == len(read) == len(outputs.pyramid)
