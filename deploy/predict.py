"""Detect objects in image files with a bundle, and draw them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy.bundles.bundle import Bundle
from deploy.errors import ArtifactError, ConfigError, DataError
from deploy.prediction import image_files
from deploy.prediction.detections import to_coco
from deploy.prediction.draw import draw
from deploy.prediction.inputs import STANDARD_INPUT, Picture
from deploy.prediction.predictor import SessionPredictor
from deploy.progress import track

PREDICTIONS = "predictions.json"
_DRAWN = (".png", ".jpg", ".jpeg", ".webp")


def predict_images(bundle: Bundle, images: Sequence[Picture], out: Path, *, min_score: float = 0.3) -> dict[str, Any]:
    """Write a drawn copy of every image, and predictions.json, into `out`; if no image can be read, nothing is written.

    Args:
        images: files, or contents of files.
        min_score: minimum score of the boxes that are drawn; predictions.json holds all boxes.

    Returns:
        The content of predictions.json: `images` (id, file_name as given, drawn, width, height), `categories` and `annotations`
        (COCO results) as in a COCO file, and `failed`: file_name and error of each image that cannot be read.

    Raises:
        ConfigError: a drawn copy would replace one of the images.
        RuntimeUnavailable: the engine cannot run on this machine.
        ArtifactError: the engine is damaged, or `out` cannot be written.
        DataError: no image can be read.
    """
    contract = bundle.manifest.contract
    names = drawn_names(images)
    described: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    _refuse_to_replace(images, [out / name for name in names])
    with bundle.open() as session, _written(out) as made:
        predictor = SessionPredictor(session, contract)
        for path, name in zip(track(images, "predict", len(images)), names, strict=True):
            try:
                image = image_files.load_image(path, contract.preprocessing)
            except DataError as error:
                failed.append({"file_name": _name(path), "error": str(error)})
                continue
            number, (height, width) = len(described) + 1, image.shape[:2]
            found = predictor.detect(image)
            annotations += to_coco(found, number, contract)
            draw(image, found.above(min_score), contract.classes).save(made / name, quality=95)
            described.append({"id": number, "file_name": _name(path), "drawn": name, "width": width, "height": height})
        _refuse_all(failed, len(images))
        categories = [{"id": i, "name": name} for i, name in zip(contract.category_ids, contract.classes, strict=True)]
        result = {"images": described, "categories": categories, "annotations": annotations, "failed": failed}
        (made / PREDICTIONS).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def drawn_names(images: Sequence[Picture]) -> list[str]:
    """A file name for each drawn image: the original's, numbered if two are the same; .png if its own format cannot be written."""
    names: list[str] = []
    taken: set[str] = set()  # in lowercase: many file systems do not tell a.jpg from A.jpg
    for given in images:
        path = Path("stdin.png") if isinstance(given, bytes) else given
        suffix = path.suffix.lower() if path.suffix.lower() in _DRAWN else ".png"
        name, number = f"{path.stem}{suffix}", 1
        while name.lower() in taken:
            number += 1
            name = f"{path.stem}-{number}{suffix}"
        names.append(name)
        taken.add(name.lower())
    return names


def _name(picture: Picture) -> str:
    return STANDARD_INPUT if isinstance(picture, bytes) else str(picture)


def _refuse_all(failed: Sequence[dict[str, str]], count: int) -> None:
    if failed and len(failed) == count:
        raise DataError(failed[0]["error"] if count == 1 else f"none of the {count} images can be read; the first: {failed[0]['error']}")


def _refuse_to_replace(images: Sequence[Picture], drawn: Sequence[Path]) -> None:
    originals = {path.resolve() for path in images if isinstance(path, Path)}
    for path in drawn:
        if path.resolve() in originals:
            raise ConfigError(f"{path}: the drawn copy would overwrite this input image; pass a different --out")


@contextmanager
def _written(out: Path) -> Iterator[Path]:
    """A folder whose files are moved into `out` if all goes well; otherwise, or after Ctrl-C, `out` is as it was."""
    there = out.exists()
    beside = out if there else next(path for path in out.absolute().parents if path.exists())
    try:
        scratch = TemporaryDirectory(prefix=".predict-", dir=beside)
    except OSError as error:
        raise ArtifactError(f"{out}: cannot be written ({error.strerror}); pass a different --out") from error
    with scratch as name:
        made = Path(name, "made")
        made.mkdir()
        yield made
        if not there:
            out.parent.mkdir(parents=True, exist_ok=True)
            made.rename(out)
            return
        for path in sorted(made.iterdir(), key=lambda path: path.name == PREDICTIONS):
            path.replace(out / path.name)
