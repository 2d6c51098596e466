"""Which image each XML file means: the one with its own name, or the one in `<filename>`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import DataError
from stages.datasets.layouts.image_names import RENAMED, ImageNames, cut_suffix
from stages.datasets.layouts.pascal_voc.folders import Pages
from stages.datasets.layouts.pascal_voc.pages import VocPage
from stages.datasets.layouts.pascal_voc.stems import Stems
from stages.datasets.layouts.text import fold
from stages.notes import Kind, Notes

OTHER = Kind("<filename> names a different image", "assumed", "images")
UNLABELED = Kind("image without an XML file", "left out", "images")
LISTED = Kind("name in a list without XML file and image", "left out", "images")

_MASKS = ("segmentationclass", "segmentationobject", "segmentationmasks")
"""Folders of VOC whose images are masks."""

_FEW = 0.1


@dataclass(frozen=True)
class Match:
    """An XML file, the image with its name, the image in its `<filename>`, and its folder of images."""

    page: VocPage
    split: str
    own: Path | None
    named: Path | None

    @property
    def differs(self) -> bool:
        """Whether the two are different images."""
        return self.own is not None and self.named is not None and self.own != self.named

    @property
    def names_itself(self) -> bool:
        """Whether `<filename>` is the XML file's own name."""
        return fold(cut_suffix(_last(self.page.filename))) == fold(self.page.path.stem)

    @property
    def only(self) -> Path | None:
        """The image, if the two do not differ."""
        return self.own or self.named


class ImageFolder:
    """The images below a folder, by the names that XML files and lists use for them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names = ImageNames(root)
        self.files = [file for file in self.names.files if not _is_mask(file)]
        self.stems = Stems(root, [root / file for file in self.files])

    def match(self, page: VocPage, base: Path, split: str) -> Match:
        """Both images that a page may mean.

        Raises:
            DataError: several images have the page's name, and `<filename>` does not choose among them.
        """
        named = self._named(page.filename)
        found = self.stems.find(page.path.relative_to(base).with_suffix("").as_posix())
        if len(found) > 1 and named not in found:
            one, other = sorted(found)[:2]
            raise DataError(f"{page.path}: could mean {one} or {other} in {self.root}; remove one, or name it in <filename>")
        own = named if named in found else next(iter(found), None)
        return Match(page, split, own, named)

    def _named(self, filename: str) -> Path | None:
        """The image in `<filename>`, also with a different suffix or none."""
        if not filename:
            return None
        found = self.names.find(filename, Notes(), "")
        if found is not None and not _is_mask(found):
            return found
        fitting = self.stems.find(cut_suffix(_last(filename)))
        return fitting[0] if len(fitting) == 1 else None


def choose(folders: Mapping[str, ImageFolder], matches: Sequence[Match], notes: Notes) -> dict[Path, Path | None]:
    """The image of each XML file; None if it does not exist.

    If `<filename>` names a different image than the XML file's own name, one of the two is wrong throughout the data set: own names are
    trusted if each has its image, otherwise `<filename>` if that is so for it.

    Raises:
        DataError: neither is so, or two XML files mean the same image.
    """
    differing = [match for match in matches if match.differs]
    by_own = not differing or _trusts_own(matches, differing)
    odd = by_own and 2 * sum(match.own is not None for match in matches) >= len(matches)
    owned = {folders[match.split].root / match.own for match in matches if match.own is not None}
    chosen: dict[Path, Path | None] = {}
    claimed: dict[Path, Path] = {}
    for match in matches:
        path = match.page.path
        image = (match.own if by_own else match.named) if match.differs else match.only
        chosen[path] = image
        if image is None:
            continue
        if match.own is None and match.names_itself and folders[match.split].root / image in owned:
            chosen[path] = None  # the image of this name in a different folder has an XML file of its own
            continue
        _note(match, image, notes, is_odd=odd and match.own is None and not match.names_itself)
        first = claimed.setdefault(folders[match.split].root / image, path)
        if first != path:
            raise DataError(f"{path}: means the same image as {first}, {image}; correct its <filename>, or remove one of the two")
    return chosen


def unlabeled(pages: Mapping[str, Pages], folders: Mapping[str, ImageFolder], used: set[Path], notes: Notes) -> None:
    """Note the images without an XML file, and the listed names that have neither.

    Args:
        used: the images that have one.
    """
    counted: set[Path] = set()
    for split, page in pages.items():
        folder = folders[split]
        for name in page.absent:
            found = folder.stems.find(name)
            text = f"{name} in {page.lists[0].name}"
            notes.add(UNLABELED if found else LISTED, split, text, image=found[0].as_posix() if found else None)
        if not page.lists and folder.root not in counted:
            counted.add(folder.root)
            for file in folder.files:
                if folder.root / file not in used:
                    notes.add(UNLABELED, split, file.as_posix(), image=file.as_posix())


def _trusts_own(matches: Sequence[Match], differing: Sequence[Match]) -> bool:
    first = differing[0]
    if all(match.own is not None for match in matches):
        return True
    named = Counter((match.split, match.named) for match in matches)
    if all(match.named is not None for match in matches) and max(named.values()) == 1:
        return False
    if len(differing) <= _FEW * sum(match.own is not None for match in matches):
        return True
    raise DataError(
        f"{first.page.path}: <filename> names {first.named}, the file's own name is of {first.own}, and not every XML file has an "
        "image of its own name; correct <filename> or the names"
    )


def _is_mask(file: Path) -> bool:
    return any(part.casefold() in _MASKS for part in file.parts)


def _last(filename: str) -> str:
    """The name without its folders."""
    return filename.replace("\\", "/").rpartition("/")[2]


def _note(match: Match, image: Path, notes: Notes, *, is_odd: bool) -> None:
    """Note an image that is not plainly the XML file's; odd is a `<filename>` that no other evidence supports, unlike in other files."""
    where, named = match.page.path.name, match.page.filename
    if match.differs or is_odd:
        notes.add(OTHER, match.split, f"{where} names {named}; {image.as_posix()} is used", image=image.as_posix())
    elif named and Path(named).name != image.name:
        notes.add(RENAMED, match.split, f"{where} names {named}; {image.as_posix()} is used", image=image.as_posix())
