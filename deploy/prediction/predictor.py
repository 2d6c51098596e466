"""From an image to boxes and masks in its own pixels: the one code path for measuring, predicting and serving."""

from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from deploy.contract import ModelContract
from deploy.errors import ArtifactError
from deploy.prediction import masks, preprocess
from deploy.prediction.detections import Detections
from deploy.runtimes import Raw, Session
from deploy.runtimes.host_decoding.session import decoded


@dataclass(frozen=True)
class Timings:
    """Times of one pass in milliseconds; `end_to_end_ms` is measured, not summed."""

    pre_ms: float
    infer_ms: float
    post_ms: float
    end_to_end_ms: float


class SessionPredictor:
    """An open session behind the contract's preprocessing. The caller closes the session."""

    def __init__(self, session: Session, contract: ModelContract) -> None:
        self.session = decoded(session, contract)
        self.contract = contract

    def detect(self, image: NDArray[np.uint8], size: preprocess.Size | None = None) -> Detections:
        """Find the objects of an image [H, W, 3] RGB.

        Args:
            size: width and height of the image if it was decoded at a reduced size; boxes are in px of it.

        Raises:
            ArtifactError: the engine's answer is invalid.
        """
        return self.timed(image, size)[0]

    def answer(self, network_input: NDArray[np.float32], placement: preprocess.Placement) -> Detections:
        """As `detect`, for an image that was prepared for several engines: what preprocess.apply makes of it."""
        return decide(self.session.infer(network_input[None]), placement, self.contract)

    def timed(self, image: NDArray[np.uint8], size: preprocess.Size | None = None) -> tuple[Detections, Timings]:
        """As `detect`, with the time of each part."""
        start = perf_counter_ns()
        network_input, placement = preprocess.apply(image, self.contract.preprocessing, size)
        prepared = perf_counter_ns()
        raw = self.session.infer(network_input[None])
        answered = perf_counter_ns()
        detections = decide(raw, placement, self.contract)
        end = perf_counter_ns()
        parts = (prepared - start, answered - prepared, end - answered, end - start)
        return detections, Timings(*(nanoseconds / 1e6 for nanoseconds in parts))


def decide(raw: Raw, placement: preprocess.Placement, contract: ModelContract, *, min_score: float = 0.0) -> Detections:
    """The detections of a batch of one image with at least `min_score`, without padding, in px of the original.

    Raises:
        ArtifactError: NMS did not converge, a number is not finite, a label is out of range, or expected masks are missing.
    """
    if not raw.converged[0]:
        raise ArtifactError("the engine's NMS did not converge; export again with fewer export.candidates")
    keep = np.flatnonzero((raw.scores[0] != 0) & ~(raw.scores[0] < min_score))  # NaN is kept, to be refused
    boxes, scores, labels = raw.boxes[0, keep], raw.scores[0, keep], raw.labels[0, keep]
    _check_finite(boxes, scores)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(contract.classes):
        raise ArtifactError(f"the engine returned label {labels.max()}, but its contract has {len(contract.classes)} classes")
    if contract.mask_frame is None:
        return Detections(placement.undo(boxes), scores, labels)
    if raw.masks is None:
        raise ArtifactError(f"the engine returned no masks, but its contract has them (mask_frame {contract.mask_frame}); export again")
    probabilities = raw.masks[0, keep]
    _check_finite(probabilities)
    found = masks.to_rle(probabilities, boxes, contract.mask_frame, placement, contract.preprocessing)
    return Detections(placement.undo(boxes), scores, labels, found)


def _check_finite(*values: NDArray[np.float32]) -> None:
    if not all(np.isfinite(value).all() for value in values):
        raise ArtifactError("the engine returned numbers that are not finite; build it with a higher precision")
