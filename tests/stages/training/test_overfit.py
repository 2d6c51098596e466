"""Every detector, tiny, learns eight images by heart."""

from pathlib import Path
from typing import Any

import pytest
import tiny
from detector_samples import TINY

from deploy import plugins
from stages.config import DetectorConfig, ExportConfig
from stages.measurement.torch_accuracy import evaluate
from stages.training.checkpoint import build_detector
from stages.training.loop import Task, Trainer

SIZE = 128
TRAIN: dict[str, Any] = {"epochs": 150, "batch_size": 8, "learning_rate": 2e-3, "warmup_steps": 10, "ema": None}
_PATIENT: dict[str, Any] = {"epochs": 600, "learning_rate": 5e-4, "warmup_steps": 50}
OTHERS: dict[str, dict[str, Any]] = {"lw_detr": _PATIENT, "rf_detr": {**_PATIENT, "epochs": 1200}}
"""What differs for detectors that learn more slowly."""


@pytest.mark.slow
@pytest.mark.parametrize("name", plugins.names("stages.detectors"))
def test_eight_images_are_learned_by_heart(name: str, tmp_path: Path) -> None:
    dataset = tiny.dataset(tmp_path / "digits", train_images=8, size=SIZE)
    detector = build_detector(DetectorConfig.model_validate({"name": name, **TINY[name]}), 10, 0)
    config = tiny.schedule(**{**TRAIN, **OTHERS.get(name, {})})
    folder = tmp_path / "training"
    folder.mkdir()
    trained = Trainer(Task(detector), dataset, config, seed=0, device="cpu", folder=folder, label=name).run()
    accuracy = evaluate(folder, trained, dataset, "train", ExportConfig())
    assert accuracy.map_50 is not None
    assert accuracy.map_50 >= 0.9
