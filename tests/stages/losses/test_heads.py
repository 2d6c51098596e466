"""The losses on heads: each term and its gradient against formulas in NumPy in float64."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from head_samples import ANCHORS, BINS, CHANNELS, CLASSES, ROWS, SHAPE, SIZE, STRIDES, HeadStandIn, built, outputs, side, targets
from torch import Tensor

from deploy import plugins
from deploy.errors import ConfigError
from stages.detectors import Outputs
from stages.losses import Loss

Array = Any  # NumPy's own annotations lose the type in most of its functions
Arrays = dict[str, Array]


def array(tensor: Tensor) -> Array:
    return tensor.detach().numpy().astype(np.float64)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def cross_entropy(logits: Array, wanted: Array) -> Array:
    return np.logaddexp(0, logits) - wanted * logits


def iou(one: Array, other: Array) -> float:
    wide, high = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    inside = max(wide, 0) * max(high, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(inside / (sum(areas) - inside))


def diou(one: Array, other: Array) -> float:
    around = [max(one[i + 2], other[i + 2]) - min(one[i], other[i]) for i in (0, 1)]
    apart = [(one[i] + one[i + 2] - other[i] - other[i + 2]) / 2 for i in (0, 1)]
    return iou(one, other) - float(sum(a**2 for a in apart) / sum(a**2 for a in around))


def giou_loss(boxes: Array, others: Array) -> Array:
    """1 - GIoU, [..., 4] to [...]."""
    wide = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2])
    inside = np.prod(np.maximum(wide, 0), axis=-1)
    union = sum(np.prod(one[..., 2:] - one[..., :2], axis=-1) for one in (boxes, others)) - inside
    around = np.prod(np.maximum(boxes[..., 2:], others[..., 2:]) - np.minimum(boxes[..., :2], others[..., :2]), axis=-1)
    return 1 - inside / (union + 1e-7) + (around - union) / (around + 1e-7)


def assigned(boxes: Array) -> tuple[Array, Array]:
    """ATSS, object by object: for each anchor of all levels the object's index or -1, and the overlap that each object asks for."""
    index, best, needed = np.full(sum(ROWS), -1), np.zeros(sum(ROWS)), []
    anchors = array(torch.cat(ANCHORS))
    for number, box in enumerate(boxes):
        chosen: list[int] = []
        for first, level in zip((0, ROWS[0]), ANCHORS, strict=True):
            middles = (array(level)[:, :2] + array(level)[:, 2:]) / 2
            apart = np.linalg.norm(middles - (box[:2] + box[2:]) / 2, axis=1)
            chosen += [first + int(i) for i in np.argsort(apart, kind="stable")[:9]]
        overlaps = np.array([iou(anchors[i], box) for i in chosen])
        needed.append(overlaps.mean() + overlaps.std(ddof=1))
        for i, overlap in zip(chosen, overlaps, strict=True):
            middle = (anchors[i, :2] + anchors[i, 2:]) / 2
            inside = min(*(middle - box[:2]), *(box[2:] - middle)) > 0.01
            if overlap >= needed[-1] and inside and overlap > best[i]:
                index[i], best[i] = number, overlap
    return index, np.array(needed)


def by_level(values: Array) -> list[Array]:
    """Of [B, N, ...] or [N, ...] over all levels, each level's."""
    axis = 1 if values.ndim > 1 and values.shape[0] == 2 else 0
    return np.split(values, [ROWS[0]], axis=axis)


LEARNED = [assigned(array(target.boxes)) for target in targets()]
WHERE = np.stack([index >= 0 for index, _ in LEARNED])
OBJECTS = np.stack([np.concatenate((array(t.boxes), np.zeros((1, 4))))[index] for t, (index, _) in zip(targets(), LEARNED, strict=True)])
COUNT = WHERE.sum()


def check(
    loss: Loss, student: Outputs, teacher: Outputs, inputs: Mapping[str, Tensor], formula: Callable[[Arrays, Arrays], Mapping[str, Any]]
) -> None:
    """Terms equal the formula's, and gradients its slope in a random direction.

    The formula is given the inputs, moved, and as they were: for what carries no gradient.
    """
    terms = loss(student, teacher, targets())
    start = {name: array(tensor) for name, tensor in inputs.items()}
    expected = formula(start, start)
    assert terms.keys() == expected.keys()
    generator = np.random.default_rng(5)
    ways = {name: generator.standard_normal(value.shape) for name, value in start.items()}
    step = 1e-5
    ahead, back = (formula({n: start[n] + sign * step * ways[n] for n in start}, start) for sign in (1, -1))
    for name, value in terms.items():
        assert value.item() == pytest.approx(float(expected[name]), rel=1e-5, abs=1e-7), name
        slope = 0.0
        if value.requires_grad:
            grads: Sequence[Tensor | None] = torch.autograd.grad(value, list(inputs.values()), retain_graph=True, allow_unused=True)
            slope = sum(float((array(grad) * ways[n]).sum()) for n, grad in zip(inputs, grads, strict=True) if grad is not None)
        assert slope == pytest.approx((ahead[name] - back[name]) / (2 * step), rel=2e-3, abs=2e-5), name


def leaves(made: Outputs, *names: str) -> dict[str, Tensor]:
    """The tensors of a head by name and level, and the pyramid's."""
    found = {f"{name}/{i}": tensor for name in names if name != "pyramid" for i, tensor in enumerate(made.head[name])}
    return found | ({f"pyramid/{i}": level for i, level in enumerate(made.pyramid)} if "pyramid" in names else {})


def boxes_of(deltas: Array, level: int) -> Array:
    return array(ANCHORS[level]) + deltas


class TestLocalization:
    def test_distributions(self) -> None:
        loss = built("localization", shape=replace(SHAPE, bins=BINS))
        student, teacher = outputs(1, bins=BINS), outputs(2, bins=BINS)
        near = np.zeros_like(WHERE)
        for image, target in enumerate(targets()):
            for i, anchor in enumerate(array(torch.cat(ANCHORS))):
                apart = [(diou(anchor, box), needed) for box, needed in zip(array(target.boxes), LEARNED[image][1], strict=True)]
                around = [0.25 * needed <= d < needed for d, needed in apart]
                near[image, i] = any(around) and not WHERE[image, i]
        assert near.sum() > 10

        def divergence(own: Array, other: Array, temperature: float) -> Array:
            p, q = softmax(other / temperature), softmax(own / temperature)
            return (p * np.log(p / q)).mean(axis=-1) * temperature**2

        def formula(x: Arrays, start: Arrays) -> dict[str, Any]:
            terms: dict[str, Any] = {}
            for i, (stride, w, n) in enumerate(zip(STRIDES, by_level(WHERE), by_level(near), strict=True)):
                sides = divergence(x[f"box_distributions/{i}"], array(teacher.head["box_distributions"][i]), 10).sum(axis=-1)
                certain = sigmoid(start[f"class_logits/{i}"]).max(axis=-1)
                classes = divergence(x[f"class_logits/{i}"], array(teacher.head["class_logits"][i]), 2)
                terms |= {f"boxes/{stride}": (sides * certain * w).sum() / 4, f"near/{stride}": (sides * n).sum() / 16}
                terms[f"classes/{stride}"] = (classes * w).sum() / max(1, w.sum())
            return terms

        check(loss, student, teacher, leaves(student, "class_logits", "box_distributions"), formula)
        assert [loss.weight(f"{term}/8") for term in ("boxes", "near", "classes")] == [0.25, 0.25, 10]

    def test_numbers(self) -> None:
        loss, student, teacher = built("localization"), outputs(1), outputs(2)

        def formula(x: Arrays, start: Arrays) -> dict[str, Any]:
            terms: dict[str, Any] = {}
            for i, stride in enumerate(STRIDES):
                own, wanted = x[f"class_logits/{i}"], sigmoid(array(teacher.head["class_logits"][i]))
                classes = (cross_entropy(own, wanted) * np.abs(sigmoid(own) - wanted)).sum()
                far = np.abs(sigmoid(start[f"class_logits/{i}"]) - wanted).max(axis=-1)
                apart = giou_loss(boxes_of(x[f"box_deltas/{i}"], i), boxes_of(array(teacher.head["box_deltas"][i]), i))
                terms |= {f"classes/{stride}": classes / COUNT, f"boxes/{stride}": (apart * far).sum() / COUNT}
            return terms

        check(loss, student, teacher, leaves(student, "class_logits", "box_deltas"), formula)
        assert [loss.weight(f"{term}/8") for term in ("classes", "boxes")] == [1, 4]

    def test_the_form_follows_the_heads_and_distributions_are_refused_without_any(self) -> None:
        module = plugins.load("stages.losses", "localization")
        few, many = (side(shape=replace(SHAPE, bins=bins)) for bins in (5, 9))
        assert isinstance(module.build(few, few), module.SideDistributions)
        assert isinstance(module.build(few, few, boxes="giou"), module.WeightedBoxes)
        assert isinstance(module.build(few, many), module.WeightedBoxes)
        with pytest.raises(ConfigError, match="the student's sides have 5 bins, the teacher's 9; choose giou"):
            module.build(few, many, boxes="distributions")


class TestDenseLabels:
    @pytest.mark.parametrize("product", [False, True])
    @pytest.mark.parametrize("judged", ["neither", "both", "teacher", "student"])
    def test_every_place_learns_the_teachers_answer_by_its_score(self, judged: str, *, product: bool) -> None:
        """The score has the teacher's quality, whether or not the student has any."""
        loss, student, teacher = built("dense_labels", shape=replace(SHAPE, product=product)), outputs(1), outputs(2)
        student = with_quality(student, 5) if judged in ("both", "student") else student
        teacher = with_quality(teacher, 6) if judged in ("both", "teacher") else teacher
        theirs = [{name: array(levels[i]) for name, levels in teacher.head.items()} for i in range(2)]
        scores = [sigmoid(level["class_logits"]).max(axis=-1) for level in theirs]
        if judged in ("both", "teacher"):
            products = [one * sigmoid(level["quality"][..., 0]) for one, level in zip(scores, theirs, strict=True)]
            scores = products if product else [np.sqrt(one) for one in products]
        count = sum(one.sum() for one in scores)

        def formula(x: Arrays, start: Arrays) -> dict[str, Any]:
            terms: dict[str, Any] = {}
            for i, stride in enumerate(STRIDES):
                own, wanted = x[f"class_logits/{i}"], sigmoid(theirs[i]["class_logits"])
                terms[f"classes/{stride}"] = (cross_entropy(own, wanted) * (sigmoid(own) - wanted) ** 2).sum() / count
                apart = giou_loss(boxes_of(x[f"box_deltas/{i}"], i), boxes_of(theirs[i]["box_deltas"], i))
                terms[f"boxes/{stride}"] = (apart * scores[i]).sum() / count
                if judged == "both":
                    wrong = cross_entropy(x[f"quality/{i}"][..., 0], sigmoid(theirs[i]["quality"][..., 0]))
                    terms[f"quality/{stride}"] = (wrong * scores[i]).sum() / count
            return terms

        names = ("class_logits", "box_deltas", *(("quality",) if judged == "both" else ()))
        check(loss, student, teacher, leaves(student, *names), formula)
        assert [loss.weight(f"{term}/8") for term in ("classes", "boxes", "quality")] == [4, 1, 1]


def with_quality(made: Outputs, seed: int) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    levels = tuple(torch.randn(2, count, 1, generator=generator).requires_grad_() for count in ROWS)
    return replace(made, head={**made.head, "quality": levels})


def bilinear(level: Array, y: float, x: float) -> Array:
    """A value between positions; torchvision takes the border's up to one position outside, and 0 beyond."""
    height, width = level.shape[-2:]
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(level.shape[0])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    b, a = y - top, x - left
    rows = [(1 - a) * level[:, r, left] + a * level[:, r, right] for r in (top, down)]
    return (1 - b) * rows[0] + b * rows[1]


def pooled(level: Array, box: Array, stride: int) -> Array:
    x1, y1, x2, y2 = box / stride - 0.5
    step_y, step_x = (y2 - y1) / 20, (x2 - x1) / 20
    samples = [[bilinear(level, y1 + (r + 0.5) * step_y, x1 + (c + 0.5) * step_x) for c in range(20)] for r in range(20)]
    grid = np.array(samples).reshape(10, 2, 10, 2, level.shape[0])
    return grid.mean(axis=(1, 3)).transpose(2, 0, 1)


def convolved(x: Array, module: Any) -> Array:
    kernel, bias = array(module.weight), array(module.bias)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = x.shape[2:]
    shifts = [
        np.einsum("oc,bchw->bohw", kernel[:, :, i, j], padded[:, :, i : i + height, j : j + width]) for i in range(3) for j in range(3)
    ]
    return np.sum(shifts, axis=0) + bias[None, :, None, None]


class TestGeneralInstance:
    def instances(self, student: Outputs, teacher: Outputs) -> list[Array]:
        """Suppressed one by one."""
        own, other = (np.concatenate([sigmoid(array(t)) for t in one.head["class_logits"]], axis=1) for one in (student, teacher))
        mine, theirs = (
            np.concatenate([boxes_of(array(t), i) for i, t in enumerate(one.head["box_deltas"])], axis=1) for one in (student, teacher)
        )
        found = []
        for image in range(2):
            scores = np.abs(own - other)[image].max(axis=1)
            kept: list[Array] = []
            for place in np.argsort(-scores, kind="stable"):
                box = (theirs if other[image, place].max() > own[image, place].max() else mine)[image, place].clip(0, SIZE)
                if len(kept) < 10 and all(iou(box, one) <= 0.3 for one in kept):
                    kept.append(box)
            found.append(np.array(kept))
        return found

    def test_every_term(self) -> None:
        loss: Any = built("general_instance")
        student, teacher = outputs(1), outputs(2)
        found = self.instances(student, teacher)
        assert len(loss.adapters) == 1
        at = np.stack([assigned(boxes)[0] >= 0 for boxes in found])

        def level(box: Array) -> int:
            return int(abs(np.floor(4 + np.log2(np.sqrt((box[2] - box[0]) * (box[3] - box[1])) / 224)) - 4) < 0.5)  # 3 or less: stride 8

        def features(levels: Sequence[Array]) -> Array:
            return np.array([pooled(levels[level(b)][i], b, STRIDES[level(b)]) for i, boxes in enumerate(found) for b in boxes])

        def distances(x: Array) -> Array:
            flat = x.reshape(len(x), -1)
            apart = np.sqrt(((flat[:, None] - flat[None]) ** 2).sum(axis=-1))
            return apart / apart[apart > 0].mean()

        theirs = features([array(t) for t in teacher.pyramid])

        def formula(x: Arrays, start: Arrays) -> dict[str, Any]:
            mine = features([convolved(x[f"pyramid/{i}"], loss.adapters[0]) for i in range(2)])
            apart = np.abs(distances(mine) - distances(theirs))
            huber = np.where(apart < 1, apart**2 / 2, apart - 0.5)
            logits, other = (
                np.concatenate(parts, axis=1)
                for parts in zip(*((x[f"class_logits/{i}"], array(teacher.head["class_logits"][i])) for i in range(2)), strict=True)
            )
            moves = np.concatenate([x[f"box_deltas/{i}"] - array(teacher.head["box_deltas"][i]) for i in range(2)], axis=1)
            extent = np.concatenate([np.full(n, 3.0 * s) for n, s in zip(ROWS, STRIDES, strict=True)])[None, :, None]
            return {
                "feature": ((mine - theirs) ** 2).sum() / (len(mine) * 100),
                "relation": huber.sum() / (len(mine) * (len(mine) - 1)),
                "classes": (cross_entropy(logits, sigmoid(other)).sum(axis=-1) * at).sum() / at.sum(),
                "boxes": (np.abs(moves / extent).sum(axis=-1) * at).sum() / at.sum(),
            }

        check(loss, student, teacher, leaves(student, "class_logits", "box_deltas", "pyramid"), formula)
        assert loss.weights == {"feature": 0.005, "relation": 40, "classes": 0.1, "boxes": 0.1}

    def test_equal_networks_have_no_instances_and_no_error(self) -> None:
        loss, student = built("general_instance"), outputs(1)
        terms = loss(student, outputs(1), targets())
        assert all(value.item() == 0 for value in terms.values())
        torch.stack(list(terms.values())).sum().backward()
        assert all(level.grad is None or torch.isfinite(level.grad).all() for level in student.pyramid)


def conv1x1(x: Array, module: Any) -> Array:
    return np.einsum("oc,bchw->bohw", array(module.weight)[:, :, 0, 0], x) + array(module.bias)[None, :, None, None]


def bounded(own: Array, other: Array, objects: Array, margin: float) -> Any:
    extent = np.tile(objects[:, 2:] - objects[:, :2], 2)
    mine, theirs = ((((boxes - objects) / extent) ** 2).sum(axis=1) for boxes in (own, other))
    return mine[mine + margin > theirs].sum()


class TestChen:
    def rows(self, x: Arrays, teacher: Outputs, name: str, margin: float) -> tuple[Any, Any]:
        """The sums over places of both errors."""
        own, wanted = (
            np.concatenate(parts, axis=1)
            for parts in zip(*((x[f"{name}/{i}"], sigmoid(array(teacher.head[name][i]))) for i in range(2)), strict=True)
        )
        classes = wanted * np.logaddexp(0, -own) + 1.5 * (1 - wanted) * np.logaddexp(0, own)
        mine = np.concatenate([boxes_of(x[f"box_deltas/{i}"], i) for i in range(2)], axis=1)
        theirs = np.concatenate([boxes_of(array(teacher.head["box_deltas"][i]), i) for i in range(2)], axis=1)
        return classes.sum(), bounded(mine[WHERE], theirs[WHERE], OBJECTS[WHERE], margin)

    def hint(self, x: Arrays, teacher: Outputs, loss: Any) -> Any:
        adapted = [conv1x1(x[f"pyramid/{i}"], loss.adapters[i]) - array(teacher.pyramid[i]) for i in range(2)]
        return np.mean([(one**2).mean() for one in adapted])

    @pytest.mark.parametrize("margin", [0.0, 0.3])
    def test_one_stage(self, margin: float) -> None:
        loss, student, teacher = built("chen", margin=margin), outputs(1), outputs(2)

        def formula(x: Arrays, start: Arrays) -> dict[str, Any]:
            classes, boxes = self.rows(x, teacher, "class_logits", margin)
            return {"hint": self.hint(x, teacher, loss), "classes": classes / COUNT, "boxes": boxes / COUNT}

        check(loss, student, teacher, leaves(student, "class_logits", "box_deltas", "pyramid"), formula)
        assert set(loss.weights.values()) == {0.5}

    @pytest.mark.parametrize("shared", [False, True], ids=["a box per class", "one box for all classes"])
    def test_two_stages(self, shared: bool) -> None:
        loss = built("chen", "two_stage", regions=3)
        student, teacher = outputs(1, name="objectness"), outputs(2, name="objectness")
        proposals = torch.tensor([[5.0, 9, 31, 38], [40, 2, 60, 20], [20, 28, 58, 60], [0, 0, 9, 9]])
        student = replace(student, proposals=(proposals, proposals))
        given = [np.concatenate((array(proposals[:3]), array(target.boxes))) for target in targets()]
        count, generator = sum(map(len, given)), torch.Generator().manual_seed(9)
        for network in (student.network, teacher.network):
            assert isinstance(network, HeadStandIn)
            network.told = {
                "class_logits": torch.randn(count, CLASSES, generator=generator).requires_grad_(),
                "background": torch.randn(count, generator=generator).requires_grad_(),
                "boxes": (torch.rand(count, 1 if shared else CLASSES, 4, generator=generator) * 60).requires_grad_(),
            }
        own, other = (network.told for network in (student.network, teacher.network) if isinstance(network, HeadStandIn))
        objects, labels, learns = [], [], []
        for boxes, target in zip(given, targets(), strict=True):
            for box in boxes:
                overlaps = [iou(box, one) for one in array(target.boxes)]
                learns.append(max(overlaps) >= 0.5)
                if learns[-1]:
                    objects.append(array(target.boxes)[np.argmax(overlaps)])
                    labels.append(0 if shared else int(target.labels[np.argmax(overlaps)]))
        assert 3 < sum(learns) < len(learns)

        def formula(x: Arrays, start: Arrays) -> dict[str, Any]:
            classes, moved = self.rows(x, teacher, "objectness", 0.0)
            mine = np.log(softmax(np.concatenate((x["class_logits"], x["background"][:, None]), axis=1)))
            wanted = softmax(np.concatenate((array(other["class_logits"]), array(other["background"])[:, None]), axis=1))
            boxes, others = (b[np.array(learns)][np.arange(len(labels)), labels] for b in (x["boxes"], array(other["boxes"])))
            return {
                "hint": self.hint(x, teacher, loss),
                "proposal_classes": classes / WHERE.size,
                "proposal_boxes": moved / COUNT,
                "classes": -(wanted * mine * np.array([1, 1, 1, 1.5])).sum() / count,
                "boxes": bounded(boxes, others, np.array(objects), 0.0) / count,
            }

        check(loss, student, teacher, leaves(student, "objectness", "box_deltas", "pyramid") | own, formula)


class TestCrossHead:
    def test_every_term(self) -> None:
        loss, student, teacher = built("cross_head"), outputs(1), outputs(2)
        network = teacher.network
        assert isinstance(network, HeadStandIn)
        # what the teacher's own head says is what it makes of its own towers
        teacher = replace(teacher, head=network.head_after(network.towers(teacher, 3), (SIZE, SIZE)).head)
        to_logits, to_deltas = array(network.to_logits), array(network.to_deltas)

        def rows(level: Array) -> Array:
            return level.reshape(*level.shape[:2], -1).transpose(0, 2, 1)

        def aligned(own: Array, other: Array) -> Array:
            mean, deviation = (f(own, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
            return (own - mean) / deviation * other.std(axis=(0, 2, 3), keepdims=True) + other.mean(axis=(0, 2, 3), keepdims=True)

        def formula(x: Arrays, start: Arrays) -> dict[str, Any]:
            terms: dict[str, Any] = {}
            for i, stride in enumerate(STRIDES):
                theirs = array(teacher.pyramid[i])
                own = rows(aligned(x[f"pyramid/{i}"], theirs)) @ to_logits.T
                moves = rows(aligned(2 * x[f"pyramid/{i}"], 2 * theirs)) @ to_deltas.T
                wanted, others = sigmoid(rows(theirs) @ to_logits.T), boxes_of(rows(2 * theirs) @ to_deltas.T, i)
                terms[f"classes/{stride}"] = (cross_entropy(own, wanted) * np.abs(sigmoid(own) - wanted)).sum() / COUNT
                terms[f"boxes/{stride}"] = (giou_loss(boxes_of(moves, i), others) * wanted.max(axis=-1)).sum() / COUNT
            return terms

        check(loss, student, teacher, leaves(student, "pyramid"), formula)
        assert loss.weights == {"classes": 1, "boxes": 1}

    def test_it_cuts_where_published_or_before_the_last_convolution(self) -> None:
        module = plugins.load("stages.losses", "cross_head")
        deep, short = side(), side(shape=replace(SHAPE, convs=2))
        assert [module.build(deep, deep).after, module.build(short, deep).after, module.build(deep, deep, after=1).after] == [3, 1, 1]
        fcos = replace(deep, detector="fcos")
        assert module.build(fcos, fcos).after == 2
        with pytest.raises(ConfigError, match="after: 2 leaves nothing of towers of 2 convolutions to cross; choose at most 1"):
            module.build(deep, short, after=2)

    def test_different_widths_have_adapters(self) -> None:
        wide = side(shape=replace(SHAPE, channels=6))
        loss: Any = plugins.load("stages.losses", "cross_head").build(side(), wide)
        assert [adapter.weight.shape[:2] for adapter in loss.adapters] == [(6, CHANNELS)] * 2


class TestSharedQueries:
    def test_every_term(self) -> None:
        loss: Any = plugins.load("stages.losses", "shared_queries").build(
            side("set_prediction"), side("set_prediction", replace(SHAPE, channels=6))
        )
        assert loss.adapter.weight.shape == (CHANNELS, 6)
        student, teacher = outputs(1), outputs(2)
        generator = torch.Generator().manual_seed(4)
        for one in (student, teacher):
            assert isinstance(one.network, HeadStandIn)
            corner = torch.rand(2, 7, 2, generator=generator) * 30
            extent = torch.rand(2, 7, 2, generator=generator) * 30 + 1
            one.network.told = {
                "class_logits": torch.randn(2, 7, CLASSES, generator=generator).requires_grad_(),
                "boxes": torch.cat((corner, corner + extent), dim=2).requires_grad_(),
                "features": torch.randn(2, 7, 6, generator=generator),
                "places": torch.rand(2, 7, 4, generator=generator),
            }
        own, other = (one.network.told for one in (student, teacher) if isinstance(one.network, HeadStandIn))

        def formula(x: Arrays, start: Arrays) -> dict[str, Any]:
            wanted, others = sigmoid(array(other["class_logits"])), array(other["boxes"])
            certain = wanted.max(axis=-1) / wanted.max(axis=-1).sum()
            return {
                "classes": (cross_entropy(x["class_logits"], wanted).sum(axis=-1) * certain).sum(),
                "boxes": (np.abs((x["boxes"] - others) / SIZE).sum(axis=-1) * certain).sum(),
                "overlap": (giou_loss(x["boxes"], others) * certain).sum(),
            }

        check(loss, student, teacher, {name: own[name] for name in ("class_logits", "boxes")}, formula)
        assert loss.weights == {"classes": 1, "boxes": 5, "overlap": 2}


HALF = ("localization", "general_instance", "chen", "cross_head")


@pytest.mark.parametrize("name", HALF)
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_gives_finite_terms_near_those_of_full(name: str, kind: torch.dtype) -> None:
    loss, student, teacher = built(name), outputs(1), outputs(2)
    full = loss(student, teacher, targets())

    def halved(one: Outputs) -> Outputs:
        head = {key: tuple(level.detach().to(kind) for level in levels) for key, levels in one.head.items()}
        return replace(one, pyramid=tuple(level.detach().to(kind) for level in one.pyramid), head=head)

    network = teacher.network
    assert isinstance(network, HeadStandIn)
    network.to_logits, network.to_deltas = network.to_logits.to(kind), network.to_deltas.to(kind)
    with torch.autocast("cpu", kind if kind == torch.bfloat16 else torch.float16):
        half = loss(halved(student), halved(teacher), targets())
    for term, value in full.items():
        assert torch.isfinite(half[term]), term
        assert half[term].item() == pytest.approx(value.item(), rel=0.1), term
