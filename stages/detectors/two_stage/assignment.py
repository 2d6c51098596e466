"""Which of the boxes that could learn something are learned from."""

import torch
from torch import Tensor

from stages.detectors.boxes.matching import BACKGROUND


def sample(objects: Tensor, num_boxes: int, positive_share: float) -> tuple[Tensor, Tensor]:
    """A random choice of boxes: indices of those that learn an object, and of those that learn the background.

    Args:
        objects: as in `matching.Assignment`.
        num_boxes: maximum number of boxes, of which those with an object are at most `positive_share`.
    """
    positive = _some(torch.where(objects >= 0)[0], int(num_boxes * positive_share))
    return positive, _some(torch.where(objects == BACKGROUND)[0], num_boxes - len(positive))


def _some(indices: Tensor, most: int) -> Tensor:
    if len(indices) <= most:
        return indices
    return indices[torch.randperm(len(indices), device=indices.device)[:most]]
