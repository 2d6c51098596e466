"""Networks with proposals and one or several second stages that refine them: their parts, assembled."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from stages.detectors.backbones.catalog import Norm
from stages.detectors.backbones.deformable import PLAIN, Deformable
from stages.detectors.backbones.pretrained import NoWeights, load_torchvision
from stages.detectors.backbones.pyramid import PyramidBackbone
from stages.detectors.two_stage.model import PooledPyramid, pooled_levels
from stages.detectors.two_stage.refining.heads import BoxHead, MaskHead
from stages.detectors.two_stage.refining.losses import RegionRules
from stages.detectors.two_stage.refining.proposal_network import RATIOS, ProposalNetwork, ProposalRecipe
from stages.detectors.zoo.layout import ZooLayout
from stages.detectors.zoo.settings import ZooSetting

_CLASS_LAYERS = ("fc_cls.", "fc_reg.", "conv_logits.")
"""Those of the heads whose size depends on the number of classes."""


@dataclass(frozen=True)
class RefinementOptions:
    """The options that these detectors share; see stages/detectors/cascade_rcnn.py.

    mask_head_channels: None for detectors without masks.
    """

    num_classes: int
    backbone: str
    width: int
    backbone_weights: str | None
    norm: Norm | None
    fpn_channels: int
    strides: tuple[int, ...]
    box_head_channels: int
    anchor_scale: float
    mask_head_channels: int | None = None
    deformable: Deformable = PLAIN


class RegionHeads(nn.Module):
    """The heads of all second stages, named as in mmdet."""

    def __init__(self, boxes: Sequence[BoxHead], masks: Sequence[MaskHead]) -> None:
        super().__init__()
        self.bbox_head = nn.ModuleList(boxes)
        self.mask_head = nn.ModuleList(masks)


class ProposingModel(nn.Module):
    """The layers up to the proposals."""

    def __init__(self, layout: RefinementOptions, recipe: ProposalRecipe) -> None:
        super().__init__()
        chosen = layout.backbone, layout.width, layout.norm, layout.fpn_channels, layout.strides, layout.backbone_weights
        self.pyramid = PooledPyramid(layout.strides, pooled_levels(layout.strides))
        self.backbone = PyramidBackbone(*chosen, deformable=layout.deformable)
        _initialize(self.backbone.fpn)
        self.rpn_head = ProposalNetwork(layout.fpn_channels, layout.strides, layout.anchor_scale, recipe)

    def levels(self, images: Tensor) -> tuple[Tensor, ...]:
        """The pyramid of images [B, 3, H, W], finest level first."""
        return tuple(self.backbone(images).values())

    def pooled(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Those levels that regions are pooled from."""
        return [levels[index] for index in self.pyramid.pooled]

    @property
    def pooled_strides(self) -> list[int]:
        """Their strides."""
        return [self.pyramid.strides[index] for index in self.pyramid.pooled]


class RefinementModel(ProposingModel):
    """The layers and the rules.

    Args:
        rules: of the second stages, as many as it names.
        shared_boxes: whether all classes share a region's deltas.
    """

    def __init__(self, layout: RefinementOptions, recipe: ProposalRecipe, rules: RegionRules, *, shared_boxes: bool) -> None:
        super().__init__(layout, recipe)
        assert shared_boxes or len(rules.stages) == 1, "only shared boxes are refined again"
        boxes = layout.fpn_channels, layout.box_head_channels, layout.num_classes
        hidden = layout.mask_head_channels
        masks = [] if hidden is None else [MaskHead(layout.fpn_channels, hidden, layout.num_classes) for _ in rules.stages]
        self.roi_head = RegionHeads([BoxHead(*boxes, shared_boxes=shared_boxes) for _ in rules.stages], masks)
        self.rules = rules


def load(model: ProposingModel, weights: str | None, zoo: ZooLayout | None = None) -> None:
    """Fill the model from a file; `zoo` is how one of MMDetection's is read, None: it is refused.

    Raises:
        ArtifactError: it is not available or belongs to a different network.
    """
    if weights is not None:
        layers = tuple(name for name, _ in model.named_parameters() if any(layer in name for layer in _CLASS_LAYERS))
        load_torchvision(model, weights, NoWeights, layers, zoo)


def zoo_layout(model: RefinementModel, kind: str, roi_head: str) -> ZooLayout:
    """MMDetection's names are ours, but it does not number the heads if there is only one stage.

    Args:
        kind, roi_head: its names for the detector and its second stages.
    """
    stages = model.rules.stages
    single = ((r"roi_head\.(bbox|mask)_head\.(?!\d)", r"roi_head.\1_head.0."),) if len(stages) == 1 else ()
    heads = ["roi_head.bbox_head" if len(stages) == 1 else f"roi_head.bbox_head.{index}" for index in range(len(stages))]
    settings = (
        *proposing_settings(model, roi_head),
        *(ZooSetting(f"{head}.bbox_coder.target_stds", (list(stage.deviations),)) for head, stage in zip(heads, stages, strict=True)),
    )
    return ZooLayout((kind,), single, settings, own=("rules.",))


def proposing_settings(model: ProposingModel, roi_head: str) -> tuple[ZooSetting, ...]:
    """What a network is built for up to the regions' features; `roi_head` is MMDetection's name for what follows."""
    layer = "roi_head.bbox_roi_extractor.roi_layer"
    return (
        ZooSetting("neck.type", ("FPN",)),
        ZooSetting("rpn_head.type", ("RPNHead",)),
        ZooSetting("rpn_head.anchor_generator.scales", ([model.rpn_head.scale],), remedy="set anchor_scale to this"),
        ZooSetting("rpn_head.anchor_generator.ratios", (list(RATIOS),)),
        ZooSetting("rpn_head.anchor_generator.strides", (list(model.pyramid.strides),), remedy="set strides to these"),
        ZooSetting("rpn_head.bbox_coder.target_stds", ([1.0] * 4,)),
        ZooSetting("roi_head.type", (roi_head,), remedy="choose the detector that it is for"),
        ZooSetting(f"{layer}.sampling_ratio", (0,), absent=0),
        ZooSetting(f"{layer}.aligned", (True,), absent=True),
    )


def _initialize(fpn: FeaturePyramidNetwork) -> None:
    for module in fpn.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
