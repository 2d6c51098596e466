"""Which levels learn from which."""

import pytest
import torch
from loss_samples import side

from deploy.errors import ConfigError
from stages.detectors import Outputs
from stages.losses import NetworkSide
from stages.losses.features.levels import LevelPair, channels, match, pairs

FINE, COARSE = side((4, 8, 16), (1, 2, 3)), side((8, 16, 32), (10, 20, 30))


def outputs(*sizes: tuple[int, int], strides: tuple[int, ...]) -> Outputs:
    return Outputs(tuple(torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) for size in sizes), strides, {})


def test_levels_are_matched_by_stride_and_not_by_index() -> None:
    assert match(FINE, COARSE) == (LevelPair(1, 0), LevelPair(2, 1))
    assert channels(FINE, COARSE, match(FINE, COARSE)) == [(2, 10), (3, 20)]
    assert match(FINE, COARSE, (16,)) == (LevelPair(2, 1),)


def test_of_two_levels_with_one_stride_the_first_counts() -> None:
    twice = side((32, 32, 64), (1, 2, 3))
    assert match(twice, side((16, 32), (5, 6))) == (LevelPair(0, 1),)
    assert match(side((16, 32), (5, 6)), twice) == (LevelPair(1, 0),)


def test_a_missing_level_learns_from_the_nearest_where_that_is_asked_for() -> None:
    assert match(FINE, side((32,), (7,)), missing="interpolate") == (LevelPair(0, 0), LevelPair(1, 0), LevelPair(2, 0))
    assert match(side((16,), (1,)), side((8, 32), (1, 2)), missing="interpolate") == (LevelPair(0, 0),)  # equally near: the finer
    assert match(FINE, COARSE, (4,), "interpolate") == (LevelPair(0, 0),)


@pytest.mark.parametrize(
    ("teacher", "chosen", "missing", "message"),
    [
        (side((32,), (1,)), None, "skip", r"strides \(4, 8, 16\), the teacher's \(32,\).*missing: interpolate"),
        (COARSE, (4,), "skip", r"strides \(4,\) are not all levels of both detectors; choose from \(8, 16\)"),
        (COARSE, (), "skip", r"strides \(\) are not all"),
        (COARSE, (32,), "interpolate", r"not all levels of the student; choose from \(4, 8, 16\)"),
    ],
)
def test_levels_that_cannot_learn_are_refused(teacher: NetworkSide, chosen: tuple[int, ...] | None, missing: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        match(FINE, teacher, chosen, missing)  # type: ignore[arg-type]


def test_the_teachers_map_gets_the_students_size_and_no_gradient() -> None:
    student = outputs((10, 12), (5, 6), strides=(8, 16))
    teacher = outputs((5, 6), (10, 12), strides=(32, 64))
    levels = (LevelPair(0, 0), LevelPair(1, 1))
    (own, grown), (_, shrunk) = pairs(student, teacher, levels)
    assert own is not None
    assert grown.shape[-2:] == (10, 12)
    assert torch.equal(shrunk, torch.nn.functional.avg_pool2d(teacher.pyramid[1], 2))
    assert not grown.requires_grad


def test_maps_of_equal_size_stay_as_they_are() -> None:
    both = outputs((6, 7), strides=(8,))
    own, other = next(pairs(both, both, (LevelPair(0, 0),)))
    assert torch.equal(own, both.pyramid[0])
    assert torch.equal(other, both.pyramid[0])
