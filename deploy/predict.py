"""Detect objects in image files and videos with a bundle, and draw them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.bundles.bundle import Bundle
from deploy.contract import Preprocessing
from deploy.errors import ArtifactError, ConfigError, DataError
from deploy.prediction import image_files, video
from deploy.prediction.all_or_nothing import written
from deploy.prediction.detections import to_coco
from deploy.prediction.draw import draw
from deploy.prediction.image_files import SeenImage
from deploy.prediction.inputs import STANDARD_INPUT, Picture
from deploy.prediction.predictor import SessionPredictor
from deploy.prediction.preprocess import Size
from deploy.progress import Steps

PREDICTIONS = "predictions.json"
_DRAWN = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class _Shot:
    """An image, or one frame of a video: pixels, name of the drawn copy, and what predictions.json adds for a frame.

    `seen` is what the network sees if the contract has `reduced_decoding`; the drawn copy is as large as the image all the same.
    """

    pixels: NDArray[np.uint8]
    drawn: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    seen: SeenImage | None = None

    @property
    def network_sees(self) -> tuple[NDArray[np.uint8], Size | None]:
        """Pixels, and the image's width and height if these are not theirs."""
        return (self.pixels, None) if self.seen is None else (self.seen.pixels, self.seen.size)


def predict_images(
    bundle: Bundle, images: Sequence[Picture], out: Path, *, min_score: float = 0.3, every: int | None = None
) -> dict[str, Any]:
    """Write a drawn copy of every image, and predictions.json, into `out`; if no image can be read, nothing is written.

    Args:
        images: files, contents of files, or videos, whose frames are images in a folder named after the video.
        min_score: minimum score of the boxes that are drawn; predictions.json holds all boxes.
        every: every N-th frame of a video; one per second if None.

    Returns:
        The content of predictions.json: `images` (id, file_name as given, drawn, width, height; for videos also frame, from 0, and
        time_s), `categories` and `annotations` (COCO results) as in a COCO file, and `failed`: file_name and error of each image that
        cannot be read. A video that is damaged is in `failed`, the frames before the damage in `images`.

    Raises:
        ConfigError: a drawn copy would replace one of the images, or a video is given without the extra.
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
    videos = [path for path in images if isinstance(path, Path) and video.is_named_video(path)]
    if videos:
        video.require(videos[0])
    steps = Steps("predict", None if videos else len(images))
    with bundle.open() as session, written(out, PREDICTIONS) as made, steps:
        predictor = SessionPredictor(session, contract)
        for path, name in zip(images, names, strict=True):
            try:
                for shot in _shots(path, name, contract.preprocessing, every):
                    number, (height, width) = len(described) + 1, shot.pixels.shape[:2]
                    found = predictor.detect(*shot.network_sees)
                    annotations += to_coco(found, number, contract)
                    _save(draw(shot.pixels, found.above(min_score), contract.classes), made / shot.drawn, out)
                    size = {"width": width, "height": height}
                    described.append({"id": number, "file_name": _name(path), "drawn": shot.drawn, **size, **shot.extra})
                    steps.advance()
            except DataError as error:
                failed.append({"file_name": _name(path), "error": str(error)})
        _refuse_all([] if described else failed)
        result = {"images": described, "categories": contract.categories, "annotations": annotations, "failed": failed}
        (made / PREDICTIONS).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def drawn_names(images: Sequence[Picture]) -> list[str]:
    """A file name for each drawn image: the original's, numbered if two are the same; .png if its own format cannot be written.

    For a video: the name of the folder of its frames.
    """
    names: list[str] = []
    numbers: dict[str, int] = {}
    taken = {PREDICTIONS}  # in lowercase: many file systems do not tell a.jpg from A.jpg
    for given in images:
        path = Path("stdin.png") if isinstance(given, bytes) else given
        suffix = "" if video.is_named_video(given) else path.suffix.lower() if path.suffix.lower() in _DRAWN else ".png"
        plain = name = f"{path.stem}{suffix}"
        number = numbers.get(plain.lower(), 1)
        while name.lower() in taken:
            number += 1
            name = f"{path.stem}-{number}{suffix}"
        numbers[plain.lower()] = number
        names.append(name)
        taken.add(name.lower())
    return names


def _shots(picture: Picture, drawn: str, preprocessing: Preprocessing, every: int | None) -> Iterator[_Shot]:
    if not isinstance(picture, Path) or not video.is_named_video(picture):
        pixels = image_files.load_image(picture, preprocessing)
        yield _Shot(pixels, drawn, seen=image_files.load(picture, preprocessing) if preprocessing.reduced_decoding else None)
        return
    for frame in video.frames(picture, preprocessing, every):
        yield _Shot(frame.pixels, f"{drawn}/{frame.number:06}.jpg", {"frame": frame.number, "time_s": frame.time_s})


def _save(drawn: Image.Image, file: Path, out: Path) -> None:
    try:
        file.parent.mkdir(exist_ok=True)
        drawn.save(file, quality=95)
    except OSError as error:
        raise ArtifactError(f"{out / file.name}: cannot be written ({error.strerror or error})") from error


def _name(picture: Picture) -> str:
    return STANDARD_INPUT if isinstance(picture, bytes) else str(picture)


def _refuse_all(failed: Sequence[dict[str, str]]) -> None:
    if failed:
        first = failed[0]["error"]
        raise DataError(first if len(failed) == 1 else f"none of the {len(failed)} images can be read; the first: {first}")


def _refuse_to_replace(images: Sequence[Picture], drawn: Sequence[Path]) -> None:
    originals = {path.resolve() for path in images if isinstance(path, Path)}
    kept = originals.union(parent for original in originals for parent in original.parents)
    for path in drawn:
        if path.resolve() in kept:
            raise ConfigError(f"{path}: the drawn copy would overwrite this input image; pass a different --out")
