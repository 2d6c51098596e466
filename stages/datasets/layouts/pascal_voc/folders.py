"""Which XML files and images belong to which split of a Pascal VOC folder."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploy.errors import DataError
from stages.datasets.layouts import SPLITS, SUFFIXES, has_file, list_files, list_images, nearby
from stages.datasets.layouts.pascal_voc import lists
from stages.datasets.layouts.pascal_voc.stems import Stems
from stages.notes import Kind, Notes

TWICE = Kind("name twice in a list", "repaired", "images")
OTHER_SPLIT = Kind("image of another split in the list of all, not used for train", "repaired", "images")

ELSEWHERE = Kind("XML file in no split's folder", "left out", "files")

_ANNOTATIONS = ("annotations", "annotation", "xmls", "xml", "labels", "label", "annots")
_IMAGES = ("jpegimages", "images", "image", "imgs", "img", "jpegs", "jpgs")
_XML = (".xml",)


@dataclass(frozen=True)
class Pages:
    """A split: the folder of images, the XML files below `base`, and what else decides its content.

    `absent` are names listed without an XML file. A split without any XML file is left out. `lists` are the files that list the split;
    without them, every image below `images` belongs to it.
    """

    images: Path
    base: Path
    files: tuple[Path, ...]
    absent: tuple[str, ...] = ()
    lists: tuple[Path, ...] = ()
    notes: Notes = field(default_factory=Notes)


def discover(root: Path) -> dict[str, Pages]:
    """The splits of a VOC folder: by lists, otherwise by one folder per split; otherwise everything is train.

    Raises:
        DataError: there are no XML files, there are several VOC folders, or a list does not fit.
    """
    home = _home(root)
    base = _child(home, _ANNOTATIONS, _has_xml) or home
    images = _child(home, _IMAGES, _has_images) or home
    named = lists.find(home)
    if named:
        annotations = Stems(base, list_files(base, _XML))
        return _without_others({split: _listed(split, paths, annotations, base, images) for split, paths in named.items()})
    found = dict(_by_folder(home, base, images)) or dict(_by_image_folder(home, base, images))
    if found:
        _note_others(home, found)
    else:
        files = tuple(list_files(base, _XML))
        if not files or not _has_images(images):
            raise DataError(f"{root}: no folder Annotations with XML files and no images next to XML files; is it a VOC folder?")
        found = {"train": Pages(images, base, files)}
    return found


def _home(root: Path) -> Path:
    """The folder that holds the annotations: the root, or one level above it, or one or two below."""
    if _fits(root):
        return root
    children = list(_folders(root))
    for level in (children, [inner for child in children for inner in _folders(child)]):
        fitting = [folder for folder in level if _has_own_annotations(folder)]
        if len(fitting) > 1:
            names = ", ".join(folder.relative_to(root).as_posix() for folder in fitting[:5])
            raise DataError(f"{root}: several VOC folders ({names}); set data.root to one of them, or merge them")
        if fitting:
            return fitting[0]
    return nearby(root, _fits)


def _fits(folder: Path) -> bool:
    """Whether the annotations are in this folder, in whichever layout."""
    return _has_own_annotations(folder) or (_has_xml_inside(folder) and _has_images(folder))


def _has_own_annotations(folder: Path) -> bool:
    """Whether the folder has Annotations, or a folder per split."""
    base = _child(folder, _ANNOTATIONS, _has_xml)
    return base is not None or any(True for _ in _split_folders(folder))


def _listed(split: str, paths: tuple[Path, ...], annotations: Stems, base: Path, images: Path) -> Pages:
    notes = Notes()
    files: dict[Path, None] = {}
    absent: dict[str, None] = {}
    for path in paths:
        found, missing = lists.read(path, annotations, notes, split)
        for file in found:
            if file in files and len(paths) == 1:
                notes.add(TWICE, split, f"{path.name}: {file.stem}")
            files[file] = None
        absent |= dict.fromkeys(missing)
    if not files and split != "test":
        if not absent:
            raise DataError(f"{paths[0]}: lists no names; fill it, or remove it if there is no {split} split")
        first = f", the first '{next(iter(absent))}'"
        raise DataError(f"{paths[0]}: none of its {len(absent)} names has an XML file in {base}{first}")
    return Pages(images, base, tuple(base / file for file in files), tuple(absent), paths, notes)


def _without_others(found: dict[str, Pages]) -> dict[str, Pages]:
    """The splits, in which train has no image of another one if its list is one of all images.

    Raises:
        DataError: then train has none.
    """
    train = found.get("train")
    if train is None or not any(path.stem.casefold() in lists.WHOLE for path in train.lists):
        return found
    whole, kept = train.lists[0], dict.fromkeys(train.files)
    absent = dict.fromkeys(train.absent)
    for split, page in found.items():
        for file in page.files if split != "train" else ():
            if file in kept:
                del kept[file]
                train.notes.add(OTHER_SPLIT, "train", f"{whole.name}: {file.stem} is in {page.lists[0].name}")
        for name in page.absent if split != "train" else ():
            absent.pop(name, None)
    if not kept:
        others = ", ".join(page.lists[0].name for split, page in found.items() if split != "train")
        raise DataError(f"{whole}: all of its images are in {others}; list those to train on in train.txt")
    return found | {"train": replace(train, files=tuple(kept), absent=tuple(absent))}


def _by_folder(home: Path, base: Path, images: Path) -> Iterator[tuple[str, Pages]]:
    """The splits that have folders: next to each other, in Annotations, or in the folder of images."""
    for place in dict.fromkeys((home, base, images)):
        found = dict(_split_folders(place))
        for split, folder in found.items():
            own = _child(folder, _IMAGES, _has_images) or (folder if _has_images(folder) else None)
            beside = _child(images, SPLITS[split], _has_images) if images != folder else None
            yield split, Pages(own or beside or images, _child(folder, _ANNOTATIONS, _has_xml) or folder, tuple(list_files(folder, _XML)))
        if found:
            bare = {split: _child(place, words, _has_images) for split, words in SPLITS.items() if split not in found}
            yield from ((split, Pages(folder, folder, ())) for split, folder in bare.items() if folder is not None)
            return


def _by_image_folder(home: Path, base: Path, images: Path) -> Iterator[tuple[str, Pages]]:
    """The splits if only the images have folders for them."""
    for place in dict.fromkeys((images, home)):
        found = {split: folder for split, words in SPLITS.items() if (folder := _child(place, words, _has_images)) is not None}
        for split, folder in found.items():
            stems = Stems(folder, list_images(folder))
            files = tuple(file for file in list_files(base, _XML) if stems.find(file.relative_to(base).with_suffix("").as_posix()))
            if files:
                yield split, Pages(folder, base, files)
        if found:
            return


def _note_others(home: Path, found: Mapping[str, Pages]) -> None:
    """Note in the first split the XML files that are in none."""
    split, first = next(iter(found.items()))
    used = {file for page in found.values() for file in page.files}
    for file in list_files(home, _XML):
        if file not in used:
            first.notes.add(ELSEWHERE, split, file.relative_to(home).as_posix())


def _split_folders(place: Path) -> Iterator[tuple[str, Path]]:
    for split, words in SPLITS.items():
        folder = _child(place, words, _has_xml)
        if folder is not None:
            yield split, folder


def _child(folder: Path, names: tuple[str, ...], fits: Callable[[Path], bool]) -> Path | None:
    """The first folder that has one of the lowercase names, in any case, and fits."""
    children: Mapping[str, Path] = {path.name.casefold(): path for path in _folders(folder)}
    return next((children[name] for name in names if name in children and fits(children[name])), None)


def _folders(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith((".", "__MACOSX")))


def _has_xml(folder: Path) -> bool:
    return has_file(folder, _XML)


def _has_xml_inside(folder: Path) -> bool:
    return any(path.suffix.lower() == ".xml" and not path.name.startswith(".") for path in folder.iterdir())


def _has_images(folder: Path) -> bool:
    return has_file(folder, SUFFIXES)
