"""FCOS's head as MMDetection has it, in both of its forms, with torchvision's losses."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from stages.detectors.dense.model import TowersHead
from stages.detectors.dense.zoo import group_settings, predicting, pyramid_settings
from stages.detectors.zoo.layout import ZooLayout
from stages.detectors.zoo.settings import ZooSetting

CLASS_LAYERS = ("head.towers.cls_logits.",)
NORMALIZED = "mmdet_normbbox"


class FcosTowers(TowersHead):
    """Distances from a position to the sides of its box, in strides.

    Args:
        normalized: whether a distance is the positive part of what the layer predicts; otherwise it is the exponential, in px, and the
            tower of classes predicts the centerness.
        first_reach: distance that an untrained head predicts if they are normalized.
    """

    def __init__(
        self, channels: int, num_classes: int, num_convs: int, strides: Sequence[int], *, normalized: bool, first_reach: float
    ) -> None:
        super().__init__(channels, num_classes, num_convs, bias=normalized, quality=True, num_scales=len(strides))
        self.level_strides = tuple(strides)
        self.normalized = normalized
        if normalized:
            assert self.bbox_reg.bias is not None
            nn.init.constant_(self.bbox_reg.bias, first_reach)

    def level(self, classes: Tensor, boxes: Tensor, index: int, convs: int) -> Mapping[str, Tensor]:
        """See TowersHead.level."""
        for_classes, for_boxes = self.cls_convs[convs:](classes), self.reg_convs[convs:](boxes)
        assert self.bbox_ctrness is not None
        codes = self.scales[index](self.bbox_reg(for_boxes))
        return {
            "cls_logits": self.cls_logits(for_classes),
            "bbox_regression": torch.relu(codes) if self.normalized else torch.exp(codes.float()) / self.level_strides[index],
            "bbox_ctrness": self.bbox_ctrness(for_boxes if self.normalized else for_classes),
        }


def fcos_layout(version: str, channels: int, extra: str) -> ZooLayout:
    """How MMDetection writes FCOS down."""
    normalized = version == NORMALIZED
    other = "mmdet" if normalized else NORMALIZED
    settings = (
        *pyramid_settings(extra, relu=True),
        *group_settings(channels),
        ZooSetting("bbox_head.norm_on_bbox", (normalized,), absent=False, remedy=f"set version to {other}"),
        ZooSetting("bbox_head.centerness_on_reg", (normalized,), absent=False),
        ZooSetting("bbox_head.dcn_on_last_conv", (False,), absent=False),
    )
    names = predicting(cls_logits="conv_cls", bbox_reg="conv_reg", bbox_ctrness="conv_centerness")
    predicted = tuple((theirs, own.replace("head.", "head.towers.")) for theirs, own in names)
    towers = (r"bbox_head\.((?:cls|reg)_convs|scales)\.", r"head.towers.\1.")
    return ZooLayout(("FCOS",), (towers, *predicted), settings)
