"""Latency of one image, part by part."""

from collections.abc import Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from deploy.contract import Latency, Percentiles
from deploy.prediction.predictor import SessionPredictor, Timings


def measure(
    predictor: SessionPredictor, images: Sequence[NDArray[np.uint8]], *, warmup: int = 20, min_passes: int = 100, min_seconds: float = 2.0
) -> Latency:
    """Detect in one image after another, repeating them as needed, and keep every pass.

    Args:
        images: decoded, [H, W, 3] RGB; at least one.
        warmup: passes before counting starts.
        min_passes: minimum number of counted passes.
        min_seconds: minimum duration of all counted passes.

    Raises:
        ArtifactError: the engine's answer is invalid.
    """
    if not images:
        raise ValueError("no image to measure latency on")
    for number in range(warmup):
        predictor.detect(images[number % len(images)])
    passes: list[Timings] = []
    start = perf_counter()
    while len(passes) < min_passes or perf_counter() - start < min_seconds:
        passes.append(predictor.timed(images[len(passes) % len(images)])[1])
    seconds = perf_counter() - start
    return Latency(
        pre=percentiles([one.pre_ms for one in passes]),
        infer=percentiles([one.infer_ms for one in passes]),
        post=percentiles([one.post_ms for one in passes]),
        end_to_end=percentiles([one.end_to_end_ms for one in passes]),
        num_passes=len(passes),
        seconds=seconds,
    )


def percentiles(milliseconds: Sequence[float]) -> Percentiles:
    """The percentiles of all values, outliers included."""
    p50, p90, p95, p99 = np.percentile(milliseconds, (50, 90, 95, 99)).tolist()
    return Percentiles(p50=p50, p90=p90, p95=p95, p99=p99)
