"""The images without labels that a training may use: every readable file and frame, less those that are in the labeled data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.contract import Preprocessing
from deploy.errors import DataError
from deploy.prediction.video import SUFFIXES, is_named_video
from stages.datasets.cleaning import limits, pixels
from stages.datasets.cleaning.image_file import ImageFile
from stages.datasets.cleaning.images import Unusable, scan
from stages.datasets.cleaning.likeness import Looks
from stages.datasets.layouts import UNREAD_SUFFIXES, has_file, list_files, list_images
from stages.notes import Kind, Note, Notes

UNLABELLED = "unlabelled"
"""What notes call these images, in place of a split's name; the name of their stream, too."""

TWICE = Kind("image that is twice among the unlabeled ones", "left out", "images")
IN_TRAIN = Kind("unlabeled image that is in train", "left out", "images")
JUDGED = Kind("unlabeled image that looks like one that networks are judged on", "left out", "images")
_NO_DOUBT = {kind.name for kind in (TWICE, IN_TRAIN, JUDGED)}
"""Left out because the image is known already, which casts no doubt on the others."""


@dataclass(frozen=True)
class PoolImage:
    """A usable image: its file, its width and height in px when upright, and its content's hash."""

    path: Path
    width: int
    height: int
    sha256: str


def folders(given: Sequence[str]) -> list[Path]:
    """The folders and videos of data.unlabelled.

    Raises:
        DataError: one of them does not exist, is a file but not a video, or is inside another one.
    """
    found = [Path(one).expanduser() for one in given]
    for path in found:
        if path.is_file() and not is_named_video(path):
            raise DataError(f"data.unlabelled: {path} is a file, but not a video; name the folder that it is in")
        if not path.exists():
            raise DataError(f"data.unlabelled: {path}: no such folder; name a folder of images or videos")
    real = [path.resolve() for path in found]
    for one, path in enumerate(real):
        for other, above in enumerate(real):
            if one != other and path.is_relative_to(above):
                raise DataError(f"data.unlabelled: {found[one]} is inside {found[other]}, or is the same folder; name the outer one only")
    return found


def pool(
    roots: Sequence[Path], frames: Mapping[Path, str], labeled: Mapping[str, Sequence[Path]], preprocessing: Preprocessing, notes: Notes
) -> list[PoolImage]:
    """The images that may be used, in the order of their folders and names, then the frames of videos.

    Args:
        frames: files with frames, and what they are called. labeled: the files of every split by its name.

    Raises:
        DataError: a folder has no image and no video, or no image remains.
    """
    paths = [*listed(roots), *frames]
    files = readable(paths, preprocessing, notes)
    kept = _less_labeled(_once(files, frames, notes), frames, labeled, preprocessing, notes)
    if not kept:
        first = next(iter(notes), None)
        raise DataError(f"data.unlabelled: no usable image remains of {len(paths)}{f'; {first}' if first else ''}")
    return [PoolImage(path, file.width, file.height, file.sha256) for path, file in kept]


def readable(paths: Sequence[Path], preprocessing: Preprocessing, notes: Notes) -> list[tuple[Path, ImageFile]]:
    """The images that can be read, in their order; others, and pixels that are shown wrongly, are noted."""
    scanned = scan(paths, "read unlabeled images", preprocessing, fingerprints=True)
    files: list[tuple[Path, ImageFile]] = []
    for path, found in zip(paths, scanned, strict=True):
        if isinstance(found, Unusable):
            notes.add(found.kind, UNLABELLED, f"{path}: {found.reason}" if str(path) not in found.reason else found.reason)
        else:
            files.append((path, found))
    pixels.add(notes, UNLABELLED, [(str(path), file.stored) for path, file in files], preprocessing)
    return files


def refusal(notes: Sequence[Note], total: int, *, strict: bool, max_doubtful: float) -> str | None:
    """Why these of `total` images are refused: more than `max_doubtful` are unreadable or assumed, or with `strict` any; None if not."""
    doubtful = [note for note in notes if note.kind not in _NO_DOUBT and note.action in ("left out", "assumed")]
    if not doubtful:
        return None
    if strict:
        return f"{doubtful[0]}; remove those files, or set data.strict to false"
    count = sum(note.count for note in doubtful)
    text = f"{UNLABELLED}: {count} of {total} images are left out or assumed, first: {doubtful[0].examples[0]}"
    return limits.refusal([limits.Doubt(min(1.0, count / total), text)], max_doubtful)


def listed(roots: Sequence[Path]) -> list[Path]:
    """All image files of the folders, also those of formats that are not read, which are to be counted.

    Raises:
        DataError: a folder has none, and no video either.
    """
    found = {root: [*list_images(root), *unread(root)] for root in roots if root.is_dir()}
    for root, paths in found.items():
        if not paths and not has_file(root, SUFFIXES):
            raise DataError(f"data.unlabelled: {root} has no image; name a folder with images, or leave it out")
    return [path for paths in found.values() for path in paths]


def unread(root: Path) -> list[Path]:
    """Images in a folder whose format is not read."""
    return list_files(root, UNREAD_SUFFIXES) if root.is_dir() else []


def _once(files: Sequence[tuple[Path, ImageFile]], frames: Mapping[Path, str], notes: Notes) -> list[tuple[Path, ImageFile]]:
    first: dict[str, Path] = {}
    kept = []
    for path, file in files:
        if first.setdefault(file.sha256, path) == path:
            kept.append((path, file))
        else:
            before = first[file.sha256]
            notes.add(TWICE, UNLABELLED, f"{frames.get(path, path)} is {frames.get(before, before)}")
    return kept


def _less_labeled(
    files: Sequence[tuple[Path, ImageFile]],
    frames: Mapping[Path, str],
    labeled: Mapping[str, Sequence[Path]],
    preprocessing: Preprocessing,
    notes: Notes,
) -> list[tuple[Path, ImageFile]]:
    """Without files of train, which are learned with their labels, and without pictures that networks are judged on."""
    left_out: set[int] = set()
    for split, paths in labeled.items():
        scanned = scan(paths, f"compare with {split} images", preprocessing, fingerprints=True)
        known = [(path, file) for path, file in zip(paths, scanned, strict=True) if isinstance(file, ImageFile)]
        contents = {file.sha256: path for path, file in known}
        looks = Looks([file.look for _, file in known]) if split != "train" and known else None
        for number, (path, file) in enumerate(files):
            if number in left_out:
                continue
            same = contents.get(file.sha256)
            if same is None and looks is not None and (near := looks.alike(file.look)):
                same = known[near[0]][0]
            if same is not None:
                left_out.add(number)
                notes.add(IN_TRAIN if split == "train" else JUDGED, UNLABELLED, f"{frames.get(path, path)} is {split}'s {same.name}")
    return [pair for number, pair in enumerate(files) if number not in left_out]
