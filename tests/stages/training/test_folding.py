"""A teacher's normalizations, folded into its convolutions."""

import copy
from collections.abc import Callable
from typing import Any

import detector_samples
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from deploy import plugins
from stages.detectors import Outputs
from stages.training.layers.folding import fold_norms


def uneven(detector: nn.Module) -> Any:
    """With normalizations that do something."""
    generator = torch.Generator().manual_seed(0)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            for values in module.state_dict(keep_vars=True).values():
                if values.is_floating_point():
                    values.data = 0.5 + torch.rand(values.shape, generator=generator)
    return detector.eval().requires_grad_(requires_grad=False)


def norms(detector: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d) for module in detector.modules())


def outputs(detector: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        found = detector(images)
    return [*found.pyramid, *(level for levels in found.head.values() for level in levels)]


QUICK = ("faster_rcnn", "fcos", "rt_detr_v2", "yolox")
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in plugins.names("stages.detectors")]


@pytest.mark.parametrize("name", NAMES)
def test_every_detector_says_the_same_without_them(name: str) -> None:
    detector, images = uneven(detector_samples.tiny(name)), detector_samples.images(name)
    expected, before = outputs(detector, images), norms(detector)
    assert fold_norms(detector, images[:1]) == before
    assert norms(detector) == 0
    for one, other in zip(outputs(detector, images), expected, strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()


class Derived(nn.BatchNorm2d):
    def forward(self, given: Tensor) -> Tensor:
        return super().forward(given).relu()


class Toy(nn.Module):
    """A convolution, what follows it, and what reads it."""

    def __init__(self, reads: str, norm: nn.Module) -> None:
        super().__init__()
        self.reads, self.conv, self.norm, self.other = reads, nn.Conv2d(3, 4, 3, bias=False), norm, nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Outputs:
        made = self.conv(images)
        readers: dict[str, Callable[[], tuple[Tensor, ...]]] = {
            "norm": lambda: (self.norm(made),),
            "levels": lambda: (self.norm(made), self.norm(self.conv(images.flip(-1)))),
            "norm and sum": lambda: (self.norm(made) + made,),
            "two norms": lambda: (self.norm(made), self.other(made)),
            "a norm at one level": lambda: (self.norm(made), self.conv(images.flip(-1))),
            "something before": lambda: (self.norm(made.relu()),),
        }
        found = readers[self.reads]()
        return Outputs(found, (1,) * len(found), {})


@pytest.mark.parametrize(
    ("reads", "norm", "folded"),
    [
        ("norm", nn.BatchNorm2d(4), 1),
        ("norm", nn.BatchNorm2d(4, affine=False), 1),
        ("norm", FrozenBatchNorm2d(4), 1),
        ("levels", nn.BatchNorm2d(4), 1),
        ("norm", Derived(4), 0),
        ("norm", nn.BatchNorm2d(4, track_running_stats=False), 0),
        ("norm and sum", nn.BatchNorm2d(4), 0),
        ("two norms", nn.BatchNorm2d(4), 0),
        ("a norm at one level", nn.BatchNorm2d(4), 0),
        ("something before", nn.BatchNorm2d(4), 0),
    ],
)
def test_only_what_all_of_a_convolution_goes_through_is_folded(reads: str, norm: nn.Module, folded: int) -> None:
    toy: Any = uneven(copy.deepcopy(Toy(reads, norm)))
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected, weights = outputs(toy, images), copy.deepcopy(toy.state_dict())
    assert fold_norms(toy, images) == folded
    for one, other in zip(outputs(toy, images), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    if not folded:
        assert toy.state_dict().keys() == weights.keys()
        assert all(torch.equal(value, weights[name]) for name, value in toy.state_dict().items())
