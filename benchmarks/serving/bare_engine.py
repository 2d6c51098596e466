"""The engine that all sides of run.py use: decodes, detects and formats the answer."""

from pathlib import Path
from typing import Any

from deploy.bundles.bundle import Bundle
from deploy.prediction import image_files
from deploy.prediction.detections import to_coco
from deploy.prediction.predictor import SessionPredictor


class BareEngine:
    """The bundle's engine on one thread."""

    def __init__(self, folder: Path) -> None:
        bundle = Bundle.load(folder)
        self.predictor = SessionPredictor(bundle.open(threads=1), bundle.manifest.contract)

    def __call__(self, content: bytes) -> list[dict[str, Any]]:
        """COCO results for the bytes of an image."""
        image = image_files.load_image(content, self.predictor.contract.preprocessing)
        return to_coco(self.predictor.detect(image), 0, self.predictor.contract)
