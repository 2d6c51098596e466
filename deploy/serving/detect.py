"""From the bytes of images to the JSON of their objects; runs on a thread, which waits for the engine."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from pydantic_core import to_json

from deploy.errors import DataError
from deploy.prediction import costly, image_files, preprocess
from deploy.prediction.detections import Detections, to_coco
from deploy.prediction.predictor import decide
from deploy.serving.batcher import JobResult
from deploy.serving.decoders import POSSIBLE, Bounds, Decoders
from deploy.serving.refusals import Invalid
from deploy.serving.work import File, Work

_GLANCE = 2**18
"""Bytes up to which a file is looked at without a turn: with more, that takes as long as to decode some images, and all threads that
compute hold up the event loop."""


@dataclass(frozen=True)
class Placed:
    """A decoded image on its way through the engine."""

    future: "Future[JobResult]"
    placement: preprocess.Placement
    decode_s: float
    pre_s: float


def answer(work: Work, files: Sequence[File], *, min_score: float, max_pixels: int, decoders: Decoders) -> bytes:
    """The JSON of /v1/detect.

    Raises:
        Invalid: one of the images cannot be read; the message names it.
        Busy: too many images wait for a process that decodes them.
        Expired, Gone, ArtifactError: see Work.result.
    """
    started = perf_counter()
    bounds = Bounds(work.deadline, work.gone, work.client)
    placed = [_place(work, file, _which(number, len(files)), max_pixels, decoders, bounds) for number, file in enumerate(files, start=1)]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    timings = dict.fromkeys(("decode", "pre", "queue", "infer", "post"), 0.0)
    contract = work.model.contract
    for number, (file, one) in enumerate(zip(files, placed, strict=True), start=1):
        result = work.result(one.future)
        answered = perf_counter()
        found: Detections = decide(result.raw, one.placement, contract, min_score=min_score)
        annotations += to_coco(found, number, contract)
        name = {} if file.name is None else {"file_name": file.name}
        images.append({"id": number, **name, "width": one.placement.width, "height": one.placement.height})
        parts = (one.decode_s, one.pre_s, result.queue_s, result.compute_s, perf_counter() - answered)
        timings = {key: value + part for (key, value), part in zip(timings.items(), parts, strict=True)}
    timings["end_to_end"] = perf_counter() - started
    body = {
        "model": work.model.name,
        "version": str(work.model.version),
        "images": images,
        "annotations": annotations,
        "categories": contract.categories,
        "timings_ms": _milliseconds(timings),
    }
    return to_json(body)  # several times faster than json, which matters for small engines


def _place(work: Work, file: File, which: str, max_pixels: int, decoders: Decoders, bounds: Bounds) -> Placed:
    try:
        with work.turn() if len(file.content) > _GLANCE else nullcontext():
            quick = costly.look(file.content).quick or not POSSIBLE
        if quick:
            with work.turn():
                return _place_quick(work, file, max_pixels)
        start = perf_counter()
        tensor, placement = decoders.decode(file.content, work.model.contract.preprocessing, bounds)
        return Placed(work.submit(tensor[None]), placement, perf_counter() - start, 0.0)
    except DataError as error:
        raise Invalid(f"{which}{error}") from error


def _place_quick(work: Work, file: File, max_pixels: int) -> Placed:
    """Decode here, which saves the way to another process and back."""
    preprocessing = work.model.contract.preprocessing
    start = perf_counter()
    image = image_files.load(file.content, preprocessing, max_pixels=max_pixels, trusted=False, looked=True)
    decoded = perf_counter()
    tensor, placement = preprocess.apply(image.pixels, preprocessing, image.size)
    ready = perf_counter()
    return Placed(work.submit(tensor[None]), placement, decoded - start, ready - decoded)


def _which(number: int, count: int) -> str:
    return "" if count == 1 else f"image {number} of {count}: "


def _milliseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value * 1000, 3) for key, value in seconds.items()}
