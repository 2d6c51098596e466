"""The distillation losses: what holds of every loss, and each term against NumPy in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deploy import plugins
from deploy.errors import ConfigError
from stages.attention_maps import channel_attention, channel_mask, spatial_attention, spatial_mask, standardized
from stages.detectors import Outputs
from stages.losses import Loss, Pyramid
from stages.losses.non_local import NonLocalBlock

Array = Any  # NumPy's own annotations lose the type in most of its functions
OWN, OTHER = Pyramid((8, 16), (8, 8)), Pyramid((4, 8, 16), (12, 16, 12))


def outputs(pyramid: Pyramid, *, seed: int, batch: int = 2, size: int = 64, scale: float = 1.0) -> Outputs:
    """Random features of an image of `size` px."""
    generator = torch.Generator().manual_seed(seed)
    levels = zip(pyramid.strides, pyramid.channels, strict=True)
    maps = [torch.randn(batch, c, size // s, size // s, generator=generator) * scale for s, c in levels]
    return Outputs(tuple(m.requires_grad_() for m in maps), pyramid.strides, {})


def fresh(name: str, **options: Any) -> Loss:
    """A loss whose zero-initialized weights are random, so that every path counts."""
    torch.manual_seed(0)
    loss: Loss = plugins.load("stages.losses", name).build(OWN, OTHER, **options)
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


@pytest.mark.parametrize("name", ["attention", "non_local"])
def test_learns_from_the_chosen_levels_alone(name: str) -> None:
    student = outputs(OWN, seed=1)
    loss = fresh(name, strides=(16,))
    torch.stack(list(loss(student, outputs(OTHER, seed=2), ()).values())).sum().backward()
    assert student.pyramid[0].grad is None
    assert student.pyramid[1].grad is not None
    with pytest.raises(ConfigError, match=r"strides \(4,\) are not all levels of both detectors; choose from \(8, 16\)"):
        fresh(name, strides=(4,))


def array(tensor: Tensor) -> Array:
    return tensor.detach().numpy().astype(np.float64)


def conv1x1(x: Array, module: Any) -> Array:
    return np.einsum("oc,bchw->bohw", array(module.weight)[:, :, 0, 0], x) + array(module.bias)[None, :, None, None]


def unit_power(x: Array) -> Array:
    return x / np.sqrt((x**2).mean(axis=(1, 2, 3), keepdims=True))


def softmax(x: Array, axes: tuple[int, ...]) -> Array:
    e = np.exp(x - x.max(axis=axes, keepdims=True))
    return e / e.sum(axis=axes, keepdims=True)


def test_attention_equals_its_formula() -> None:
    temperature = 0.7
    loss: Any = fresh("attention", temperature=temperature, feature_weight=2.0, transfer_weight=3.0)
    student, teacher = outputs(OWN, seed=1), outputs(OTHER, seed=2)
    feature, transfer = [], []
    for index, own in enumerate(student.pyramid):
        t, raw = unit_power(array(teacher.pyramid[index + 1])), unit_power(array(own))
        s = conv1x1(array(own), loss.adapters[index])
        gs, gt = np.abs(raw).mean(1, keepdims=True), np.abs(t).mean(1, keepdims=True)
        ms = softmax((gs + gt) / temperature, (1, 2, 3)) * gs[0].size
        cs, ct = np.abs(s).mean((2, 3), keepdims=True), np.abs(t).mean((2, 3), keepdims=True)
        mc = softmax((cs + ct) / temperature, (1,)) * t.shape[1]
        feature.append(((t - s) ** 2 * ms * mc).mean())
        transfer.append(((gs - gt) ** 2).mean() + ((cs - ct) ** 2).mean())
    terms = {name: float(value.detach()) for name, value in loss(student, teacher, ()).items()}
    assert terms["feature"] == pytest.approx(2 * np.mean(feature), rel=1e-5)
    assert terms["transfer"] == pytest.approx(3 * np.mean(transfer), rel=1e-5)


def block(x: Array, module: NonLocalBlock) -> Array:
    """The non-local block with its relation matrix."""
    b, _, h, w = x.shape
    theta, phi, g = (conv1x1(x, m) for m in (module.theta, module.phi, module.g))
    p = min(module.pool, h, w)

    def pooled(y: Array) -> Array:
        y = y[:, :, : h // p * p, : w // p * p]
        return y.reshape(b, y.shape[1], h // p, p, w // p, p).max(axis=(3, 5)).reshape(b, y.shape[1], -1)

    relation = np.einsum("bci,bcj->bij", theta.reshape(b, theta.shape[1], -1), pooled(phi)) / (h // p * (w // p))
    y = np.einsum("bij,bcj->bci", relation, pooled(g)).reshape(b, -1, h, w)
    return x + conv1x1(y, module.out)


def test_non_local_equals_its_formula_with_the_relation_matrix() -> None:
    loss: Any = fresh("non_local", reduction=2, pools=(4, 2))
    student, teacher = outputs(OWN, seed=1), outputs(OTHER, seed=2)
    terms = []
    for index, own in enumerate(student.pyramid):
        s = conv1x1(block(unit_power(array(own)), loss.own[index]), loss.adapters[index])
        terms.append(((s - block(unit_power(array(teacher.pyramid[index + 1])), loss.other[index])) ** 2).mean())
    assert float(loss(student, teacher, ())["relation"].detach()) == pytest.approx(np.mean(terms), rel=1e-5)


def test_the_relation_module_is_the_identity_at_first() -> None:
    features = torch.randn(2, 8, 5, 7)
    assert torch.equal(NonLocalBlock(8, 4, 4)(features), features)


def test_masks_average_one_and_follow_the_temperature() -> None:
    attention = torch.tensor([[[[0.0, np.log(3.0)], [0.0, 0.0]]]])
    assert spatial_mask(attention, 1.0).flatten().tolist() == pytest.approx([4 / 6, 12 / 6, 4 / 6, 4 / 6])
    sharp = spatial_mask(attention, 0.5).flatten()
    assert sharp.tolist() == pytest.approx([4 / 12, 36 / 12, 4 / 12, 4 / 12])
    channels = channel_mask(torch.tensor([0.0, np.log(3.0)]).reshape(1, 2, 1, 1), 1.0)
    assert channels.flatten().tolist() == pytest.approx([0.5, 1.5])


def test_the_masks_carry_no_gradient() -> None:
    loss: Any = fresh("attention", transfer_weight=0.0)
    student, teacher = outputs(OWN, seed=1), outputs(OTHER, seed=2)
    loss(student, teacher, ())["feature"].backward()
    own, epsilon = student.pyramid[0], 1e-2
    with torch.no_grad():
        t, adapted, raw = standardized(teacher.pyramid[1]), loss.adapters[0](own), standardized(own)
        masks = (
            spatial_mask(spatial_attention(raw) + spatial_attention(t), 0.5)
            * channel_mask(channel_attention(adapted) + channel_attention(t), 0.5)
        ).double()

        def error(x: Tensor) -> float:
            moved = torch.einsum("oc,bchw->bohw", loss.adapters[0].weight[:, :, 0, 0].double(), x.double())
            moved = moved + loss.adapters[0].bias.double()[None, :, None, None]
            return float(((t.double() - moved).square() * masks).mean()) / 2

        step = torch.zeros_like(own)
        step[0, 3, 2, 1] = epsilon
        slope = (error(own + step) - error(own - step)) / (2 * epsilon)
    assert own.grad is not None
    assert float(own.grad[0, 3, 2, 1]) == pytest.approx(slope, rel=1e-3)
