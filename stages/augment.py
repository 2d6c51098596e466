"""Training views: pipeline.yaml's augmentations on torchvision's transforms v2, then the deployed preprocessing."""

from collections.abc import Callable, Sequence
from typing import Any, assert_never

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from stages.config import Augmentation, Color, Crop, Flip, Mosaic, Scale

Sample = tuple[tv_tensors.Image, dict[str, Any]]
MIN_CANVAS_PX = 8


def transforms(augment: Sequence[Augmentation], pad_value: int) -> v2.Transform:
    """The augmentations of one image and its boxes, in order; mosaic, which needs four images, is left to `mosaic`."""
    steps = [step for item in augment for step in _steps(item, pad_value)]
    return v2.Compose([*steps, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=1.0)])


def _steps(item: Augmentation, pad_value: int) -> list[v2.Transform]:
    match item:
        case Flip():
            return [v2.RandomHorizontalFlip(item.p)]
        case Scale():
            return [v2.RandomAffine(degrees=[0, 0], translate=(0.1, 0.1), scale=(item.min, item.max), fill=pad_value)]
        case Crop():
            return [v2.RandomApply([_IoUCrop(min_scale=item.min_scale)], p=item.p)]
        case Color():
            return [v2.ColorJitter(item.brightness, item.contrast, item.saturation, item.hue)]
        case Mosaic():
            return []
    assert_never(item)


class _IoUCrop(v2.RandomIoUCrop):
    """torchvision's, which would divide by zero on an image whose smallest window is less than a pixel: that stays whole."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        return super().make_params(flat_inputs) if min(height, width) * self.min_scale >= 1 else {}


def mosaic_chance(augment: Sequence[Augmentation]) -> float:
    """The probability with which a sample is a mosaic."""
    return max((item.p for item in augment if isinstance(item, Mosaic)), default=0.0)


def mosaic(first: Sample, other: Callable[[], Sample], pad_value: int) -> Sample:
    """Four images, the first included, each scaled into one quarter of a canvas of the first one's size, if it has room for them."""
    image, target = first
    height, width = image.shape[-2:]
    if min(height, width) < MIN_CANVAS_PX:
        return first
    canvas = torch.full_like(image, pad_value)
    boxes, labels = [], []
    for index, (quarter, objects) in enumerate([first, other(), other(), other()]):
        top, left = (index // 2) * (height // 2), (index % 2) * (width // 2)
        scale = min((height // 2) / quarter.shape[-2], (width // 2) / quarter.shape[-1])
        size = [max(1, int(quarter.shape[-2] * scale)), max(1, int(quarter.shape[-1] * scale))]
        canvas[:, top : top + size[0], left : left + size[1]] = v2.functional.resize(quarter, size, antialias=True)
        factor = torch.tensor([size[1] / quarter.shape[-1], size[0] / quarter.shape[-2]] * 2)
        boxes.append(objects["boxes"].as_subclass(torch.Tensor) * factor + torch.tensor([left, top, left, top]))
        labels.append(objects["labels"])
    joined = tv_tensors.BoundingBoxes(torch.cat(boxes), format="XYXY", canvas_size=(height, width))
    return tv_tensors.Image(canvas), {**target, "boxes": joined, "labels": torch.cat(labels)}
