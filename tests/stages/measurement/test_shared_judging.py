"""Processes that train together share the images on which a detector is judged, and all get what one process would find."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import distributed, multiprocessing, nn

from deploy.errors import DataError
from stages.artifacts import DETECTIONS, Dataset, read_json
from stages.config import ExportConfig
from stages.detectors import Detector
from stages.measurement.torch_accuracy import judge_split
from stages.training.checkpoint import build_detector

EXPORT = ExportConfig(max_detections=10, candidates=50, score_threshold=0.3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.dataset(tmp_path_factory.mktemp("dataset"), train_images=2)


def detector(seed: int) -> Detector:
    """A network that finds something everywhere."""
    found = build_detector(tiny.detector(), 10, seed)
    for name, parameter in found.named_parameters():
        if name.endswith("cls_logits.bias"):
            nn.init.zeros_(parameter)
        elif name.endswith("cls_logits.weight"):
            nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(seed))
    return found.eval()


def judged(out: Path, dataset: Dataset, seed: int) -> dict[str, Any]:
    """Accuracy and detections, or the error."""
    out.mkdir()
    try:
        found = judge_split(out, detector(seed), dataset, "val", EXPORT)
    except DataError as error:
        return {"error": str(error)}
    return {"accuracy": found.accuracy, "detections": found.detections, "curves": found.curves}


def share(rank: int, folder: Path, dataset: Dataset) -> None:
    """One of two processes, each of which begins with weights of its own."""
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    torch.save(judged(folder / f"out-{rank}", dataset, seed=rank), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def shared(folder: Path, dataset: Dataset) -> list[dict[str, Any]]:
    multiprocessing.spawn(share, (folder, dataset), nprocs=2)  # type: ignore[attr-defined,no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_two_processes_find_what_the_first_would_find_and_one_writes_it(dataset: Dataset, tmp_path: Path) -> None:
    expected = judged(tmp_path / "one", dataset, seed=0)
    assert {row["image_id"] for row in expected["detections"]} == {1, 2, 3, 4}
    assert expected["detections"] != judged(tmp_path / "other", dataset, seed=1)["detections"]
    assert shared(tmp_path, dataset) == [expected, expected]
    assert read_json(tmp_path / "out-0" / DETECTIONS) == read_json(tmp_path / "one" / DETECTIONS)
    assert not (tmp_path / "out-1" / DETECTIONS).exists()


def test_both_end_with_the_error_of_one(tmp_path: Path) -> None:
    dataset = tiny.dataset(tmp_path / "data", train_images=2)
    for number in (2, 3):  # one in each process's share; the second's is the first one in order
        (dataset.images("val") / f"{number:06}.jpg").write_bytes(b"no image")
    expected = judged(tmp_path / "one", dataset, seed=0)
    assert "000002.jpg" in expected["error"]
    assert shared(tmp_path, dataset) == [expected, expected]
