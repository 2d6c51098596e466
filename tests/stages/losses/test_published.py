"""The losses of published methods: each term and its weight against NumPy in float64, written from the paper or its authors' code."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from detector_samples import tiny
from loss_samples import OTHER, fresh, side
from published_samples import METHODS, NUM_ANCHORS, STUDENT, anchors_of, both, objects
from torch import Tensor

from deploy import plugins
from deploy.errors import ConfigError
from stages.detectors import Outputs
from stages.losses import Loss
from stages.losses.features.batch_statistics import standardized_over_batch
from stages.losses.features.draws import Draws
from stages.losses.features.object_masks import in_cells, inverse_areas, levels_of, union
from stages.training.distillation import side_of

Array = Any  # NumPy's own annotations lose the type in most of its functions
SIZE = 64
BOXES = np.array([[4.0, 8.0, 30.0, 40.0], [24.0, 30.0, 60.0, 58.0]])
"""Of the first image; the second has none."""


def array(tensor: Tensor) -> Array:
    return tensor.detach().numpy().astype(np.float64)


def conv(x: Array, module: Any) -> Array:
    """A convolution of size 1 or 3 with zeros around."""
    kernel, edge = array(module.weight), module.weight.shape[-1] // 2
    padded, (height, width) = np.pad(x, ((0, 0), (0, 0), (edge, edge), (edge, edge))), x.shape[2:]
    size = range(2 * edge + 1)
    total = sum(np.einsum("oc,bchw->bohw", kernel[:, :, i, j], padded[:, :, i : i + height, j : j + width]) for i in size for j in size)
    return total if module.bias is None else total + array(module.bias)[None, :, None, None]


def softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def weighted(loss: Loss, student: Outputs, teacher: Outputs) -> dict[str, float]:
    return {name: float(value.detach()) * loss.weight(name) for name, value in loss(student, teacher, objects()).items()}


def levels(student: Outputs, teacher: Outputs) -> Iterator[tuple[int, int, Array, Array]]:
    """Index, stride, student's and teacher's features of the levels that both have."""
    for index, stride in enumerate(student.strides):
        other = teacher.pyramid[teacher.strides.index(stride)]
        yield index, stride, array(student.pyramid[index]), array(other)


def expected_hint(loss: Any, student: Outputs, teacher: Outputs) -> dict[str, float]:
    return {f"feature/{stride}": ((conv(s, loss.adapters[i]) - t) ** 2).mean() for i, stride, s, t in levels(student, teacher)}


def expected_channel_wise(loss: Any, student: Outputs, teacher: Outputs, temperature: float = 1) -> dict[str, float]:
    found = {}
    for i, stride, own, t in levels(student, teacher):
        s = conv(own, loss.adapters[i])
        p, q = (softmax(x.reshape(*x.shape[:2], -1) / temperature, 2) for x in (t, s))
        found[f"channel/{stride}"] = 5 * temperature**2 * (p * np.log(p / q)).sum() / (t.shape[0] * t.shape[1])
    return found


def expected_pearson(loss: Any, student: Outputs, teacher: Outputs) -> dict[str, float]:
    found = {}
    for i, stride, own, t in levels(student, teacher):
        s = conv(own, loss.adapters[i])
        correlations = [np.corrcoef(s[:, c].ravel(), t[:, c].ravel())[0, 1] for c in range(t.shape[1])]
        found[f"correlation/{stride}"] = 10 * (1 - np.mean(correlations))
    return found


def expected_attention_transfer(loss: Any, student: Outputs, teacher: Outputs) -> dict[str, float]:
    found = {}
    for _, stride, s, t in levels(student, teacher):
        a, b = ((x**2).mean(axis=1).reshape(len(x), -1) for x in (s, t))
        a, b = (x / np.sqrt((x**2).sum(axis=1, keepdims=True)) for x in (a, b))
        found[f"map/{stride}"] = 1000 * ((a - b) ** 2).mean()
    return found


def overlap(a: Array, b: Array) -> float:
    """Intersection over union."""
    inner = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(inner / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner))


def expected_fine_grained(loss: Any, student: Outputs, teacher: Outputs) -> dict[str, float]:
    """Both boxes are smaller than 112 px, so they belong to the finest level."""
    found = {}
    for i, stride, own, t in levels(student, teacher):
        s = np.maximum(conv(own, loss.adapters[i][0]), 0)
        near = np.zeros((2, *t.shape[2:]))
        anchors = array(anchors_of(stride, SIZE))
        for box in BOXES if i == 0 else ():
            overlaps = np.array([overlap(anchor, box) for anchor in anchors])
            best = (overlaps > 0.5 * overlaps.max()).reshape(*t.shape[2:], NUM_ANCHORS)
            near[0] = np.maximum(near[0], best.any(axis=2))
        assert near.sum() > (3 if i == 0 else -1)
        found[f"feature/{stride}"] = 0.01 / (2 * max(1, near.sum())) * (near[:, None] * (s - t) ** 2).sum()
    return found


def added(x: Array, module: Any) -> Array:
    """Global context: what is added to every position."""
    rows = x.reshape(*x.shape[:2], -1)
    weights = softmax(np.einsum("bcn,c->bn", rows, array(module.attention.weight)[0]) + array(module.attention.bias), 1)
    hidden = np.einsum("bcn,bn->bc", rows, weights) @ array(module.squeeze.weight).T + array(module.squeeze.bias)
    normal = (hidden - hidden.mean(axis=1, keepdims=True)) / np.sqrt(hidden.var(axis=1, keepdims=True) + 1e-5)
    hidden = np.maximum(normal * array(module.norm.weight) + array(module.norm.bias), 0)
    return (hidden @ array(module.expand.weight).T + array(module.expand.bias))[:, :, None, None]


def expected_focal_global(loss: Any, student: Outputs, teacher: Outputs) -> dict[str, float]:
    """The student is an FCOS."""
    found, temperature = {}, 0.8
    for i, stride, own, t in levels(student, teacher):
        s = conv(own, loss.adapters[i])
        height, width = t.shape[2:]
        spatial, channel = [], []
        for x in (s, t):
            where = softmax(np.abs(x).mean(axis=1).reshape(2, -1) / temperature, 1).reshape(2, height, width)
            spatial.append(where * height * width)
            channel.append(softmax(np.abs(x).mean(axis=(2, 3)) / temperature, 1) * t.shape[1])
        objects_mask = np.zeros((2, height, width))
        for x1, y1, x2, y2 in BOXES / stride:
            left, top, right, bottom = int(np.floor(x1)), int(np.floor(y1)), int(np.ceil(x2)), int(np.ceil(y2))
            share = 1 / ((bottom + 1 - top) * (right + 1 - left))
            for row in range(top, min(bottom + 1, height)):
                for column in range(left, min(right + 1, width)):
                    objects_mask[0, row, column] = max(objects_mask[0, row, column], share)
        background = (objects_mask == 0).astype(float)
        background /= np.maximum(1, background.sum(axis=(1, 2), keepdims=True))
        error = ((s - t) ** 2 * channel[1][:, :, None, None] * spatial[1][:, None]).sum(axis=1)
        attention = np.abs(spatial[0] - spatial[1]).sum() + np.abs(channel[0] - channel[1]).sum()
        relation = ((s + added(s, loss.own[i]) - t - added(t, loss.other[i])) ** 2).sum()
        found[f"foreground/{stride}"] = 1.6e-3 * (error * objects_mask).sum() / 2
        found[f"background/{stride}"] = 8e-4 * (error * background).sum() / 2
        found[f"attention/{stride}"] = 8e-4 * attention / 2
        found[f"relation/{stride}"] = 8e-6 * relation / 2
    return found


def expected_masked_generative(loss: Any, student: Outputs, teacher: Outputs) -> dict[str, float]:
    numbers, found = copy.deepcopy(loss.draws).generator(), {}
    for i, stride, own, t in levels(student, teacher):
        s = conv(own, loss.adapters[i])
        shown = np.where(torch.rand(2, 1, *t.shape[2:], generator=numbers).numpy() > 1 - 0.65, 0, 1)
        first, _, second = loss.generators[i]
        made = conv(np.maximum(conv(s * shown, first), 0), second)
        found[f"feature/{stride}"] = 2e-5 * ((made - t) ** 2).sum() / 2
    return found


def expected_decoupled(loss: Any, student: Outputs, teacher: Outputs) -> dict[str, float]:
    found = {}
    for i, stride, own, t in levels(student, teacher):
        s = conv(own, loss.adapters[i])
        inside = np.zeros_like(t)
        for x1, y1, x2, y2 in (BOXES / stride).astype(int) if i == 0 else ():
            inside[0, :, y1:y2, x1:x2] = 1
        for name, weight, counted in (("foreground", 4, inside), ("background", 16, 1 - inside)):
            found[f"{name}/{stride}"] = weight / 2 * ((s - t) ** 2 * counted).sum() / max(1, 2 * counted.sum())
    return found


def expected_feature_richness(loss: Any, student: Outputs, teacher: Outputs) -> dict[str, float]:
    """The student is an FCOS; both heads have as many anchors."""
    found = {}
    for i, stride, own, t in levels(student, teacher):
        s = conv(own, loss.adapters[i])
        logits = student.head["class_logits"][i], teacher.head["class_logits"][teacher.strides.index(stride)]
        mine, theirs = (sigmoid(array(rows)).reshape(2, *t.shape[2:], -1) for rows in logits)
        rich = theirs.max(axis=3)
        found[f"feature/{stride}"] = 0.01 * ((s - t) ** 2 * rich[:, None]).sum() / rich.sum()
        entropy = -(theirs * np.log(mine) + (1 - theirs) * np.log(1 - mine))
        found[f"classes/{stride}"] = 0.05 * (entropy * rich[..., None]).sum() / rich.sum()
    return found


def expected_overhaul(loss: Any, student: Outputs, teacher: Outputs) -> dict[str, float]:
    found = {}
    for i, stride, own, t in levels(student, teacher):
        connector = loss.adapters[i]
        s = conv(own, connector.projection)
        s = (s - s.mean(axis=(0, 2, 3), keepdims=True)) / np.sqrt(s.var(axis=(0, 2, 3), keepdims=True) + 1e-5)
        s = s * array(connector.weight)[:, None, None] + array(connector.bias)[:, None, None]
        margin = np.array([channel[channel < 0].mean() for channel in t.transpose(1, 0, 2, 3)])[:, None, None]
        wanted = np.maximum(t, margin)
        found[f"feature/{stride}"] = 1e-5 / 2 ** (1 - i) * ((s - wanted) ** 2 * ((s > wanted) | (wanted > 0))).sum() / 2
    return found


@pytest.mark.parametrize("name", METHODS)
def test_every_term_equals_its_formula_and_has_the_published_weight(name: str) -> None:
    loss, (student, teacher) = fresh(name, STUDENT, OTHER), both()
    expected = globals()[f"expected_{name}"](loss, student, teacher)
    terms = weighted(loss, student, teacher)
    assert terms.keys() == expected.keys()
    for term, value in expected.items():
        assert terms[term] == pytest.approx(value, rel=1e-5, abs=1e-12), term


def test_a_temperature_softens_the_shares_of_positions() -> None:
    loss, (student, teacher) = fresh("channel_wise", STUDENT, OTHER, temperature=3.0), both()
    assert weighted(loss, student, teacher) == pytest.approx(expected_channel_wise(loss, student, teacher, 3), rel=1e-5)


CONSTANTS: list[tuple[str, str, dict[str, float]]] = [
    ("pearson", "two_stage", {"correlation": 6}),
    ("focal_global", "two_stage", {"foreground": 5e-5, "background": 2.5e-5, "attention": 5e-5, "relation": 5e-7}),
    ("focal_global", "set_prediction", {"foreground": 1e-3, "background": 5e-4, "attention": 5e-4, "relation": 5e-6}),
    ("focal_global", "reppoints", {"foreground": 1.6e-3, "background": 8e-4, "attention": 8e-4, "relation": 8e-6}),
    ("focal_global", "yolox", {"foreground": 2e-3, "background": 1e-3, "attention": 1e-3, "relation": 1e-5}),
    ("masked_generative", "two_stage", {"feature": 5e-7}),
    ("feature_richness", "two_stage", {"feature": 0.002, "classes": 0.1}),
    ("feature_richness", "gfl", {"feature": 0.1, "classes": 0.05}),
    ("feature_richness", "retinanet", {"feature": 0.005, "classes": 0.02}),
]


@pytest.mark.parametrize(("name", "student", "expected"), CONSTANTS)
def test_other_students_have_their_published_weights(name: str, student: Any, expected: dict[str, float]) -> None:
    own = replace(STUDENT, kind=student, detector="any") if "_" in student else replace(STUDENT, detector=student)
    loss = fresh(name, own, OTHER)
    assert {term: loss.weight(term) for term in expected} == expected
    assert getattr(loss, "hidden", 0.45) == 0.45
    assert getattr(loss, "temperature", 0.5) == 0.5


@pytest.mark.parametrize("name", METHODS)
def test_gradients_equal_finite_differences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, with the same draws and running means at every call."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    loss = fresh(name, STUDENT, OTHER).double()
    student, teacher = (doubled(made) for made in both(32))
    state = copy.deepcopy(loss.state_dict())

    def total() -> Tensor:
        terms = loss(student, teacher, objects())
        return torch.stack([value * loss.weight(term) for term, value in terms.items()]).sum()

    total().backward()
    learned = [*student.pyramid, *loss.parameters(), *(student.head["class_logits"] if name == "feature_richness" else ())]
    generator, step = torch.Generator().manual_seed(3), 1e-6
    for tensor in learned:
        assert tensor.grad is not None
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            kept = tensor.detach().clone()
            loss.load_state_dict(state)
            with torch.no_grad():
                tensor.copy_(kept + sign * step * direction)
                values.append(float(total()))
                tensor.copy_(kept)
        slope = (values[0] - values[1]) / (2 * step)
        assert float((tensor.grad * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-8)


def doubled(made: Outputs) -> Outputs:
    """The same in float64."""
    pyramid = tuple(level.detach().double().requires_grad_() for level in made.pyramid)
    head = {name: tuple(level.detach().double().requires_grad_() for level in levels) for name, levels in made.head.items()}
    return replace(made, pyramid=pyramid, head=head)


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_features_of_any_size_give_finite_terms(name: str) -> None:
    loss = fresh(name, STUDENT, OTHER)
    student, teacher = (
        replace(made, pyramid=tuple((level * 2000).half() for level in made.pyramid), head={"class_logits": halved(made)})
        for made in both()
    )
    for half in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", half):
            terms = loss(student, teacher, objects())
        assert all(torch.isfinite(value) and value.dtype == torch.float32 for value in terms.values()), half


def halved(made: Outputs) -> tuple[Tensor, ...]:
    return tuple((level * 20).half() for level in made.head["class_logits"])


@pytest.mark.parametrize("name", METHODS)
def test_levels_that_the_teacher_lacks_learn_from_the_nearest_if_asked(name: str) -> None:
    student, teacher = both()
    learned = fresh(name, STUDENT, replace(OTHER, strides=(4, 8, 32)), missing="interpolate")
    shrunk = replace(teacher, strides=(4, 8, 32))
    terms = learned(student, shrunk, objects())
    assert {term.partition("/")[2] for term in terms} == {"8", "16"}
    assert all(torch.isfinite(value) for value in terms.values())


class TestMasks:
    def test_an_object_that_no_anchor_fits_has_the_ones_that_fit_it_best(self) -> None:
        """Of overlaps 1/3 and 1, each is the best of its object."""
        anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [100.0, 0.0, 110.0, 10.0], [200.0, 0.0, 210.0, 10.0]])
        boxes = torch.tensor([[0.0, 0.0, 10.0, 30.0], [100.0, 0.0, 110.0, 10.0]])
        near = plugins.load("stages.losses", "fine_grained")._near(anchors, boxes, torch.zeros(1, 3))
        assert near.tolist() == [[1, 1, 0]]

    def test_objects_belong_to_one_level_by_their_size(self) -> None:
        sides = torch.tensor([0.0, 20.0, 111.0, 113.0, 223.0, 225.0, 9000.0])
        boxes = torch.stack((sides * 0, sides * 0, sides, sides), dim=1)
        assert levels_of(boxes, range(4)).tolist() == [0, 0, 0, 1, 1, 2, 3]

    def test_objects_of_a_level_that_does_not_learn_belong_to_the_nearest_one(self) -> None:
        sides = torch.tensor([0.0, 113.0, 225.0, 450.0, 9000.0])
        boxes = torch.stack((sides * 0, sides * 0, sides, sides), dim=1)
        assert levels_of(boxes, (1, 3)).tolist() == [0, 0, 0, 1, 1]
        assert levels_of(boxes, (2,)).tolist() == [0] * 5

    @pytest.mark.parametrize(("name", "term"), [("fine_grained", "feature/16"), ("decoupled", "foreground/16")])
    def test_small_objects_are_learned_at_the_finest_level_that_both_have(self, name: str, term: str) -> None:
        student, teacher = both()
        terms = fresh(name, STUDENT, replace(OTHER, strides=(4, 16, 32)))(student, teacher, objects())
        assert terms[term] > 0

    def test_a_thin_box_at_the_edge_covers_a_cell(self) -> None:
        boxes = in_cells(torch.tensor([[64.0, 10.0, 64.0, 30.0], [0.0, 0.0, 0.0, 0.0]]), (64, 64), (8, 8))
        covered = union(boxes, (8, 8))
        assert covered.nonzero().tolist() == [[0, 0], [1, 7], [2, 7]]

    def test_the_smaller_object_counts_where_two_overlap(self) -> None:
        found = inverse_areas(torch.tensor([[0.0, 0.0, 3.0, 3.0], [1.0, 1.0, 1.5, 1.5]]), (4, 4))
        assert found[0].tolist() == pytest.approx([1 / 16] * 4)
        assert found[1].tolist() == pytest.approx([1 / 16, 1 / 4, 1 / 4, 1 / 16])

    def test_no_boxes_cover_nothing(self) -> None:
        none = torch.zeros(0, 4)
        assert not union(none, (3, 4)).any()
        assert not inverse_areas(none, (3, 4)).any()

    def test_more_boxes_than_fit_into_memory_at_once_give_the_same(self) -> None:
        corner = torch.rand(150, 2, generator=torch.Generator().manual_seed(0)) * 8
        boxes = torch.cat((corner, corner + 2), dim=1)
        one_by_one = torch.stack([inverse_areas(box[None], (10, 10)) for box in boxes]).amax(dim=0)
        assert torch.equal(inverse_areas(boxes, (10, 10)), one_by_one)


def test_a_channel_that_hardly_varies_is_standardized_by_what_is_added_to_its_variance() -> None:
    """Values of 3 and variances of 9, in thousandths and millionths; 10 millionths are added."""
    features = torch.tensor([[0.003, 5.0], [-0.003, 5.0]])[:, :, None, None]
    found = standardized_over_batch(features, 1e-5).flatten(1)
    assert found[:, 0].tolist() == pytest.approx([3 / 19**0.5, -3 / 19**0.5])
    assert found[:, 1].tolist() == [0, 0]


class TestWhatIsKept:
    def test_hidden_positions_differ_from_call_to_call_and_have_the_given_share(self) -> None:
        loss: Any = fresh("masked_generative", side((8,), (4,)), side((8,), (4,)), hidden=0.3)
        shares = [float((torch.rand(100_000, generator=loss.draws.generator()) <= 1 - loss.hidden).float().mean()) for _ in range(2)]
        assert shares == [pytest.approx(0.7, abs=0.01)] * 2
        assert shares[0] != shares[1]

    def test_every_step_of_every_process_hides_other_positions_and_a_resumed_training_the_same(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def drawn(draws: Draws, steps: int) -> list[tuple[float, ...]]:
            return [tuple(torch.rand(4, generator=draws.generator()).tolist()) for _ in range(steps)]

        def started(seed: int) -> Draws:
            torch.manual_seed(seed)
            return Draws()

        seen = []
        for process in range(4):
            monkeypatch.setattr("stages.losses.features.draws.process_index", lambda process=process: process)
            seen += [one for seed in range(3) for one in drawn(started(seed), 200)]
        assert len(set(seen)) == len(seen) == 4 * 3 * 200
        broken, resumed = started(0), started(1)
        drawn(broken, 5)
        resumed.load_state_dict(broken.state_dict())
        assert drawn(resumed, 3) == drawn(broken, 3) == seen[-600:][5:8]

    def test_draws_leave_torchs_generator_alone(self) -> None:
        loss, (student, teacher) = fresh("masked_generative", STUDENT, OTHER), both()
        before = torch.get_rng_state()
        loss(student, teacher, objects())
        assert torch.equal(torch.get_rng_state(), before)

    def test_the_margin_is_a_running_mean_of_negative_values(self) -> None:
        loss: Any = fresh("overhaul", STUDENT, OTHER)
        margin = loss.margins[0]
        first, second = (torch.full((1, 16, 2, 2), -value) for value in (1.0, 3.0))
        second[0, 0] = 5.0  # this channel has no negative value
        assert margin(first).flatten().tolist() == [-1] * 16
        assert margin(second).flatten().tolist() == pytest.approx([-1.0] + [-1.2] * 15)


def test_adapters_of_decoupled_features_start_near_zero() -> None:
    loss: Any = plugins.load("stages.losses", "decoupled").build(STUDENT, OTHER)
    weights = torch.cat([adapter.weight.detach().flatten() for adapter in loss.adapters])
    assert 0 < weights.abs().max() <= 2e-4
    assert weights.std().item() == pytest.approx(0.88e-4, rel=0.1)  # of a normal distribution cut off at two deviations
    assert not any(adapter.bias.any() for adapter in loss.adapters)


class TestRichness:
    def test_a_student_without_scores_learns_features_alone(self) -> None:
        student, teacher = tiny("d_fine"), tiny("fcos")
        loss = plugins.load("stages.losses", "feature_richness").build(side_of(student), side_of(teacher))
        assert loss.weights == {"feature": 0.005, "classes": 0.0}
        with pytest.raises(ConfigError, match="classes_weight: the student, d_fine, has no scores at positions; leave it out"):
            plugins.load("stages.losses", "feature_richness").build(side_of(student), side_of(teacher), classes_weight=1.0)

    def test_other_numbers_of_anchors_are_compared_by_the_best(self) -> None:
        loss, (student, teacher) = fresh("feature_richness", STUDENT, OTHER), both()
        single = tuple(level.unflatten(1, (-1, NUM_ANCHORS)).amax(dim=2) for level in student.head["class_logits"])
        doubled_rows = tuple(torch.stack((level, level - 1), dim=2).flatten(1, 2) for level in single)
        best = tuple(level.unflatten(1, (-1, NUM_ANCHORS)).amax(dim=2) for level in teacher.head["class_logits"])
        found = [
            loss(replace(student, head={"class_logits": own}), replace(teacher, head={"class_logits": other}), ())["classes/8"].item()
            for own, other in ((single, best), (doubled_rows, best))
        ]
        assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_summed_maps_do_not_shrink_with_the_image() -> None:
    loss, (student, teacher) = fresh("attention_transfer", STUDENT, OTHER, reduction="sum"), both()
    larger = [replace(made, pyramid=tuple(level.repeat(1, 1, 2, 2) for level in made.pyramid)) for made in (student, teacher)]
    small, large = loss(student, teacher, ()), loss(*larger, ())
    assert large["map/8"].item() == pytest.approx(small["map/8"].item(), rel=1e-5)


def test_terms_without_a_weight_are_not_computed() -> None:
    student, teacher = both()
    loss = fresh("focal_global", STUDENT, OTHER, relation_weight=0.0, foreground_weight=0.0)
    assert {term.partition("/")[0] for term in loss(student, teacher, objects())} == {"background", "attention"}
    assert len(list(loss.parameters())) == 4  # two adapters with bias
    richness = fresh("feature_richness", STUDENT, OTHER, classes_weight=0.0)
    assert {term.partition("/")[0] for term in richness(student, teacher, objects())} == {"feature"}


def test_anchors_are_needed_to_find_what_is_near_objects() -> None:
    student = side_of(tiny("d_fine"))
    with pytest.raises(
        ConfigError, match=r"the student, d_fine, has no anchors that could overlap objects; choose a different loss or student"
    ):
        plugins.load("stages.losses", "fine_grained").build(student, OTHER)
