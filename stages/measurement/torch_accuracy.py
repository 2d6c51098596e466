"""Accuracy of a detector in torch, by the path that engines are judged on: only the session differs."""

import json
from pathlib import Path

import torch

from deploy.accuracy.judge import Judged, LabeledSplit, judge
from deploy.contract import Accuracy
from deploy.precision import Batch
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import Raw, Session
from stages.artifacts import DETECTIONS, Dataset
from stages.config import ExportConfig
from stages.detectors import Detector, Graph, GraphOptions
from stages.measurement import splits


class TorchSession(Session):
    """A detector's deployed graph, run by torch."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph.eval()
        self._device = next(graph.parameters()).device

    def infer(self, images: Batch) -> Raw:
        """See Session.infer."""
        with torch.no_grad():
            answer = self._graph(torch.from_numpy(images).to(self._device))
        masks = None if answer.masks is None else answer.masks.cpu().numpy()
        return Raw(
            answer.boxes.cpu().numpy(), answer.scores.cpu().numpy(), answer.labels.cpu().numpy(), answer.converged.cpu().numpy(), masks
        )

    def close(self) -> None:
        """Nothing to free."""


def graph_options(export: ExportConfig) -> GraphOptions:
    """The part of the export section that decides detections."""
    agnostic = export.nms == "agnostic"
    return GraphOptions(export.max_detections, export.candidates, export.score_threshold, export.iou_threshold, export.proposals, agnostic)


def evaluate(out: Path, detector: Detector, dataset: Dataset, split: str, export: ExportConfig) -> Accuracy:
    """COCO's numbers on a split; the detections are written to out/detections.json."""
    return judge_split(out, detector, dataset, split, export).accuracy


def judge_split(out: Path, detector: Detector, dataset: Dataset, split: str, export: ExportConfig) -> Judged:
    """As `evaluate`, with the detections."""
    judged = judge_images(detector, dataset, splits.labeled_split(dataset, split), export, f"evaluate on {split}")
    (out / DETECTIONS).write_text(json.dumps(judged.detections), encoding="utf-8")
    return judged


def judge_images(detector: Detector, dataset: Dataset, images: LabeledSplit, export: ExportConfig, label: str) -> Judged:
    """COCO's numbers and the detections on some of the data's labeled images.

    Raises:
        ArtifactError: an answer is invalid; the message names the image.
    """
    contract = dataset.facts.contract.model_copy(update={"mask_frame": detector.mask_frame})
    predictor = SessionPredictor(TorchSession(detector.graph(graph_options(export))), contract)
    return judge(predictor, images, label)
