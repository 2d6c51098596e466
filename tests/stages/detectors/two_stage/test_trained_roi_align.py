"""RoIAlign as products of matrices, against torchvision's, in values and gradients."""

import pytest
import torch
from torch import Tensor
from torchvision import ops

from stages.detectors.two_stage import trained_roi_align
from stages.detectors.two_stage.trained_roi_align import MOST_POSITIONS, TrainedRoIAlign, roi_align

ROWS = torch.tensor(
    [
        [2.0, 3.0, 5.0, 50.0, 40.0],
        [0.0, -20.0, -30.0, 20.0, 30.0],  # over the edge
        [0.0, 60.0, 40.0, 130.0, 150.0],
        [2.0, 10.0, 10.0, 10.0, 10.0],  # without width and height
        [2.0, 0.0, 0.0, 96.0, 64.0],
        [0.0, 300.0, 300.0, 310.0, 310.0],  # outside
    ]
)
"""Image 1 has none."""


def learned(level: Tensor, rows: Tensor, samples: int, *, aligned: bool, ours: bool) -> tuple[Tensor, Tensor]:
    """The regions, and the gradient of their products with fixed numbers."""
    level = level.clone(memory_format=torch.preserve_format).requires_grad_()
    given = level, rows, 7, 1 / 8, samples
    found: Tensor = roi_align(*given, aligned=aligned) if ours else ops.roi_align(*given, aligned)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    return found.detach(), torch.autograd.grad((found * upstream).sum(), level)[0]


def noise(height: int, width: int) -> Tensor:
    return torch.randn(3, 4, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("samples", "aligned"), [(2, False), (0, True), (0, False), (3, True)])
@pytest.mark.parametrize("rows", [ROWS, ROWS[:0], ROWS[5:]])
def test_values_and_gradients_are_torchvisions(layout: torch.memory_format, samples: int, aligned: bool, rows: Tensor) -> None:
    level = noise(8, 12).to(memory_format=layout)
    found, expected = (learned(level, rows, samples, aligned=aligned, ours=ours) for ours in (True, False))
    for own, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-5)


def test_without_gradient_it_is_torchvisions_to_the_last_bit() -> None:
    level = noise(8, 12)
    assert torch.equal(roi_align(level, ROWS, 7, 1 / 8, 2, aligned=False), ops.roi_align(level, ROWS, 7, 1 / 8, 2))


def test_large_levels_are_left_to_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    original = trained_roi_align._Products.apply

    def apply(level: Tensor, *given: Tensor) -> Tensor:
        used.append(level.shape[-1])
        found: Tensor = original(level, *given)
        return found

    monkeypatch.setattr(trained_roi_align._Products, "apply", apply)
    for width in (MOST_POSITIONS // 32, MOST_POSITIONS // 32 + 1):
        learned(noise(32, width), ROWS, 2, aligned=False, ours=True)
    assert used == [MOST_POSITIONS // 32]


@pytest.mark.parametrize("size", [(64, 96), (512, 512)])  # of the second, the finest level is large
def test_over_all_levels_too(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(2)
    levels = {
        str(i): torch.randn(2, 4, size[0] // s, size[1] // s, generator=generator).requires_grad_() for i, s in enumerate((8, 16, 32))
    }
    corners = torch.rand(2, 20, 2, generator=generator) * 40
    sides = torch.tensor([20.0, 150.0, 260.0, 460.0]).repeat(5)[:, None]  # to each level
    boxes = [torch.cat((one, one + sides), dim=1) for one in corners]
    ours, theirs = TrainedRoIAlign([*levels], (8, 16, 32), 7), ops.MultiScaleRoIAlign([*levels], 7, 2)
    found, expected = (align(levels, boxes, [size] * 2) for align in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(pooled.square().sum(), [*levels.values()]) for pooled in (found, expected)]
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-4)
    assert all(bool(gradient.any()) for gradient in gradients[0])
