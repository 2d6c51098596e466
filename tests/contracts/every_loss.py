"""What holds of every loss."""

from typing import Any

import pytest
import torch

from deploy import plugins
from deploy.errors import ConfigError
from stages.detectors import Outputs
from stages.losses import Loss, Pyramid

Array = Any  # NumPy's own annotations lose the type in most of its functions
OWN, OTHER = Pyramid((8, 16), (8, 8)), Pyramid((4, 8, 16), (12, 16, 12))


def outputs(pyramid: Pyramid, *, seed: int, batch: int = 2, size: int = 64, scale: float = 1.0) -> Outputs:
    """Random features of an image of `size` px."""
    generator = torch.Generator().manual_seed(seed)
    levels = zip(pyramid.strides, pyramid.channels, strict=True)
    maps = [torch.randn(batch, c, size // s, size // s, generator=generator) * scale for s, c in levels]
    return Outputs(tuple(m.requires_grad_() for m in maps), pyramid.strides, {})


def fresh(name: str, student: Pyramid = OWN, **options: Any) -> Loss:
    """A loss whose zero-initialized weights are random, so that every path counts."""
    torch.manual_seed(0)
    loss: Loss = plugins.load("stages.losses", name).build(student, OTHER, **options)
    for parameter in loss.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return loss


@pytest.mark.parametrize("name", plugins.names("stages.losses"))
class TestEveryLoss:
    def test_gives_finite_named_scalars(self, name: str) -> None:
        terms = fresh(name)(outputs(OWN, seed=1), outputs(OTHER, seed=2), ())
        assert terms
        for term, value in terms.items():
            assert value.shape == (), term
            assert torch.isfinite(value), term
            assert value > 0, term

    def test_only_the_student_and_the_adapters_get_gradient(self, name: str) -> None:
        student, teacher, loss = outputs(OWN, seed=1), outputs(OTHER, seed=2), fresh(name)
        torch.stack(list(loss(student, teacher, ()).values())).sum().backward()
        assert all(level.grad is not None and level.grad.abs().sum() > 0 for level in student.pyramid)
        assert all(level.grad is None for level in teacher.pyramid)
        assert all(p.grad is not None for p in loss.parameters())

    def test_has_finite_gradient_at_zero_and_equal_features(self, name: str) -> None:
        for scale in (0.0, 1.0):
            pyramid = Pyramid((8, 16), (8, 8))
            loss = plugins.load("stages.losses", name).build(pyramid, pyramid)
            student, teacher = (outputs(pyramid, seed=1, scale=scale) for _ in range(2))
            torch.stack(list(loss(student, teacher, ()).values())).sum().backward()
            assert all(torch.isfinite(level.grad).all() for level in student.pyramid)  # type: ignore[arg-type]

    def test_does_not_change_with_the_batch_size(self, name: str) -> None:
        loss = fresh(name)
        one = loss(outputs(OWN, seed=1, batch=1), outputs(OTHER, seed=2, batch=1), ())
        student, teacher = outputs(OWN, seed=1, batch=1), outputs(OTHER, seed=2, batch=1)

        def repeat(o: Outputs) -> Outputs:
            return Outputs(tuple(level.repeat(8, 1, 1, 1) for level in o.pyramid), o.strides, {})

        eight = loss(repeat(student), repeat(teacher), ())
        for term in one:
            torch.testing.assert_close(eight[term], one[term], rtol=1e-4, atol=1e-6)

    def test_does_not_change_with_the_teachers_scale(self, name: str) -> None:
        loss, student, teacher = fresh(name), outputs(OWN, seed=1), outputs(OTHER, seed=2)
        larger = Outputs(tuple(level * 30 for level in teacher.pyramid), teacher.strides, {})
        for term, value in loss(student, teacher, ()).items():
            torch.testing.assert_close(loss(student, larger, ())[term], value, rtol=1e-4, atol=1e-6)

    def test_refuses_pyramids_without_a_common_stride(self, name: str) -> None:
        with pytest.raises(ConfigError, match=r"strides \(8, 16\).*\(32,\)"):
            plugins.load("stages.losses", name).build(OWN, Pyramid((32,), (8,)))
