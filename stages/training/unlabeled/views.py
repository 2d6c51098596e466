"""Views of images without labels: one geometry, seen clean by whoever labels it and strongly changed in color by whoever learns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import tv_tensors

from deploy.contract import ModelContract
from deploy.prediction import preprocess
from deploy.prediction.detections import by_image
from stages.config import Augmentation, Corrupt, Crop, Flip, Scale, TrainConfig
from stages.config.unlabelled import Strong
from stages.detectors import Target
from stages.training.batches.augment import magnification, recoloring, transforms
from stages.training.batches.degrade import degrade, views
from stages.training.batches.kept_images import KeptViews, shrunk_masks
from stages.training.batches.streams import Key, TrainingView

_SALT = 7
"""So that a view's draws are not those of the labeled image with the same number."""


def geometry(augment: Sequence[Augmentation]) -> tuple[Augmentation, ...]:
    """The augmentations that move objects, which both views share; a mosaic of images whose labels are guesses is not made."""
    return tuple(one for one in augment if isinstance(one, Flip | Scale | Crop))


class UnlabeledImages(KeptViews):
    """The images of a pool; item (turn, index) is a view that depends only on the seed, the turn and the index.

    `clean` is what labels are for, `image` what is learned from. The target has the given detections with their scores, and with
    `masks` their masks; without any, it is empty.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        contract: ModelContract,
        config: TrainConfig,
        strong: Sequence[Strong],
        seed: int,
        found: Sequence[Mapping[str, Any]] = (),
        *,
        masks: bool = False,
    ) -> None:
        self._files = [Path(row["file_name"]) for row in rows]
        moving = geometry(config.augment)
        super().__init__(contract.preprocessing, magnification(moving))
        self._moved = transforms(moving, self._preprocessing.pad_value)
        self._recolor = recoloring(strong)
        self._corrupted = views([one for one in strong if isinstance(one, Corrupt)], None)[0]
        self._found = _by_image(rows, found, {number: label for label, number in enumerate(contract.category_ids)})
        self._seed = seed
        self._masks = masks

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, key: Key) -> TrainingView:
        turn, index = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(hash((self._seed, turn, index, _SALT)) % 2**63)
            image, objects = self._moved(*self._read(index))
            fitted, placement = preprocess.fit(_pixels(image), self._preprocessing)
            changed = self._changed(fitted, placement, hash((self._seed, turn, index, _SALT, 1)) % 2**63)
        clean, learned = (torch.from_numpy(preprocess.normalized(one, self._preprocessing)) for one in (fitted, changed))
        boxes = torch.from_numpy(placement.place(objects["boxes"].numpy()).astype(np.float32))
        found, own = self._found[index], objects["labels"]
        target = Target(boxes, found.labels[own], scores=found.scores[own])
        if self._masks:
            masks = preprocess.fit_masks(objects["masks"].numpy(), placement, self._preprocessing)
            target = _seen(replace(target, masks=torch.from_numpy(masks)))
        return TrainingView(learned, target, clean)

    def _changed(self, fitted: NDArray[np.uint8], placement: preprocess.Placement, seed: int) -> NDArray[np.uint8]:
        """The network's input [H, W, 3] with other colors and corruptions, but for its padding."""
        across, down = placement.fitted
        window = slice(placement.top, placement.top + down), slice(placement.left, placement.left + across)
        seen = fitted[window]
        if self._recolor is not None:
            seen = np.asarray(self._recolor(Image.fromarray(seen)))
        if self._corrupted is not None:
            seen = degrade(seen, self._corrupted, seed)
        found = fitted.copy()
        found[window] = seen
        return found

    def _read(self, index: int) -> tuple[tv_tensors.Image, dict[str, Any]]:
        """The image, and its detections: their labels here are their places in the list, which boxes that leave the view take along."""
        image, (height, width) = self._pixels(index, self._files[index])
        size = image.shape[0], image.shape[1]
        found = self._found[index]
        given = found.boxes * torch.tensor([size[1] / width, size[0] / height] * 2)
        objects: dict[str, Any] = {"boxes": tv_tensors.BoundingBoxes(given, format="XYXY", canvas_size=size)}
        objects["labels"] = torch.arange(len(found.labels))
        if self._masks:
            objects["masks"] = shrunk_masks(found.masks, len(given), (height, width), size)
        return tv_tensors.Image(torch.from_numpy(image.transpose(2, 0, 1).copy())), objects


def _pixels(image: tv_tensors.Image) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image.numpy().transpose(1, 2, 0))


@dataclass(frozen=True)
class FoundObjects:
    """An image's boxes [N, 4] (x1, y1, x2, y2) in px of the image, labels and scores [N], and run-length codes of masks, if any."""

    boxes: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor
    masks: tuple[Any, ...]


def _seen(target: Target) -> Target:
    """Without objects of whose masks nothing is left in the view."""
    assert target.masks is not None
    assert target.scores is not None
    kept = target.masks.flatten(1).any(dim=1)
    return Target(target.boxes[kept], target.labels[kept], target.masks[kept], target.scores[kept])


def _by_image(rows: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], labels: Mapping[int, int]) -> list[FoundObjects]:
    return [_tensors(own, labels) for own in by_image(found, (row["id"] for row in rows)).values()]


def _tensors(found: Sequence[Mapping[str, Any]], labels: Mapping[int, int]) -> FoundObjects:
    boxes = torch.tensor([one["bbox"] for one in found], dtype=torch.float32).reshape(-1, 4)
    boxes = torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1)
    own = torch.tensor([labels[one["category_id"]] for one in found], dtype=torch.int64)
    scores = torch.tensor([one["score"] for one in found], dtype=torch.float32)
    return FoundObjects(boxes, own, scores, tuple(one.get("segmentation") for one in found))
