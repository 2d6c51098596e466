"""What a teacher makes of batches of images, kept on disk: trainings that see the same images in the same views share it, bit for bit."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deploy import machine
from deploy.machine import files
from stages.detectors import Outputs

_DIGEST_BYTES = 32


class KeptOutputs:
    """A folder of one teacher's outputs, one file per batch.

    Files are complete or do not exist, so several processes may share the folder, and it may be deleted at any time.

    Args:
        most_bytes: what this process may add to it.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._left = most_bytes

    def recall(self, images: Tensor, precision: str) -> Outputs | None:
        """What was kept for this batch, without its network; None if nothing was."""
        try:
            kept = self._path(images, precision).read_bytes()
        except OSError:
            return None
        digest, content = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            return None
        return Outputs(**torch.load(io.BytesIO(content), weights_only=True))

    def keep(self, images: Tensor, precision: str, outputs: Outputs) -> None:
        """Keep the outputs for this batch, if there is room for them."""
        buffer = io.BytesIO()
        head = {name: tuple(levels) for name, levels in outputs.head.items()}  # with their strides, on which rounding depends
        torch.save(_fields(outputs) | {"head": head}, buffer)
        content = buffer.getvalue()
        if len(content) > self._left:
            return
        self._left -= len(content)
        try:
            with files.replacing(self._path(images, precision)) as scratch:
                scratch.write_bytes(hashlib.sha256(content).digest() + content)
        except OSError:  # a full disk, or a folder that is gone, costs time but not the training
            self._left = 0

    def _path(self, images: Tensor, precision: str) -> Path:
        """By everything that the bits of the outputs depend on, except the teacher."""
        where = "folded", machine.cpu_model(), torch.__version__, torch.get_num_threads(), precision, tuple(images.shape), images.stride()
        digest = hashlib.sha256(repr(where).encode())
        digest.update(images.permute(_order(images)).numpy().data)
        return self._folder / f"{digest.hexdigest()[:32]}.pt"


def _fields(outputs: Outputs) -> dict[str, Any]:
    return {"pyramid": outputs.pyramid, "strides": outputs.strides, "proposals": outputs.proposals, "size": outputs.size}


def _order(tensor: Tensor) -> list[int]:
    """Its dimensions as they are in memory, which needs no copy."""
    return sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
