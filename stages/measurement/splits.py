"""A split of the data: what networks learn from, and what engines are judged on."""

from deploy.accuracy.judge import LabeledSplit
from deploy.accuracy.spread import spread
from deploy.errors import DataError
from stages.artifacts import Dataset, read_json


def labeled_split(dataset: Dataset, name: str) -> LabeledSplit:
    """The split's images and ground truth.

    Raises:
        DataError: the data has no such split, or it is empty.
    """
    truth = read_json(dataset.annotations(name))
    if not truth["images"]:
        raise DataError(f"the split '{name}' has no images")
    return LabeledSplit(name, truth, tuple(dataset.images(name) / image["file_name"] for image in truth["images"]))


def some(split: LabeledSplit, count: int) -> LabeledSplit:
    """At most `count` of the split's images, evenly spread, with their ground truth."""
    pairs = spread(list(zip(split.truth["images"], split.images, strict=True)), count)
    images, files = [image for image, _ in pairs], tuple(file for _, file in pairs)
    kept = {image["id"] for image in images}
    annotations = [one for one in split.truth["annotations"] if one["image_id"] in kept]
    return LabeledSplit(split.name, {**split.truth, "images": images, "annotations": annotations}, files)
