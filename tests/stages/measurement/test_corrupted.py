from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.accuracy.conditions import Condition
from deploy.accuracy.judge import LabeledSplit
from deploy.contract import Preprocessing
from deploy.prediction import image_files, preprocess
from stages.measurement.corrupted import Views


@pytest.mark.parametrize("reduced", [False, True])
def test_images_as_they_are_look_as_reports_see_them(tmp_path: Path, reduced: bool) -> None:
    file, preprocessing = tmp_path / "a.jpg", Preprocessing(height=96, width=128, reduced_decoding=reduced)
    y, x = np.mgrid[:303, :701]
    Image.fromarray(np.stack((x % 256, y % 256, (x * y) % 256), axis=2).astype(np.uint8)).save(file)
    split = LabeledSplit("val", {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}, (file,))
    (seen,) = Views(split, preprocessing).under([Condition("val")])
    loaded = image_files.load(file, preprocessing)
    assert (loaded.pixels.shape[:2] < (303, 701)) == reduced
    pixels, placement = preprocess.fit(loaded.pixels, preprocessing, loaded.size)
    assert np.array_equal(seen.pixels, pixels)
    assert seen.placement == placement
