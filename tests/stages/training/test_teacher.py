"""The teacher as a student's training runs it."""

import pytest
import tiny
import torch

from stages.detectors import Detector
from stages.training.checkpoint import build_detector
from stages.training.teacher import Teacher, TeacherPrecision

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def detector() -> Detector:
    return build_detector(tiny.detector(tiny.TEACHER), 10, 5)


@pytest.mark.parametrize(("precision", "tolerance"), [("same", 1e-5), ("fp32", 1e-5), ("bf16", 0.05)])
def test_its_pyramid_is_that_of_eval_mode_in_float32(precision: TeacherPrecision, tolerance: float) -> None:
    with torch.no_grad():
        expected = detector().eval()(IMAGES).pyramid
    found = Teacher(detector(), precision)(IMAGES).pyramid
    for level, other in zip(found, expected, strict=True):
        assert level.dtype == torch.float32
        assert not level.requires_grad
        assert not level.is_inference()
        assert float((level - other).abs().max()) <= tolerance * float(other.abs().max())
    assert precision != "bf16" or float((found[0] - expected[0]).abs().max()) > 1e-4


def test_full_precision_holds_inside_a_training_in_half() -> None:
    plain = Teacher(detector())(IMAGES).pyramid[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Teacher(detector(), "fp32")(IMAGES).pyramid[0], plain)
        assert not torch.equal(Teacher(detector(), "same")(IMAGES).pyramid[0], plain)


@pytest.mark.slow
def test_compiled_it_says_the_same() -> None:
    expected, found = Teacher(detector())(IMAGES), Teacher(detector(), compiled=True)(IMAGES)
    for level, other in zip(found.pyramid, expected.pyramid, strict=True):
        torch.testing.assert_close(level, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_it_is_asked_later_is_computed_in_its_precision_and_gradient_flows_through_it(precision: TeacherPrecision) -> None:
    teacher = Teacher(detector(), precision)
    outputs = teacher(IMAGES)
    features = [level.clone().requires_grad_() for level in outputs.pyramid]
    other: torch.dtype = torch.bfloat16 if precision == "fp32" else torch.float32
    with torch.autocast("cpu", torch.bfloat16, enabled=other == torch.bfloat16):  # the student's
        logits = outputs.head_on(features).head["class_logits"][0]
    assert logits.dtype == (torch.float32 if precision == "fp32" else torch.bfloat16)
    logits.float().sum().backward()
    assert features[0].grad is not None
    assert all(parameter.grad is None for parameter in teacher.detector.parameters())
    assert all(not boxes.requires_grad for boxes in outputs.decoded().boxes)
