"""Where a training runs: device, precision, cores."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration

from deploy import machine
from deploy.errors import ConfigError
from stages.config import TrainConfig


def leave_cores(workers: int) -> None:
    """Compute with at most the cores that the loader leaves: more threads than free cores wait for one another."""
    torch.set_num_threads(max(1, min(torch.get_num_threads(), machine.num_cores() - workers)))


def accelerator_for(config: TrainConfig, device: str, folder: Path) -> Accelerator:
    """Device and precision of a training; half precision needs CUDA.

    Raises:
        ConfigError: CUDA is requested but not available.
    """
    cpu = device_of(device).type == "cpu"
    # accelerate keeps the first training's device and precision for the whole process unless told to forget; a process group stays.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())  # noqa: SLF001
    precision = "no" if cpu or config.precision == "fp32" else config.precision
    return Accelerator(
        cpu=cpu,
        mixed_precision=precision,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "tensorboard")),
        dataloader_config=DataLoaderConfiguration(),
    )


def device_of(device: str) -> torch.device:
    """The device of work that is not a training.

    Raises:
        ConfigError: CUDA is requested but not available.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda, but torch finds no CUDA GPU on this machine; set device to auto or cpu, or install torch for CUDA")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
