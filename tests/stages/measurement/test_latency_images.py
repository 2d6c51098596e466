from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.contract import Preprocessing
from stages.measurement import latency_images

SEEN = Preprocessing(height=32, width=32)


@pytest.mark.parametrize(("kept_bytes", "count"), [(2**28, 64), (10 * 40 * 30 * 3, 10), (10 * 40 * 30 * 3 - 1, 9), (1, 1)])
def test_as_many_images_are_held_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_bytes: int, count: int) -> None:
    files = [tmp_path / f"{number}.png" for number in range(70)]
    for value, file in enumerate(files):
        Image.fromarray(np.full((30, 40, 3), value, np.uint8)).save(file)
    monkeypatch.setattr(latency_images, "KEPT_BYTES", kept_bytes)
    found = latency_images.of(files, SEEN)
    assert len(found) == count
    assert int(found[0].max()) == 0


def test_without_images_it_is_noise_of_the_networks_size() -> None:
    assert [one.shape for one in latency_images.of((), SEEN)] == [(32, 32, 3)] * 4
