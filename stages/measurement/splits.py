"""A split of the data, as engines are judged on it."""

from deploy.accuracy.judge import LabeledSplit
from deploy.errors import DataError
from stages.artifacts import Dataset, read_json


def labeled_split(dataset: Dataset, name: str) -> LabeledSplit:
    """The split's images and ground truth.

    Raises:
        DataError: the data has no such split, or it is empty.
    """
    truth = read_json(dataset.annotations(name))
    if not truth["images"]:
        raise DataError(f"the split '{name}' has no image to validate on")
    return LabeledSplit(name, truth, tuple(dataset.images(name) / image["file_name"] for image in truth["images"]))
