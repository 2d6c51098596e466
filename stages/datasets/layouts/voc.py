"""Pascal VOC's layout: one XML file per image, as VOCdevkit, labelImg, Roboflow, CVAT, VOTT and Label Studio write it.

Corners are used as they are written: labelImg and Roboflow count px from 0, VOC itself from 1, and no file tells which. An object
that VOC calls difficult becomes a COCO crowd: a detector need not find it and is not penalized for finding it.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.errors import DataError
from stages.datasets import Source
from stages.datasets.layouts import digest, shared_images, splits_digest
from stages.datasets.layouts.pascal_voc import checks, folders, images, pages
from stages.datasets.layouts.pascal_voc.folders import Pages
from stages.datasets.layouts.pascal_voc.images import ImageFolder, Match
from stages.datasets.layouts.pascal_voc.pages import Thing, VocPage
from stages.notes import Kind, Notes

discover = folders.discover

FOREIGN = Kind("XML file that is not Pascal VOC", "left out", "files")


def identity(found: Mapping[str, Pages]) -> dict[str, str]:
    """Digests of the annotation files and lists, of the images' names, sizes and times, and of which file is in which split."""
    files = [path for page in found.values() for path in (*page.files, *page.lists)]
    rows = [(split, path.relative_to(page.base).as_posix()) for split, page in found.items() for path in page.files]
    return digest(files, [page.images for page in found.values()]) | splits_digest(rows)


def sources(found: Mapping[str, Pages], names: Sequence[str] | None = None) -> dict[str, Source]:
    """Every split as COCO; category ids count from 1 in the order of `names`, otherwise of the names found, sorted.

    Raises:
        DataError: an annotation cannot be read, could mean several images, or names a class that is not in `names`.
    """
    notes = Notes()
    by_root = {root: ImageFolder(root) for root in dict.fromkeys(page.images for page in found.values())}
    places = {split: by_root[page.images] for split, page in found.items()}
    matches = _matches(found, places, notes)
    chosen = images.choose(places, matches, notes)
    used = {split: _images(places[split], [match for match in matches if match.split == split], chosen) for split in found}
    images.unlabeled(found, places, {file for files in used.values() for file in files}, notes)
    shared_images.add(notes, {split: files.items() for split, files in used.items()})
    rows = [(match.split, match.page) for match in matches]
    checks.units(page for _, page in rows)
    checks.percent(rows, notes)
    checks.fractions(rows, notes)
    ids = {name: number for number, name in enumerate(names or checks.class_names(rows, notes), start=1)}
    built = {}
    for split, page in found.items():
        of_split = [match for match in matches if match.split == split]
        if of_split:
            files = [image.as_posix() if (image := chosen[match.page.path]) else _missing(match.page) for match in of_split]
            built[split] = Source(page.images, _coco(of_split, files, ids, notes))
    return {split: Source(source.images, source.coco, _notes(split, found, built, notes)) for split, source in built.items()}


def _images(folder: ImageFolder, matches: Sequence[Match], chosen: Mapping[Path, Path | None]) -> dict[Path, str]:
    """The image files that pages mean, with their names in the folder."""
    return {folder.root / image: image.as_posix() for match in matches if (image := chosen[match.page.path]) is not None}


def _matches(found: Mapping[str, Pages], places: Mapping[str, ImageFolder], notes: Notes) -> list[Match]:
    """Every page with the images that it may mean; XML files of other formats that belong to no image are left out.

    Raises:
        DataError: a file of an image, or every file, has a different format.
    """
    matches: list[Match] = []
    foreign: list[VocPage] = []
    for split, given in found.items():
        for path in given.files:
            page = pages.read(path, notes, split)
            match = places[split].match(page, given.base, split)
            if page.is_voc:
                matches.append(match)
                continue
            foreign.append(page)
            if match.own is not None:
                raise DataError(_why_foreign(page))
            notes.add(FOREIGN, split, f"{path.name}: <{page.root}>")
    if not matches and foreign:
        raise DataError(_why_foreign(foreign[0]))
    if not matches:
        given = next(iter(found.values()))
        raise DataError(f"{next(iter(given.lists), given.base)}: no image has an XML file in {given.base}; label some first")
    return matches


def _why_foreign(page: VocPage) -> str:
    kind = ", CVAT's own format" if page.root == "annotations" else ""
    return f"{page.path}: starts with <{page.root}>{kind}, not with Pascal VOC's <annotation>; export the data as Pascal VOC"


def _missing(page: VocPage) -> str:
    """The name under which an image that does not exist is reported."""
    named = page.filename.replace("\\", "/").rpartition("/")[2]
    return named if 0 < len(named.encode(errors="replace")) < 256 else f"{page.path.stem}.jpg"


def _coco(matches: Sequence[Match], files: Sequence[str], ids: Mapping[str, int], notes: Notes) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (match, file) in enumerate(zip(matches, files, strict=True), start=1):
        page = match.page
        sides = {"width": page.width, "height": page.height}
        rows.append({"id": number, "file_name": file, **{side: px for side, px in sides.items() if px}})
        for thing in page.things:
            if checks.is_swapped(thing.corners):
                notes.add(checks.SWAPPED, match.split, f"{page.path.name}: {_shown(thing)}", image=file)
            category = checks.number_of(page.path, thing, ids, notes, match.split)
            common = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "iscrowd": int(thing.difficult)}
            annotations.append(common | {"bbox": _box(thing)})
    return {"images": rows, "annotations": annotations, "categories": [{"id": number, "name": name} for name, number in ids.items()]}


def _box(thing: Thing) -> list[float] | str:
    """x, y, width, height; if a corner is not finite, the text, for cleaning to report and leave out."""
    if not all(map(math.isfinite, thing.corners)):
        return _shown(thing)
    left, top, right, bottom = checks.in_order(thing.corners)
    return [left, top, right - left, bottom - top]


def _shown(thing: Thing) -> str:
    return " ".join(f"{side} {value:g}" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), thing.corners, strict=True))


def _notes(split: str, found: Mapping[str, Pages], built: Mapping[str, Source], notes: Notes) -> tuple[Any, ...]:
    """The split's notes; the first split also has those of splits that are left out."""
    own = [split, *(other for other in found if other not in built)] if split == next(iter(built)) else [split]
    return tuple(note for name in own for note in (*found[name].notes, *notes) if note.split == name)
