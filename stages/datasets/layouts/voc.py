"""Pascal VOC's layout: one XML file per image, read with globox (MIT), a maintained reader of many annotation formats.

Corners are used as they are written: labelImg and Roboflow count px from 0, VOC itself from 1, and no file tells which. An object
that VOC calls difficult becomes a COCO crowd: a detector need not find it and is not penalized for finding it.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.errors import DataError
from stages.datasets import Source
from stages.datasets.layouts import SPLITS, SUFFIXES, globox


@dataclass(frozen=True)
class Pages:
    """A split: the folder of images and the XML files, sorted."""

    images: Path
    files: tuple[Path, ...]


def discover(root: Path) -> dict[str, Pages]:
    """The splits of a VOC folder: by ImageSets/Main/<split>.txt, otherwise by one folder per split.

    Raises:
        DataError: neither exists, or a list names an annotation that does not.
    """
    lists = {split: _first(root / "ImageSets/Main", words, ".txt") for split, words in SPLITS.items()}
    if any(lists.values()):
        return {split: _listed(root, path) for split, path in lists.items() if path is not None}
    pages: dict[str, Pages] = {}
    for split, words in SPLITS.items():
        for below in ("", "Annotations"):
            folder = _first(root / below, words, "")
            if folder is not None and any(folder.glob("*.xml")):
                images = _first(root / "JPEGImages", words, "") or (root / "JPEGImages" if below else folder)
                pages.setdefault(split, Pages(images, tuple(sorted(folder.glob("*.xml")))))
    if not pages:
        raise DataError(f"{root}: neither ImageSets/Main/train.txt nor a folder train with XML files; is it a VOC folder?")
    return pages


def sources(pages: Mapping[str, Pages], names: Sequence[str] | None = None) -> dict[str, Source]:
    """Every split as COCO; category ids count from 1 in the order of `names`, otherwise of the names found, sorted.

    Raises:
        DataError: an annotation cannot be read, or names a class that is not in `names`.
    """
    parsed = {split: [(path, _parse(path)) for path in page.files] for split, page in pages.items()}
    if names is None:
        names = sorted({_name(path, node) for rows in parsed.values() for path, tree in rows for node in tree.iter("object")})
    ids = {name: number for number, name in enumerate(names, start=1)}
    return {split: _source(pages[split], rows, ids) for split, rows in parsed.items()}


def _first(folder: Path, words: Sequence[str], suffix: str) -> Path | None:
    return next((folder / f"{word}{suffix}" for word in words if (folder / f"{word}{suffix}").exists()), None)


def _listed(root: Path, path: Path) -> Pages:
    stems = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    files = tuple(root / "Annotations" / f"{stem}.xml" for stem in stems)
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: named in {path} but missing")
    return Pages(root / "JPEGImages", files)


def _parse(path: Path) -> ET.Element:
    try:
        return ET.parse(path).getroot()  # noqa: S314 - expat bounds entities and fetches none
    except (OSError, ET.ParseError) as error:
        raise DataError(f"{path}: not readable as XML ({error})") from error


def _name(path: Path, node: ET.Element) -> str:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{path}: an object without a name")
    return name


def _source(pages: Pages, rows: list[tuple[Path, ET.Element]], ids: Mapping[str, int]) -> Source:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (path, tree) in enumerate(rows, start=1):
        size = {side: _number(tree.findtext(f"size/{side}")) for side in ("width", "height")}
        images.append({"id": number, "file_name": _file_name(pages.images, path, tree), **{k: v for k, v in size.items() if v}})
        for node in tree.iter("object"):
            name = _name(path, node)
            if name not in ids:
                raise DataError(f"{path}: unknown class '{name}'; data.names has {', '.join(ids)}")
            difficult = int(_number(node.findtext("difficult")) == 1)
            common = {"id": len(annotations) + 1, "image_id": number, "category_id": ids[name], "iscrowd": difficult}
            annotations.append(common | {"bbox": _box(path, node)})
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return Source(pages.images, {"images": images, "annotations": annotations, "categories": categories})


def _box(path: Path, node: ET.Element) -> list[float] | str:
    """x, y, width, height; if the corners are not in order, the text as written, for cleaning to report and leave out."""
    library = globox()
    try:
        box = library.BoundingBox.from_xml(node)
    except AssertionError:
        return " ".join(f"{child.tag} {(child.text or '').strip()}" for child in node.find("bndbox") or ())
    except (library.ParsingError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    return [box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin]


def _number(text: str | None) -> int:
    try:
        return int(float(text or 0))
    except (ValueError, OverflowError):
        return 0


def _file_name(images: Path, path: Path, tree: ET.Element) -> str:
    """The image that the annotation names, otherwise one that has the annotation's own name."""
    named = Path((tree.findtext("filename") or "").strip()).name
    candidates = [named, *(f"{path.stem}{suffix}" for suffix in SUFFIXES)]
    return next((name for name in candidates if name and (images / name).is_file()), named or f"{path.stem}.jpg")
