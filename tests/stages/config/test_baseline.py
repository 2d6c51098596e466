"""How many epochs the baseline at equal cost has, and when it is left out."""

import pytest

from stages.config import BaselineConfig, StudentConfig, stretched


@pytest.mark.parametrize(
    ("epochs", "ratio", "expected"),
    [
        (40, 1.8, 72),
        (3, 1.8, 5),  # 5.4
        (3, 1.5, 5),  # 4.5: a half is rounded up, in the baseline's favor
        (3, 1.16, 3),  # 3.48
        (3, 1.17, 4),  # 3.51
        (12, 1.0, 12),
        (12, 0.7, 12),  # never fewer than the student has
        (0, 1.8, 0),
        (1, 2.4, 2),
    ],
)
def test_epochs_at_equal_cost(epochs: int, ratio: float, expected: int) -> None:
    options = {"epochs": epochs, "warmup_steps": 7, "schedule": "multistep"}
    student = StudentConfig.model_validate({"detector": {"name": "fcos"}, "train": options, "weights": "start.safetensors"})
    longer = stretched(student, ratio)
    assert longer.train.epochs == expected
    assert longer.model_copy(update={"train": student.train}) == student
    assert longer.train.model_copy(update={"epochs": epochs}) == student.train


@pytest.mark.parametrize(
    ("asked", "seconds", "why"),
    [
        ({}, 3600.0, None),
        ({}, 3601.0, "training it for 72 epochs would take about 60 minutes, and baseline.max_minutes is 60; set it to 61 to have it"),
        ({"max_minutes": 0}, 0.0, None),
        (
            {"max_minutes": 0.5},
            90.0,
            "training it for 72 epochs would take about 1.5 minutes, and baseline.max_minutes is 0.5; ",
        ),
        ({"equal": "cost"}, 1e6, None),  # it was asked for
        ({"equal": "cost", "max_minutes": 1}, 1e6, None),
    ],
)
def test_what_takes_too_long_is_left_out_and_the_reason_says_how_to_have_it(
    asked: dict[str, object], seconds: float, why: str | None
) -> None:
    found = BaselineConfig.model_validate(asked).why_left_out(72, seconds)
    assert found is None if why is None else found is not None and found.startswith(why)
