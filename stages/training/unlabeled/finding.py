"""Everything that a trained detector finds in images, whether they have labels or not, by one view of each or by several."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deploy.contract import ModelContract
from deploy.prediction import image_files
from deploy.prediction.detections import Detections, to_coco
from deploy.prediction.predictor import SessionPredictor
from deploy.progress import track
from stages.config import ExportConfig
from stages.config.unlabelled import View
from stages.detectors import Detector
from stages.measurement.torch_accuracy import TorchSession, graph_options
from stages.training.unlabeled.fusion import CORNERS, WHOLE, ViewWindow, fused, mirrored

Views = tuple[View, ...]
EVERY: tuple[Views, ...] = ((), ("mirror",), ("zoom",), ("mirror", "zoom"))
"""What may be joined with the image as it is, the cheapest first."""

Named = tuple[int, Path]
"""An image's id and file."""


def windows(views: Views) -> tuple[ViewWindow, ...]:
    """The parts of an image that are looked at."""
    plain = (WHOLE, *(CORNERS if "zoom" in views else ()))
    return (*plain, *(mirrored(one) for one in plain)) if "mirror" in views else plain


class Finder:
    """A detector that looks at images in the same views each time; one with masks finds them, too, in a single view."""

    def __init__(self, network: Detector, contract: ModelContract, export: ExportConfig) -> None:
        self.has_masks = network.mask_frame is not None
        self._contract = contract.model_copy(update={"mask_frame": network.mask_frame})
        self._predictor = SessionPredictor(TorchSession(network.graph(graph_options(export))), self._contract)
        self._most = export.max_detections

    def find(self, images: Sequence[Named], views: Views, label: str) -> list[dict[str, Any]]:
        """COCO's results.

        Raises:
            DataError: a file is unusable.
            ArtifactError: an answer is invalid.
        """
        return self.compared(images, (views,), label)[views]

    def compared(self, images: Sequence[Named], choices: Iterable[Views], label: str) -> dict[Views, list[dict[str, Any]]]:
        """As `find`, for several choices of views, each view looked at once."""
        results: dict[Views, list[dict[str, Any]]] = {views: [] for views in choices}
        every = tuple(dict.fromkeys(one for views in results for one in windows(views)))
        for number, path in track(images, label, len(images)):
            size, seen = self._look(path, every)
            for views, found in results.items():
                own = seen[WHOLE] if not views else fused([(one, seen[one]) for one in windows(views)], *size, self._most)
                found.extend(to_coco(own, number, self._contract))
        return results

    def _look(self, path: Path, every: Sequence[ViewWindow]) -> tuple[tuple[int, int], dict[ViewWindow, Detections]]:
        """The image's width and height in px, and what is found in each window, in px of the image."""
        preprocessing = self._contract.preprocessing
        given = image_files.load(path, preprocessing)
        found = {WHOLE: self._predictor.detect(given.pixels, given.size)}
        if len(every) == 1:
            return given.size, found
        pixels = image_files.load_image(path, preprocessing) if preprocessing.reduced_decoding else given.pixels
        for window in every:
            if window != WHOLE:
                found[window] = window.undo(self._predictor.detect(window.cut(pixels)), *given.size)
        return given.size, found
