"""The conditions under which engines are judged in addition to the images of the judged split as they are: other splits, corruptions."""

from typing import Literal, NamedTuple

Corruptions = Literal["quick", "full"]

CorruptionName = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
    "speckle_noise",
    "gaussian_blur",
    "spatter",
    "saturate",
]

CORRUPTIONS: tuple[CorruptionName, ...] = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The benchmark's fifteen, in its order: noise, blur, weather, digital. Michaelis et al., "Benchmarking Robustness in Object Detection",
2019, https://arxiv.org/abs/1907.07484, after Hendrycks and Dietterich, ICLR 2019."""

HELD_OUT: tuple[CorruptionName, ...] = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The benchmark's four others, on which networks may be trained without having seen what they are judged on."""

SEVERITIES = {"quick": (3,), "full": (1, 2, 3, 4, 5)}
QUICK_IMAGES = (100, 200)
"""A quick sweep has half of the images, but at least and at most as many; a full one has all."""

MOST_PIXELS = 2048 * 1024
"""Images with more are shrunk before they are corrupted: the benchmark's largest images, Cityscapes', have as many. Noise and blur of a few
px would be lost when the network shrinks the image."""

MIN_SIDE_PX = 32
"""Corruptions are not defined for smaller images."""


class Condition(NamedTuple):
    """A split's images as they are, or corrupted at a severity from 1 to 5."""

    split: str
    corruption: str | None = None
    severity: int = 0


def num_swept(mode: Corruptions, images: int) -> int:
    """How many of a split's images are corrupted."""
    least, most = QUICK_IMAGES
    return images if mode == "full" else min(images, max(least, min(most, (images + 1) // 2)))


def sweep(split: str, mode: Corruptions) -> tuple[Condition, ...]:
    """Every corruption at every severity of a sweep over a split."""
    return tuple(Condition(split, corruption, severity) for corruption in CORRUPTIONS for severity in SEVERITIES[mode])
