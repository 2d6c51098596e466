"""Faster R-CNN and Mask R-CNN against torchvision's own forward, in torch and in ONNX Runtime."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from detector_samples import TINY, decisions
from engine_samples import compiled
from torch import Tensor, nn
from torchvision.models import detection, resnet18
from torchvision.models.detection import backbone_utils, faster_rcnn, mask_rcnn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead

from deploy.contract import Heads, ModelContract, Preprocessing
from deploy.errors import ConfigError, DataError
from deploy.precision import fp16, network
from deploy.precision.proof import proof
from stages.config import DetectorConfig
from stages.detectors import GraphOutput, Target
from stages.detectors.two_stage.detector import TwoStageDetector
from stages.exports.to_onnx import write_onnx
from stages.training.checkpoint import build_detector, count_macs

HEIGHT, WIDTH = 128, 160
NUM_CLASSES = 5
OWN = decisions(max_detections=100, candidates=1000, score_threshold=0.05, iou_threshold=0.5, proposals=1000)
"""What torchvision does by default."""
IDENTITY: dict[str, Any] = {"min_size": HEIGHT, "max_size": WIDTH, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
COUNTS: dict[str, Any] = {"rpn_pre_nms_top_n_test": 1000, "rpn_post_nms_top_n_test": 1000}


def build(name: str, num_classes: int = NUM_CLASSES, seed: int = 0, **options: Any) -> TwoStageDetector:
    detector = build_detector(DetectorConfig.model_validate({"name": name, **options}), num_classes, seed)
    assert isinstance(detector, TwoStageDetector)
    return detector


def images(batch: int = 2) -> Tensor:
    """Colored patches of several sizes."""
    generator = torch.Generator().manual_seed(5)
    patches = [torch.randn(batch, 3, HEIGHT // s, WIDTH // s, generator=generator) for s in (4, 8, 16, 32)]
    return torch.stack([nn.functional.interpolate(patch, (HEIGHT, WIDTH)) for patch in patches]).sum(dim=0)


def targets(*, masks: bool) -> list[Target]:
    """Two objects; none."""
    boxes = torch.tensor([[10.0, 12.0, 50.0, 60.0], [60.0, 60.0, 90.0, 114.0]])
    filled = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    filled[0, 20:50, 15:40] = True
    filled[1, 60:100, 60:90] = True
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, HEIGHT, WIDTH, dtype=torch.bool) if masks else None)
    return [Target(boxes, torch.tensor([1, 4]), filled if masks else None), empty]


def with_small_parts(version: int, *, masks: bool) -> Any:
    """torchvision's own model, put together from torchvision's parts alone, around a ResNet-18 and narrow heads."""
    norm = nn.BatchNorm2d if version == 2 else None
    names = {f"layer{index + 1}": str(index) for index in range(4)}
    backbone = backbone_utils.BackboneWithFPN(resnet18(weights=None), names, [64, 128, 256, 512], 32, norm_layer=norm)
    anchors = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    head = (
        faster_rcnn.FastRCNNConvFCHead((32, 7, 7), [32] * 4, [64], norm_layer=norm) if version == 2 else faster_rcnn.TwoMLPHead(32 * 49, 64)
    )
    parts: dict[str, Any] = {
        "rpn_anchor_generator": anchors,
        "rpn_head": RPNHead(32, 3, conv_depth=version),
        "box_head": head,
        "box_predictor": faster_rcnn.FastRCNNPredictor(64, NUM_CLASSES + 1),
    }
    if not masks:
        return faster_rcnn.FasterRCNN(backbone, **parts, **IDENTITY, **COUNTS)
    parts["mask_head"] = mask_rcnn.MaskRCNNHeads(32, (16,) * 4, 1, norm_layer=norm)
    parts["mask_predictor"] = mask_rcnn.MaskRCNNPredictor(16, 16, NUM_CLASSES + 1)
    return mask_rcnn.MaskRCNN(backbone, **parts, **IDENTITY, **COUNTS)


def mobile() -> Any:
    return detection.fasterrcnn_mobilenet_v3_large_fpn(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1, **IDENTITY, **COUNTS
    )


SMALL: dict[str, Any] = {"backbone": "resnet18", "fpn_channels": 32, "box_head_channels": 64}
MASKS: dict[str, Any] = {**SMALL, "mask_head_channels": 16}
CASES: dict[str, tuple[str, dict[str, Any], Callable[[], Any]]] = {
    "faster_rcnn v1": ("faster_rcnn", SMALL, lambda: with_small_parts(1, masks=False)),
    "faster_rcnn v2": ("faster_rcnn", {**SMALL, "version": 2}, lambda: with_small_parts(2, masks=False)),
    "faster_rcnn mobile": ("faster_rcnn", {"backbone": "mobilenet_v3_large", "rpn_score_threshold": 0.05}, mobile),
    "mask_rcnn v1": ("mask_rcnn", MASKS, lambda: with_small_parts(1, masks=True)),
    "mask_rcnn v2": ("mask_rcnn", {**MASKS, "version": 2}, lambda: with_small_parts(2, masks=True)),
}


def spread(layer: nn.Module, inputs: Tensor, deviation: float) -> None:
    """Give a layer random weights, such that its outputs for the inputs have mean 0 and this deviation."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    layer.weight.data = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1))
    assert layer.bias is not None
    layer.bias.data.zero_()
    outputs = layer(inputs)
    outputs = outputs.transpose(0, 1).flatten(1) if outputs.dim() == 4 else outputs.T
    scale = deviation / (outputs - outputs.mean(dim=1, keepdim=True)).std()
    layer.weight.data *= scale
    layer.bias.data = -outputs.mean(dim=1) * scale


def decided(detector: TwoStageDetector) -> TwoStageDetector:
    """The detector with normalization fitted to the images and with random heads that tell regions and classes apart."""
    model, masks = detector.model, detector.mask_frame is not None
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None
            norm.reset_running_stats()
        detector.train()(images(), targets(masks=masks))
        outputs = detector.eval()(images())
        finest = model.rpn.head.conv(outputs.pyramid[0])
        spread(model.rpn.head.cls_logits, finest, 2.0)
        spread(model.rpn.head.bbox_pred, finest, 0.2)
        outputs = detector(images())
        assert outputs.proposals is not None
        levels = {str(index): outputs.pyramid[index] for index in detector.pyramid.pooled}
        regions = [boxes[:50] for boxes in outputs.proposals]
        heads, sizes = model.roi_heads, [(HEIGHT, WIDTH)] * 2
        hidden = heads.box_head(heads.box_roi_pool(levels, regions, sizes))
        spread(heads.box_predictor.cls_score, hidden, 2.0)
        spread(heads.box_predictor.bbox_pred, hidden, 0.7)
        if masks:
            hidden = heads.mask_head(heads.mask_roi_pool(levels, regions, sizes))
            spread(heads.mask_predictor.mask_fcn_logits, heads.mask_predictor.relu(heads.mask_predictor.conv5_mask(hidden)), 1.0)
    return detector


def pair(case: str) -> tuple[TwoStageDetector, Any]:
    """Ours and torchvision's own, of the same weights."""
    name, options, make = CASES[case]
    detector = decided(build(name, **options))
    own = make().eval()
    own.load_state_dict(detector.model.state_dict())
    if "mobile" in case:
        own.rpn.score_thresh = 0.05
    return detector, own


def torchvisions(own: Any, given: Tensor) -> list[dict[str, Tensor]]:
    """torchvision's detections, masks not pasted into the image."""
    transform: Any = own.transform
    transform.postprocess = lambda result, *_: result
    with torch.no_grad():
        found: list[dict[str, Tensor]] = own(list(given))
    return found


def assert_same(expected: list[dict[str, Tensor]], answer: GraphOutput) -> None:
    """Every detection is matched one to one: a box within 0.01 px, a score within 1e-4, a mask within 1e-3."""
    for index, one in enumerate(expected):
        real = answer.scores[index] > 0
        boxes, scores, labels = (tensor[index][real] for tensor in (answer.boxes, answer.scores, answer.labels))
        assert len(one["scores"]) >= 20
        assert len(boxes) == len(one["boxes"])
        near = (
            ((boxes[:, None] - one["boxes"]).abs().amax(dim=-1) < 0.01)
            & ((scores[:, None] - one["scores"]).abs() < 1e-4)
            & (labels[:, None] == one["labels"] - 1)
        )
        assert near.any(dim=0).all()
        assert near.any(dim=1).all()
        assert len(set(near.float().argmax(dim=1).tolist())) == len(boxes)
        if answer.masks is not None:
            theirs = one["masks"][near.float().argmax(dim=1), 0]
            assert (answer.masks[index][real] - theirs).abs().max() < 1e-3
            assert not answer.masks[index][~real].any()


def in_onnx_runtime(file: Path, given: Tensor) -> GraphOutput:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = {
        name: torch.from_numpy(np.asarray(value)) for name, value in zip(names, session.run(None, {"images": given.numpy()}), strict=True)
    }
    return GraphOutput(found["boxes"], found["scores"], found["labels"], found["converged"], (), found.get("masks"))


class ExportedCase(NamedTuple):
    """A case's graph at torchvision's settings as a file, and torchvision's own answer to `images()`."""

    file: Path
    heads: Heads
    expected: list[dict[str, Tensor]]


@pytest.fixture(scope="module")
def export_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ExportedCase]:
    @cache
    def exported(case: str) -> ExportedCase:
        detector, own = pair(case)
        file = tmp_path_factory.mktemp("exported") / "model.onnx"
        heads = write_onnx(detector.graph(OWN).eval(), (HEIGHT, WIDTH), file)
        return ExportedCase(file, heads, torchvisions(own, images()))

    return exported


@pytest.mark.parametrize("case", CASES)
def test_finds_what_torchvision_finds(case: str) -> None:
    detector, own = pair(case)
    with torch.no_grad():
        answer = detector.graph(OWN).eval()(images())
    assert answer.converged.all()
    assert_same(torchvisions(own, images()), answer)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_finds_it_in_onnx_runtime(case: str, export_once: Callable[[str], ExportedCase]) -> None:
    exported = export_once(case)
    assert_same(exported.expected, in_onnx_runtime(exported.file, images()))
    assert_same(exported.expected[1:], in_onnx_runtime(exported.file, images()[1:]))


@pytest.mark.parametrize("case", ["faster_rcnn v2", "mask_rcnn v1"])
def test_a_batch_is_its_images_alone_and_an_empty_image_is_fine(case: str) -> None:
    name, options, _ = CASES[case]
    graph = decided(build(name, **options)).graph(decisions(proposals=100, candidates=50, max_detections=30)).eval()
    with torch.no_grad():
        both = graph(images())
        alone = [graph(image[None]) for image in images()]
        black = graph(torch.zeros(1, 3, HEIGHT, WIDTH))
    for index, one in enumerate(alone):
        torch.testing.assert_close(both.boxes[index], one.boxes[0], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(both.scores[index], one.scores[0], rtol=1e-4, atol=1e-5)
        if both.masks is not None and one.masks is not None:
            torch.testing.assert_close(both.masks[index], one.masks[0], rtol=1e-3, atol=1e-4)
    assert black.converged.all()
    assert torch.isfinite(black.boxes).all()
    assert torch.isfinite(black.scores).all()


OWN_MODELS: dict[str, tuple[str, dict[str, Any], Callable[..., Any]]] = {
    "fasterrcnn_resnet50_fpn": ("faster_rcnn", {}, detection.fasterrcnn_resnet50_fpn),
    "fasterrcnn_resnet50_fpn_v2": ("faster_rcnn", {"version": 2}, detection.fasterrcnn_resnet50_fpn_v2),
    "fasterrcnn_mobilenet_v3_large_fpn": (
        "faster_rcnn",
        {"backbone": "mobilenet_v3_large"},
        detection.fasterrcnn_mobilenet_v3_large_fpn,
    ),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (
        "faster_rcnn",
        {"backbone": "mobilenet_v3_large"},
        detection.fasterrcnn_mobilenet_v3_large_320_fpn,
    ),
    "maskrcnn_resnet50_fpn": ("mask_rcnn", {}, detection.maskrcnn_resnet50_fpn),
    "maskrcnn_resnet50_fpn_v2": ("mask_rcnn", {"version": 2}, detection.maskrcnn_resnet50_fpn_v2),
}


@pytest.mark.parametrize("own", OWN_MODELS)
def test_torchvisions_state_dicts_load_unchanged(own: str) -> None:
    name, options, make = OWN_MODELS[own]
    state = make(weights=None, weights_backbone=None).state_dict()
    detector = build(name, num_classes=90, **options)
    result = detector.model.load_state_dict(state)
    assert not result.missing_keys
    assert not result.unexpected_keys
    kept = detector.model.state_dict()
    assert kept.keys() == state.keys()
    assert all(torch.equal(kept[key], state[key]) for key in state)


def test_a_file_of_weights_of_another_number_of_classes_leaves_only_the_class_layers_fresh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = build("mask_rcnn", num_classes=7, seed=1, **MASKS).model.state_dict()
    torch.save(given, tmp_path / "given.pth")
    built = build("mask_rcnn", **MASKS, norm="batch", weights=str(tmp_path / "given.pth")).model.state_dict()
    layers = ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")
    fresh = {f"roi_heads.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert {name for name in built if built[name].shape != given[name].shape} == fresh
    assert all(torch.equal(built[name], given[name]) for name in built.keys() - fresh)
    said = capsys.readouterr().err
    assert all(name in said for name in fresh)


def test_weights_freeze_the_normalization_of_version_1_unless_another_is_chosen(tmp_path: Path) -> None:
    torch.save(build("faster_rcnn", **SMALL).model.state_dict(), tmp_path / "given.pth")
    options = {**SMALL, "weights": str(tmp_path / "given.pth")}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in build("faster_rcnn", **options).modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in build("faster_rcnn", **options, norm="batch").modules())


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn"])
def test_losses_are_torchvisions_in_training_and_in_evaluation(name: str) -> None:
    case = f"{name} v1"
    detector, own = pair(case)
    given = targets(masks=name == "mask_rcnn")
    rows = [{"boxes": one.boxes, "labels": one.labels + 1} for one in given]
    for row, one in zip(rows, given, strict=True):
        if one.masks is not None:
            row["masks"] = one.masks
    transform: Any = own.transform
    transform.torch_choice = min  # of the sizes, of which there is one; its own draws a random number
    for module in own.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    torch.manual_seed(3)
    expected = own(list(images()), rows)
    torch.manual_seed(3)
    losses = detector.eval()(images(), given).losses
    assert losses.keys() == expected.keys()
    assert len(losses) == (5 if name == "mask_rcnn" else 4)
    for key, loss in expected.items():
        torch.testing.assert_close(losses[key], loss, rtol=1e-5, atol=1e-6)
        assert loss > 0


@pytest.mark.parametrize("case", ["faster_rcnn v2", "mask_rcnn v1", "mask_rcnn v2"])
def test_every_parameter_gets_gradient_from_a_batch_without_objects(case: str) -> None:
    name, options, _ = CASES[case]
    detector = build(name, **options).train()
    empty = targets(masks=False)[1]
    losses = detector(images(), [empty, empty]).losses
    assert all(torch.isfinite(loss) for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert not [key for key, weight in detector.named_parameters() if weight.grad is None or not torch.isfinite(weight.grad).all()]
    assert all(torch.isfinite(value).all() for value in detector.state_dict().values())


def test_without_any_region_the_losses_are_zero_and_finite() -> None:
    detector = build("mask_rcnn", **MASKS, rpn_score_threshold=0.999).train()
    empty = targets(masks=True)[1]
    outputs = detector(images(), [empty, empty])
    assert [len(boxes) for boxes in outputs.proposals or ()] == [0, 0]
    assert all(torch.isfinite(loss) for loss in outputs.losses.values())
    assert outputs.losses["loss_classifier"] == outputs.losses["loss_mask"] == 0
    torch.stack(list(outputs.losses.values())).sum().backward()


def test_a_graph_without_any_region_finds_nothing() -> None:
    graph = build("mask_rcnn", **MASKS, rpn_score_threshold=0.999).graph(decisions(score_threshold=0.01)).eval()
    with torch.no_grad():
        answer = graph(images())
    assert answer.converged.all()
    assert not answer.scores.any()
    assert not answer.boxes.any()


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn"])
def test_the_second_stage_learns_from_as_many_regions_as_are_asked_for(name: str) -> None:
    detector = build(name, **TINY[name], box_batch_size_per_image=12).train()
    counts: list[int] = []
    detector.model.roi_heads.box_head.register_forward_hook(lambda _, given, __: counts.append(len(given[0])))
    detector(images(), targets(masks=name == "mask_rcnn"))
    assert counts == [24]


@pytest.mark.parametrize(("name", "option"), [("faster_rcnn", "proposals"), ("mask_rcnn", "proposals"), ("mask_rcnn", "max_detections")])
def test_products_are_counted_for_as_many_regions_as_the_graph_looks_at(name: str, option: str) -> None:
    detector = build(name, **TINY[name])
    contract = ModelContract(preprocessing=Preprocessing(height=HEIGHT, width=WIDTH), classes=("one",), category_ids=(1,))
    few, more, most = (count_macs(detector, contract, decisions(**{option: number})) for number in (10, 30, 50))
    assert most - more == more - few > 0


def test_mask_rcnn_refuses_objects_without_masks() -> None:
    with pytest.raises(DataError, match="learns masks, which the data set lacks; choose a detector without masks"):
        build("mask_rcnn", **TINY["mask_rcnn"])(images(), targets(masks=False))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_half_precision_is_in_the_backbone_and_the_heads_alone(
    case: str, tmp_path: Path, export_once: Callable[[str], ExportedCase]
) -> None:
    file, heads, _ = export_once(case)
    model = network.read(file)
    assert not {node.op_type for node in model.graph.node} & {"RoiAlign", "NonZero", "NonMaxSuppression", "Loop", "If", "Scan"}
    half = fp16.to_fp16(model, heads)
    found = proof(half, heads)
    assert found["low_precision_after_head"] == 0
    assert found["convolutions_fp32"] == 0
    assert found["convolutions_fp16"] > 20
    types = {weight.name: weight.data_type for weight in half.graph.initializer}
    products = [node for node in half.graph.node if node.op_type == "Gemm"]
    assert len(products) == (3 if "v2" in case else 4)
    assert {types[node.input[1]] for node in products} == {onnx.TensorProto.FLOAT16}
    assert len(heads.inputs) == (1 if "faster" in case else 2)
    onnx.save(half, tmp_path / "half.onnx")
    answer = in_onnx_runtime(tmp_path / "half.onnx", images())
    assert answer.converged.all()
    assert (answer.scores[:, 0] > 0.5).all()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_tensorrt_builds_it_in_half_precision(case: str, tmp_path: Path, export_once: Callable[[str], ExportedCase]) -> None:
    pytest.importorskip("tensorrt_rtx")
    file, heads, _ = export_once(case)
    found = compiled("trt_rtx", file, tmp_path, "fp16", heads=heads, options={"compute_capability": "8.9"}).proof
    assert found["convolutions_fp16"] > 20
    assert found["low_precision_after_head"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": (8, 32)}, "adjacent levels"),
        ({"backbone": "resnet18", "weights": "COCO_V1"}, "torchvision has none"),
        ({"weights": "COCO_V1", "backbone_weights": "IMAGENET1K_V1"}, "set backbone_weights to null"),
        ({"weights": "COCO_V9"}, "did you mean COCO_V1"),
        ({"backbone": "mobilenet_v3_large", "version": 2, "weights": "COCO_V1"}, "torchvision has none"),
        ({"backbone": "mobilenet_v3_large", "width": 32}, "supports only width 64"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("faster_rcnn", **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn"])
def test_eight_images_are_learned_by_heart(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = 0.1 * torch.randn(8, 3, 64, 64, generator=generator)
    given: list[Target] = []
    for index in range(8):
        x, y = (int(torch.randint(2, 30, (), generator=generator)) for _ in range(2))
        box = torch.tensor([[x, y, x + 28, y + 28]], dtype=torch.float32)
        mask = torch.zeros(1, 64, 64, dtype=torch.bool)
        mask[0, y : y + 28, x : x + 28] = torch.ones(28, 28).tril() > 0  # a triangle, its corners those of the box
        pictures[index, index % 3][mask[0]] += 3.0
        given.append(Target(box, torch.tensor([index % 3]), mask if name == "mask_rcnn" else None))
    detector = build(name, num_classes=3, **TINY[name]).train()
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 20) * (0.1 if step > 120 else 1.0)
        optimizer.zero_grad()
        torch.stack(list(detector(pictures, given).losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
    with torch.no_grad():
        answer = detector.eval().graph(decisions(proposals=50, max_detections=10)).eval()(pictures)
    assert answer.converged.all()
    for index, target in enumerate(given):
        assert answer.scores[index, 0] > 0.5
        assert answer.labels[index, 0] == target.labels[0]
        assert (answer.boxes[index, 0] - target.boxes[0]).abs().max() < 4
        assert (answer.scores[index, 1:] > 0.3).sum() == 0
        if answer.masks is not None:
            wanted = torch.ones(28, 28).tril() > 0
            found = answer.masks[index, 0] > 0.5
            assert (found & wanted).sum() / (found | wanted).sum() > 0.8


def test_only_mask_rcnn_has_a_mask_frame() -> None:
    assert build("mask_rcnn", **TINY["mask_rcnn"]).mask_frame == "box"
    assert build("faster_rcnn", **TINY["faster_rcnn"]).mask_frame is None
