"""The objects that a bundle found in one image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.prediction import draw, masks
from deploy.prediction.detections import Detections
from deploy.prediction.predictor import Timings


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The objects found in one image, highest score first; its arrays are read-only.

    image: the decoded image, [H, W, 3] uint8 RGB, upright.
    classes: the name of every class of the detector.
    detections: the objects in the form that edgedistill uses internally.
    timings: the milliseconds that preprocessing, network and postprocessing took.
    """

    image: NDArray[np.uint8]
    classes: Sequence[str]
    detections: Detections
    timings: Timings

    def __post_init__(self) -> None:
        for array in (self.image, self.boxes, self.scores, self.labels):
            array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.detections)

    def __repr__(self) -> str:
        return f"<Prediction: {len(self)} objects in {self.width} x {self.height} px>"

    @property
    def boxes(self) -> NDArray[np.float64]:
        """[N, 4] (x1, y1, x2, y2) in px of the upright image."""
        return self.detections.boxes

    @property
    def scores(self) -> NDArray[np.float32]:
        """[N], 0 to 1."""
        return self.detections.scores

    @property
    def labels(self) -> NDArray[np.int64]:
        """[N] indices into `classes`, from 0; not the category ids of the data set."""
        return self.detections.labels

    @property
    def names(self) -> tuple[str, ...]:
        """N class names, one per object."""
        return tuple(self.classes[label] for label in self.labels)

    @cached_property
    def masks(self) -> NDArray[np.bool_] | None:
        """[N, H, W], decoded on first use; None for detectors without masks."""
        if self.detections.masks is None:
            return None
        unpacked = np.zeros((len(self), self.height, self.width), np.bool_)
        for index, code in enumerate(self.detections.masks):
            unpacked[index] = masks.decode(code, (self.height, self.width))
        unpacked.setflags(write=False)
        return unpacked

    @property
    def width(self) -> int:
        """Width of the upright image in px."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """Height of the upright image in px."""
        return int(self.image.shape[0])

    def above(self, score: float) -> "Prediction":
        """Only the objects with at least this score."""
        return replace(self, detections=self.detections.above(score))

    def draw(self) -> Image.Image:
        """A copy of the image with masks, boxes, names and scores; small images are enlarged to keep the names readable."""
        return draw.draw(self.image, self.detections, self.classes)
