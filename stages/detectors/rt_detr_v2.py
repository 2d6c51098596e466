"""RT-DETRv2 through transformers: set prediction.

Lv et al., "RT-DETRv2: Improved Baseline with Bag-of-Freebies for Real-Time Detection Transformer", https://arxiv.org/abs/2407.17140.
Departures: see stages/detectors/set_prediction/denoising.py.
"""

from typing import Annotated, Literal

from pydantic import Field

from deploy.plugins import OptionRole
from stages.detectors import Detector
from stages.detectors.set_prediction import hub
from stages.detectors.set_prediction.denoising import fresh, pretrained, shared_sizes
from stages.detectors.set_prediction.options import Denoising, Layers, Queries, Width

_DEPTHS: dict[str, tuple[str, tuple[int, int, int, int]]] = {
    "resnet10": ("basic", (1, 1, 1, 1)),
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}

TINY = {"backbone": "resnet10", "backbone_width": 8, "width": 32, "layers": 2, "queries": 20}
"""Options of a small one, for tests."""


def build(
    num_classes: int,
    *,
    weights: Annotated[str, OptionRole.WEIGHTS] | None = None,
    backbone: Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101"] | None = None,
    backbone_width: Annotated[int, Field(ge=8, le=256, multiple_of=8)] | None = None,
    width: Width = None,
    layers: Layers = None,
    queries: Queries = None,
    denoising: Denoising = None,
) -> Detector:
    """An RT-DETRv2 detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        weights: a hub id such as `PekingU/rtdetr_v2_r18vd`, or a folder written by `save_pretrained`; null: random weights.
        backbone: a ResNet with a stem of three convolutions; null: `resnet50`.
        backbone_width: channels after the stem; null: 64.
        layers: decoder layers; null: 6.

    Raises:
        ValueError: incompatible options, or transformers is not installed.
    """
    library = hub.library()
    if weights is not None:
        sizes = {"backbone": backbone, "backbone_width": backbone_width, "width": width, "layers": layers, "queries": queries}
        return pretrained(library.RTDetrV2ForObjectDetection, weights, num_classes, sizes, denoising)
    kind, depths = _DEPTHS[backbone or "resnet50"]
    base = backbone_width or 64
    channels = [base * 2**stage * (4 if kind == "bottleneck" else 1) for stage in range(4)]
    backbone_config = library.RTDetrResNetConfig(
        embedding_size=base, hidden_sizes=channels, depths=list(depths), layer_type=kind, out_indices=[2, 3, 4]
    )
    shared = shared_sizes(num_classes, width or 256, channels[1:], layers or 6, queries or 300, widening=4, denoising=denoising)
    return fresh(library.RTDetrV2ForObjectDetection, library.RTDetrV2Config(backbone_config=backbone_config, **shared))
