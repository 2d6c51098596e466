"""A session whose engine returns raw outputs, made to answer with boxes as any other does."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.contract import HostDecoding, ModelContract, Preprocessing
from deploy.errors import ArtifactError
from deploy.machine.peak import Peak
from deploy.precision import Batch, Precision
from deploy.runtimes import Raw, Session
from deploy.runtimes.host_decoding.boxes import Decoder
from deploy.runtimes.host_decoding.suppression import suppress


def decoded(session: Session, contract: ModelContract) -> Session:
    """The session as it is, or with decoding on the host if the contract has that; it closes with the one given."""
    if contract.decoding is None or isinstance(session, DecodedSession):
        return session
    return DecodedSession(session, contract.decoding, contract.preprocessing)


class DecodedSession(Session):
    """An open engine with decoding and suppression in NumPy behind it."""

    def __init__(self, engine: Session, decoding: HostDecoding, size: Preprocessing) -> None:
        self._engine = engine
        self._decoding = decoding
        self._decoder = Decoder(decoding, size)

    def infer(self, images: Batch) -> Raw:
        """See Session.infer.

        Raises:
            ArtifactError: the raw outputs are not those of the contract, or not finite.
        """
        names = self._decoding.outputs
        values: dict[str, NDArray[np.float32]] = dict(zip(names, self._engine.heads(images, names), strict=True))
        _check(values, self._decoding, len(images))
        return answer(
            [{name: value[index] for name, value in values.items()} for index in range(len(images))], self._decoder, self._decoding
        )

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def proof(self) -> Mapping[str, Any]:
        """See Session.proof."""
        return self._engine.proof()

    def peak(self, precision: Precision) -> Peak | None:
        """See Session.peak."""
        return self._engine.peak(precision)


def answer(images: list[dict[str, NDArray[np.float32]]], decoder: Decoder, decoding: HostDecoding) -> Raw:
    """What is found in each image, from its raw outputs [N, ...] by name."""
    num, most = len(images), decoding.max_detections
    boxes, scores = np.zeros((num, most, 4), np.float32), np.zeros((num, most), np.float32)
    labels = np.zeros((num, most), np.int64)
    for index, raw in enumerate(images):
        found = decoder.candidates(raw)
        own = None if decoding.agnostic else found.labels
        kept = suppress(found.boxes, found.scores, own, decoding.iou_threshold, most)
        boxes[index, : len(kept)] = decoder.clipped(found.boxes[kept])
        scores[index, : len(kept)], labels[index, : len(kept)] = found.scores[kept], found.labels[kept]
    return Raw(boxes, scores, labels, np.ones(num, np.bool_))


def _check(values: Mapping[str, NDArray[np.float32]], decoding: HostDecoding, num_images: int) -> None:
    """Refuse what a changed engine may answer."""
    for name, value in values.items():
        ndim = 4 if name == "box_distributions" else 3
        last = {"box_deltas": 4, "quality": 1}.get(name)
        fits = value.dtype == np.float32 and value.ndim == ndim and value.shape[:2] == (num_images, decoding.num_rows)
        if not fits or (last is not None and value.shape[-1] != last):
            expected = f"{num_images} x {decoding.num_rows} rows"
            raise ArtifactError(f"the engine's {name} are {value.dtype} {value.shape}, expected {expected}; build it again")
        if value.size and not (np.isfinite(value.min()) and np.isfinite(value.max())):  # NaN is the least and the largest of all
            raise ArtifactError(f"the engine's {name} are not finite; build it with a higher precision")
