"""mAP on the way: the weights that would be shipped are judged at a few points of a training, which does not notice it."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from deploy.accuracy import coco
from deploy.accuracy.judge import LabeledSplit
from deploy.accuracy.matches import match
from deploy.comparison.bootstrap import drop
from deploy.comparison.learning_curve import SHARES, CurvePoint, LearningCurve, images_judged, judged_steps
from deploy.contract import LastFifth
from deploy.errors import ArtifactError
from stages.artifacts import Dataset
from stages.config import ExportConfig
from stages.detectors import Detector
from stages.measurement.splits import labeled_split, some
from stages.measurement.torch_accuracy import judge_images

Detections = Sequence[Mapping[str, Any]]
_OF_BOXES = ("image_id", "category_id", "bbox", "score")


class Observer:
    """Judges a training on a fixed, evenly spread part of a split, with a copy of the detector made before the training.

    A detector that has been trained cannot be copied if it keeps tensors of its last step, and judging could leave something behind.
    """

    def __init__(self, detector: Detector, dataset: Dataset, split: str, export: ExportConfig) -> None:
        self._copy = copy.deepcopy(detector).requires_grad_(False)
        self._dataset = dataset
        self._export = export
        self._images = some(labeled_split(dataset, split), images_judged(dataset.split("train").num_images))

    def steps(self, num_steps: int, batch_size: int) -> tuple[int, ...]:
        """The steps after which `seen` is called."""
        return judged_steps(num_steps, num_steps * batch_size, len(self._images.images))

    def seen(self, trained: nn.Module, device: torch.device, step: int, num_steps: int, label: str) -> dict[str, Any]:
        """The point's mAP and, before the last fifth, its boxes, as plain values that can be saved.

        An invalid answer, as weights that have hardly been trained may give, is the point's reason for having no mAP.
        """
        share = step / num_steps
        self._copy.load_state_dict(trained.state_dict())
        self._copy.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                found = judge_images(self._copy.eval(), self._dataset, self._images, self._export, f"{label}: mAP at {share:.0%}")
        except ArtifactError as error:
            return {"step": step, "share": share, "map": None, "why": str(error)}
        finally:
            self._copy.to("cpu")
        boxes = [{key: one[key] for key in _OF_BOXES} for one in found.detections] if step == round(SHARES[-1] * num_steps) else None
        return {"step": step, "share": share, "map": found.accuracy.map, "boxes": boxes}

    def curve(self, seen: Sequence[Mapping[str, Any]], detections: Detections, num_steps: int) -> LearningCurve:
        """The points on the way and the end, whose detections on the entire split are given."""
        truth, classes = self._images.truth, self._dataset.facts.contract.classes
        part = {image["id"] for image in truth["images"]}
        last = [{key: one[key] for key in _OF_BOXES} for one in detections if one["image_id"] in part]
        end = coco.evaluate(truth, last, self._images.name, classes)[0].map
        points = [CurvePoint(**{key: one[key] for key in CurvePoint.model_fields if key in one}) for one in seen]
        before = next((one["boxes"] for one in seen if one.get("boxes") is not None), None)
        return LearningCurve(
            split=self._images.name,
            num_images=len(part),
            points=(*points, CurvePoint(step=num_steps, share=1.0, map=end)),
            last_fifth=None if before is None else gained(self._images, before, last),
        )


def gained(images: LabeledSplit, before: Detections, after: Detections) -> LastFifth | None:
    """How much mAP rose from one network's detections to the other's; None if there is no object."""
    own, earlier = (match(images.truth, found) for found in (after, before))
    fall = drop(own, earlier, slice(None), relative=False)
    if fall is None:
        return None
    rise = fall.reversed()
    return LastFifth(gain=rise.change, low=rise.low, high=rise.high, num_images=own.num_with_objects())
