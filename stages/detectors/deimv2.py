"""DEIMv2 through transformers: set prediction.

Huang et al., "Real-Time Object Detection Meets DINOv3", https://arxiv.org/abs/2509.20787. Departures: see set_prediction/denoising.py;
over several processes the boxes' terms, which are divided by the matches of all layers, are averaged by the number of objects.
"""

from typing import Annotated, Any, Literal

from deploy.plugins import OptionRole
from stages.detectors import Detector
from stages.detectors.set_prediction import hgnet, hub
from stages.detectors.set_prediction.denoising import fresh, pretrained, shared_sizes
from stages.detectors.set_prediction.options import BackboneScale, Denoising, Depth, Layers, Queries, Width

_TRANSFORMERS: dict[str, tuple[int, int]] = {"dinov3_tiny": (192, 3), "dinov3_small": (384, 6)}
"""Width and attention heads."""

TINY = {"backbone": "hgnetv2_b0", "backbone_scale": 0.25, "width": 32, "depth": 0.34, "layers": 2, "queries": 20}
"""Options of a small one, for tests."""


def build(
    num_classes: int,
    *,
    weights: Annotated[str, OptionRole.WEIGHTS] | None = None,
    backbone: Literal["hgnetv2_b0", "hgnetv2_b2", "dinov3_tiny", "dinov3_small"] | None = None,
    backbone_scale: BackboneScale = None,
    width: Width = None,
    depth: Depth = None,
    layers: Layers = None,
    queries: Queries = None,
    denoising: Denoising = None,
) -> Detector:
    """A DEIMv2 detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        weights: a hub id such as `Intellindust/DEIMv2_HGNetv2_N_COCO`, or a folder written by `save_pretrained`; null: random weights.
        backbone: an HGNetV2, or a vision transformer (`dinov3_*`) with patches of 16 px; null: `dinov3_small`.
        layers: decoder layers; null: 4.

    Raises:
        ValueError: incompatible options, or transformers is not installed.
    """
    library = hub.library()
    if weights is not None:
        sizes = {"backbone": backbone, "backbone_scale": backbone_scale, "width": width, "depth": depth}
        return pretrained(library.Deimv2ForObjectDetection, weights, num_classes, sizes | {"layers": layers, "queries": queries}, denoising)
    backbone_config, channels = _backbone(library, backbone or "dinov3_small", backbone_scale)
    shared = shared_sizes(num_classes, width or 256, channels, layers or 4, queries or 300, widening=2, denoising=denoising)
    more = {"decoder_n_points": [3, 6, 3], "depth_mult": depth or 1.0}
    return fresh(library.Deimv2ForObjectDetection, library.Deimv2Config(backbone_config=backbone_config, **shared, **more))


def _backbone(library: Any, name: str, scale: float | None) -> tuple[Any, list[int]]:
    """The backbone's configuration and its levels' channels."""
    if name in hgnet.SIZES:
        config = hgnet.configuration(library, name, scale or 1.0, 3)
        return config, config.stage_out_channels[1:]
    if scale is not None:
        raise ValueError(f"backbone_scale is for HGNetV2, not for {name}; leave it out")
    width, heads = _TRANSFORMERS[name]
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads}
    return library.DINOv3ViTConfig(**sizes, out_indices=[4, 8, 12], apply_layernorm=True), [width] * 3
