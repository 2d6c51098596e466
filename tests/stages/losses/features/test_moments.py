"""Moments and pooled projections, which are computed in parts, against one computation of all."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from stages.losses.features.errors import mean_square, norm, root
from stages.losses.features.moments import BLOCK, CACHED, moments
from stages.losses.features.pooled_projection import pooled_projection


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def both(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Rows whose mean is far from 0; more of them than are taken at a time, and more channels."""
    count = CACHED + 37
    return random(2, count, BLOCK + 3, seed=1, dtype=dtype) + 20, random(2, count, 5, seed=2, dtype=dtype) * 3 - 7


def test_moments_are_those_of_both_sides_joined() -> None:
    own, other = both(torch.float32)
    mean, covariance = moments(own, other)
    joined = torch.cat((own, other), dim=2).double().numpy()
    for image, rows in enumerate(joined):
        np.testing.assert_allclose(mean[image], rows.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(covariance[image], np.cov(rows.T, bias=True), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sides", [(True, False), (True, True)])
def test_moments_have_the_gradient_of_their_formula(sides: tuple[bool, bool]) -> None:
    own, other = (part.requires_grad_(needed) for part, needed in zip(both(), sides, strict=True))
    needed = [part for part in (own, other) if part.requires_grad]
    size = own.shape[2] + other.shape[2]
    up = random(2, size, seed=3), random(2, size, size, seed=4)
    found = torch.autograd.grad(moments(own, other), needed, up)
    joined = torch.cat((own, other), dim=2)
    mean = joined.mean(dim=1)
    covariance = joined.transpose(1, 2) @ joined / joined.shape[1] - mean[:, :, None] * mean[:, None]
    for one, expected in zip(found, torch.autograd.grad((mean, covariance), needed, up), strict=True):
        torch.testing.assert_close(one, expected)


@pytest.mark.parametrize(("size", "pool"), [((41, 61), 4), ((5, 3), 4), ((40, 60), 1)])
def test_pooled_projections_and_their_gradients_are_those_of_a_convolution_and_a_pooling(size: tuple[int, int], pool: int) -> None:
    height, width = size
    inputs = [random(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(((2, height * width, 6), (4, 6), (4,)))]
    rows, weight, bias = inputs
    found = pooled_projection(rows, weight, bias, size, pool)
    projected = (rows @ weight.t() + bias).transpose(1, 2).unflatten(2, size)
    expected = max_pool2d(projected, (min(pool, height), min(pool, width))).flatten(2)
    torch.testing.assert_close(found, expected.to(found.dtype))
    up = random(*expected.shape, seed=9)
    gradients = torch.autograd.grad(found, inputs, up.to(found.dtype)), torch.autograd.grad(expected, inputs, up)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_features_of_a_teacher_get_no_gradient_through_pooled_projections() -> None:
    weight = random(4, 6, seed=1).requires_grad_()
    rows = random(1, 12, 6, seed=2)
    pooled_projection(rows, weight, random(4, seed=3), (3, 4), 2).sum().backward()
    assert rows.grad is None
    assert weight.grad is not None


@pytest.mark.parametrize("error", [norm, mean_square])
def test_weighted_errors_have_the_gradient_of_their_formula_as_often_as_asked(error: object) -> None:
    difference, weight = random(2, 5, 3, 4, seed=1).requires_grad_(), random(2, 1, 3, 4, seed=2).abs()
    total = (difference**2 * weight).sum()
    expected = total.sqrt() if error is norm else total / difference.numel()
    found = (norm if error is norm else mean_square)(difference, weight)
    torch.testing.assert_close(found, expected)
    (wanted,) = torch.autograd.grad(expected, difference)
    for _ in range(2):
        (gradient,) = torch.autograd.grad(found, difference, retain_graph=True)
        torch.testing.assert_close(gradient, wanted)


def test_a_root_is_0_without_gradient_at_0_and_hides_nothing() -> None:
    values = torch.tensor([0.0, 4.0, float("inf"), float("nan")], requires_grad=True)
    roots = [root(value) for value in values]
    assert [one.item() for one in roots[:3]] == [0, 2, float("inf")]
    assert roots[3].isnan()
    (gradient,) = torch.autograd.grad(roots[0] + roots[1], values)
    assert gradient.tolist() == [0, 0.25, 0, 0]
