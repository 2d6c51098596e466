"""DEIMv2 through transformers.

Huang et al., "Real-Time Object Detection Meets DINOv3", https://arxiv.org/abs/2509.20787. Departures: see set_prediction/denoising.py;
over several processes the boxes' terms, which are divided by the matches of all layers, are averaged by the number of objects.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from deploy.plugins import OptionRole
from stages.detectors import Detector
from stages.detectors.set_prediction import hgnet, hub
from stages.detectors.set_prediction.denoising import fresh, pretrained, shared_sizes

_TRANSFORMERS: dict[str, tuple[int, int]] = {"dinov3_tiny": (192, 3), "dinov3_small": (384, 6)}
"""Width and attention heads."""


def build(
    num_classes: int,
    *,
    weights: Annotated[str, OptionRole.WEIGHTS] | None = None,
    backbone: Literal["hgnetv2_b0", "hgnetv2_b2", "dinov3_tiny", "dinov3_small"] | None = None,
    backbone_scale: Annotated[float, Field(gt=0, le=1)] | None = None,
    width: Literal[32, 64, 128, 256] | None = None,
    depth: Annotated[float, Field(ge=0.3, le=2)] | None = None,
    layers: Annotated[int, Field(ge=1, le=12)] | None = None,
    queries: Annotated[int, Field(ge=1, le=1000)] | None = None,
) -> Detector:
    """A DEIMv2 detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        weights: a hub id such as Intellindust/DEIMv2_HGNetv2_N_COCO, or a folder written by save_pretrained; null: random weights.
        backbone: its name; null: the weights' own, or dinov3_small without weights.
        backbone_scale: multiplies the channels of an HGNetV2; null: the weights' own, or 1 without weights.
        width: channels of the pyramid and of the queries; null: the weights' own, or 256 without weights.
        depth: multiplies the number of the pyramid's blocks; null: the weights' own, or 1 without weights.
        layers: decoder layers; null: the weights' own, or 4 without weights.
        queries: number of predicted boxes; null: the weights' own, or 300 without weights.

    Raises:
        ValueError: incompatible options, or transformers is not installed.
    """
    library = hub.library()
    if weights is not None:
        sizes = {"backbone": backbone, "backbone_scale": backbone_scale, "width": width}
        return pretrained(
            library.Deimv2ForObjectDetection, weights, num_classes, {**sizes, "depth": depth, "layers": layers, "queries": queries}
        )
    backbone_config, channels = _backbone(library, backbone or "dinov3_small", backbone_scale)
    shared = shared_sizes(num_classes, width or 256, channels, layers or 4, queries or 300, widening=2)
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
