"""Removes from COCO annotations what cannot be learned or measured, and reports what was removed.

Removed: images that are missing or cannot be decoded, with their objects; boxes without an area, with a coordinate that is not
finite, or entirely outside their image; objects that are written twice; masks, or parts of masks, that cannot be read, whose objects
stay. Kept as COCO defines them: crowds, images without objects, boxes that extend beyond the edge (they show how large the object is;
training clips its own views). Width and height are the upright image's, whatever the annotations state; if these were made on an image
before its EXIF rotation or before it was resized, their boxes and masks are fitted to it.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from deploy.prediction import masks
from stages.datasets import Source
from stages.datasets.cleaning import implausible, repeats, sizes
from stages.datasets.cleaning.image_file import ImageFile
from stages.datasets.cleaning.images import Unusable
from stages.datasets.cleaning.limits import BAD_PART
from stages.datasets.cleaning.sizes import Box, Fit, Labeled
from stages.datasets.tables.rows import Row, Rows
from stages.notes import Kind, Notes

DEGENERATE = Kind("degenerate box", "left out", "boxes")
OUTSIDE = Kind("box outside its image", "left out", "boxes")
BEYOND = Kind("box beyond the edge of its image", "assumed", "boxes")
BAD_MASK = Kind("unusable mask", "left out", "masks")

MANY_BEYOND = 0.05
"""With a larger share of boxes that leave their image, they are noted."""


def clean(split: str, source: Source, files: Sequence[ImageFile | Unusable], notes: Notes) -> dict[str, Any]:
    """A split's COCO dictionary with only what is usable, and only COCO's own keys; its annotations are not in memory.

    Args:
        files: what was found for each of the source's images, in their order.
        notes: everything that is left out or corrected is added to them.
    """
    images = _images(split, source, files, notes)
    names = {number: image.name for number, image in images.items()}
    annotations = repeats.once(Rows.kept(_annotations(split, source, images, notes)), names, notes, split)
    _note_beyond(split, annotations.light(), images, notes)
    rows = [image.row() for image in images.values()]
    implausible.add(notes, split, rows, annotations.light().changed(lambda row: _as_written(row, images[row["image_id"]])))
    kinds = [{key: row[key] for key in ("id", "name", "supercategory") if key in row} for row in source.coco["categories"]]
    return {"images": rows, "annotations": annotations, "categories": kinds}


def _annotations(split: str, source: Source, images: Mapping[int, "_Image"], notes: Notes) -> Iterator[Row]:
    for row in source.coco["annotations"]:
        if row["image_id"] in images:
            kept = _annotation(split, row, images[row["image_id"]], notes)
            if kept is not None:
                yield kept


def _as_written(row: Row, image: "_Image") -> Row:
    """The row with its box in px of the stated size, without what fitting it to the image did."""
    if image.fit is None:
        return row
    grown = math.sqrt(image.fit.area)
    return {**row, "bbox": [value / grown for value in row["bbox"]]}


def read_box(value: Any) -> Box | None:
    """A COCO box (x, y, width, height) with an area; None if it is degenerate or not finite."""
    if not isinstance(value, list | tuple) or len(value) != 4 or not all(map(_number, value)):
        return None
    x, y, w, h = map(float, value)
    return (x, y, w, h) if w > 0 and h > 0 else None


@dataclass(frozen=True)
class _Image:
    number: int
    name: str
    file: ImageFile
    fit: Fit | None

    def row(self) -> dict[str, Any]:
        return {"id": self.number, "file_name": self.name, "width": self.file.width, "height": self.file.height}


def _images(split: str, source: Source, files: Sequence[ImageFile | Unusable], notes: Notes) -> dict[int, _Image]:
    """The usable images by their ids; those whose annotations state a different size, with what takes these to the file."""
    usable: dict[int, tuple[Mapping[str, Any], ImageFile]] = {}
    for row, file in zip(source.coco["images"], files, strict=True):
        if isinstance(file, Unusable):
            notes.add(file.kind, split, file.reason)
        else:
            usable[row["id"]] = row, file
    odd = _odd_sizes(source, usable)
    readings = dict(zip(odd, sizes.read(list(odd.values())), strict=True))
    for number, (kind, _, done) in readings.items():
        name, image = usable[number][0]["file_name"], odd[number]
        (wide, high), (width, height) = image.found, image.stated
        notes.add(kind, split, f"{name} is {wide} x {high} px, annotated as {width:g} x {height:g}; {done}", image=name)
    return {
        number: _Image(number, row["file_name"], file, readings[number].fit if number in readings else None)
        for number, (row, file) in usable.items()
        if number not in readings or readings[number].kind is not sizes.ROTATED
    }


def _odd_sizes(source: Source, usable: Mapping[int, tuple[Mapping[str, Any], ImageFile]]) -> dict[int, Labeled]:
    """The images with objects whose annotations state a different size from the file's."""
    stated = {number: sizes.stated_size(row.get("width"), row.get("height")) for number, (row, _) in usable.items()}
    files = {number: file for number, (_, file) in usable.items()}
    differ = {number: size for number, size in stated.items() if size and size != (files[number].width, files[number].height)}
    boxes: dict[int, list[Box]] = {}
    codes: dict[int, set[sizes.Size]] = {}
    for row in source.coco["annotations"] if differ else ():
        number = row["image_id"]
        if number in differ and (box := read_box(row.get("bbox"))) is not None:
            boxes.setdefault(number, []).append(box)
            codes.setdefault(number, set()).update(_code_size(row.get("segmentation")))
    return {
        number: Labeled(size, files[number], boxes[number], frozenset(codes[number])) for number, size in differ.items() if number in boxes
    }


def reaches_out(box: Sequence[float], file: ImageFile) -> bool:
    """Whether a box leaves its image by more than 1 px."""
    x, y, w, h = box
    return x < -1 or y < -1 or x + w > file.width + 1 or y + h > file.height + 1


def _note_beyond(split: str, rows: Sequence[Mapping[str, Any]], images: Mapping[int, _Image], notes: Notes) -> None:
    """Note boxes that leave their image if there are many: they may be written in a different form or unit."""
    num = sum(reaches_out(row["bbox"], images[row["image_id"]].file) for row in rows)
    for row in rows if num > MANY_BEYOND * len(rows) else ():
        if reaches_out(row["bbox"], images[row["image_id"]].file):
            name = images[row["image_id"]].name
            notes.add(BEYOND, split, f"annotation {row['id']} of {name}, used as {row['bbox']}", image=name)


def _code_size(found: Any) -> list[sizes.Size]:
    """The size (width, height) of a run-length code."""
    size = found.get("size") if isinstance(found, Mapping) else None
    good = isinstance(size, list | tuple) and len(size) == 2 and all(map(_number, size))
    return [(float(size[1]), float(size[0]))] if good and size is not None else []


def _annotation(split: str, row: Mapping[str, Any], image: _Image, notes: Notes) -> Row | None:
    box = read_box(row.get("bbox"))
    if box is not None and image.fit is not None:
        box = image.fit.box(box)
    if box is None or not _touches(box, image.file):
        where = f"annotation {row['id']} of {image.name}, bbox {json.dumps(row.get('bbox'))[:80]}"
        notes.add(DEGENERATE if box is None else OUTSIDE, split, where, image=image.name)
        return None
    x, y, w, h = box
    area = row.get("area", 0)
    scale = 1.0 if image.fit is None else image.fit.area
    kept = {"id": row["id"], "image_id": row["image_id"], "category_id": row["category_id"], "bbox": [x, y, w, h]}
    kept |= {"area": float(area) * scale if _number(area) and area > 0 else w * h, "iscrowd": int(row.get("iscrowd") in (1, True))}
    written = row.get("segmentation")
    segmentation = _segmentation(written, image)
    parts = [part for part in written if part != []] if isinstance(written, list) else [written] if written else []
    if len(parts) > (len(segmentation) if isinstance(written, list) else bool(segmentation)):
        where = f"annotation {row['id']} of {image.name}, segmentation {str(written)[:80]}"
        notes.add(BAD_PART if segmentation else BAD_MASK, split, where, image=image.name)
    return kept | ({"segmentation": segmentation} if segmentation else {})


def _segmentation(found: Any, image: _Image) -> Any:
    """Polygons or a run-length code, rotated if their image was; None if there is none, or none that can be kept."""
    if isinstance(found, Mapping):
        return _code(found, image)
    polygons = found if isinstance(found, list) else []
    polygons = [poly for poly in polygons if isinstance(poly, list) and len(poly) >= 6 and len(poly) % 2 == 0 and _numbers(poly)]
    fit = image.fit
    if fit is None:
        return polygons
    return [[value for x, y in zip(poly[::2], poly[1::2], strict=True) for value in fit.point(x, y)] for poly in polygons]


def _code(found: Mapping[str, Any], image: _Image) -> Any:
    """A run-length code of at least one px of the image; one of the size that the annotations state is fitted, any other is None."""
    size, fit = (image.file.height, image.file.width), image.fit
    fitting = fit is not None and (_code_size(found) != [size[::-1]] or fit.stated == fit.stored)
    try:
        mask = masks.decode(found, (int(fit.stated[1]), int(fit.stated[0])) if fit and fitting else size)
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError):  # a code from elsewhere may contain anything
        return None
    if fit and fitting:
        mask = fit.mask(mask)
    if not mask.any():
        return None
    return masks.encode(mask, size) if fitting else {"size": list(size), "counts": found["counts"]}


def _touches(box: Box, file: ImageFile) -> bool:
    x, y, w, h = box
    return x < file.width and y < file.height and x + w > 0 and y + h > 0


def _numbers(values: Sequence[Any]) -> bool:
    plain = {*map(type, values)} <= {int, float}  # nearly always, and five times as fast
    return all(map(math.isfinite if plain else _number, values))


def _number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
