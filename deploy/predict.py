"""Detect objects in image files with a bundle, and draw them."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy.bundles.bundle import Bundle
from deploy.errors import ArtifactError, ConfigError
from deploy.prediction import image_files
from deploy.prediction.detections import to_coco
from deploy.prediction.draw import draw
from deploy.prediction.predictor import SessionPredictor
from deploy.progress import track

PREDICTIONS = "predictions.json"
_DRAWN = (".png", ".jpg", ".jpeg", ".webp")


def predict_images(bundle: Bundle, images: Sequence[Path], out: Path, *, min_score: float = 0.3) -> dict[str, Any]:
    """Write a drawn copy of every image, and predictions.json, into `out`; if one image cannot be read, nothing is written.

    Args:
        min_score: minimum score of the boxes that are drawn; predictions.json holds all boxes.

    Returns:
        The content of predictions.json: `images` (id, file_name as given, drawn, width, height), `categories` and `annotations`
        (COCO results) as in a COCO file.

    Raises:
        ConfigError: a drawn copy would replace one of the images.
        RuntimeUnavailable: the engine cannot run on this machine.
        ArtifactError: the engine is damaged, or `out` cannot be written.
        DataError: an image cannot be read.
    """
    contract = bundle.manifest.contract
    names = drawn_names(images)
    described: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    _refuse_to_replace(images, [out / name for name in names])
    with bundle.open() as session, _scratch(out) as made:
        predictor = SessionPredictor(session, contract)
        for number, path in enumerate(track(images, "predict", len(images)), start=1):
            image = image_files.load_image(path, contract.preprocessing)
            found = predictor.detect(image)
            annotations += to_coco(found, number, contract)
            draw(image, found.above(min_score), contract.classes).save(Path(made, names[number - 1]), quality=95)
            height, width = image.shape[:2]
            described.append({"id": number, "file_name": str(path), "drawn": names[number - 1], "width": width, "height": height})
        categories = [{"id": i, "name": name} for i, name in zip(contract.category_ids, contract.classes, strict=True)]
        result = {"images": described, "categories": categories, "annotations": annotations}
        Path(made, PREDICTIONS).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        for name in (*names, PREDICTIONS):
            Path(made, name).replace(out / name)
    return result


def drawn_names(images: Sequence[Path]) -> list[str]:
    """A file name for each drawn image: the original's, numbered if two are the same; .png if its own format cannot be written."""
    names: list[str] = []
    for path in images:
        suffix = path.suffix.lower() if path.suffix.lower() in _DRAWN else ".png"
        name, number = f"{path.stem}{suffix}", 1
        while name in names:
            number += 1
            name = f"{path.stem}-{number}{suffix}"
        names.append(name)
    return names


def _refuse_to_replace(images: Sequence[Path], drawn: Sequence[Path]) -> None:
    originals = {path.resolve() for path in images}
    for path in drawn:
        if path.resolve() in originals:
            raise ConfigError(f"{path}: the drawn copy would overwrite this input image; pass a different --out")


def _scratch(out: Path) -> TemporaryDirectory[str]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(prefix=".predict-", dir=out)
    except OSError as error:
        raise ArtifactError(f"{out}: cannot be written ({error.strerror}); pass a different --out") from error
