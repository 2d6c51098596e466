"""The distillation losses: what holds of every loss, and each term against NumPy in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from every_loss import TestEveryLoss
from loss_samples import OTHER, OWN, fresh, outputs, side
from torch import Tensor

from deploy import plugins
from deploy.errors import ConfigError
from stages.detectors import Outputs
from stages.losses import Loss, NetworkSide
from stages.losses.features.attention_maps import averaged_mask, mask, summed_mask
from stages.losses.features.non_local_block import NonLocalBlock, relation_matrix
from stages.losses.features.options import PresetName
from stages.losses.features.presets import PRESETS

Array = Any  # NumPy's own annotations lose the type in most of its functions
__all__ = ["TestEveryLoss"]


@pytest.mark.parametrize("name", ["attention", "non_local"])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_no_difference_at_all_has_a_finite_gradient(name: str, preset: PresetName, scale: float) -> None:
    """A plain square root of a sum of squares has none there."""
    pyramid = side((8, 16), (8, 8))
    loss: Any = plugins.load("stages.losses", name).build(pyramid, pyramid, preset=preset)
    for adapter in loss.adapters:
        torch.nn.init.dirac_(adapter.weight)
        torch.nn.init.zeros_(adapter.bias)
    student, teacher = (outputs(pyramid, seed=1, scale=scale) for _ in range(2))
    terms = loss(student, teacher, ())
    torch.stack(list(terms.values())).sum().backward()
    for level in student.pyramid:
        assert level.grad is not None
        assert torch.isfinite(level.grad).all()
    zero = "feature/8" if name == "attention" else "relation/8"
    assert preset == "normalised" or terms[zero].item() == 0


@pytest.mark.parametrize("name", ["attention", "non_local"])
def test_learns_from_the_chosen_levels_alone(name: str) -> None:
    student = outputs(OWN, seed=1)
    loss = fresh(name, strides=(16,))
    torch.stack(list(loss(student, outputs(OTHER, seed=2), ()).values())).sum().backward()
    assert student.pyramid[0].grad is None
    assert student.pyramid[1].grad is not None
    with pytest.raises(ConfigError, match=r"strides \(4,\) are not all levels of both detectors; choose from \(8, 16\)"):
        fresh(name, strides=(4,))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("part", "method", "kept"), [("transfer_weight", "_transfer", {"feature"}), ("feature_weight", "_mask", {"spatial", "channel"})]
)
def test_a_term_without_a_weight_is_not_computed(
    preset: str, part: str, method: str, kept: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"preset": preset, part: 0.0}
    loss = fresh("attention", **options)
    monkeypatch.setattr(loss, method, None)
    terms = loss(outputs(OWN, seed=1), outputs(OTHER, seed=2), ())
    assert {name.partition("/")[0] for name in terms} == kept


def array(tensor: Tensor) -> Array:
    return tensor.detach().numpy().astype(np.float64)


def conv1x1(x: Array, module: Any) -> Array:
    return np.einsum("oc,bchw->bohw", array(module.weight).reshape(module.weight.shape[:2]), x) + array(module.bias)[None, :, None, None]


def conv3x3(x: Array, module: Any) -> Array:
    padded, kernel = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), array(module.weight)[0, 0]
    height, width = x.shape[2:]
    shifted = [kernel[i, j] * padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.sum(shifted, axis=0) + array(module.bias)[0]


def standard(x: Array, over: str) -> Array:
    """Each channel of each image or of all less its mean, over its standard deviation; a thousandth of the mean variance is added."""
    axes = (2, 3) if over == "image" else (0, 2, 3)
    centered = x - x.mean(axis=axes, keepdims=True)
    variance = x.var(axis=axes, keepdims=True)
    result: Array = centered / np.sqrt(variance + 1e-3 * variance.mean(axis=1, keepdims=True) + 1e-12)
    return result


def softmax(x: Array, axes: tuple[int, ...]) -> Array:
    e = np.exp(x - x.max(axis=axes, keepdims=True))
    return e / e.sum(axis=axes, keepdims=True)


def norm(x: Array) -> float:
    return float(np.sqrt((x**2).sum()))


CONSTANTS = {
    "code_one_stage": (0.1, 4.2e-4, 2.4e-2, 4.2e-4),
    "code_two_stage": (0.5, 7e-5, 4e-3, 7e-5),
    "paper_one_stage": (0.5, 4e-4, 2e-2, 4e-4),
    "paper_two_stage": (0.1, 7e-5, 4e-3, 7e-5),
}
"""Temperature and the weights of the feature, transfer and relation terms."""
SAME = side((4, 8, 16), (12, 16, 12))


def weighted(loss: Loss, student: Outputs, teacher: Outputs) -> dict[str, float]:
    return {name: float(value.detach()) * loss.weight(name) for name, value in loss(student, teacher, ()).items()}


@pytest.mark.parametrize("preset", CONSTANTS)
@pytest.mark.parametrize("pyramid", [SAME, OWN], ids=["the teacher's channels", "fewer channels"])
def test_attention_of_the_published_presets_equals_their_formula(preset: PresetName, pyramid: NetworkSide) -> None:
    temperature, feature, transfer, _ = CONSTANTS[preset]
    loss: Any = fresh("attention", pyramid, preset=preset)
    student, teacher = outputs(pyramid, seed=1), outputs(OTHER, seed=2)
    terms = weighted(loss, student, teacher)
    assert len(terms) == 3 * len(student.pyramid)
    first = len(OTHER.strides) - len(pyramid.strides)
    for index, (stride, features) in enumerate(zip(pyramid.strides, student.pyramid, strict=True)):
        t, raw = array(teacher.pyramid[index + first]), array(features)
        s = conv1x1(raw, loss.adapters[index])
        of_channels = raw if raw.shape == t.shape else s
        gs, gt = np.abs(raw).mean(1, keepdims=True), np.abs(t).mean(1, keepdims=True)
        cs, ct = np.abs(of_channels).mean((2, 3), keepdims=True), np.abs(t).mean((2, 3), keepdims=True)
        if preset.startswith("paper"):
            ms = softmax((gs + gt) / temperature, (1, 2, 3)) * gs[0].size
            mc = softmax((cs + ct) / temperature, (1,)) * t.shape[1]
            expected = {"spatial": norm(gs - gt), "channel": norm(cs - ct)}
        else:
            ms = (softmax(gs / temperature, (1, 2, 3)) + softmax(gt / temperature, (1, 2, 3))) / 2 * gs[0].size
            mc = (softmax(cs / temperature, (1,)) + softmax(ct / temperature, (1,))) / 2 * t.shape[1]
            if preset != "code_one_stage":
                mc = np.ones_like(mc)
            linear, conv = loss.channel_adapters[index], loss.spatial_adapters[index]
            pooled = raw.mean((2, 3)) @ array(linear.weight).T + array(linear.bias)
            spatial = t.mean(1, keepdims=True) - conv3x3(raw.mean(1, keepdims=True), conv)
            expected = {"spatial": norm(spatial), "channel": norm(t.mean((2, 3)) - pooled)}
        expected["feature"] = float(np.sqrt(((t - s) ** 2 * ms * mc).sum()))
        for name, value in expected.items():
            constant = feature if name == "feature" else transfer
            assert terms[f"{name}/{stride}"] == pytest.approx(value * constant, rel=1e-5), name


@pytest.mark.parametrize("statistics", ["image", "batch"])
def test_attention_normalised_equals_its_formula(statistics: str) -> None:
    temperature = 0.7
    loss: Any = fresh("attention", temperature=temperature, feature_weight=2.0, transfer_weight=3.0, statistics=statistics)
    student, teacher = outputs(OWN, seed=1), outputs(OTHER, seed=2)
    terms = weighted(loss, student, teacher)
    for index, own in enumerate(student.pyramid):
        t, raw = (standard(array(features), statistics) for features in (teacher.pyramid[index + 1], own))
        s = conv1x1(array(own), loss.adapters[index])
        gs, gt = np.abs(raw).mean(1, keepdims=True), np.abs(t).mean(1, keepdims=True)
        ms = softmax((gs + gt) / temperature, (1, 2, 3)) * gs[0].size
        cs, ct = np.abs(s).mean((2, 3), keepdims=True), np.abs(t).mean((2, 3), keepdims=True)
        mc = softmax((cs + ct) / temperature, (1,)) * t.shape[1]
        stride = OWN.strides[index]
        assert terms[f"feature/{stride}"] == pytest.approx(2 * ((t - s) ** 2 * ms * mc).mean() / 2, rel=1e-5)
        assert terms[f"spatial/{stride}"] == pytest.approx(3 * ((gs - gt) ** 2).mean() / 2, rel=1e-5)
        assert terms[f"channel/{stride}"] == pytest.approx(3 * ((cs - ct) ** 2).mean() / 2, rel=1e-5)


def block(x: Array, module: NonLocalBlock) -> Array:
    """The non-local block with its relation matrix."""
    b, _, h, w = x.shape
    theta, phi, g = (conv1x1(x, m) for m in (module.theta, module.phi, module.g))
    p = (min(module.pool, h), min(module.pool, w))

    def pooled(y: Array) -> Array:
        y = y[:, :, : h // p[0] * p[0], : w // p[1] * p[1]]
        return y.reshape(b, y.shape[1], h // p[0], p[0], w // p[1], p[1]).max(axis=(3, 5)).reshape(b, y.shape[1], -1)

    relation = np.einsum("bci,bcj->bij", theta.reshape(b, theta.shape[1], -1), pooled(phi))
    relation = relation / relation.shape[2] if module.relation == "dot_product" else softmax(relation, (2,))
    out = conv1x1(np.einsum("bij,bcj->bci", relation, pooled(g)).reshape(b, -1, h, w), module.out)
    if module.norm is None:
        return x + out
    mean, variance = out.mean((0, 2, 3), keepdims=True), out.var((0, 2, 3), keepdims=True)
    scale, bias = (array(part)[None, :, None, None] for part in (module.norm.weight, module.norm.bias))
    return x + (out - mean) / np.sqrt(variance + 1e-5) * scale + bias


@pytest.mark.parametrize("preset", CONSTANTS)
@pytest.mark.parametrize("relation", ["dot_product", "embedded_gaussian"])
@pytest.mark.parametrize("pyramid", [SAME, OWN], ids=["the teacher's channels", "fewer channels"])
def test_non_local_of_the_published_presets_equals_its_formula(preset: PresetName, relation: str, pyramid: NetworkSide) -> None:
    loss: Any = fresh("non_local", pyramid, preset=preset, relation=relation)
    student, teacher = outputs(pyramid, seed=1), outputs(OTHER, seed=2)
    terms = weighted(loss, student, teacher)
    first = len(OTHER.strides) - len(pyramid.strides)
    for index, own in enumerate(student.pyramid):
        for module, channels, pool, inner in ((loss.own, pyramid.channels, (8, 4, 2), (4, 4, 2)), (loss.other, (), (), ())):
            if channels:
                assert module[index].pool == pool[index]
                assert module[index].theta.out_channels == channels[index] // inner[index]
        s = conv1x1(block(array(own), loss.own[index]), loss.adapters[index])
        expected = norm(s - block(array(teacher.pyramid[index + first]), loss.other[index])) * CONSTANTS[preset][3]
        assert terms[f"relation/{pyramid.strides[index]}"] == pytest.approx(expected, rel=1e-5)


def test_without_an_adapter_the_standardized_features_are_compared_themselves() -> None:
    form: dict[str, Any] = {"adapter": "none", "strides": (8,)}
    attention: Any = fresh("attention", SAME, temperature=1e6, transfer_weight=0.0, **form)
    non_local: Any = fresh("non_local", SAME, reductions=(2,), pools=(2,), **form)
    assert not list(attention.parameters())
    student, teacher = outputs(SAME, seed=1), outputs(OTHER, seed=2)
    own, other = (standard(array(side.pyramid[1]), "image") for side in (student, teacher))
    expected = ((own - other) ** 2).mean()  # at this temperature all positions and channels weigh 1
    assert weighted(attention, student, teacher)["feature/8"] == pytest.approx(expected, rel=1e-4)
    related = ((block(own, non_local.own[0]) - block(other, non_local.other[0])) ** 2).mean()
    assert weighted(non_local, student, teacher)["relation/8"] == pytest.approx(related, rel=1e-5)
    plain: Any = fresh("attention", SAME, preset="code_two_stage", transfer_weight=0.0, adapter="none")
    s, t = array(student.pyramid[0]), array(teacher.pyramid[0])
    weights = (softmax(np.abs(s).mean(1, keepdims=True) / 0.5, (1, 2, 3)) + softmax(np.abs(t).mean(1, keepdims=True) / 0.5, (1, 2, 3))) / 2
    value = float(np.sqrt(((s - t) ** 2 * weights * s[0, 0].size).sum())) * 7e-5
    assert weighted(plain, student, teacher)["feature/4"] == pytest.approx(value, rel=1e-5)


def test_a_wider_adapter_sees_its_neighbours() -> None:
    loss: Any = fresh("attention", adapter="conv3x3")
    assert [adapter.kernel_size for adapter in loss.adapters] == [(3, 3)] * 2
    assert all(np.isfinite(value) and value > 0 for value in weighted(loss, outputs(OWN, seed=1), outputs(OTHER, seed=2)).values())


@pytest.mark.parametrize("name", ["attention", "non_local"])
def test_no_adapter_between_different_numbers_of_channels_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"adapter: none requires equal channels, but the student's levels have \(8, 8\), the teacher's \(16, 12\)"
    ):
        fresh(name, adapter="none")


def test_statistics_of_the_batch_are_refused_where_nothing_is_standardized() -> None:
    for name in ("attention", "non_local"):
        with pytest.raises(ConfigError, match="statistics: batch requires preset normalised"):
            fresh(name, preset="code_two_stage", statistics="batch")


@pytest.mark.parametrize("statistics", ["image", "batch"])
@pytest.mark.parametrize("relation", ["dot_product", "embedded_gaussian"])
def test_non_local_normalised_equals_its_formula_with_the_relation_matrix(relation: str, statistics: str) -> None:
    loss: Any = fresh("non_local", reductions=(2,), pools=(4, 2), relation=relation, statistics=statistics)
    student, teacher = outputs(OWN, seed=1), outputs(OTHER, seed=2)
    terms = weighted(loss, student, teacher)
    for index, own in enumerate(student.pyramid):
        s = conv1x1(block(standard(array(own), statistics), loss.own[index]), loss.adapters[index])
        expected = ((s - block(standard(array(teacher.pyramid[index + 1]), statistics), loss.other[index])) ** 2).mean() / 2
        assert terms[f"relation/{OWN.strides[index]}"] == pytest.approx(expected, rel=1e-5)


def test_the_code_presets_add_as_many_parameters_as_the_authors_code() -> None:
    """Five levels of 256 channels: adapters, transfer adapters, and relation modules of 64, 64, 128, 128 and 128 channels."""
    five = side((4, 8, 16, 32, 64), (256,) * 5)
    for preset in ("code_one_stage", "code_two_stage"):
        built = [plugins.load("stages.losses", name).build(five, five, preset=preset) for name in ("attention", "non_local")]
        assert sum(p.numel() for loss in built for p in loss.parameters()) == 2_046_258
        assert [module.theta.out_channels for module in built[1].own] == [64, 64, 128, 128, 128]
        assert [module.pool for module in built[1].other] == [8, 4, 2, 2, 2]


@pytest.mark.parametrize("name", ["attention", "non_local"])
@pytest.mark.parametrize("preset", PRESETS)
def test_gradients_equal_finite_differences(name: str, preset: PresetName, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, the masks held where they were at the first call: they carry no gradient."""
    kept: list[Tensor] = []
    recording = True

    def held(function: Any) -> Any:
        def masks(*arguments: Any) -> Tensor:
            if recording:
                kept.append(function(*arguments))
                return kept[-1]
            kept.append(kept.pop(0))
            return kept[-1]

        return masks

    monkeypatch.setattr("stages.losses.attention.summed_mask", held(summed_mask))
    monkeypatch.setattr("stages.losses.attention.averaged_mask", held(averaged_mask))
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    loss = fresh(name, preset=preset).double()
    student, teacher = (
        Outputs(tuple(level.detach().double().requires_grad_() for level in made.pyramid), made.strides, {})
        for made in (outputs(OWN, seed=1, size=32), outputs(OTHER, seed=2, size=32))
    )

    def total() -> Tensor:
        return torch.stack([value * loss.weight(term) for term, value in loss(student, teacher, ()).items()]).sum()

    total().backward()
    recording = False
    generator, step = torch.Generator().manual_seed(3), 1e-5
    for tensor in [*student.pyramid, *loss.parameters()]:
        assert tensor.grad is not None
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor.add_(direction, alpha=sign * step)
                values.append(float(total()))
                tensor.add_(direction, alpha=-sign * step)
        slope = (values[0] - values[1]) / (2 * step)
        assert float((tensor.grad * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_the_linear_relation_equals_the_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    theta, phi, g = (torch.randn(2, 6, n, dtype=torch.float64, generator=generator) for n in (50, 13, 13))
    matrix = theta.transpose(1, 2) @ phi / 13
    torch.testing.assert_close(relation_matrix(phi, g) @ theta, (matrix @ g.transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_relation_modules_add_nothing_at_first(batch_norm: bool) -> None:
    """So that the term begins as the plain difference between adapted student and teacher."""
    preset: PresetName = "code_two_stage" if batch_norm else "normalised"
    loss: Any = plugins.load("stages.losses", "non_local").build(SAME, SAME, preset=preset)
    student, teacher = outputs(SAME, seed=1), outputs(SAME, seed=2)
    terms = loss(student, teacher, ())
    for index, (features, other) in enumerate(zip(student.pyramid, teacher.pyramid, strict=True)):
        own, t = (array(part) if batch_norm else standard(array(part), "image") for part in (features, other))
        difference = conv1x1(own, loss.adapters[index]) - t
        expected = norm(difference) if batch_norm else (difference**2).mean()
        assert terms[f"relation/{SAME.strides[index]}"].item() == pytest.approx(expected, rel=1e-5)


def test_masks_average_one_and_follow_the_temperature() -> None:
    attention = torch.tensor([[[[0.0, np.log(3.0)], [0.0, 0.0]]]])
    assert mask(attention, 1.0).flatten().tolist() == pytest.approx([4 / 6, 12 / 6, 4 / 6, 4 / 6])
    sharp = mask(attention, 0.5).flatten()
    assert sharp.tolist() == pytest.approx([4 / 12, 36 / 12, 4 / 12, 4 / 12])
    channels = mask(torch.tensor([0.0, np.log(3.0)]).reshape(1, 2, 1, 1), 1.0)
    assert channels.flatten().tolist() == pytest.approx([0.5, 1.5])
    other = torch.zeros_like(attention)
    assert summed_mask(attention, other, 1.0).tolist() == mask(attention, 1.0).tolist()
    assert averaged_mask(attention, other, 1.0).flatten().tolist() == pytest.approx([5 / 6, 9 / 6, 5 / 6, 5 / 6])


@pytest.mark.parametrize("name", ["attention", "non_local"])
def test_refuses_pyramids_without_a_common_stride(name: str) -> None:
    with pytest.raises(ConfigError, match=r"strides \(8, 16\).*\(32,\)"):
        plugins.load("stages.losses", name).build(OWN, side((32,), (8,)))


@pytest.mark.parametrize("name", ["attention", "non_local"])
def test_every_level_learns_whatever_batch_size_and_scale(name: str) -> None:
    student = outputs(OWN, seed=1)
    torch.stack(list(fresh(name)(student, outputs(OTHER, seed=2), ()).values())).sum().backward()
    assert all(level.grad is not None and level.grad.abs().sum() > 0 for level in student.pyramid)
    assert {"batch", "size", "scale"} <= set(plugins.load("stages.losses", name).INVARIANT_TO)


@pytest.mark.parametrize("name", ["attention", "non_local"])
def test_twice_the_channels_with_the_same_content_give_the_same(name: str) -> None:
    """Invariance to the number of channels: each of the teacher's and the adapters' rows twice."""
    teacher, student = outputs(OTHER, seed=2), outputs(OWN, seed=1)
    double = side(OTHER.strides, tuple(2 * c for c in OTHER.channels))
    one: Any = fresh(name)
    two = plugins.load("stages.losses", name).build(OWN, double)
    for block in (*one.own, *one.other) if name == "non_local" else ():  # the identity: projections cannot be doubled
        torch.nn.init.zeros_(block.out.weight)
        torch.nn.init.zeros_(block.out.bias)
    for narrow, wide in zip(one.adapters, two.adapters, strict=True):
        wide.weight.data, wide.bias.data = narrow.weight.data.repeat(2, 1, 1, 1), narrow.bias.data.repeat(2)
    repeated = Outputs(tuple(level.repeat(1, 2, 1, 1) for level in teacher.pyramid), teacher.strides, {})
    twice = two(student, repeated, ())
    for term, value in one(student, teacher, ()).items():
        assert twice[term].item() == pytest.approx(value.item(), rel=0.01), term


@pytest.mark.parametrize("name", ["attention", "non_local"])
@pytest.mark.parametrize("preset", PRESETS)
def test_half_precision_features_of_any_size_give_finite_terms(name: str, preset: PresetName) -> None:
    """A sum of squares in half precision would overflow."""
    loss = fresh(name, preset=preset)
    student, teacher = (
        Outputs(tuple((level * 2000).half() for level in made.pyramid), made.strides, {})
        for made in (outputs(OWN, seed=1), outputs(OTHER, seed=2))
    )
    for half in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", half):
            terms = loss(student, teacher, ())
        assert all(torch.isfinite(value) and value.dtype == torch.float32 for value in terms.values()), half
