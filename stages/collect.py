"""The images without labels: found, read, and rid of those that are in the labeled data."""

import hashlib
import json
from pathlib import Path

from deploy.errors import DataError
from stages.artifacts import Dataset, ImagePool
from stages.config import DataConfig
from stages.datasets.layouts import digest
from stages.datasets.unlabeled.footage import saved_frames, videos_in
from stages.datasets.unlabeled.pool import UNLABELLED, PoolImage, folders, pool, refusal, unread
from stages.facts import write_facts
from stages.notes import Notes
from stages.stage import stage
from stages.unlabeled_facts import PoolFacts


def identity(config: DataConfig, *others: object) -> dict[str, str]:
    """A digest of the names, sizes and times of all images and videos.

    Raises:
        DataError: a folder does not exist.
    """
    roots = folders(config.unlabelled_folders)
    not_read = [path for root in roots for path in unread(root)]
    return {"unlabelled": digest([], [*(root for root in roots if root.is_dir()), *videos_in(roots), *not_read])["images"]}


@stage(version=1, identity=identity)
def collect(out: Path, config: DataConfig, dataset: Dataset) -> ImagePool:
    """The usable images of data.unlabelled, listed in images.json; frames of videos are in frames/.

    Raises:
        ConfigError: videos without the extra for them.
        DataError: a folder is missing or empty, or no usable image remains; more are unreadable or assumed than `max_doubtful`
            allows; with `strict`, any.
    """
    notes = Notes()
    preprocessing = dataset.facts.contract.preprocessing
    roots = folders(config.unlabelled_folders)
    frames = saved_frames(videos_in(roots), out / ImagePool.FRAMES, preprocessing, UNLABELLED, notes)
    known = [name for name, split in dataset.facts.splits.items() if name != "train" or split.num_boxes]
    labeled = {name: dataset.table(name).files(dataset.images(name)) for name in known}
    found = pool(roots, frames, labeled, preprocessing, notes)
    total = len(found) + sum(note.count for note in notes if note.action == "left out")
    every = tuple(note.model_copy(update={"total": total}) for note in notes)
    if refused := refusal(every, total, strict=config.strict, max_doubtful=config.max_doubtful):
        raise DataError(refused)
    (out / ImagePool.IMAGES).write_text(json.dumps(_coco(out, found, dataset)), encoding="utf-8")
    write_facts(out, PoolFacts(num_images=len(found), sha256=_digest(found), notes=every))
    return ImagePool(out)


def _coco(out: Path, found: list[PoolImage], dataset: Dataset) -> dict[str, object]:
    """COCO's form, without annotations; file names are absolute, those of frames relative to the artifact, which moves when it is done."""
    names = [one.path.relative_to(out) if one.path.is_relative_to(out) else one.path.resolve() for one in found]
    rows = [
        {"id": number, "file_name": name.as_posix(), "width": one.width, "height": one.height}
        for number, (name, one) in enumerate(zip(names, found, strict=True), 1)
    ]
    return {"images": rows, "annotations": [], "categories": dataset.facts.contract.categories}


def _digest(found: list[PoolImage]) -> str:
    """Of the content of all images, whatever their names."""
    return hashlib.sha256("".join(sorted(one.sha256 for one in found)).encode()).hexdigest()
