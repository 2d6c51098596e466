"""LW-DETR through transformers: set prediction.

Chen et al., "LW-DETR: A Transformer Replacement to YOLO for Real-Time Detection", https://arxiv.org/abs/2406.03458. Departures: see
set_prediction/groups.py; in fresh networks every other block, up to the last, attends globally, and the last four of those are used.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from deploy.plugins import OptionRole
from stages.detectors import Detector
from stages.detectors.set_prediction import hub
from stages.detectors.set_prediction.groups import CLASS_LAYERS, GroupQueryDetector
from stages.detectors.set_prediction.options import Groups, Layers, Queries, Width
from stages.detectors.set_prediction.resampling import bicubic


class _Embeddings(nn.Module):
    """Images [B, 3, H, W] as patches [B, C, H / 16, W / 16] with position embeddings, from transformers' parameters."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.position_embeddings = given.position_embeddings
        self.projection = given.projection

    def forward(self, images: Tensor) -> Tensor:
        patches: Tensor = self.projection(images)
        if self.position_embeddings is None:
            return patches
        side = math.isqrt(self.position_embeddings.shape[1])
        positions = self.position_embeddings[0, 1:].reshape(side, side, -1)  # the first belongs to a class token
        return patches + bicubic(positions, patches.shape[-2], patches.shape[-1], antialias=False).permute(2, 0, 1)


class LwDetrDetector(GroupQueryDetector):
    """See `build`."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        backbone = self.config.backbone_config
        self.strides = tuple(sorted(round(backbone.patch_size / scale) for scale in self.config.projector_scale_factors))
        self.channels = (self.config.d_model,) * len(self.strides)
        self.size_multiple = backbone.patch_size * backbone.num_windows_side
        encoder = model.model.backbone.backbone
        encoder.embeddings = _Embeddings(encoder.embeddings)

    def levels(self, images: Tensor) -> list[Tensor]:
        """See GroupQueryDetector.levels."""
        encoder = self.model.model.backbone
        return list(encoder.projector(encoder.backbone(images).feature_maps))


TINY = {"backbone_width": 48, "backbone_layers": 2, "windows": 2, "width": 32, "layers": 2, "queries": 20, "groups": 2}
"""Options of a small one, for tests."""


def build(
    num_classes: int,
    *,
    weights: Annotated[str, OptionRole.WEIGHTS] | None = None,
    backbone_width: Literal[48, 96, 192, 384, 768] | None = None,
    backbone_layers: Annotated[int, Field(ge=2, le=24)] | None = None,
    windows: Literal[1, 2, 4] | None = None,
    scales: Annotated[tuple[float, ...], Field(min_length=1)] | None = None,
    width: Width = None,
    layers: Layers = None,
    queries: Queries = None,
    groups: Groups = None,
) -> Detector:
    """An LW-DETR detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        weights: a hub id such as `AnnaZhang/lwdetr_small_60e_coco`, or a folder written by `save_pretrained`; null: random weights.
        backbone_width: channels of the vision transformer; null: 192.
        backbone_layers: blocks of the vision transformer; null: 10.
        windows: windows per side: attention runs in windows * windows parts of the image, so height and width must be multiples of 16 times
            this; null: 4.
        scales: pyramid levels as multiples of the transformer's own resolution (stride 16): a descending selection of 2.0, 1.0, 0.5; null:
            `[1.0]`.

    Raises:
        ValueError: incompatible options, or transformers is not installed.
    """
    library = hub.library()
    model_class = library.LwDetrForObjectDetection
    if weights is not None:
        sizes = {"backbone_width": backbone_width, "backbone_layers": backbone_layers, "windows": windows, "scales": scales}
        hub.refuse_sizes(weights, {**sizes, "width": width, "layers": layers, "queries": queries, "groups": groups})
        return LwDetrDetector(hub.load(model_class, weights, num_classes, CLASS_LAYERS))
    hidden = width or 256
    config = library.LwDetrConfig(
        num_labels=num_classes,
        backbone_config=_backbone(library, backbone_width or 192, backbone_layers or 10, windows or 4),
        projector_scale_factors=_descending(scales or (1.0,)),
        d_model=hidden,
        decoder_ffn_dim=8 * hidden,
        decoder_layers=layers or 3,
        num_queries=queries or 300,
        group_detr=groups or 13,
    )
    return LwDetrDetector(model_class(config))


def _backbone(library: Any, width: int, num_blocks: int, windows: int) -> Any:
    in_windows = [block for block in range(num_blocks) if (num_blocks - block) % 2 == 0]
    return library.LwDetrViTConfig(
        hidden_size=width,
        num_hidden_layers=num_blocks,
        num_attention_heads=12,
        window_block_indices=in_windows,
        out_indices=sorted(range(num_blocks, 0, -2)[:4]),
        num_windows=windows**2,
    )


def _descending(scales: tuple[float, ...]) -> list[float]:
    if list(scales) != sorted(set(scales) & {2.0, 1.0, 0.5}, reverse=True):
        raise ValueError(f"scales {scales}: use a descending choice of 2.0, 1.0, 0.5")
    return list(scales)
