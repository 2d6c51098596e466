"""torchvision's Faster R-CNN and Mask R-CNN, assembled for any backbone and pyramid, with torchvision's tensor names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.models.detection import faster_rcnn, mask_rcnn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d

from stages.detectors.backbones.catalog import WIDTH, Norm, build_layers
from stages.detectors.backbones.deformable import PLAIN, Deformable
from stages.detectors.backbones.pretrained import SUFFIXES, NoWeights, load_torchvision
from stages.detectors.backbones.pyramid import PyramidBackbone
from stages.detectors.two_stage.trained_roi_align import TrainedRoIAlign

MOBILE = "mobilenet_v3_large"
CLASS_LAYERS = (
    "roi_heads.box_predictor.cls_score.",
    "roi_heads.box_predictor.bbox_pred.",
    "roi_heads.mask_predictor.mask_fcn_logits.",
)
_STRIDES = (4, 8, 16, 32, 64)
_MOBILE_STRIDES = (32, 32, 64)
_MOBILE_LAYERS = {"13": 160, "16": 960}
"""The two layers of MobileNetV3 that torchvision's pyramid uses, and their channels."""
_NORM_EPS = 1e-5
"""Used by torchvision's detectors in MobileNetV3, whose classifiers use 1e-3."""
_RATIOS = (0.5, 1.0, 2.0)
_COARSEST_POOLED = 32
_ALL_SIZES = tuple(8 * stride for stride in _STRIDES)


@dataclass(frozen=True)
class PooledPyramid:
    """The levels: their strides, finest first, and which of them regions are pooled from."""

    strides: tuple[int, ...]
    pooled: tuple[int, ...]


@dataclass(frozen=True)
class TwoStageOptions:
    """The options that Faster R-CNN and Mask R-CNN share; see stages/detectors/faster_rcnn.py.

    strides: None uses torchvision's own pyramid for the backbone.
    """

    num_classes: int
    version: int | str
    backbone: str
    width: int
    backbone_weights: str | None
    norm: Norm | None
    fpn_channels: int
    strides: tuple[int, ...] | None
    box_head_channels: int
    anchor_scale: float
    box_batch_size_per_image: int
    rpn_score_threshold: float
    weights: str | None
    deformable: Deformable = PLAIN

    @property
    def mobile(self) -> bool:
        """Whether it is torchvision's form for MobileNetV3, with two levels of stride 32 and all anchor sizes at each."""
        return self.backbone == MOBILE and self.strides is None

    @property
    def frozen(self) -> Norm | None:
        """The backbone's normalization; if none is chosen, the one with which torchvision trained its COCO weights."""
        return "frozen" if self.norm is None and self.weights is not None and self.version == 1 else self.norm


def anchors_of(model: faster_rcnn.FasterRCNN, images: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
    """For each image all anchors [N, 4] in px, in float32: torchvision's generator uses the features' type, and fp16 rounds by whole px."""
    sizes = [(images.shape[-2], images.shape[-1])] * images.shape[0]
    generator: Any = model.rpn.anchor_generator
    anchors: list[Tensor] = generator(ImageList(images, sizes), [level.float() for level in features])
    return anchors


def pyramid_of(layout: TwoStageOptions) -> PooledPyramid:
    """The levels of a layout.

    Raises:
        ValueError: regions cannot be pooled from them.
    """
    strides = layout.strides or (_MOBILE_STRIDES if layout.mobile else _STRIDES)
    return PooledPyramid(strides, pooled_levels(strides))


def pooled_levels(strides: tuple[int, ...]) -> tuple[int, ...]:
    """Which levels regions are pooled from.

    Raises:
        ValueError: regions cannot be pooled from them.
    """
    pooled = tuple(i for i, stride in enumerate(strides) if stride <= _COARSEST_POOLED and stride not in strides[:i])
    if any(strides[after] != 2 * strides[before] for before, after in pairwise(pooled)):
        raise ValueError(f"strides {strides}: regions are pooled from adjacent levels; leave out none between the finest and the coarsest")
    return pooled


def pooled_from(pyramid: PooledPyramid) -> tuple[list[str], list[int]]:
    """The names of the levels that regions are pooled from, and their strides."""
    return [str(index) for index in pyramid.pooled], [pyramid.strides[index] for index in pyramid.pooled]


def faster(layout: TwoStageOptions) -> faster_rcnn.FasterRCNN:
    """A Faster R-CNN.

    Raises:
        ValueError: incompatible options.
        ArtifactError: weights that are not available or belong to a different network.
    """
    return faster_rcnn.FasterRCNN(**_parts(layout))


def mask(layout: TwoStageOptions, mask_head_channels: int) -> mask_rcnn.MaskRCNN:
    """A Mask R-CNN; raises the same errors as `faster`."""
    names, strides = pooled_from(pyramid_of(layout))
    layers = (mask_head_channels,) * 4
    norm = nn.BatchNorm2d if layout.version == 2 else None
    return mask_rcnn.MaskRCNN(
        **_parts(layout),
        mask_roi_pool=TrainedRoIAlign(names, strides, 14),
        mask_head=mask_rcnn.MaskRCNNHeads(layout.fpn_channels, layers, 1, norm_layer=norm),
        mask_predictor=mask_rcnn.MaskRCNNPredictor(mask_head_channels, mask_head_channels, layout.num_classes + 1),
    )


def load(model: faster_rcnn.FasterRCNN, layout: TwoStageOptions, choices: Mapping[tuple[str, int | str], type[WeightsEnum]]) -> None:
    """Load the layout's `weights`, if any, into the model; `choices` are torchvision's by backbone and version.

    Raises:
        ValueError: torchvision has no such weights.
        ArtifactError: they are not available or belong to a different network.
    """
    if layout.weights is None:
        return
    torchvisions = layout.strides in (None, _STRIDES) and layout.width == WIDTH and layout.fpn_channels == 256
    known = choices.get((layout.backbone, layout.version)) if torchvisions else None
    named = not layout.weights.endswith(SUFFIXES)
    if known is None and named:
        raise ValueError(f"weights {layout.weights}: torchvision has none for this backbone and form; use a file ({', '.join(SUFFIXES)})")
    load_torchvision(model, layout.weights, known or NoWeights, CLASS_LAYERS)
    if named and layout.version == 1 and layout.backbone == "resnet50":
        overwrite_eps(model, 0.0)  # these were trained with it, see torchvision's own functions


def _parts(layout: TwoStageOptions) -> dict[str, Any]:
    """The arguments of torchvision's constructors."""
    pyramid = pyramid_of(layout)
    backbone = _backbone(layout, pyramid.strides)
    channels, outputs = layout.fpn_channels, layout.num_classes + 1
    anchors = _anchors(layout, pyramid.strides)
    depth = 2 if layout.version == 2 else 1
    # The same number of proposals in both modes, torchvision's for training: nothing here depends on the mode.
    counts = {f"rpn_{when}_nms_top_n_{mode}": 2000 for when in ("pre", "post") for mode in ("train", "test")}
    return {
        "backbone": backbone,
        "rpn_anchor_generator": anchors,
        "rpn_head": RPNHead(channels, anchors.num_anchors_per_location()[0], conv_depth=depth),
        "rpn_score_thresh": layout.rpn_score_threshold,
        "box_batch_size_per_image": layout.box_batch_size_per_image,
        "box_roi_pool": TrainedRoIAlign(*pooled_from(pyramid), 7),
        "box_head": _box_head(layout),
        "box_predictor": faster_rcnn.FastRCNNPredictor(layout.box_head_channels, outputs),
        **counts,
    }


def _box_head(layout: TwoStageOptions) -> nn.Module:
    channels, out = layout.fpn_channels, layout.box_head_channels
    if layout.version == 1:
        return faster_rcnn.TwoMLPHead(channels * 7 * 7, out)
    return faster_rcnn.FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [out], norm_layer=nn.BatchNorm2d)


def _anchors(layout: TwoStageOptions, strides: Sequence[int]) -> AnchorGenerator:
    sizes = tuple(_ALL_SIZES if layout.mobile else (8 * stride,) for stride in strides)
    scaled = tuple(tuple(max(1, round(size * layout.anchor_scale / 8)) for size in level) for level in sizes)
    return AnchorGenerator(scaled, (_RATIOS,) * len(strides))


def _backbone(layout: TwoStageOptions, strides: tuple[int, ...]) -> nn.Module:
    norm: Callable[..., nn.Module] | None = nn.BatchNorm2d if layout.version == 2 else None
    if not layout.mobile:
        chosen = layout.backbone, layout.width, layout.frozen, layout.fpn_channels, strides, layout.backbone_weights
        return PyramidBackbone(*chosen, fpn_norm=norm, deformable=layout.deformable)
    if layout.width != WIDTH:
        raise ValueError(f"width {layout.width}: {MOBILE} supports only width {WIDTH}; the plain ResNets support others")
    layers = build_layers(layout.backbone, WIDTH, layout.frozen, layout.backbone_weights, layout.deformable)
    for module in layers.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            module.eps = _NORM_EPS
    names = {name: str(index) for index, name in enumerate(_MOBILE_LAYERS)}
    return BackboneWithFPN(layers, names, list(_MOBILE_LAYERS.values()), layout.fpn_channels, norm_layer=norm)
