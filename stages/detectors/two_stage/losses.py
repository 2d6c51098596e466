"""The task losses of Faster R-CNN and Mask R-CNN, from torchvision's parts, in either mode of the network."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.detection.roi_heads import fastrcnn_loss, maskrcnn_loss

from deploy.errors import DataError
from stages.detectors import Target
from stages.processes import rescale

Row = dict[str, Tensor]
"""One image's objects as torchvision expects them."""


def rows(targets: Sequence[Target], size: tuple[int, int], *, masks: bool) -> list[Row]:
    """torchvision's form of the targets: label 0 is the background.

    Args:
        size: the image's height and width in px.

    Raises:
        DataError: masks are required of objects that have none.
    """
    found: list[Row] = []
    for target in targets:
        row = {"boxes": target.boxes, "labels": target.labels + 1}
        if masks:
            if target.masks is None and len(target.boxes):
                raise DataError("this detector learns masks, which the data set lacks; choose a detector without masks")
            row["masks"] = target.boxes.new_zeros(0, *size) if target.masks is None else target.masks
        found.append(row)
    return found


def proposal_losses(model: FasterRCNN, logits: Tensor, deltas: Tensor, anchors: list[Tensor], given: list[Row]) -> dict[str, Tensor]:
    """The losses of the region proposal network.

    Args:
        logits: [B * N, 1]; deltas: [B * N, 4]; anchors: [N, 4] per image.
    """
    rpn: Any = model.rpn
    labels, boxes = rpn.assign_targets_to_anchors(anchors, given)
    objectness, box = rpn.compute_loss(logits, deltas, labels, rpn.box_coder.encode(boxes, anchors))
    num_sampled = sum(_num_sampled(label, rpn.fg_bg_sampler) for label in labels)
    return rescale({"loss_objectness": objectness, "loss_rpn_box_reg": box}, num_sampled, logits.device)


def region_losses(
    model: FasterRCNN, features: dict[str, Tensor], proposals: Sequence[Tensor], given: list[Row], size: tuple[int, int]
) -> dict[str, Tensor]:
    """The losses of the second stage, on a sample of the proposals and of the objects' own boxes.

    Args:
        features: the levels that regions are pooled from, by the pooling's names for them.
        proposals: [N, 4] per image.
    """
    heads: Any = model.roi_heads
    boxes, matches, labels, deltas = heads.select_training_samples(list(proposals), given)
    sizes = [size] * len(boxes)
    outputs = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, boxes, sizes)))
    class_logits, box_deltas = (output.float() for output in outputs)
    num_sampled = len(class_logits)
    if num_sampled:
        classes, box = fastrcnn_loss(class_logits, box_deltas, labels, deltas)
    else:  # no object and no proposal in the whole batch; their means would be NaN
        classes, box = class_logits.sum(), box_deltas.sum()
    losses = rescale({"loss_classifier": classes, "loss_box_reg": box}, num_sampled, class_logits.device)
    if not heads.has_mask():
        return losses
    positive = [torch.where(label > 0)[0] for label in labels]
    boxes, matches = ([one[index] for one, index in zip(many, positive, strict=True)] for many in (boxes, matches))
    logits = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, boxes, sizes))).float()
    mask = maskrcnn_loss(logits, boxes, [row["masks"] for row in given], [row["labels"] for row in given], matches)
    return losses | rescale({"loss_mask": mask}, len(logits), logits.device)


def _num_sampled(labels: Tensor, sampler: Any) -> int:
    """The number of an image's anchors that torchvision's sampler takes and its losses are averaged over."""
    size: int = sampler.batch_size_per_image
    num_positive = min(int((labels >= 1).sum()), int(size * sampler.positive_fraction))
    return num_positive + min(int((labels == 0).sum()), size - num_positive)
