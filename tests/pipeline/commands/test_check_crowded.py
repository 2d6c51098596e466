"""`check` counts the objects that no engine can find."""

from pathlib import Path

import flow_samples
import pytest

from pipeline.commands.check import data_findings
from pipeline.config import load

DATA = "data={dataset: digits, image_size: 64, train_images: 4, val_images: 1, test_images: 1, shifted_images: 1}"


def found(most: int) -> list[tuple[str, str, str]]:
    Path("pipeline.yaml").write_text(flow_samples.CONFIG)
    findings = data_findings(load(Path("pipeline.yaml"), [DATA, f"export.max_detections={most}"]))
    return [(one.level, one.split, one.message) for one in findings if "no engine" in one.message]


def test_each_split_is_warned_of_that_has_fuller_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (level, split, message), *others = found(1)
    assert (level, split) == ("warning", "train")
    assert message.startswith("left out: objects that no engine can find: ")
    assert message.endswith("at most 1 are found in an image; see export.max_detections")
    assert {split for _, split, _ in others} <= {"val", "test", "shifted"}
    assert found(50) == []
