from typing import Any

import pytest
from pydantic import ValidationError

from deploy.runtimes import openvino, ort, trt_rtx
from stages.config import TargetConfig, TrainConfig


def target(**options: Any) -> TargetConfig:
    return TargetConfig.model_validate({"name": "here", "runtime": "ort", "precision": "int8", "int8": {"finetune": True}, **options})


def test_finetune_is_enough() -> None:
    student = TrainConfig(epochs=21, learning_rate=2e-3, warmup_steps=300, ema=0.99, precision="bf16", compile=True, batch_size=4)
    how = target(calibration_images=7, ranges="percentile").finetuning(student)
    assert how is not None
    assert how.train.learning_rate == pytest.approx(2e-5)
    assert (how.train.epochs, how.train.warmup_steps, how.train.batch_size) == (3, 50, 4)
    assert (how.train.ema, how.train.weight_decay, how.train.precision, how.train.compile) == (None, 0, "fp32", False)
    assert (how.calibration_images, how.ranges, how.recipe) == (7, "percentile", ort.INTEGERS)
    assert [(loss.name, loss.weight) for loss in how.losses] == [("pearson", 1.0)]


def test_without_it_nothing_is_trained() -> None:
    assert target(int8=None).finetuning(TrainConfig()) is None
    assert target(int8={}).finetuning(TrainConfig()) is None
    none = target(int8={"finetune": True, "weight": 0}).finetuning(TrainConfig())
    assert none is not None
    assert none.train.epochs == 0


def test_each_kind_of_int8_has_a_training_and_targets_of_one_kind_share_it() -> None:
    student = TrainConfig()
    first, second = (target(name=name).finetuning(student) for name in ("one", "two"))
    assert first == second
    kinds = {name: target(runtime=name).finetuning(student) for name in ("openvino", "trt_rtx", "trt")}
    assert kinds["trt"] == kinds["trt_rtx"] != first
    assert kinds["openvino"] is not None
    assert kinds["openvino"].recipe == openvino.INTEGERS
    assert kinds["trt_rtx"] is not None
    assert kinds["trt_rtx"].recipe == trt_rtx.INTEGERS.for_training != trt_rtx.INTEGERS


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"precision": "fp16"}, "runtime ort and precision fp16; name the runtime, and choose precision int8"),
        ({"runtime": "auto"}, "runtime auto and precision int8"),
        ({"precision": "auto"}, "precision auto"),
        ({"int8": {"finetune": True, "learning_rate": 0}}, "greater than 0"),
        ({"int8": {"finetune": True, "losses": [{"name": "pearso"}]}}, "did you mean pearson"),
        ({"int8": {"finetune": True, "losses": [{"name": "pearson"}, {"name": "pearson", "weight": 2}]}}, "pearson is listed 2 times"),
        ({"int8": {"finetuned": True}}, "Extra inputs"),
    ],
)
def test_what_has_no_meaning_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        target(**options)
