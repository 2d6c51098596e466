"""Accuracy of an open engine on a split, through the same code path as serving."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.accuracy import coco
from deploy.contract import Accuracy, ModelContract
from deploy.errors import ArtifactError, DataError
from deploy.machine.files import sha256
from deploy.prediction import image_files
from deploy.prediction.detections import to_coco
from deploy.prediction.predictor import SessionPredictor
from deploy.progress import track


@dataclass(frozen=True)
class LabeledSplit:
    """Images and their ground truth in COCO's format; `images` in the order of `truth["images"]`."""

    name: str
    truth: Mapping[str, Any]
    images: tuple[Path, ...]

    def digest(self) -> str:
        """The sha256 of all annotations and of every image file's content."""
        digest = hashlib.sha256(json.dumps(self.truth, sort_keys=True).encode())
        for image in self.images:
            digest.update(bytes.fromhex(sha256(image)))
        return digest.hexdigest()


@dataclass(frozen=True)
class Judged:
    """An engine's accuracy, its detections as COCO's results, and its curves as returned by coco.evaluate."""

    accuracy: Accuracy
    detections: list[dict[str, Any]]
    curves: dict[str, Any]


def judge(predictor: SessionPredictor, split: LabeledSplit, label: str) -> Judged:
    """Detect in every image of the split.

    Raises:
        ArtifactError: the engine's answer to an image is invalid; the message names the image.
    """
    results: list[dict[str, Any]] = []
    for index in track(range(len(split.images)), label, len(split.images)):
        results += detect(predictor, split, index, label)
    return evaluated(split, results, predictor.contract)


def detect(predictor: SessionPredictor, split: LabeledSplit, index: int, label: str) -> list[dict[str, Any]]:
    """What is found in one image of the split, as COCO's results; raises as `judge`."""
    path = split.images[index]
    try:
        seen = image_files.load(path, predictor.contract.preprocessing)
        found = predictor.detect(seen.pixels, seen.size)
    except ArtifactError as error:
        raise ArtifactError(f"{label}, {path.name}: {error}") from error
    return to_coco(found, split.truth["images"][index]["id"], predictor.contract)


def evaluated(split: LabeledSplit, results: list[dict[str, Any]], contract: ModelContract) -> Judged:
    """The accuracy of detections in all images of the split."""
    accuracy, curves = coco.evaluate(split.truth, results, split.name, contract.classes, masks=contract.mask_frame is not None)
    return Judged(accuracy, results, curves)


def defined(found: float | None, limit: float) -> float:
    """The mAP, which must be defined if a limit on its drop is judged.

    Raises:
        DataError: it is undefined.
    """
    if found is None:
        raise DataError(f"max_map_drop {limit:g} cannot be judged: the split's images have no objects; label some")
    return found
