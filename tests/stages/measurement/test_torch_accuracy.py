"""A detector with masks judged in torch, by the path that its engines take."""

import json
from collections.abc import Sequence
from pathlib import Path

import artifact_samples as samples
import onnx_samples
import pytest
import torch
from torch import Tensor, nn

from deploy.contract import MaskFrame
from deploy.prediction import masks
from stages.artifacts import read_json
from stages.config import ExportConfig
from stages.detectors import Detector, Graph, GraphOptions, GraphOutput, Outputs, Target
from stages.measurement.torch_accuracy import evaluate

CELL = onnx_samples.CELL


class CellGraph(Graph):
    """Answers every cell that is brighter in one color than elsewhere, its mask over the whole input."""

    def __init__(self) -> None:
        super().__init__()
        self.device = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> GraphOutput:
        bright = nn.functional.avg_pool2d(images, CELL)
        scores, best = bright.sub(1).sigmoid().flatten(1).topk(8)
        scores = torch.where(scores > 0.5, scores, torch.zeros_like(scores))
        labels, place = best // 16, best % 16
        corner = torch.stack((place % 4, place // 4), dim=2).float() * CELL
        boxes = torch.cat((corner, corner + CELL), dim=2)
        px = torch.arange(64) + 0.5
        across = (px > boxes[..., 0, None]) & (px < boxes[..., 2, None])
        down = (px > boxes[..., 1, None]) & (px < boxes[..., 3, None])
        inside = (down[..., :, None] & across[..., None, :]).float()
        return GraphOutput(boxes, scores, labels, torch.ones(len(images), dtype=torch.bool), head=(bright,), masks=inside)


class Cells(Detector):
    """Untrained: its graph knows."""

    strides, channels = (CELL,), (3,)
    mask_frame: MaskFrame | None = "image"

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Outputs:
        raise NotImplementedError

    def graph(self, options: GraphOptions) -> Graph:
        return CellGraph()


def test_masks_are_judged_and_written(tmp_path: Path) -> None:
    dataset = samples.dataset(tmp_path / "data")
    path = dataset.annotations("val")
    coco = read_json(path)
    for row in coco["annotations"]:
        row["segmentation"] = masks.rectangle(row["bbox"])
    path.write_text(json.dumps(coco))
    accuracy = evaluate(tmp_path, Cells(), dataset, "val", ExportConfig())
    assert accuracy.map == pytest.approx(1)
    assert accuracy.segmentation is not None
    assert accuracy.segmentation.map == pytest.approx(1)
    found = read_json(tmp_path / "detections.json")
    assert len(found) == len(coco["annotations"])
    assert all(masks.area(one["segmentation"]) == CELL * CELL for one in found)


def test_a_split_without_masks_has_no_number_for_them(tmp_path: Path) -> None:
    accuracy = evaluate(tmp_path, Cells(), samples.dataset(tmp_path / "data"), "val", ExportConfig())
    assert accuracy.map == pytest.approx(1)
    assert accuracy.segmentation is None
