"""How mAP rose during a training, and whether it was still rising at the end."""

from deploy.comparison.interval import MIN_IMAGES
from deploy.contract import Frozen, LastFifth

SHARES = (0.2, 0.4, 0.6, 0.8)
"""Shares of a training's steps after which its weights are judged, in addition to the end."""

SHARE_OF_IMAGES, MIN_JUDGED, MAX_JUDGED = 1 / 40, 50, 200
"""Images judged at each point, as a share of the training images, and their least and largest number."""

LEAST_GAIN = 0.01
"""A smaller gain of mAP from the last fifth of a training is not worth a longer one."""

MOST_JUDGED = 0.1
"""Images judged on the way, as a share of those trained on, if a training is judged more than once on its way."""


class CurvePoint(Frozen):
    """mAP after `step` of a training's steps, `share` of all; null if undefined, or if an answer was invalid, for the reason `why`."""

    step: int
    share: float
    map: float | None
    why: str | None = None


class LearningCurve(Frozen):
    """mAP of the weights that would be shipped, on the same `num_images` images of the split at each point.

    `last_fifth` is null if the training was too short to be judged before it, or if mAP is undefined.
    """

    split: str
    num_images: int
    points: tuple[CurvePoint, ...]
    last_fifth: LastFifth | None = None


def still_rising(last_fifth: LastFifth | None) -> bool | None:
    """Whether mAP was still rising when a training ended: its last fifth gave a point of mAP or more, and the interval is above 0.

    None if that is unknown: nothing was measured, or only on a few images.
    """
    if last_fifth is None or last_fifth.num_images < MIN_IMAGES:
        return None
    return last_fifth.gain >= LEAST_GAIN and last_fifth.low > 0


def images_judged(num_images: int) -> int:
    """The largest number of images that are judged at each point, given the number of training images.

    It depends on nothing else, so that all networks of a run are judged on the same images.
    """
    return min(max(round(num_images * SHARE_OF_IMAGES), MIN_JUDGED), MAX_JUDGED)


def judged_steps(num_steps: int, num_trained: int, num_judged: int) -> tuple[int, ...]:
    """The steps after which a training is judged on its way.

    A short training is judged only before its last fifth, and one of fewer than five steps not at all.

    Args:
        num_trained: images that the training sees, repetitions included.
        num_judged: images that are judged at each point.
    """
    shares = SHARES if len(SHARES) * num_judged <= MOST_JUDGED * num_trained else SHARES[-1:]
    return tuple(round(share * num_steps) for share in shares) if num_steps > len(SHARES) else ()
