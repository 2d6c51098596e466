"""Images that int8 ranges are read from."""

from functools import cached_property
from pathlib import Path

from deploy.accuracy.spread import spread
from deploy.contract import Preprocessing
from deploy.precision import Batch
from deploy.prediction import image_files, preprocess
from stages.artifacts import Dataset
from stages.config import FinetuneConfig, TargetConfig


class CalibrationImages:
    """Images evenly spread over the target's calibration split, preprocessed as in deployment."""

    def __init__(self, dataset: Dataset, target: TargetConfig | FinetuneConfig, preprocessing: Preprocessing) -> None:
        self.dataset = dataset
        self.target = target
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        """The number of images."""
        return len(self._files)

    def __getitem__(self, index: int) -> Batch:
        """One image [1, 3, H, W].

        Raises:
            DataError: the data has no such split.
        """
        seen = image_files.load(self._files[index], self.preprocessing)
        return preprocess.apply(seen.pixels, self.preprocessing, seen.size)[0][None]

    @cached_property
    def _files(self) -> list[Path]:
        split = self.target.calibration_split
        table = self.dataset.table(split)
        folder, chosen = self.dataset.images(split), spread(range(len(table)), self.target.calibration_images)
        return [folder / table.name(index) for index in chosen]
