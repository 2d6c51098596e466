"""When a training counts as unfinished, and where it is judged."""

import pytest
from pydantic import ValidationError

from deploy.comparison.interval import MIN_IMAGES
from deploy.comparison.learning_curve import LEAST_GAIN, CurvePoint, images_judged, judged_steps, still_rising
from deploy.contract import LastFifth


def gave(gain: float, low: float, num_images: int = 100) -> LastFifth:
    return LastFifth(gain=gain, low=low, high=gain + 0.01, num_images=num_images)


@pytest.mark.parametrize(
    ("last_fifth", "verdict"),
    [
        (gave(0.034, 0.012), True),
        (gave(LEAST_GAIN, 1e-9), True),
        (gave(0.0099, 0.005), False),  # certain, but less than a point
        (gave(0.2, 0.0), False),  # much, but perhaps nothing
        (gave(0.2, -0.1), False),
        (gave(0.0, 0.0), False),
        (gave(-0.03, -0.05), False),
        (gave(0.2, 0.1, MIN_IMAGES), True),
        (gave(0.2, 0.1, MIN_IMAGES - 1), None),
        (gave(0.2, 0.2, 1), None),  # the interval of one image has no width
        (None, None),
    ],
)
def test_still_rising(last_fifth: LastFifth | None, verdict: bool | None) -> None:
    assert still_rising(last_fifth) is verdict


def test_a_gain_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValidationError):
        gave(float("nan"), 0.0)
    with pytest.raises(ValidationError):
        CurvePoint(step=1, share=0.2, map=float("nan"))


@pytest.mark.parametrize(
    ("num_steps", "num_trained", "num_judged", "steps"),
    [
        (1000, 8000, 100, (200, 400, 600, 800)),
        (500, 4000, 100, (100, 200, 300, 400)),  # 400 images are judged on the way, a tenth of those trained on
        (499, 3992, 100, (399,)),
        (5, 10_000, 1, (1, 2, 3, 4)),
        (5, 20, 100, (4,)),
        (4, 10_000, 1, ()),
        (0, 0, 100, ()),
    ],
)
def test_short_trainings_are_judged_less_often(num_steps: int, num_trained: int, num_judged: int, steps: tuple[int, ...]) -> None:
    assert judged_steps(num_steps, num_trained, num_judged) == steps


@pytest.mark.parametrize(("num_images", "judged"), [(1, 50), (296, 50), (2000, 50), (4000, 100), (8000, 200), (118_287, 200)])
def test_as_many_images_are_judged_as_the_training_images_warrant(num_images: int, judged: int) -> None:
    assert images_judged(num_images) == judged
