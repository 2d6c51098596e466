import copy
from pathlib import Path
from typing import Any

import int8_samples as samples
import numpy as np
import pytest
import torch
from onnx import ModelProto

from deploy.errors import ConfigError
from deploy.precision.int8 import Quantizer
from deploy.precision.placement import Step, values
from deploy.runtimes import ort
from stages.detectors import Detector
from stages.int8.folding import fold
from stages.int8.forms import Int8Forms, heads_of
from stages.int8.rounded import rounded_detector
from stages.int8.rounding import Rounding, rounded, rounded_weight
from stages.int8.sites import refuse_unroundable


class Ready:
    """A student, its graphs, and itself rounded."""

    def __init__(self, folder: Path, runtime: str) -> None:
        self.plain = samples.student()
        self.forms: Int8Forms = samples.forms(self.plain, folder, samples.config(runtime))
        self.detector: Detector
        self.rounding: Rounding
        self.detector, self.rounding = rounded_detector(copy.deepcopy(self.plain), self.forms, samples.EXPORT, samples.images())


class Exact(Ready):
    """A RetinaNet, which has nothing but convolutions, ReLUs and sums, with powers of two for all steps."""

    def __init__(self, folder: Path) -> None:
        self.plain = samples.student(samples.RETINANET)
        image = torch.from_numpy(samples.images()[0])
        folded = fold(self.plain, lambda: heads_of(self.plain, samples.EXPORT, image))
        assert folded
        with torch.no_grad():
            for module in self.plain.modules():
                if isinstance(module, torch.nn.Conv2d):
                    most = module.weight.abs().amax(dim=(1, 2, 3), keepdim=True)
                    power = torch.exp2(torch.ceil(torch.log2(most)))
                    scaled = module.weight * (power / most)
                    module.weight.copy_(torch.where(scaled.abs() > power * (1 - 1e-6), scaled.sign() * power, scaled))
        self.forms = samples.forms(self.plain, folder)
        powers = {name: power_of_two(*ends) for name, ends in self.forms.ranges.items()}
        known = Quantizer(self.forms._graph, self.forms.heads, (), ort.INTEGERS, "min_max", self.forms._folder(), powers)
        self.forms.typed, self.forms.ranges = known.quantized(known.layers), powers
        self.detector, self.rounding = rounded_detector(self.plain, self.forms, samples.EXPORT, samples.images())


def power_of_two(low: float, high: float) -> tuple[float, float]:
    """A range that contains this one, whose 255 steps are a power of two, with 0 at one of them."""
    step = 2.0 ** np.ceil(np.log2(max(max(0.0, high) - min(0.0, low), 1e-6) / 254))
    below = float(np.ceil(max(0.0, -low) / step))
    return -below * step, (255 - below) * step


@pytest.fixture(scope="module", params=["ort", "openvino", "trt_rtx"])
def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    return Ready(tmp_path_factory.mktemp(request.param), request.param)


def seen(ready: Ready, image: Any) -> dict[str, Any]:
    """What torch computes of each rounded tensor that a module computes, and the head outputs."""
    found: dict[Any, Any] = {}
    inner = ready.rounding.result

    def keep(site: Any, func: Any, result: Any) -> Any:
        made = inner(site, func, result)
        if site in ready.rounding._sites:
            found[site] = made.detach().numpy().copy()
        return made

    ready.rounding.result = keep  # type: ignore[method-assign]
    try:
        with ready.rounding:
            heads = heads_of(ready.detector, samples.EXPORT, torch.from_numpy(image))
    finally:
        ready.rounding.result = inner  # type: ignore[method-assign]
    assert len(found) == len(ready.rounding._sites)
    return {"heads": heads, "tensors": [*found.values()]}


def dequantized(model: ModelProto) -> list[str]:
    """The tensors that the graph rounds, without the images, after their rounding."""
    rounding = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    made = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in rounding]
    return [node.output[0] for node in made if rounding[node.input[0]] != "images"]


def unequal(ready: Ready, image: Any) -> tuple[int, float]:
    """How many values differ in any bit, and by how many steps at most, over all rounded tensors."""
    names, steps = dequantized(ready.forms.typed), ready.forms.table.steps
    expected, own = values(ready.forms.typed, names, image), seen(ready, image)["tensors"]
    assert len(names) == len(own)
    number, most = 0, 0.0
    for name in names:
        same = [one for one in own if one.shape == expected[name].shape]
        nearest = min(same, key=lambda one: float(np.abs(one - expected[name]).max()))
        number += int((nearest.view(np.int32) != expected[name].view(np.int32)).sum())
        scale = next(step.scale for tensor, step in steps.items() if name.startswith(tensor + "_DequantizeLinear"))
        most = max(most, float(np.abs(nearest - expected[name]).max()) / scale)
    return number, most


def test_what_the_int8_graph_rounds_has_the_same_bits_in_torch(ready: Ready) -> None:
    """Sums of the same numbers in another order may end on the other side of a half: one value of 100,000, by one step."""
    found = [unequal(ready, image) for image in samples.images()]
    assert sum(number == 0 for number, _ in found) >= 3
    assert all(number <= 2 and most <= 1.001 for number, most in found)


@pytest.mark.slow
def test_with_steps_that_are_powers_of_two_no_sum_is_rounded_and_every_bit_is_the_same(tmp_path: Path) -> None:
    exact = Exact(tmp_path)
    for image in samples.images():
        assert unequal(exact, image) == (0, 0.0)
        names = list(exact.forms.heads.outputs)
        expected = values(exact.forms.typed, names, image)
        assert len(names) == len(seen(exact, image)["heads"])
        assert all(step.scale == 2.0 ** round(np.log2(step.scale)) for step in exact.forms.table.steps.values())
        assert all(np.isfinite(expected[name]).all() for name in names)


def test_the_heads_are_the_int8_graphs(ready: Ready) -> None:
    names = list(ready.forms.heads.outputs)
    for image in samples.images():
        expected, exact = (values(model, names, image) for model in (ready.forms.typed, ready.forms.folded))
        own = seen(ready, image)["heads"]
        for name, head in zip(names, own, strict=True):
            effect = np.abs(exact[name] - expected[name]).max()
            assert np.abs(head - expected[name]).max() < 0.05 * effect
            assert effect > 1e-4 * np.abs(expected[name]).max()


def test_the_optimized_engine_is_within_a_step_of_the_scale(ready: Ready) -> None:
    import onnxruntime

    if not ready.forms._config.quantize_outputs:
        pytest.skip("ONNX Runtime optimizes its own kind of int8")
    names = dequantized(ready.forms.typed)
    model = ModelProto()
    model.CopyFrom(ready.forms.typed)
    last = [name for name in names if name.startswith(("cat", "val"))][-2:] or names[-2:]
    del model.graph.output[:]
    model.graph.output.extend(type(ready.forms.typed.graph.output[0])(name=name) for name in last)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    steps = {f"{name}_DequantizeLinear_Output": step for name, step in ready.forms.table.steps.items()}
    for image in samples.images():
        plain = values(ready.forms.typed, last, image)
        for name, found in zip(last, session.run(last, {"images": image}), strict=True):
            assert np.abs(found - plain[name]).max() <= 1.001 * steps[name].scale


def test_the_gradient_reaches_every_weight(ready: Ready) -> None:
    with ready.rounding:
        outputs = ready.detector(torch.from_numpy(np.concatenate(samples.images())))
        total = torch.stack([level.square().mean() for levels in (outputs.pyramid, *outputs.head.values()) for level in levels]).sum()
    total.backward()
    lacking = [name for name, one in ready.detector.named_parameters() if one.requires_grad and one.grad is None]
    assert not lacking
    ready.detector.zero_grad()


@pytest.mark.parametrize("value", [0.0, 0.125, -0.375, 12.8, 1e3, -1e3])
def test_a_value_is_rounded_by_hand(value: float) -> None:
    by_hand = 0.25 * (min(255, max(0, round(value / 0.25) + 3)) - 3)  # Python rounds halves to even, as ONNX does
    assert rounded(torch.tensor([value]), Step(0.25, 3, 0, 255)).item() == by_hand


def test_a_channels_largest_weight_becomes_the_limit_and_a_channel_of_zeros_stays_zero() -> None:
    weight = torch.tensor([[1.0, -0.25], [0.0, 0.0], [0.3, 0.9]])
    found, scale = rounded_weight(weight, 0, 64)
    assert scale.tolist() == pytest.approx([1 / 64, 1.0, 0.9 / 64])
    assert found[0].tolist() == [1.0, -0.25]
    assert found[1].tolist() == [0.0, 0.0]
    assert found[2].tolist() == pytest.approx([round(0.3 / (0.9 / 64)) * 0.9 / 64, 0.9])


def test_folding_leaves_the_function_and_makes_batch_norms_add_only() -> None:
    detector = samples.student()
    image = torch.from_numpy(samples.images()[0])
    before = heads_of(detector, samples.EXPORT, image)
    folded = fold(detector, lambda: heads_of(detector, samples.EXPORT, image))
    assert len(folded) == sum(isinstance(one, torch.nn.BatchNorm2d) for one in detector.modules())
    for old, new in zip(before, heads_of(detector, samples.EXPORT, image), strict=True):
        assert np.allclose(old, new, rtol=1e-4, atol=1e-5)
    for norm in folded.values():
        assert isinstance(norm, torch.nn.BatchNorm2d)
        pixels = torch.randn(1, norm.num_features, 4, 4)
        assert torch.equal(norm(pixels), pixels + norm.bias[:, None, None])


def test_a_detector_that_cannot_be_rounded_is_refused_in_one_line(tmp_path: Path) -> None:
    plain = samples.student()
    forms = samples.forms(plain, tmp_path)
    other = samples.student(seed=1)
    with pytest.raises(ConfigError, match=r"int8\.finetune: the .* of detector fcos's graph is not computed by its modules") as caught:
        rounded_detector(other, forms, samples.EXPORT, samples.images())
    assert "\n" not in str(caught.value)


def test_training_brings_the_rounded_network_nearer_to_the_one_in_fp32(tmp_path: Path) -> None:
    plain = samples.student()
    forms = samples.forms(plain, tmp_path)
    detector, rounding = rounded_detector(copy.deepcopy(plain), forms, samples.EXPORT, samples.images())
    batch = torch.from_numpy(np.concatenate(samples.images()))
    with torch.no_grad():
        expected = plain(batch).pyramid
    optimizer = torch.optim.Adam([one for one in detector.parameters() if one.requires_grad], lr=5e-5)
    errors = []
    for _ in range(12):
        with rounding:
            found = detector(batch).pyramid
        error = torch.stack([(own - other).square().mean() for own, other in zip(found, expected, strict=True)]).sum()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert min(errors[-3:]) < 0.8 * errors[0]


def test_a_module_that_computes_something_else_in_a_training_is_noticed(ready: Ready) -> None:
    with ready.rounding:
        heads_of(ready.detector, samples.EXPORT, torch.from_numpy(samples.images()[0]))
    assert ready.rounding.unreached() is None
    relu = next(module for name, module in ready.detector.named_modules() if name.endswith("layer1.0.relu"))
    original, ready.rounding._reached = relu.forward, set()
    relu.forward = lambda given: given
    try:
        with ready.rounding:
            heads_of(ready.detector, samples.EXPORT, torch.from_numpy(samples.images()[0]))
    finally:
        relu.forward = original
    site = ready.rounding.unreached()
    assert site is not None
    assert site.module.endswith("layer1.0.relu")


@pytest.mark.parametrize(
    ("change", "what"), [({"deformable": (3,), "backbone": "resnet18", "norm": "frozen"}, "a deformable convolution"), (None, "attention")]
)
def test_what_is_known_not_to_work_is_refused_before_any_training(change: dict[str, Any] | None, what: str) -> None:
    detector = samples.student({**samples.FCOS, **(change or {})})
    if change is None:
        detector.kind = "set_prediction"
    with pytest.raises(ConfigError, match=f"int8.finetune: {what} of detector fcos's graph"):
        refuse_unroundable(detector)
    refuse_unroundable(samples.student())
