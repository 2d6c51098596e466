"""RF-DETR through transformers: set prediction, with instance masks on request.

Robinson et al., "RF-DETR: Neural Architecture Search for Real-Time Detection Transformers", https://arxiv.org/abs/2511.09554. Departures:
see set_prediction/groups.py; in images that are not square, windows contain adjacent patches, while transformers mixes up height and
width; no token for hidden patches, which only self-supervised training uses.
"""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from deploy.plugins import OptionRole
from stages.detectors import Detector
from stages.detectors.set_prediction import hub
from stages.detectors.set_prediction.groups import CLASS_LAYERS, GroupQueryDetector
from stages.detectors.set_prediction.options import Groups, Layers, Queries, Width
from stages.detectors.set_prediction.resampling import bicubic


class _Embeddings(nn.Module):
    """Images [B, 3, H, W] as a class token and patches in windows, [B * windows^2, 1 + N / windows^2, C], from transformers' parameters."""

    def __init__(self, given: Any, windows: int) -> None:
        super().__init__()
        self.windows = windows
        self.cls_token = given.cls_token
        self.position_embeddings = given.position_embeddings
        self.patch_embeddings = given.patch_embeddings
        self.dropout = given.dropout

    def forward(self, images: Tensor) -> Tensor:
        patch, windows = self.patch_embeddings.patch_size, self.windows
        height, width = images.shape[-2] // patch[0], images.shape[-1] // patch[1]
        side = math.isqrt(self.position_embeddings.shape[1])
        positions = self.position_embeddings[0, 1:].reshape(side, side, -1)
        positions = bicubic(positions, height, width, antialias=True).flatten(0, 1)
        patches = (self.patch_embeddings(images) + positions).reshape(
            -1, windows, height // windows, windows, width // windows, len(positions[0])
        )
        patches = patches.transpose(2, 3).flatten(0, 2).flatten(1, 2)
        first = (self.cls_token + self.position_embeddings[:, :1]).expand(patches.shape[0], -1, -1)
        tokens: Tensor = self.dropout(torch.cat((first, patches), dim=1))
        return tokens


class RfDetrDetector(GroupQueryDetector):
    """See `build`."""

    def __init__(self, model: Any, *, masks: bool) -> None:
        super().__init__(model)
        self.with_masks = masks
        backbone = self.config.backbone_config
        self.strides = (2 ** (backbone.patch_size - 1).bit_length(),)
        self.channels = (self.config.d_model,)
        self.size_multiple = backbone.patch_size * backbone.num_windows
        self.mask_frame = "image" if masks else None
        encoder = self.detection.model.backbone.backbone
        encoder.embeddings = _Embeddings(encoder.embeddings, backbone.num_windows)

    @property
    def detection(self) -> Any:
        """See GroupQueryDetector.detection."""
        return self.model.model if self.with_masks else self.model

    def levels(self, images: Tensor) -> list[Tensor]:
        """See GroupQueryDetector.levels."""
        encoder = self.detection.model.backbone
        return [encoder.projector(encoder.backbone(images).feature_maps)]

    def masks(self, spatial: Tensor, hidden: Tensor, size: tuple[int, int]) -> list[Tensor] | None:
        """See GroupQueryDetector.masks."""
        return list(self.model.segmentation_head(spatial, hidden, size)) if self.with_masks else None

    def proposed_masks(self, spatial: Tensor, proposed: Tensor, size: tuple[int, int]) -> Tensor:
        """See GroupQueryDetector.proposed_masks."""
        masks: Tensor = self.model.segmentation_head(spatial, proposed, size, skip_blocks=True)
        return masks


TINY = {"backbone_width": 64, "backbone_layers": 2, "windows": 2, "width": 32, "layers": 2, "queries": 20, "groups": 2}
"""Options of a small one, for tests."""


def build(
    num_classes: int,
    *,
    weights: Annotated[str, OptionRole.WEIGHTS] | None = None,
    masks: bool = False,
    backbone_width: Literal[64, 128, 192, 384, 768] | None = None,
    backbone_layers: Annotated[int, Field(ge=2, le=24)] | None = None,
    patch: Literal[12, 14, 16] | None = None,
    windows: Literal[1, 2, 4] | None = None,
    width: Width = None,
    layers: Layers = None,
    queries: Queries = None,
    groups: Groups = None,
) -> Detector:
    """An RF-DETR detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        weights: a hub id such as `Roboflow/rf-detr-base`, or a folder written by `save_pretrained`; null: random weights.
        masks: predict instance masks too; `weights`, if given, must include them.
        backbone_width: channels of the vision transformer; null: 384.
        backbone_layers: blocks of the vision transformer; null: 12.
        patch: side of a patch, in px; null: 16.
        windows: windows per side: attention runs in windows * windows parts of the image, so height and width must be multiples of `patch`
            times this; null: 2.

    Raises:
        ValueError: incompatible options, or transformers is not installed.
    """
    library = hub.library()
    model_class = library.RfDetrForInstanceSegmentation if masks else library.RfDetrForObjectDetection
    if weights is not None:
        sizes = {"backbone_width": backbone_width, "backbone_layers": backbone_layers, "patch": patch, "windows": windows}
        hub.refuse_sizes(weights, {**sizes, "width": width, "layers": layers, "queries": queries, "groups": groups})
        return RfDetrDetector(hub.load(model_class, weights, num_classes, CLASS_LAYERS), masks=masks)
    hidden = width or 256
    config = library.RfDetrConfig(
        num_labels=num_classes,
        backbone_config=_backbone(library, backbone_width or 384, backbone_layers or 12, patch or 16, windows or 2),
        d_model=hidden,
        decoder_ffn_dim=8 * hidden,
        intermediate_size=4 * hidden,
        decoder_layers=layers or 3,
        num_queries=queries or 300,
        group_detr=groups or 13,
    )
    return RfDetrDetector(model_class(config), masks=masks)


def _backbone(library: Any, width: int, num_blocks: int, patch: int, windows: int) -> Any:
    used = sorted({max(1, num_blocks * quarter // 4) for quarter in (1, 2, 3, 4)})
    return library.RfDetrDinov2Config(
        hidden_size=width,
        num_hidden_layers=num_blocks,
        num_attention_heads=width // 64 or 1,
        out_indices=used,
        image_size=24 * patch,
        patch_size=patch,
        num_windows=windows,
    )
