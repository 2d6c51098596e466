"""Detectors that refine their proposals, trained for some steps and deployed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from detector_samples import choice, confident, decisions
from engine_samples import compiled
from numpy.typing import NDArray

from deploy import plugins
from stages.artifacts import Dataset
from stages.config import ExportConfig
from stages.detectors import Detector
from stages.detectors.two_stage.refining import dynamic_rules
from stages.exports.to_onnx import write_onnx
from stages.measurement.torch_accuracy import evaluate
from stages.training.batches.loader import TrainingBatch
from stages.training.checkpoint import build_detector
from stages.training.loop import Task, Trainer

NAMES = ("cascade_rcnn", "dynamic_rcnn", "cascade_mask_rcnn", "grid_rcnn")
SIZES = ((96, 128), (160, 96))


class Stopped(Exception):
    """Stands for a kill."""


def train(name: str, dataset: Dataset, folder: Path, stop_at: int | None = None, **schedule: Any) -> Detector:
    """A training of the tiny detector, broken off before a step."""
    folder.mkdir(exist_ok=True)
    task = Task(build_detector(choice(name), 10, 0))
    trainer = Trainer(task, dataset, tiny.schedule(**schedule), seed=0, device="cpu", folder=folder, label=name)
    take = trainer.step

    def step(batch: TrainingBatch) -> list[dict[str, float]]:
        if trainer._progress.step == stop_at:
            raise Stopped
        return take(batch)

    trainer.step = step  # type: ignore[method-assign]
    return trainer.run()


@pytest.mark.parametrize("name", NAMES)
def test_a_training_broken_off_ends_with_the_same_weights(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamic R-CNN's numbers too, which change after every second batch here."""
    monkeypatch.setattr(dynamic_rules, "_BATCHES", 2)
    dataset = tiny.dataset(tmp_path / "digits", train_images=6)
    schedule: dict[str, Any] = {"epochs": 2, "batch_size": 2}
    whole = train(name, dataset, tmp_path / "whole", **schedule).state_dict()
    with pytest.raises(Stopped):
        train(name, dataset, tmp_path / "broken", stop_at=4, **schedule)
    resumed = train(name, dataset, tmp_path / "broken", **schedule).state_dict()
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    if name == "dynamic_rcnn":
        assert whole["model.rules.current_overlap"] != 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ten_images_are_learned_by_heart(name: str, tmp_path: Path) -> None:
    dataset = tiny.dataset(tmp_path / "digits", train_images=10)
    schedule: dict[str, Any] = {"epochs": 60, "batch_size": 5, "warmup_steps": 20, "learning_rate": 2e-3, "ema": None, "augment": []}
    detector = train(name, dataset, tmp_path / "training", **schedule)
    found = evaluate(tmp_path, detector, dataset, "train", ExportConfig(proposals=100))
    assert found.map_50 is not None
    assert found.map_50 >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_both_runtimes_find_at_any_size_and_batch_what_torch_finds(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    images = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(5))
    graph = confident(build_detector(choice(name), 5)).graph(decisions(max_detections=30, score_threshold=0.1, proposals=60)).eval()
    with torch.no_grad():
        wanted = graph(images)
    assert ((wanted.scores > 0).sum(dim=1) >= 10).all()
    heads = write_onnx(graph, size, tmp_path / "model.onnx")
    for runtime in ("ort", "openvino"):
        (tmp_path / runtime).mkdir()
        made = compiled(runtime, tmp_path / "model.onnx", tmp_path / runtime, "fp32", (), heads)
        with plugins.load("deploy.runtimes", runtime).open(made.file, threads=1) as session:
            answers = [(session.infer(images.numpy()), 0), *((session.infer(images[i : i + 1].numpy()), i) for i in range(3))]
        for found, first in answers:
            for index, scores in enumerate(found.scores):
                missing = unmatched(wanted.boxes[first + index].numpy(), found.boxes[index]) & (wanted.scores[first + index].numpy() > 0)
                assert not missing.any(), (runtime, first, index)
                assert int((scores > 0).sum()) == int((wanted.scores[first + index] > 0).sum())


def unmatched(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which boxes [N, 4] have no partner among others."""
    away: NDArray[np.bool_] = np.abs(boxes[:, None] - others).max(axis=2).min(axis=1) > 0.02
    return away
