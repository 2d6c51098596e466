"""D-FINE through transformers: set prediction.

Peng et al., "D-FINE: Redefine Regression Task of DETRs as Fine-grained Distribution Refinement", ICLR 2025,
https://arxiv.org/abs/2410.13842. Departures: see stages/detectors/set_prediction/denoising.py.
"""

from typing import Annotated, Literal

from deploy.plugins import OptionRole
from stages.detectors import Detector
from stages.detectors.set_prediction import hgnet, hub
from stages.detectors.set_prediction.denoising import fresh, pretrained, shared_sizes
from stages.detectors.set_prediction.options import BackboneScale, Denoising, Depth, Layers, Queries, Width

TINY = {"backbone": "hgnetv2_b0", "backbone_scale": 0.25, "width": 32, "depth": 0.34, "layers": 2, "queries": 20}
"""Options of a small one, for tests."""


def build(
    num_classes: int,
    *,
    weights: Annotated[str, OptionRole.WEIGHTS] | None = None,
    backbone: Literal["hgnetv2_b0", "hgnetv2_b2", "hgnetv2_b4", "hgnetv2_b5"] | None = None,
    backbone_scale: BackboneScale = None,
    width: Width = None,
    depth: Depth = None,
    layers: Layers = None,
    queries: Queries = None,
    denoising: Denoising = None,
) -> Detector:
    """A D-FINE detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        weights: a hub id such as `ustc-community/dfine-small-coco`, or a folder written by `save_pretrained`; null: random weights.
        backbone: an HGNetV2; null: `hgnetv2_b4`.
        layers: decoder layers; null: 6.

    Raises:
        ValueError: incompatible options, or transformers is not installed.
    """
    library = hub.library()
    if weights is not None:
        sizes = {"backbone": backbone, "backbone_scale": backbone_scale, "width": width, "depth": depth}
        return pretrained(library.DFineForObjectDetection, weights, num_classes, sizes | {"layers": layers, "queries": queries}, denoising)
    backbone_config = hgnet.configuration(library, backbone or "hgnetv2_b4", backbone_scale or 1.0, 3)
    channels = backbone_config.stage_out_channels[1:]
    shared = shared_sizes(num_classes, width or 256, channels, layers or 6, queries or 300, widening=4, denoising=denoising)
    more = {"decoder_n_points": [3, 6, 3], "depth_mult": depth or 1.0}
    return fresh(library.DFineForObjectDetection, library.DFineConfig(backbone_config=backbone_config, **shared, **more))
