"""What teacher and student see if the student's view is corrupted, and corruption as an augmentation of any training."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import robust_samples
import torch
from pydantic import ValidationError

from deploy.accuracy.conditions import CORRUPTIONS, HELD_OUT, CorruptionName
from deploy.errors import ConfigError
from deploy.prediction import image_files, preprocess
from stages.config import Corrupt, DistillConfig, StudentViewConfig, TrainConfig
from stages.training.batches.degrade import degrade, views
from stages.training.batches.loader import TrainingBatch, TrainingImages, collate

pytest.importorskip("imagecorruptions")

ALWAYS = StudentViewConfig(corrupt=1.0, downscale=1.0)


def images(root: Path, student: StudentViewConfig | None, augment: list[dict[str, Any]] | None = None) -> TrainingImages:
    train = TrainConfig.model_validate({"augment": augment or []})
    return TrainingImages(robust_samples.dataset(root), train, 0, student_view=student)


def test_the_teacher_sees_the_clean_view_and_the_student_a_corrupted_one_of_equal_geometry(tmp_path: Path) -> None:
    plain, taught = images(tmp_path / "a", None), images(tmp_path / "b", ALWAYS)
    for index in range(4):
        image, target, clean = taught[1, index]
        assert clean is not None
        assert torch.equal(clean, plain[1, index].image)
        assert torch.equal(target.boxes, plain[1, index].target.boxes)
        assert image.shape == clean.shape
        assert not torch.equal(image, clean)
        assert torch.equal(image, taught[1, index].image)
    assert not torch.equal(taught[1, 0].image, taught[2, 0].image)


def test_without_a_student_view_there_is_no_second_image(tmp_path: Path) -> None:
    assert images(tmp_path, StudentViewConfig())[0, 0].clean is None


def test_clean_views_follow_their_images_into_parts_of_a_batch(tmp_path: Path) -> None:
    taught = images(tmp_path, ALWAYS)
    batch = collate([taught[0, index] for index in range(5)])
    assert isinstance(batch, TrainingBatch)
    parts = batch.to(torch.device("cpu")).split(2)
    assert [len(part.targets) for part in parts] == [3, 2]
    assert batch.clean is not None
    assert torch.equal(torch.cat([part.clean for part in parts if part.clean is not None]), batch.clean)


def test_corrupt_as_an_augmentation_changes_every_networks_view_and_no_box(tmp_path: Path) -> None:
    plain = images(tmp_path / "a", None)
    corrupted = images(tmp_path / "b", None, [{"name": "corrupt", "p": 1.0, "severity": [2, 2], "kinds": ["gaussian_noise"]}])
    image, target, clean = corrupted[0, 0]
    assert clean is None
    assert torch.equal(target.boxes, plain[0, 0].target.boxes)
    assert not torch.equal(image, plain[0, 0].image)


def test_corrupt_shrinks_and_corrupts_as_the_students_view_does() -> None:
    options: dict[str, Any] = {"severity": (2, 4), "kinds": ("spatter",), "downscale": 0.25, "smallest": 0.4}
    every, own = views([Corrupt(name="corrupt", p=0.5, **options)], None)
    assert (every, own) == (StudentViewConfig(corrupt=0.5, **options), None)


def test_both_together_give_the_teacher_the_view_that_every_network_has(tmp_path: Path) -> None:
    augment: list[dict[str, Any]] = [{"name": "corrupt", "p": 1.0, "kinds": ["speckle_noise"]}]
    every, taught = images(tmp_path / "a", None, augment), images(tmp_path / "b", ALWAYS, augment)
    clean = taught[0, 0].clean
    assert clean is not None
    assert torch.equal(clean, every[0, 0].image)


def test_a_probability_is_kept_and_a_seed_decides() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    half = StudentViewConfig(corrupt=0.5, kinds=("saturate",))
    changed = [bool((degrade(pixels, half, seed) != pixels).any()) for seed in range(40)]
    assert 10 < sum(changed) < 30
    assert changed == [bool((degrade(pixels, half, seed) != pixels).any()) for seed in range(40)]
    small = pixels[:20]
    assert (degrade(small, StudentViewConfig(corrupt=1.0), 0) == small).all()


def test_shrinking_keeps_the_size_and_loses_detail() -> None:
    stripes = np.zeros((64, 48, 3), np.uint8)
    stripes[:, ::2] = 255
    found = degrade(stripes, StudentViewConfig(downscale=1.0, smallest=0.3), 3)
    assert found.shape == stripes.shape
    assert found.astype(int).std() < 0.75 * stripes.astype(int).std()


def test_without_the_extra_a_training_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.accuracy.corruptions.why_not", lambda: 'not installed: pip install "edgedistill[robustness]"')
    with pytest.raises(ConfigError, match=r"training on corrupted images: not installed: pip install"):
        images(tmp_path, ALWAYS)
    assert len(images(tmp_path / "b", StudentViewConfig(downscale=0.5))) == robust_samples.NUM_IMAGES


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ({"severity": [3, 1]}, r"\[3, 1\] begins above its end"),
        ({"severity": [0, 3]}, "greater than or equal to 1"),
        ({"kinds": ["gausian_noise"]}, "gaussian_noise"),
        ({"corrupt": 2}, "less than or equal to 1"),
        ({"kinds": []}, "at least 1 item"),
    ],
)
def test_a_bad_view_is_refused(view: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DistillConfig.model_validate({"losses": [{"name": "attention"}], "student_view": view})


def test_every_corruption_can_be_trained_on() -> None:
    import imagecorruptions

    assert get_args(CorruptionName) == (*CORRUPTIONS, *HELD_OUT) == tuple(imagecorruptions.get_corruption_names("all"))


def test_corrupt_is_listed_once() -> None:
    with pytest.raises(ValidationError, match="corrupt is listed more than once"):
        TrainConfig.model_validate({"augment": [{"name": "corrupt"}, {"name": "corrupt", "p": 0.1}]})


def test_the_clean_view_is_what_the_deployed_network_sees(tmp_path: Path) -> None:
    data = robust_samples.dataset(tmp_path)
    taught = TrainingImages(data, TrainConfig(), 0, student_view=ALWAYS)
    contract = data.facts.contract.preprocessing
    pixels = image_files.load_image(data.images("train") / "day-00.png", contract)
    clean = taught[0, 0].clean
    assert clean is not None
    assert np.array_equal(clean.numpy(), preprocess.apply(pixels, contract)[0])
