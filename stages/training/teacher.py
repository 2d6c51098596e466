"""The frozen detector that a student learns from, run as cheaply as configured."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from stages.detectors import Detector, Outputs
from stages.training.batches.kept_outputs import KeptOutputs
from stages.training.batches.shared_folder import current
from stages.training.layers.compiling import lazily_compiled
from stages.training.layers.folding import fold_norms

TeacherPrecision = Literal["same", "fp32", "bf16", "fp16"]
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Teacher:
    """Runs a detector in eval mode without gradient; what it computes stays as it is, in fewer operations.

    Args:
        precision: precision of its products; "same" follows the student's training.
        compiled: whether torch.compile compiles its forward pass, which takes about a minute once and pays off on a GPU.

    Raises:
        ConfigError: at the first images: torch.compile does not work on this machine.
    """

    def __init__(self, detector: Detector, precision: TeacherPrecision = "same", *, compiled: bool = False) -> None:
        self.detector = detector.eval().requires_grad_(False)
        self._precision = precision
        self._device: torch.device | None = None
        self._forward = lazily_compiled(self.detector, "distill.compile_teacher", dynamic=False) if compiled else self.detector
        shared = None if compiled else current()
        self._kept = None if shared is None else KeptOutputs(*shared.opened())

    def __call__(self, images: Tensor) -> Outputs:
        """The outputs for images [B, 3, H, W], on the images' device; the pyramid is cast to float32, once for all losses."""
        if images.device != self._device:  # asking all of a small network's tensors takes a thirtieth of a step
            self.detector.to(images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            if self._device is None:
                fold_norms(self.detector, images[:1])
            self._device = images.device
        outputs = self._run(images) if self._kept is None or images.device.type != "cpu" else self._recalled(self._kept, images)
        return replace(outputs, context=partial(self._autocast, images.device.type))

    def _run(self, images: Tensor) -> Outputs:
        with torch.no_grad(), self._autocast(images.device.type):  # not inference_mode: relation modules save these for their backward
            outputs: Outputs = self._forward(images)
        return replace(outputs, pyramid=tuple(level.float() for level in outputs.pyramid))

    def _recalled(self, kept: KeptOutputs, images: Tensor) -> Outputs:
        precision = f"autocast {torch.is_autocast_enabled('cpu')}" if self._precision == "same" else self._precision
        if (known := kept.recall(images, precision)) is not None:
            return replace(known, network=self.detector)
        outputs = self._run(images)
        kept.keep(images, precision, outputs)
        return outputs

    def _autocast(self, device: str) -> AbstractContextManager[object]:
        if self._precision == "same":
            return nullcontext()
        return torch.autocast(device, _TYPES.get(self._precision, torch.bfloat16), enabled=self._precision in _TYPES)
