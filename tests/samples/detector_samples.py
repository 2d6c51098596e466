"""Every detector in a tiny form, for tests that build one. A detector without an entry is built with its defaults."""

import re
from typing import Any

import torch
from torch import Tensor

from stages.config import DetectorConfig, ExportConfig
from stages.detectors import Detector, GraphOptions, Target
from stages.measurement.torch_accuracy import graph_options
from stages.training.checkpoint import build_detector

_TWO_STAGE: dict[str, Any] = {
    "backbone": "resnet10",
    "width": 8,
    "fpn_channels": 32,
    "strides": (8, 16, 32),
    "box_head_channels": 64,
    "anchor_scale": 3.0,
    "rpn_candidates": 200,
}

TINY: dict[str, dict[str, Any]] = {
    "fcos": {"backbone": "resnet10", "width": 8, "fpn_channels": 32, "strides": (8, 16, 32), "head_convs": 1, "range_scale": 0.5},
    "retinanet": {"backbone": "resnet10", "width": 8, "fpn_channels": 32, "strides": (8, 16, 32), "head_convs": 1, "anchor_scale": 2.0},
    "ssd": {"width": 8, "norm": "batch", "levels": 4},
    "ssdlite": {"width_mult": 0.25, "norm": "group"},
    "faster_rcnn": {**_TWO_STAGE},
    "mask_rcnn": {**_TWO_STAGE, "mask_head_channels": 32},
    "d_fine": {"backbone": "hgnetv2_b0", "backbone_scale": 0.25, "width": 32, "depth": 0.34, "layers": 2, "queries": 20},
    "deimv2": {"backbone": "hgnetv2_b0", "backbone_scale": 0.25, "width": 32, "depth": 0.34, "layers": 2, "queries": 20},
    "lw_detr": {"backbone_width": 48, "backbone_layers": 2, "windows": 2, "width": 32, "layers": 2, "queries": 20, "groups": 2},
    "rf_detr": {"backbone_width": 64, "backbone_layers": 2, "windows": 2, "width": 32, "layers": 2, "queries": 20, "groups": 2},
    "rt_detr_v2": {"backbone": "resnet10", "backbone_width": 8, "width": 32, "layers": 2, "queries": 20},
}

SIZE = (96, 128)
"""Height and width in px of the images that a tiny detector is tested on."""

_LAST_LAYERS = re.compile(
    r"(cls_logits|cls_score|class_embed(\.\d+)?|enc_score_head|enc_out_class_embed\.\d+|classification_head\.module_list\.\d+(\.1)?"
    r"|bbox_reg|bbox_pred|regression_head\.module_list\.\d+(\.1)?|mask_fcn_logits)\.(weight|bias)$"
)


def choice(name: str) -> DetectorConfig:
    """The tiny detector's configuration."""
    return DetectorConfig.model_validate({"name": name, **TINY.get(name, {})})


def tiny(name: str, seed: int = 0, num_classes: int = 5) -> Detector:
    """The tiny detector."""
    return build_detector(choice(name), num_classes, seed)


def decisions(**options: Any) -> GraphOptions:
    """How a graph decides: by these options, and pipeline.yaml's defaults of all others."""
    return graph_options(ExportConfig.model_validate(options))


def images(name: str, batch: int = 2) -> Tensor:
    """Noise, [batch, 3, H, W]."""
    return torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(5))


def targets(detector: Detector, name: str) -> tuple[Target, Target]:
    """An image with two objects, and an empty one."""
    boxes = torch.tensor([[10.0, 12.0, 50.0, 60.0], [60.0, 60.0, 90.0, 94.0]])
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    both, none = (masks, masks[:0]) if detector.mask_frame else (None, None)
    return Target(boxes, torch.tensor([1, 4]), both), Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), none)


def confident(detector: Detector, scale: float = 0.15) -> Detector:
    """The detector with random last layers of such a size that scores spread and many pass a threshold; in eval mode."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in detector.named_parameters():
        if _LAST_LAYERS.search(name):
            parameter.data = torch.randn(parameter.shape, generator=generator) * (scale if parameter.ndim > 1 else 0.0)
    return detector.eval()
