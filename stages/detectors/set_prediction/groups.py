"""LW-DETR and RF-DETR: a plain vision transformer, and a decoder that several groups of queries train at the same time.

Chen et al., "LW-DETR: A Transformer Replacement to YOLO for Real-Time Detection", https://arxiv.org/abs/2406.03458; groups after Chen et
al., "Group DETR: Fast DETR Training with Group-Wise One-to-Many Assignment", ICCV 2023, https://arxiv.org/abs/2207.13085.
Departure from transformers: in eval mode the losses match one group, the only one that exists.
"""

import copy
import re
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deploy.errors import DataError
from stages.detectors import DecodedQueries, HeadShape, Outputs, Queries
from stages.detectors.boxes.nms import best
from stages.detectors.set_prediction import hub
from stages.detectors.set_prediction.detector import (
    LabelDict,
    SetPrediction,
    SetPredictionDetector,
    corners,
    full_precision,
    grid_boxes,
    mended,
    not_finite,
)

CLASS_LAYERS = (r"(model\.)*class_embed\.", r"(model\.)*enc_out_class_embed\.")
"""Name patterns of the tensors that grow with the number of classes."""


@dataclass(frozen=True)
class _Decoded:
    """hidden: [L, B, Q, C] of each decoder layer; reference: boxes [B, Q, 4] that all layers refine.

    proposed, proposed_boxes: the encoder's best positions, [B, Q, C] and [B, Q, 4].
    """

    hidden: Tensor
    reference: Tensor
    proposed: Tensor
    proposed_boxes: Tensor


class GroupQueryDetector(SetPredictionDetector):
    """See the module. Groups beyond the first exist only in training mode."""

    def __init__(self, model: Any) -> None:
        """Take over one of transformers' models."""
        super().__init__()
        self.model = model
        self.config = model.config
        self.config.auxiliary_loss = True
        self.alone = copy.copy(self.config)
        self.alone.group_detr = 1
        self.head_shape = HeadShape(channels=self.config.d_model)
        hub.untie(model)

    @property
    def detection(self) -> Any:
        """transformers' model with the class and box heads."""
        return self.model

    @abstractmethod
    def levels(self, images: Tensor) -> list[Tensor]:
        """The maps that the decoder attends to, in its order."""

    def masks(self, spatial: Tensor, hidden: Tensor, size: tuple[int, int]) -> list[Tensor] | None:
        """Mask logits [B, Q, h, w] of each decoder layer, or None."""
        return None

    def layers(self) -> tuple[nn.Module, ...]:
        """See Detector.layers."""
        return (self.detection.model.backbone.backbone,)

    def predict(self, images: Tensor, labels: list[LabelDict] | None = None) -> SetPrediction:
        """See SetPredictionDetector.predict."""
        levels = self.levels(images)
        self.check_positions(images, [(level.shape[-2], level.shape[-1]) for level in levels], self.config.num_queries)
        found = self._decode(levels)
        size = (images.shape[-2], images.shape[-1])
        hidden = found.hidden if labels is not None else found.hidden[-1:]
        logits, boxes = self.detection.class_embed(hidden), moved(found.reference, self.detection.bbox_embed(hidden))
        masks = self.masks(levels[0], found.hidden, size)
        pyramid = tuple(sorted(levels, key=lambda level: -level.shape[-1]))
        losses = {} if labels is None else self._losses(levels, found, logits, boxes, masks, labels, size)
        return SetPrediction(pyramid, logits[-1], boxes[-1], masks[-1] if masks else None, losses)

    def decode_queries(self, outputs: Outputs, queries: Queries | None) -> DecodedQueries:
        """See Detector.decode_queries; while training every group is given the same queries, and the first one's answer is returned."""
        scales = getattr(self.config, "projector_scale_factors", (1.0,))
        finest_first = sorted(range(len(scales)), key=lambda index: -scales[index])
        levels = [outputs.pyramid[finest_first.index(index)] for index in range(len(scales))]
        groups = self.config.group_detr if self.training else 1
        if queries is None:
            found = self._decode(levels)
            features, reference = self.detection.model.query_feat.weight.expand(len(levels[0]), -1, -1), found.reference
            own = Queries(features[:, : self.config.num_queries], reference[:, : self.config.num_queries])
            hidden = found.hidden[-1]
        else:
            own, reference = queries, queries.boxes.repeat(1, groups, 1)
            hidden = self._attend(*_memory(levels), queries.features.repeat(1, groups, 1), reference)[-1]
        count = own.features.shape[1]
        boxes = moved(own.boxes, self.detection.bbox_embed(hidden[:, :count]))
        return DecodedQueries(own, self.detection.class_embed(hidden[:, :count]), corners(boxes.float(), *outputs.size))

    def _decode(self, levels: list[Tensor]) -> _Decoded:
        core, batch = self.detection.model, levels[0].shape[0]
        memory, shapes = _memory(levels)
        grid, inside = grid_boxes(shapes, memory.device)
        objects = torch.where(inside, memory, torch.zeros_like(memory))
        groups = self.config.group_detr if self.training else 1
        proposals = [self._propose(group, objects, grid, inside) for group in range(groups)]
        proposed, proposed_boxes = (torch.cat(parts, dim=1) for parts in zip(*proposals, strict=True))
        num_queries = self.config.num_queries * groups
        reference = moved(proposed_boxes.detach(), core.reference_point_embed.weight[:num_queries].expand(batch, -1, -1))
        hidden = self._attend(memory, shapes, core.query_feat.weight[:num_queries].expand(batch, -1, -1), reference)
        return _Decoded(hidden, reference, proposed, proposed_boxes)

    def _attend(self, memory: Tensor, shapes: list[tuple[int, int]], features: Tensor, reference: Tensor) -> Tensor:
        """What each decoder layer makes of queries, [L, B, Q, C], from features [B, Q, C] and boxes [B, Q, 4]."""
        hidden: Tensor = self.detection.model.decoder(
            inputs_embeds=features,
            reference_points=reference,
            spatial_shapes_list=shapes,
            valid_ratios=memory.new_ones(memory.shape[0], len(shapes), 2),  # len() would fix an exported graph's batch
            encoder_hidden_states=memory,
        ).intermediate_hidden_states
        return hidden

    def _propose(self, group: int, objects: Tensor, grid: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """A group's best positions, by class score: their features [B, Q, C] and boxes [B, Q, 4]."""
        core = self.detection.model
        features = core.enc_output_norm[group](core.enc_output[group](objects))
        scores = core.enc_out_class_embed[group](features).amax(dim=-1, keepdim=True)
        scores = torch.where(inside, scores, torch.full_like(scores, -torch.inf))[..., 0]
        chosen = best(scores, self.config.num_queries)[1][..., None]
        boxes = moved(grid, core.enc_out_bbox_embed[group](features))
        chosen_features = torch.gather(features, 1, chosen.expand(-1, -1, features.shape[-1]))
        return chosen_features, torch.gather(boxes, 1, chosen.expand(-1, -1, 4))

    def _losses(
        self,
        levels: list[Tensor],
        found: _Decoded,
        logits: Tensor,
        boxes: Tensor,
        masks: list[Tensor] | None,
        labels: list[LabelDict],
        size: Any,
    ) -> dict[str, Tensor]:
        diverged = not_finite(logits, boxes, found.proposed_boxes)
        per_group = found.proposed.split(self.config.num_queries, dim=1)
        heads = self.detection.model.enc_out_class_embed
        proposed = torch.cat([head(part) for head, part in zip(heads, per_group, strict=False)], dim=1)
        given: dict[str, Any] = {"logits": logits[-1], "labels": labels, "pred_boxes": boxes[-1]}
        given |= {"outputs_class": logits, "outputs_coord": boxes}
        given |= {"enc_outputs_class": proposed, "enc_outputs_coord": found.proposed_boxes}
        if masks is not None:
            if any("masks" not in label for label in labels):
                raise DataError("this detector learns masks, which the data set lacks; set its option masks to false")
            given |= {"pred_masks": masks[-1], "outputs_masks": masks}
            given["enc_outputs_masks"] = self.proposed_masks(levels[0], found.proposed, size)
        config = self.config if self.training else self.alone
        with torch.autocast(boxes.device.type, enabled=False):
            given = full_precision(given)
            given = mended(given) if diverged else given
            _, terms, _ = self.model.loss_function(**given, device=boxes.device, config=config)
        weights = self._weights()
        losses = {name: value.sum() * weights[kind] for name, value in terms.items() if (kind := _kind(name)) in weights}
        if diverged:  # the other processes wait for this one's sums and terms anyway
            losses["loss_bbox"] = losses["loss_bbox"] + torch.nan
        if masks is not None:
            # without objects the masks' terms are empty; several processes wait for every parameter's gradient anyway
            losses["loss_mask_ce"] = losses["loss_mask_ce"] + 0 * sum(mask.sum() for mask in masks)
        return losses

    def proposed_masks(self, spatial: Tensor, proposed: Tensor, size: tuple[int, int]) -> Tensor:
        """Mask logits [B, Q, h, w] of the encoder's proposals."""
        raise NotImplementedError

    def _weights(self) -> dict[str, float]:
        config = self.config
        weights = {
            "loss_ce": config.class_loss_coefficient,
            "loss_bbox": config.bbox_loss_coefficient,
            "loss_giou": config.giou_loss_coefficient,
        }
        if hasattr(config, "mask_class_loss_coefficient"):
            weights |= {"loss_mask_ce": config.mask_class_loss_coefficient, "loss_mask_dice": config.mask_dice_loss_coefficient}
        return weights


def _memory(levels: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
    """What the decoder attends to, [B, S, C], and its levels' heights and widths."""
    memory = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
    return memory, [(level.shape[-2], level.shape[-1]) for level in levels]


def _kind(name: str) -> str:
    """A term's name without its layer."""
    return re.sub(r"_(\d+|enc)$", "", name)


def moved(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Boxes [..., 4] (cx, cy, w, h) whose centers move by deltas times their size, and whose sizes grow by the deltas' exponentials."""
    centers = deltas[..., :2] * boxes[..., 2:] + boxes[..., :2]
    return torch.cat((centers, deltas[..., 2:].exp() * boxes[..., 2:]), dim=-1)
