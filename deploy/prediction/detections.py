"""The objects that a detector found in one image."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.contract import ModelContract
from deploy.prediction.masks import Rle


@dataclass(frozen=True)
class Detections:
    """The objects of one image, most certain first.

    boxes [N, 4] float64 (x1, y1, x2, y2) in px of the original image; scores [N] float32, 0 to 1; labels [N] int64 from 0.
    masks: N run-length codes over the original image; None for detectors without masks.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: tuple[Rle, ...] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> "Detections":
        """The detections with at least this score."""
        keep = self.scores >= score
        masks = None if self.masks is None else tuple(self.masks[index] for index in np.flatnonzero(keep))
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep], masks)


def to_coco(detections: Detections, image_id: int, contract: ModelContract) -> list[dict[str, Any]]:
    """As COCO results: `bbox` is [x, y, width, height] in px, `category_id` the data set's own, `segmentation` only if there are masks."""
    low, high = detections.boxes[:, :2], detections.boxes[:, 2:]
    boxes = np.concatenate([low, high - low], axis=1)
    results: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": contract.category_ids[label], "bbox": box, "score": score}
        for box, score, label in zip(boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    ]
    if detections.masks is None:
        return results
    return [{**result, "segmentation": mask} for result, mask in zip(results, detections.masks, strict=True)]


def by_image(rows: Iterable[Mapping[str, Any]], ids: Iterable[int]) -> dict[int, list[Mapping[str, Any]]]:
    """COCO annotations or results, for each of these images its own, in the order given."""
    found: dict[int, list[Mapping[str, Any]]] = {number: [] for number in ids}
    for row in rows:
        if row["image_id"] in found:
            found[row["image_id"]].append(row)
    return found


def class_names(coco: Mapping[str, Any]) -> dict[int, str]:
    """The names of a COCO file's categories, by their ids."""
    return {row["id"]: str(row["name"]) for row in coco["categories"]}


def corners(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of COCO's x, y, width, height."""
    x, y, width, height = bbox
    return x, y, x + width, y + height
