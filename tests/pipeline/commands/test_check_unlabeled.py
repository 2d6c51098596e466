"""`check` reads images without labels, too, and says which of them cannot be used."""

from pathlib import Path

import flow_samples
import pytest
from PIL import Image

from pipeline.commands.check import data_findings
from pipeline.config import load

DATA = "data={dataset: digits, image_size: 64, train_images: 2, val_images: 1, test_images: 1, shifted_images: 1, unlabelled: photos}"


def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: int, bad: int, **options: object) -> list[tuple[str, str]]:
    """Level and message of what is said of a folder with such files."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(good):
        Image.effect_noise((40, 30), 40 + number).save(f"photos/{number}.png")
    for number in range(bad):
        Path(f"photos/bad{number}.jpg").write_bytes(b"\xff\xd8 not an image")
    Path("pipeline.yaml").write_text(flow_samples.CONFIG)
    config = load(Path("pipeline.yaml"), [DATA, "distill.unlabelled={}", *(f"data.{key}={value}" for key, value in options.items())])
    return [(one.level, one.message) for one in data_findings(config) if "unlabelled" in one.split + one.message]


def test_files_that_cannot_be_used_are_a_warning_with_the_first_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, unusable = found(tmp_path, monkeypatch, good=4, bad=1)
    assert counted == ("info", "5 images without labels")
    assert unusable[0] == "warning"
    assert unusable[1].startswith("left out: unreadable image: 1 of 5 images, first: photos/bad0.jpg: not an image that can be read")


def test_as_many_as_a_run_refuses_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, unusable, refused = found(tmp_path, monkeypatch, good=4, bad=2)
    assert (counted[0], unusable[0], refused[0]) == ("info", "warning", "error")
    assert refused[1].startswith("unlabelled: 2 of 6 images are left out or assumed, first: photos/bad0.jpg")
    assert refused[1].endswith("mend the data, or set data.max_doubtful to 0.34 to go on")


def test_strict_data_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [level for level, _ in found(tmp_path, monkeypatch, good=5, bad=1, strict=True)] == ["info", "error"]


def test_a_folder_with_nothing_else_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = found(tmp_path, monkeypatch, good=0, bad=1, max_doubtful=1)
    assert everything[0] == ("info", "1 image without labels")
    assert everything[-1] == ("error", "unlabelled: no usable image")


def test_a_folder_without_bad_files_is_only_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(tmp_path, monkeypatch, good=2, bad=0) == [("info", "2 images without labels")]
