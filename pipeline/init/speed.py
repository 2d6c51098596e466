"""How fast this machine trains a network: measured with a few steps, or estimated from its multiply-accumulates."""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from deploy import machine
from pipeline.init.networks import Network, macs
from pipeline.init.sizes import InputSize, Levels
from stages.config import DetectorConfig

BATCH = 8
STEP_S, READ_S = 0.003, 0.006
"""Seconds per image: what a step does besides products; reading and augmenting it, which other processes do if there are cores."""

THROUGHPUT = {"cpu": 38e9, "cuda": 4e12}
"""Multiply-accumulates per second of one core, and of a GPU, in training; a training step has three times those of a forward pass."""

FURTHER_CORE, MOST_CORES = 0.7, 8
"""What a further core adds, as a share of the first one, and after how many cores small networks gain nothing more."""

MEASURED_S = 1.5
FEWEST_STEPS, MOST_STEPS = 8, 40


@dataclass(frozen=True)
class Speed:
    """Estimates seconds per training image; `factor` is measured over estimated, None if nothing could be measured."""

    device: str
    num_classes: int
    factor: float | None = None

    def seconds(self, network: Network, levels: Levels, size: InputSize) -> float:
        """Seconds that one image costs in training."""
        workers = _workers()
        step = self._step(network, levels, size)
        return max(step, READ_S / workers) if workers else step + READ_S

    def forward_ms(self, network: Network, levels: Levels, size: InputSize) -> float:
        """Milliseconds of one image's end-to-end pass in a compiled engine; a third of a training step, and the fitting of the image."""
        return 1.0 + 1000 * self._step(network, levels, size) / 3

    def measured(self, network: Network, levels: Levels, size: InputSize) -> "Speed":
        """The same, corrected by a few steps of this network, if torch is installed."""
        took = _measure(network, levels, size, self.num_classes, self.device)
        return self if took is None else replace(self, factor=took / self._estimated(network, levels, size))

    def _step(self, network: Network, levels: Levels, size: InputSize) -> float:
        return (self.factor or 1.0) * self._estimated(network, levels, size) / _gain(self.device)

    def _estimated(self, network: Network, levels: Levels, size: InputSize) -> float:
        """Seconds per training image on one core, or on a GPU."""
        return STEP_S + 3 * macs(network, levels, size, self.num_classes) / THROUGHPUT[self.device]


def _workers() -> int:
    """Processes that read images while a CPU trains: see stages.training.batches.loader.default_workers."""
    return min(4, machine.num_cores() - 1)


def _gain(device: str) -> float:
    """How many times faster than one core are those that the readers leave to the training."""
    if device != "cpu":
        return 1.0
    cores = max(1, machine.num_cores() - _workers())
    if importlib.util.find_spec("torch") is not None:
        import torch

        cores = min(cores, torch.get_num_threads())  # OMP_NUM_THREADS, if it is set
    return 1 + FURTHER_CORE * (min(cores, MOST_CORES) - 1)


def device_of(given: str) -> str:
    """The device that trains: what was given or, for auto, a GPU that torch can use."""
    if given != "auto":
        return given
    if importlib.util.find_spec("torch") is None:
        return "cuda" if machine.gpu() else "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _measure(network: Network, levels: Levels, size: InputSize, num_classes: int, device: str) -> float | None:
    """Seconds per image; None without torch, or without the device."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "torchvision")):
        return None
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # processor time on one core: what else the machine is doing does not count
    try:
        return STEP_S + _fastest(_step(network, levels, size, num_classes, device), device) / BATCH
    finally:
        torch.set_num_threads(threads)


def _fastest(step: Callable[[], None], device: str) -> float:
    """Seconds per step, of the faster ones of many."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    step()
    began, took = time.perf_counter(), list[float]()
    while len(took) < FEWEST_STEPS or (len(took) < MOST_STEPS and time.perf_counter() - began < MEASURED_S):
        before = clock()
        step()
        took.append(clock() - before)
    return sorted(took)[len(took) // 4]


def _step(network: Network, levels: Levels, size: InputSize, num_classes: int, device: str) -> Callable[[], None]:
    """A training step on noise with an object per image."""
    import torch

    from stages.detectors import Target
    from stages.training.checkpoint import build_detector

    config = DetectorConfig.model_validate(network.options(levels))
    detector = build_detector(config, num_classes, pretrained=False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-4, fused=True)
    images = torch.randn(BATCH, 3, size.height, size.width).to(device, memory_format=torch.channels_last)
    box = torch.tensor([[0.0, 0.0, size.width / 2, size.height / 2]], device=device)
    targets = [Target(box, torch.zeros(1, dtype=torch.int64, device=device))] * BATCH

    def step() -> None:
        optimizer.zero_grad()
        torch.stack(list(detector(images, targets).losses.values())).sum().backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step
