"""Accuracy of a detector in torch, by the path that engines are judged on: only the session differs."""

import json
from pathlib import Path
from typing import Any

import torch

from deploy.accuracy.judge import Judged, LabeledSplit, detect, evaluated, judge
from deploy.contract import Accuracy, HostDecoding, ModelContract
from deploy.errors import ConfigError, EdgedistillError
from deploy.precision import Batch
from deploy.prediction.predictor import SessionPredictor
from deploy.progress import track
from deploy.runtimes import Raw, Session
from stages.artifacts import DETECTIONS, Dataset
from stages.config import ExportConfig
from stages.detectors import Detector, Graph, GraphOptions
from stages.detectors.boxes.host import HostDecodable
from stages.measurement import splits
from stages.processes import copy_from_first, gathered, is_main_process, num_processes, process_index


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


def host_decoding(detector: Detector, size: tuple[int, int], export: ExportConfig) -> HostDecoding:
    """How a host decodes the detector's raw outputs, for images of (height, width) px.

    Raises:
        ConfigError: only its graph can decode them.
    """
    graph = detector.graph(graph_options(export)).eval()
    found = graph.decoding(size) if isinstance(graph, HostDecodable) else None
    if found is None:
        others = "or choose one that a host can decode, such as fcos, retinanet, atss, gfl, fsaf or yolox"
        raise ConfigError(
            f"export.decode: host, but {detector.name or 'this detector'} decodes its boxes in the graph only; set it to graph, {others}"
        )
    return found


def refuse_undecodable(detector: Detector, contract: ModelContract, export: ExportConfig) -> None:
    """Refuse to have boxes decoded on the host that only the graph can decode; raises as `host_decoding`."""
    host_decoding(detector, (contract.preprocessing.height, contract.preprocessing.width), export)


def evaluate(out: Path, detector: Detector, dataset: Dataset, split: str, export: ExportConfig) -> Accuracy:
    """COCO's numbers on a split; the detections are written to out/detections.json."""
    return judge_split(out, detector, dataset, split, export).accuracy


def judge_split(out: Path, detector: Detector, dataset: Dataset, split: str, export: ExportConfig) -> Judged:
    """As `evaluate`, with the detections."""
    judged = judge_images(detector, dataset, splits.labeled_split(dataset, split), export, f"evaluate on {split}")
    if is_main_process():
        (out / DETECTIONS).write_text(json.dumps(judged.detections), encoding="utf-8")
    return judged


def judge_images(detector: Detector, dataset: Dataset, images: LabeledSplit, export: ExportConfig, label: str) -> Judged:
    """COCO's numbers and the detections on some of the data's labeled images.

    Several processes share the images, so all must call it; all use the first one's weights and get the same result.

    Raises:
        ArtifactError: an answer is invalid; the message names the image.
    """
    contract = dataset.facts.contract.model_copy(update={"mask_frame": detector.mask_frame})
    predictor = SessionPredictor(TorchSession(detector.graph(graph_options(export))), contract)
    if num_processes() == 1:
        return judge(predictor, images, label)
    copy_from_first(detector.state_dict().values())
    shares = gathered(_share(predictor, images, label))
    if errors := {index: error for _, (index, error) in shares if error is not None}:
        raise errors[min(errors)]
    by_index = {index: results for share, _ in shares for index, results in share.items()}
    results = [one for index in range(len(images.images)) for one in by_index[index]]
    judged = evaluated(images, results, contract) if is_main_process() else None
    return next(one for one in gathered(judged) if one is not None)


Share = tuple[dict[int, list[dict[str, Any]]], tuple[int, EdgedistillError | None]]
"""What a process finds in its images, by their indices; and the index of the one at which it ended, with the error there."""


def _share(predictor: SessionPredictor, images: LabeledSplit, label: str) -> Share:
    found: dict[int, list[dict[str, Any]]] = {}
    own = range(process_index(), len(images.images), num_processes())
    for index in track(own, label, len(own)):
        try:
            found[index] = detect(predictor, images, index, label)
        except EdgedistillError as error:
            return found, (index, error)
    return found, (len(images.images), None)
