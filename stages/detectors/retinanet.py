"""RetinaNet on torchvision's modules, in both of its versions: dense, with anchors.

Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, https://arxiv.org/abs/1708.02002. Version 2 is torchvision's: group
normalization in the heads, a GIoU loss, levels above 32 from the backbone's own map. Version `mmdet` has version 1's heads and loss and
predicts and decides as MMDetection, whose weights it takes. Departures: the sizes and ratios of anchors, the
pyramid's strides and the heads' depth are options; the heads' groups have 8 channels, at 256 channels torchvision's 32 groups.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import (
    RetinaNet,
    RetinaNet_ResNet50_FPN_V2_Weights,
    RetinaNet_ResNet50_FPN_Weights,
    RetinaNetClassificationHead,
    RetinaNetHead,
    RetinaNetRegressionHead,
)
from torchvision.ops import Conv2dNormActivation

from deploy.contract import BoxCode
from stages.detectors import Detector, Graph, GraphOptions
from stages.detectors.backbones.catalog import group_norm
from stages.detectors.backbones.deformable import Deformable
from stages.detectors.backbones.options import (
    Backbone,
    BackboneNorm,
    BackboneWeights,
    BackboneWidth,
    DeformableStages,
    DeformableVersion,
    Weights,
)
from stages.detectors.backbones.pretrained import SUFFIXES, NoWeights, load_torchvision, refuse_both
from stages.detectors.backbones.pyramid import PyramidBackbone
from stages.detectors.boxes import coding
from stages.detectors.dense.detector import CLASS_LAYERS, DenseDetector, SelectiveGraph
from stages.detectors.dense.exact_anchors import ExactAnchors
from stages.detectors.dense.options import Extra, FpnChannels, HeadConvs, Strides
from stages.detectors.dense.zoo import pyramid_settings
from stages.detectors.zoo.layout import ZooLayout
from stages.detectors.zoo.settings import ZooSetting

Version = Literal[1, 2, "mmdet"]
_WEIGHTS: dict[Version, type[WeightsEnum]] = {
    1: RetinaNet_ResNet50_FPN_Weights,
    2: RetinaNet_ResNet50_FPN_V2_Weights,
}

_NAMES = (
    (r"bbox_head\.cls_convs\.(\d+)\.conv\.", r"head.classification_head.conv.\1.0."),
    (r"bbox_head\.reg_convs\.(\d+)\.conv\.", r"head.regression_head.conv.\1.0."),
    (r"bbox_head\.retina_cls\.", "head.classification_head.cls_logits."),
    (r"bbox_head\.retina_reg\.", "head.regression_head.bbox_reg."),
)


class RetinaNetDetector(DenseDetector):
    """See `build`."""

    model: RetinaNet

    def losses(self, rows: list[dict[str, Tensor]], head: dict[str, Tensor], anchors: list[Tensor], sizes: list[int]) -> dict[str, Tensor]:
        """See DenseDetector.losses; each image's are divided by its own positives, so averages over processes equal one process's."""
        losses: dict[str, Tensor] = self.model.compute_loss(rows, head, anchors)
        return losses

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """See DenseDetector.decode."""
        return coding.decode(deltas, anchors, limit_shrinking=self._as_mmdet)

    @property
    def _as_mmdet(self) -> bool:
        return isinstance(self.model.anchor_generator, ExactAnchors)

    @property
    def box_code(self) -> BoxCode:
        """See DenseDetector.box_code."""
        return BoxCode(kind="center", least=-coding.MAX_GROWTH if self._as_mmdet else None, most=coding.MAX_GROWTH)

    def graph(self, options: GraphOptions) -> Graph:
        """See Detector.graph."""
        return SelectiveGraph(self, options) if self._as_mmdet else super().graph(options)


TINY = {"backbone": "resnet10", "width": 8, "fpn_channels": 32, "strides": (8, 16, 32), "head_convs": 1, "anchor_scale": 2.0}
"""Options of a small one, for tests."""


def build(
    num_classes: int,
    *,
    version: Literal[1, 2, "mmdet"] = 2,
    backbone: Backbone = "resnet50",
    width: BackboneWidth = 64,
    backbone_weights: BackboneWeights = None,
    norm: BackboneNorm = None,
    deformable: DeformableStages = (),
    deformable_version: DeformableVersion = 1,
    fpn_channels: FpnChannels = 256,
    strides: Strides = (8, 16, 32, 64, 128),
    extra: Extra | None = None,
    head_convs: HeadConvs = 4,
    anchor_scale: Annotated[float, Field(ge=1, le=16)] = 4.0,
    anchor_sizes: Annotated[int, Field(ge=1, le=5)] = 3,
    anchor_ratios: Annotated[tuple[Annotated[float, Field(ge=0.05, le=20)], ...], Field(min_length=1)] = (0.5, 1.0, 2.0),
    weights: Weights = None,
) -> Detector:
    """A RetinaNet detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        version: 1 and 2 are torchvision's: 2 has group normalization in the heads and a GIoU loss, 1 no normalization in the heads and an
            L1 loss; `mmdet` is MMDetection's form of 1, which its weights need: anchors are not rounded, no ReLU before stride 128.
        extra: how strides 64 and 128 are made: max pooling (64 only), convolutions on the pyramid's stride 32, or on the backbone's; null:
            `p6p7` in version 1, `p6p7_c5` in the others.
        anchor_scale: side of a level's smallest square anchor, in strides; at the finest level this should be about the size of the
            smallest objects.
        anchor_sizes: number of anchor sizes per level, from that side up to below its double.
        anchor_ratios: height-to-width ratios of the anchors.

    Raises:
        ValueError: incompatible options.
        ArtifactError: weights that are not available or belong to a different detector.
    """
    refuse_both(weights, backbone_weights)
    levels = extra or ("p6p7" if version == 1 else "p6p7_c5")
    torchvisions = weights is not None and version == 1 and backbone == "resnet50"
    normalization = "frozen" if norm is None and torchvisions else norm
    chosen = backbone, width, normalization, fpn_channels, strides, backbone_weights, levels
    deformed, relu = Deformable(deformable, deformable_version), version != "mmdet"
    pyramid = PyramidBackbone(*chosen, extra_relu=relu, deformable=deformed)
    anchors = _anchors(strides, anchor_scale, anchor_sizes, anchor_ratios, exact=version == "mmdet")
    head = _head(fpn_channels, anchors.num_anchors_per_location()[0], num_classes, version, head_convs)
    model = RetinaNet(pyramid, num_classes, anchor_generator=anchors, head=head)
    if weights is not None:
        layout = _zoo(levels, anchor_scale, anchor_sizes, anchor_ratios) if version == "mmdet" else None
        _load(model, weights, version, layout, exact_norm=torchvisions)
    return RetinaNetDetector(model, strides)


def _load(model: RetinaNet, weights: str, version: Version, layout: ZooLayout | None, *, exact_norm: bool) -> None:
    load_torchvision(model, weights, _WEIGHTS.get(version, NoWeights), CLASS_LAYERS, layout)
    if exact_norm and not weights.endswith(SUFFIXES):
        overwrite_eps(model, 0.0)  # torchvision's weights were trained with frozen normalization whose epsilon is 0


def _zoo(extra: Extra, scale: float, num_sizes: int, ratios: tuple[float, ...]) -> ZooLayout:
    anchors = {"octave_base_scale": scale, "scales_per_octave": num_sizes, "ratios": list(ratios)}
    options = dict(zip(anchors, ("anchor_scale", "anchor_sizes", "anchor_ratios"), strict=True))
    settings = (
        *pyramid_settings(extra),
        *(
            ZooSetting(f"bbox_head.anchor_generator.{key}", (value,), remedy=f"set {options[key]} to this")
            for key, value in anchors.items()
        ),
        ZooSetting("bbox_head.bbox_coder.target_stds", ([1.0] * 4,)),
    )
    return ZooLayout(("RetinaNet",), _NAMES, settings)


def _anchors(strides: tuple[int, ...], scale: float, num_sizes: int, ratios: tuple[float, ...], *, exact: bool) -> AnchorGenerator:
    """torchvision's generator, with sizes in whole px as in torchvision, or exact ones."""
    if exact:
        return ExactAnchors(strides, [tuple(stride * scale * 2 ** (i / num_sizes) for i in range(num_sizes)) for stride in strides], ratios)
    sizes = tuple(tuple(int(stride * scale * 2 ** (i / num_sizes)) for i in range(num_sizes)) for stride in strides)
    return AnchorGenerator(sizes, (ratios,) * len(strides))


def _head(channels: int, num_anchors: int, num_classes: int, version: Version, num_convs: int) -> RetinaNetHead:
    norm = group_norm if version == 2 else None
    head = RetinaNetHead(channels, num_anchors, num_classes, norm_layer=norm)
    for branch in (head.classification_head, head.regression_head):
        assert isinstance(branch, RetinaNetClassificationHead | RetinaNetRegressionHead)
        branch.conv = nn.Sequential(*(Conv2dNormActivation(channels, channels, norm_layer=norm) for _ in range(num_convs)))
        for layer in branch.conv.modules():
            if isinstance(layer, nn.Conv2d):
                if version != 2:
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                else:
                    nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    head.regression_head._loss_type = "giou" if version == 2 else "l1"  # noqa: SLF001 - as torchvision's builder does
    return head
