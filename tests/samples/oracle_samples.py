"""What an independent implementation computes with equal weights, images and boxes; and the weights, which follow from their names.

The files under tests/stages/detectors/fixtures hold its answers: of a network of the default form whose tensors, under that
implementation's names for them, had the values that `weight` gives them; of its assignment of objects to anchors; and of its losses on
fixed outputs, with the norm of their gradient at each level. It ran on a CPU in fp32.
"""

import zlib

import numpy as np
import torch
from places import ROOT
from torch import Tensor, nn

FOLDER = ROOT / "tests" / "stages" / "detectors" / "fixtures"


def answers(name: str) -> dict[str, Tensor]:
    """All answers about a detector."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def group(found: dict[str, Tensor], first: str) -> dict[str, Tensor]:
    """Those whose names begin with `first` and a slash, without that."""
    return {key.removeprefix(f"{first}/"): value for key, value in found.items() if key.startswith(f"{first}/")}


def random(name: str, shape: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> Tensor:
    """Evenly distributed float32 numbers that follow from the name; numpy promises this stream for every version."""
    numbers = np.random.RandomState(zlib.crc32(name.encode())).uniform(low, high, shape)
    return torch.from_numpy(numbers.astype(np.float32))


def image(batch: int = 2, size: tuple[int, int] = (128, 160)) -> Tensor:
    """Images [batch, 3, H, W] with areas, not only noise."""
    coarse = random("image", (batch, 3, size[0] // 16, size[1] // 16), -1.5, 1.5)
    return nn.functional.interpolate(coarse, size=size, mode="bilinear") + random("noise", (batch, 3, *size), -0.5, 0.5)


RANGES = {
    "num_batches_tracked": (0.0, 0.0),
    "running_var": (0.5, 1.5),
    "running_mean": (-0.1, 0.1),
    "bn3.weight": (0.1, 0.3),
    "bn.weight": (0.8, 1.2),
    "cls_logits.bias": (-5.0, -3.0),
    "scale": (0.8, 1.2),
    "moment": (-0.3, 0.3),
    "bias": (-0.1, 0.1),
    "weight": (0.5, 1.0),
}
"""Of tensors with one axis or none, by the end of their names; the first that fits."""

GAINS = {"cls_logits.weight": 1.5, "bbox_reg.weight": 1.0, "": 1.4}
"""Of layers, by the end of their names; the first that fits."""


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of a network, of such a size that features neither vanish nor grow and scores spread."""
    if len(shape) > 1:
        gain = next(gain for end, gain in GAINS.items() if name.endswith(end))
        bound = gain * (3 / (shape[1] * shape[2] * shape[3] if len(shape) > 2 else shape[1])) ** 0.5
        return random(name, shape, -bound, bound)
    return random(name, shape, *next(limits for end, limits in RANGES.items() if name.endswith(end)))


def filled(module: nn.Module) -> nn.Module:
    """The module with these weights, in eval mode."""
    module.load_state_dict({name: weight(name, tuple(tensor.shape)).to(tensor.dtype) for name, tensor in module.state_dict().items()})
    return module.eval()
