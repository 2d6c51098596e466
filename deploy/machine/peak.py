"""Peak rates of this machine: measured on a CPU, computed from the device's own figures on an NVIDIA GPU."""

import time
from dataclasses import dataclass
from functools import cache

import numpy as np

from deploy import machine
from deploy.precision import Precision

SIDE = 768
COPIED_BYTES = 2**25
TRIES = 8

CPU_SPEEDUP = {"fp32": 1.0, "fp16": 1.0, "int8": 4.0}
"""Maximum speedup of a precision over fp32: registers hold four times as many bytes as floats; fp16 is computed in fp32."""

# dense fused multiply-adds per multiprocessor and clock, by compute capability, from NVIDIA's architecture whitepapers
GPU_FP32 = {"7.5": 64, "8.0": 64, "8.6": 128, "8.7": 128, "8.9": 128, "9.0": 128, "10.0": 128, "12.0": 128}
GPU_FP16 = {"7.5": 512, "8.0": 1024, "8.6": 512, "8.7": 1024, "8.9": 512, "9.0": 2048, "10.0": 4096, "12.0": 512}
GPU_INT8 = 2
"""Rate of int8 as a multiple of fp16's."""


@dataclass(frozen=True)
class Peak:
    """Peak rates of a device: multiply-accumulates and bytes per second."""

    macs: float
    bytes: float


def cpu(precision: Precision) -> Peak:
    """Measured once, in half a second: the fastest of several NumPy matrix products, on all of its threads, and of memory copies."""
    macs, num_bytes = _measured()
    return Peak(macs * CPU_SPEEDUP[precision], num_bytes)


@cache
def _measured() -> tuple[float, float]:
    """Multiply-accumulates in fp32 and bytes per second."""
    random = np.random.default_rng(0)
    a, b = random.random((2, SIDE, SIDE), np.float32)
    source, target = np.zeros(COPIED_BYTES, np.uint8), np.empty(COPIED_BYTES, np.uint8)
    products, copies = [], []
    for _ in range(TRIES):
        start = time.perf_counter()
        np.matmul(a, b)
        products.append(time.perf_counter() - start)
        start = time.perf_counter()
        np.copyto(target, source)
        copies.append(time.perf_counter() - start)
    return SIDE**3 / min(products), 2 * COPIED_BYTES / min(copies)


def gpu(precision: Precision, multiprocessors: int, clock_hz: float, bytes_per_s: float) -> Peak | None:
    """From an NVIDIA GPU's own figures; None if one of them, or the rate of its compute capability, is unknown."""
    capability = machine.gpu().get("compute_capability", "")
    if capability not in GPU_FP32 or not (multiprocessors and clock_hz and bytes_per_s):
        return None
    rate = {"fp32": GPU_FP32[capability], "fp16": GPU_FP16[capability], "int8": GPU_FP16[capability] * GPU_INT8}[precision]
    return Peak(rate * multiprocessors * clock_hz, bytes_per_s)
