"""Training views: pipeline.yaml's augmentations with torchvision's transforms v2, then the deployed preprocessing."""

import math
from collections.abc import Callable, Sequence
from typing import Any, assert_never

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from deploy.prediction.preprocess import resize_masks
from stages.config import Augmentation, Color, Corrupt, Crop, Flip, Mosaic, Scale
from stages.detectors import Target

Sample = tuple[tv_tensors.Image, dict[str, Any]]
MIN_CANVAS_PX = 8


def transforms(augment: Sequence[Augmentation], pad_value: int) -> v2.Transform:
    """The augmentations of one image, its boxes and masks, in order.

    mosaic, which needs four images, is left to `mosaic`, and corrupt to stages/training/batches/degrade.py.
    """
    steps = [step for item in augment for step in _steps(item, pad_value)]
    return v2.Compose([*steps, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=1.0)])


def recoloring(augment: Sequence[Augmentation]) -> v2.Transform | None:
    """The changes of color alone, for Pillow's images, which take half the time of tensors; None if there are none."""
    steps = [v2.ColorJitter(item.brightness, item.contrast, item.saturation, item.hue) for item in augment if isinstance(item, Color)]
    return v2.Compose(steps) if steps else None


def _steps(item: Augmentation, pad_value: int) -> list[v2.Transform]:
    match item:
        case Flip():
            return [v2.RandomHorizontalFlip(item.p)]
        case Scale():
            fill: dict[type | str, Any] = {tv_tensors.Image: pad_value, "others": None}  # nothing, around masks
            return [v2.RandomAffine(degrees=[0, 0], translate=(0.1, 0.1), scale=(item.min, item.max), fill=fill)]
        case Crop():
            return [v2.RandomApply([_IoUCrop(min_scale=item.min_scale)], p=item.p)]
        case Color():
            return [v2.ColorJitter(item.brightness, item.contrast, item.saturation, item.hue)]
        case Mosaic() | Corrupt():
            return []
    assert_never(item)


def magnification(augment: Sequence[Augmentation]) -> float:
    """How many times larger augmentations may show an object: images are worth keeping at this many times the network's px."""
    largest = [1 / item.min_scale if isinstance(item, Crop) else max(1.0, item.max) for item in augment if isinstance(item, Crop | Scale)]
    return math.prod(largest)


class _IoUCrop(v2.RandomIoUCrop):
    """torchvision's crop, except that an image whose smallest window is less than a pixel is kept uncropped, not a division by zero."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        return super().make_params(flat_inputs) if min(height, width) * self.min_scale >= 1 else {}


def mosaic_chance(augment: Sequence[Augmentation]) -> float:
    """The probability that a sample is a mosaic."""
    return max((item.p for item in augment if isinstance(item, Mosaic)), default=0.0)


def mosaic(first: Sample, other: Callable[[], Sample], pad_value: int) -> Sample:
    """Four images, the first included, each scaled into one quarter of a canvas of the first one's size, if it has room for them."""
    image, target = first
    height, width = image.shape[-2:]
    if min(height, width) < MIN_CANVAS_PX:
        return first
    canvas = torch.full_like(image, pad_value)
    boxes, labels, masks = [], [], []
    for index, (quarter, objects) in enumerate([first, other(), other(), other()]):
        top, left = (index // 2) * (height // 2), (index % 2) * (width // 2)
        scale = min((height // 2) / quarter.shape[-2], (width // 2) / quarter.shape[-1])
        size = [max(1, int(quarter.shape[-2] * scale)), max(1, int(quarter.shape[-1] * scale))]
        canvas[:, top : top + size[0], left : left + size[1]] = v2.functional.resize(quarter, size, antialias=True)
        factor = torch.tensor([size[1] / quarter.shape[-1], size[0] / quarter.shape[-2]] * 2)
        boxes.append(objects["boxes"].as_subclass(torch.Tensor) * factor + torch.tensor([left, top, left, top]))
        labels.append(objects["labels"])
        if "masks" in objects:
            masks.append(canvas.new_zeros((len(objects["masks"]), height, width), dtype=torch.bool))
            masks[-1][:, top : top + size[0], left : left + size[1]] = torch.from_numpy(
                resize_masks(objects["masks"].numpy(), (size[0], size[1]))
            )
    joined = tv_tensors.BoundingBoxes(torch.cat(boxes), format="XYXY", canvas_size=(height, width))
    found = {**target, "boxes": joined, "labels": torch.cat(labels)}
    return tv_tensors.Image(canvas), found | ({"masks": tv_tensors.Mask(torch.cat(masks))} if masks else {})


def tighten(target: Target) -> Target:
    """Objects with masks, without those whose mask is empty.

    A box that differs by more than a px from its mask's, most often because the object was cut, is replaced by the mask's.
    """
    assert target.masks is not None
    around = mask_boxes(target.masks)
    off = (around - target.boxes).abs().amax(dim=1, keepdim=True) > 1
    boxes, kept = torch.where(off, around, target.boxes), around[:, 2] > around[:, 0]
    return Target(boxes[kept], target.labels[kept], target.masks[kept])


def mask_boxes(masks: torch.Tensor) -> torch.Tensor:
    """The boxes [N, 4] (x1, y1, x2, y2) in px around masks [N, H, W] bool; without width and height around empty ones."""
    pixels = masks.numpy()  # whose `any` is seven times as fast
    across, down = (np.asarray(pixels.any(axis=axis)) for axis in (1, 2))
    starts = [line.argmax(axis=1) for line in (across, down)]
    ends = [np.where(line.any(axis=1), line.shape[1] - line[:, ::-1].argmax(axis=1), 0) for line in (across, down)]
    return torch.from_numpy(np.stack([*starts, *ends], axis=1).astype(np.float32))
