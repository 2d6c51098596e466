"""Everything that a trained detector finds in images, whether they have labels or not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.contract import ModelContract
from deploy.prediction import image_files
from deploy.prediction.detections import to_coco
from deploy.prediction.predictor import SessionPredictor
from deploy.progress import track
from stages.config import ExportConfig
from stages.detectors import Detector
from stages.measurement.torch_accuracy import TorchSession, graph_options


def detections(network: Detector, contract: ModelContract, rows: Sequence[Mapping[str, Any]], export: ExportConfig) -> list[dict[str, Any]]:
    """COCO's results; `rows` are COCO's images with absolute file names. Boxes only: targets have no masks.

    Raises:
        DataError: a file is unusable.
        ArtifactError: an answer is invalid.
    """
    predictor = SessionPredictor(TorchSession(network.graph(graph_options(export))), contract.model_copy(update={"mask_frame": None}))
    found: list[dict[str, Any]] = []
    for row in track(rows, "label unlabeled images", len(rows)):
        seen = image_files.load(Path(row["file_name"]), contract.preprocessing)
        found += to_coco(predictor.detect(seen.pixels, seen.size), row["id"], contract)
    return found
