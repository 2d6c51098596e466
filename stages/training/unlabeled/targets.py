"""From detections to targets: which teach, which of their boxes are exact, and where nothing is to be learned."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stages.detectors import Target, TargetDoubt
from stages.unlabeled_facts import PseudoClass


@dataclass(frozen=True)
class Thresholds:
    """Scores [K] by label, as in PseudoClass; infinite where no detection of a class is sure enough."""

    accept: Tensor
    low: Tensor
    sure: Tensor

    def to(self, device: torch.device) -> "Thresholds":
        """The same on a device."""
        return Thresholds(self.accept.to(device), self.low.to(device), self.sure.to(device))


def thresholds_of(classes: Mapping[str, PseudoClass], names: Sequence[str]) -> Thresholds:
    """The thresholds in the order of the contract's classes."""
    own = [classes[name] for name in names]
    columns = [
        [math.inf if one.accept is None else one.accept for one in own],
        [0.0 if one.low is None else one.low for one in own],
        [math.inf if one.sure is None else one.sure for one in own],
    ]
    return Thresholds(*(torch.tensor(column, dtype=torch.float32) for column in columns))


def divided(target: Target, limits: Thresholds, *, ignore: bool) -> Target:
    """The detections that teach as objects, with their doubt.

    Args:
        target: detections with scores; one that has its doubt already stays as it is.
        ignore: whether nothing is learned where a detection below the threshold may be an object.
    """
    if target.doubt is not None:
        return target
    assert target.scores is not None
    accepted = target.scores >= limits.accept[target.labels]
    between = ~accepted & (target.scores >= limits.low[target.labels])
    exact = target.scores[accepted] >= limits.sure[target.labels[accepted]]
    unsure = target.boxes[between] if ignore else target.boxes[:0]
    masks = None if target.masks is None else target.masks[accepted]
    return Target(target.boxes[accepted], target.labels[accepted], masks, target.scores[accepted], TargetDoubt(exact, unsure))


def painted(images: Tensor, targets: Sequence[Target]) -> Tensor:
    """The images [B, 3, H, W] with their own mean in place of what may be an object or not, outside of the objects that teach.

    For detectors whose losses do not heed doubt: there is nothing left to be learned wrongly.
    """
    found = images.clone()
    for image, original, target in zip(found, images, targets, strict=True):
        if target.doubt is None or not len(target.doubt.unsure):
            continue
        hidden = _covered(target.doubt.unsure, image.shape) & ~_covered(target.boxes, image.shape)
        image[:] = torch.where(hidden, original.mean(dim=(1, 2), keepdim=True), original)
    return found


def certain(target: Target) -> Target:
    """Without the doubt, for detectors that do not heed it."""
    return replace(target, doubt=None)


def _covered(boxes: Tensor, shape: torch.Size) -> Tensor:
    """Which px [H, W] are in any of the boxes [N, 4]."""
    x = torch.arange(shape[-1], device=boxes.device) + 0.5
    y = torch.arange(shape[-2], device=boxes.device) + 0.5
    across = (x >= boxes[:, None, 0]) & (x < boxes[:, None, 2])
    down = (y >= boxes[:, None, 1]) & (y < boxes[:, None, 3])
    return (down[:, :, None] & across[:, None, :]).any(dim=0)
