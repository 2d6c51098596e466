"""Losses on decoded boxes, given regions, given queries and through the teacher's head: dropped in, trained, and refused."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import detector_samples
import pytest
import tiny
import torch
from places import ROOT
from published_samples import METHODS

from deploy import plugins
from deploy.errors import ConfigError
from pipeline import cli
from stages.detectors import Detector
from stages.training.batches.loader import TrainingBatch
from stages.training.distillation import Distillation, build_losses, loss_factor
from stages.training.layers.folding import fold_norms
from stages.training.teacher import Teacher

DECODED = '''
"""Each of the student's boxes against the teacher's box that overlaps it most."""

import torch
from torchvision.ops import box_iou, generalized_box_iou_loss

from stages.losses import Loss, NetworkSide

READS = ("decoded",)
INVARIANT_TO = ("batch",)


class NearestBox(Loss):
    def forward(self, student, teacher, targets):
        own, other = (torch.cat(outputs.decoded().boxes, dim=1) for outputs in (student, teacher))
        errors = []
        for mine, theirs in zip(own, other, strict=True):
            overlap, nearest = box_iou(mine.detach(), theirs).max(dim=1)
            errors.append((generalized_box_iou_loss(mine, theirs[nearest]) * overlap).mean())
        return {"boxes": torch.stack(errors).mean()}


def build(student: NetworkSide, teacher: NetworkSide) -> Loss:
    """Of decoded boxes."""
    return NearestBox()
'''

REGIONS = '''
"""What both second stages say of the teacher's best proposals and of the objects' own boxes."""

import torch
from torch.nn.functional import kl_div

from stages.losses import Loss, NetworkSide

READS = ("regions", "targets")
INVARIANT_TO = ("batch",)


class RegionClasses(Loss):
    def forward(self, student, teacher, targets):
        given = [torch.cat((best[:8], target.boxes)) for best, target in zip(teacher.proposals, targets, strict=True)]
        own, other = (self.logs(outputs.regions(given)) for outputs in (student, teacher))
        return {"classes": kl_div(own, other, log_target=True, reduction="batchmean")}

    def logs(self, regions):
        return torch.cat((regions.background[:, None], regions.class_logits), dim=1).log_softmax(dim=1)


def build(student: NetworkSide, teacher: NetworkSide) -> Loss:
    """Of given regions."""
    return RegionClasses()
'''

CROSSED = '''
"""The student's features, mapped to the teacher's channels and sent through its frozen head, against the teacher's own answer."""

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from deploy.errors import ConfigError
from stages.losses import Loss, NetworkSide

READS = ("pyramid", "teacher_head")
INVARIANT_TO = ("batch",)


class Crossed(Loss):
    def __init__(self, widths, name: str) -> None:
        super().__init__()
        self.name = name
        self.adapters = nn.ModuleList(nn.Conv2d(own, other, 1) for own, other in widths)

    def forward(self, student, teacher, targets):
        features = [adapter(level) for adapter, level in zip(self.adapters, student.pyramid, strict=True)]
        crossed = zip(teacher.head_on(features).head[self.name], teacher.head[self.name], strict=True)
        return {"classes": torch.stack([binary_cross_entropy_with_logits(own, other.sigmoid()) for own, other in crossed]).mean()}


def build(student: NetworkSide, teacher: NetworkSide) -> Loss:
    """Through the teacher's head."""
    if student.strides != teacher.strides:
        raise ConfigError("the teacher's head needs the teacher's strides")
    return Crossed(zip(student.channels, teacher.channels), "objectness" if teacher.kind == "two_stage" else "class_logits")
'''

SAME_QUERIES = '''
"""The teacher's queries through both decoders."""

from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss

from stages.losses import Loss, NetworkSide

READS = ("decoder_queries",)
INVARIANT_TO = ("batch",)


class SameQueries(Loss):
    def forward(self, student, teacher, targets):
        other = teacher.decode_queries()
        own = student.decode_queries(other.queries)
        height = student.size[0]
        classes = binary_cross_entropy_with_logits(own.class_logits, other.class_logits.sigmoid())
        return {"classes": classes, "boxes": l1_loss(own.boxes / height, other.boxes / height)}


def build(student: NetworkSide, teacher: NetworkSide) -> Loss:
    """Of the decoders' answers."""
    return SameQueries()
'''

FILES = {"nearest_box": DECODED, "region_classes": REGIONS, "crossed": CROSSED, "same_queries": SAME_QUERIES}
TRAINS = [
    ("nearest_box", "retinanet", "fcos"),
    ("nearest_box", "mask_rcnn", "faster_rcnn"),
    ("nearest_box", "faster_rcnn", "ssd"),
    ("nearest_box", "lw_detr", "d_fine"),
    ("region_classes", "mask_rcnn", "faster_rcnn"),
    ("crossed", "fcos", "retinanet"),
    ("crossed", "ssd", "ssd"),
    ("crossed", "faster_rcnn", "mask_rcnn"),
    ("same_queries", "rt_detr_v2", "deimv2"),
    ("same_queries", "rf_detr", "lw_detr"),
]
KINDS = {
    "dense_labels": ("dense",),
    "localization": ("dense",),
    "general_instance": ("dense",),
    "chen": ("dense", "two_stage"),
    "cross_head": ("dense",),
    "shared_queries": ("set_prediction",),
}
"""Which kinds of detectors the losses on heads serve."""
TOWERS = ("atss", "fcos", "fsaf", "gfl", "retinanet")
"""Dense detectors that all losses for them serve; cross_head needs towers, general_instance levels of equal width."""
REFUSED = [
    ("region_classes", "faster_rcnn", "fcos", "regions", "the student, fcos, can give only pyramid, head, decoded, teacher_head, towers"),
    (
        "region_classes",
        "retinanet",
        "mask_rcnn",
        "regions",
        "the teacher, retinanet, can give only pyramid, head, decoded, teacher_head, towers",
    ),
    ("crossed", "d_fine", "fcos", "teacher_head", "the teacher, d_fine, can give only pyramid, decoded, decoder_queries"),
    ("same_queries", "fcos", "lw_detr", "decoder_queries", "the teacher, fcos, can give only pyramid, head, decoded, teacher_head, towers"),
    ("feature_richness", "d_fine", "fcos", "teacher_head", "the teacher, d_fine, can give only pyramid, decoded, decoder_queries"),
]
SERVED = [
    ("retinanet", "fcos", METHODS),
    ("fcos", "ssd", METHODS),
    ("mask_rcnn", "faster_rcnn", METHODS),
    ("fcos", "faster_rcnn", METHODS),
    ("fcos", "d_fine", tuple(name for name in METHODS if name != "fine_grained")),
    ("rt_detr_v2", "deimv2", tuple(name for name in METHODS if name not in {"fine_grained", "feature_richness"})),
]
"""The teacher, the student, and the published methods that serve them."""


@pytest.fixture(autouse=True)
def dropped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages import losses

    folder = tmp_path / "losses"
    shutil.copytree(plugins.folder("stages.losses"), folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, source in FILES.items():
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(losses, "__path__", [str(folder)])
    assert losses.__spec__ is not None
    monkeypatch.setattr(losses.__spec__, "submodule_search_locations", [str(folder)])


def build(loss: str | tuple[str, ...], student: Detector, teacher: Detector) -> Distillation:
    config = tiny.distillation(losses=[{"name": name} for name in ([loss] if isinstance(loss, str) else loss)])
    losses = build_losses(config, student, teacher, 0)
    return Distillation(student, Teacher(teacher), losses, loss_factor(config, 9)).train()


@pytest.mark.parametrize(("loss", "large", "small"), TRAINS)
def test_a_step_changes_the_student_and_nothing_of_the_teacher(loss: str, large: str, small: str) -> None:
    student, teacher = detector_samples.tiny(small, 0), detector_samples.tiny(large, 5)
    task = build(loss, student, teacher)
    fold_norms(teacher, detector_samples.images(large)[:1])
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    batch = TrainingBatch(detector_samples.images(small), detector_samples.targets(student, small))
    _, terms = task(batch, task.prepare(batch, 0))
    own = torch.stack([value for term, value in terms.items() if term.startswith(f"{loss}/")]).sum()
    assert torch.isfinite(own)
    assert own > 0
    optimizer = torch.optim.SGD((parameter for parameter in task.parameters() if parameter.requires_grad), lr=1e-3)
    own.backward()  # of this loss alone
    reached = [parameter for parameter in student.parameters() if parameter.grad is not None and parameter.grad.abs().sum() > 0]
    starts = [parameter.detach().clone() for parameter in reached]
    optimizer.step()
    assert reached
    assert any(not torch.equal(start, parameter) for start, parameter in zip(starts, reached, strict=True))
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize(("large", "small", "methods"), SERVED, ids=[f"{large} to {small}" for large, small, _ in SERVED])
def test_every_published_method_trains_the_kinds_that_it_serves(large: str, small: str, methods: tuple[str, ...]) -> None:
    student, teacher = detector_samples.tiny(small, 0), detector_samples.tiny(large, 5)
    task = build(methods, student, teacher)
    batch = TrainingBatch(detector_samples.images(small), detector_samples.targets(student, small))
    _, terms = task(batch, task.prepare(batch, 0))
    learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
    for name in methods:
        own = torch.stack([value for term, value in terms.items() if term.startswith(f"weighted/{name}/")]).sum()
        assert torch.isfinite(own), name
        assert own > 0, name
        grads: Sequence[torch.Tensor | None] = torch.autograd.grad(own, learning, retain_graph=True, allow_unused=True)
        found = [grad for grad in grads if grad is not None]
        assert all(torch.isfinite(grad).all() for grad in found), name
        assert any(grad.abs().sum() > 0 for grad in found), name
        adapters = [parameter for parameter in task.losses[name].parameters() if parameter.requires_grad]
        assert not adapters or all(torch.isfinite(grad).all() for grad in torch.autograd.grad(own, adapters, retain_graph=True))


def test_a_student_without_anchors_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        build("fine_grained", detector_samples.tiny("d_fine"), detector_samples.tiny("fcos"))
    assert str(refused.value).startswith("distill.losses: fine_grained: the student, d_fine, has no anchors")


@pytest.mark.parametrize("loss", KINDS)
@pytest.mark.parametrize("name", plugins.names("stages.detectors"))
def test_a_loss_on_heads_trains_every_detector_that_it_serves_and_refuses_the_others(loss: str, name: str) -> None:
    student, teacher = detector_samples.tiny(name, 0), detector_samples.tiny(name, 5)
    served = {"cross_head": "towers" in student.gives, "general_instance": len(set(teacher.channels)) == 1}
    if student.kind in KINDS[loss] and served.get(loss, True):
        test_a_step_changes_the_student_and_nothing_of_the_teacher(loss, name, name)
        return
    assert student.kind not in KINDS[loss] or name not in TOWERS
    with pytest.raises(ConfigError) as refused:
        build(loss, student, teacher)
    assert str(refused.value).startswith("distill.losses: ")
    assert "choose a different loss" in str(refused.value)
    assert "\n" not in str(refused.value)


MIXED = [
    ("dense_labels", "atss", "fcos"),
    ("localization", "fcos", "gfl"),
    ("localization", "ssd", "ssdlite"),
    ("general_instance", "atss", "fcos"),
    ("chen", "mask_rcnn", "cascade_rcnn"),
    ("cross_head", "fsaf", "atss"),
    ("shared_queries", "rf_detr", "d_fine"),
]


@pytest.mark.parametrize(("loss", "large", "small"), MIXED)
def test_a_loss_on_heads_trains_pairs_of_different_detectors(loss: str, large: str, small: str) -> None:
    test_a_step_changes_the_student_and_nothing_of_the_teacher(loss, large, small)


UNLIKE = [
    ("localization", "retinanet", "fcos", r"at stride 8 they predict different numbers of boxes per position: fcos 1, retinanet 9"),
    (
        "chen",
        "fcos",
        "faster_rcnn",
        r"heads of one kind with the same classes, not faster_rcnn \(two_stage, 5 classes\) and fcos \(dense, 5",
    ),
    ("cross_head", "gfl", "retinanet", r"different numbers of boxes per position: retinanet 9, gfl 1"),
]


@pytest.mark.parametrize(("loss", "large", "small", "why"), UNLIKE)
def test_heads_that_cannot_be_compared_are_refused(loss: str, large: str, small: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        build(loss, detector_samples.tiny(small), detector_samples.tiny(large))


@pytest.mark.parametrize(("loss", "large", "small", "missing", "why"), REFUSED)
def test_a_pair_that_cannot_give_what_is_read_is_refused(loss: str, large: str, small: str, missing: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build(loss, detector_samples.tiny(small), detector_samples.tiny(large))
    assert str(refused.value).startswith(f"distill.losses: {loss} reads {missing}, but {why}; choose a different loss or ")
    assert "\n" not in str(refused.value)


def test_a_detector_without_decoded_boxes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = detector_samples.tiny("fcos"), detector_samples.tiny("retinanet")
    monkeypatch.setattr(student, "gives", ("pyramid",))
    with pytest.raises(ConfigError, match="nearest_box reads decoded, but the student, fcos, can give only pyramid; choose"):
        build("nearest_box", student, teacher)


def test_check_and_run_refuse_the_pair_before_any_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "pipeline.yaml"
    config.write_text(f"extends: {ROOT / 'examples' / 'small.yaml'}\ndistill: {{losses: [{{name: region_classes}}]}}\n", encoding="utf-8")
    assert cli.main(["check", str(config)]) == 2
    line = "distill.losses: region_classes reads regions, but the student, fcos, can give only"
    assert line in capsys.readouterr().out
    assert cli.main(["run", str(config), "--runs", str(tmp_path / "runs")]) == 2
    assert line in capsys.readouterr().err
    assert [path.name.partition("-")[0] for path in (tmp_path / "runs" / ".store").iterdir() if path.is_dir()] == ["prepare"]


def test_what_is_not_given_is_refused_with_the_loss_to_mend() -> None:
    outputs: Any = detector_samples.tiny("fcos").eval()(detector_samples.images("fcos"))
    with pytest.raises(ConfigError, match=r"detector fcos cannot give regions, only pyramid.*READS"):
        outputs.regions(())
