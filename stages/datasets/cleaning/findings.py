"""Examines a data set before training and reports what is wrong or odd about it.

Errors make a run fail or its figures meaningless; what a warning names is left out, assumed or harms accuracy; infos are worth
knowing.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deploy.contract import Preprocessing
from deploy.errors import DataError
from deploy.prediction import preprocess
from stages.datasets import Source
from stages.datasets.cleaning import clean, images, limits, pixels, rules
from stages.datasets.cleaning.image_file import ImageFile
from stages.datasets.cleaning.images import scan
from stages.datasets.cleaning.likeness import Looks
from stages.datasets.tables.rows import light
from stages.notes import Note, Notes

Level = Literal["error", "warning", "info"]
TINY_PX = 8.0
"""An object whose side (root of its area) is below this in the network's input is hard to find at a stride of 8."""
TINY_SHARE = 0.05
IMBALANCE = 20.0


@dataclass(frozen=True)
class Finding:
    """One line of the examination; `split` is empty if it concerns all."""

    level: Level
    split: str
    message: str


@dataclass(frozen=True)
class _Examined:
    """A split after cleaning: its COCO dictionary, the readable files by image id, the categories by id."""

    coco: Mapping[str, Any]
    files: Mapping[int, ImageFile]
    names: Mapping[int, str]


def examine(
    sources: Mapping[str, Source],
    preprocessing: Preprocessing,
    *,
    strict: bool = False,
    max_doubtful: float = 1,
    learns: bool = True,
) -> list[Finding]:
    """All findings, errors first.

    Args:
        strict: whether every note counts as an error, as it does in the pipeline.
        max_doubtful: the largest share that may be left out or assumed, 0 to 1; more is an error.
        learns: whether any network learns from labels, so that train must have some.
    """
    try:
        rules.check_splits(sources)
    except DataError as error:
        return [Finding("error", "", str(error))]
    findings: list[Finding] = []
    doubts: list[limits.Doubt] = []
    examined: dict[str, _Examined] = {}
    for split, source in sources.items():
        paths = [source.images / row["file_name"] for row in source.coco["images"]]
        files = scan(paths, f"examine {split} images", preprocessing, fingerprints=True)
        notes = Notes()
        pixels.add(notes, split, images.stored(source.coco["images"], files), preprocessing)
        coco = clean.clean(split, source, files, notes)
        noted = limits.with_totals(source, notes)
        doubts += limits.doubts(split, source, noted)
        found = {row["id"]: file for row, file in zip(source.coco["images"], files, strict=True) if isinstance(file, ImageFile)}
        examined[split] = _Examined(coco, found, rules.categories(source.coco))
        findings += [of_note(split, note, strict=strict) for note in noted]
        findings += _boxes(split, examined[split], preprocessing)
        needed = split == "train" and coco["images"] and (learns or limits.totals(source)["boxes"])
        if needed and all(row["iscrowd"] for row in light(coco["annotations"])):
            findings.append(Finding("error", split, rules.NO_BOX))
        findings += _same_files(split, examined[split])
    if refused := limits.refusal(doubts, max_doubtful):
        findings.append(Finding("error", "", refused))
    findings += _categories(examined)
    findings += _leaks(examined)
    order: dict[Level, int] = {"error": 0, "warning": 1, "info": 2}
    return sorted(findings, key=lambda finding: order[finding.level])


def of_note(split: str, note: Note, *, strict: bool) -> Finding:
    """A note on reading or cleaning a split."""
    level: Level = "error" if strict else "info" if note.action == "repaired" else "warning"
    return Finding(level, split, str(note).removeprefix(f"{note.split}: "))


def _boxes(split: str, examined: _Examined, preprocessing: Preprocessing) -> Iterator[Finding]:
    rows, images = light(examined.coco["annotations"]), examined.coco["images"]
    if not images:
        yield Finding("error", split, "no usable image")
    empty = len(images) - len({row["image_id"] for row in rows})
    if empty:
        yield Finding("info", split, f"images without an object: {empty} of {len(images)}")
    over = sum(clean.reaches_out(row["bbox"], examined.files[row["image_id"]]) for row in rows)
    if 0 < over <= clean.MANY_BEYOND * len(rows):
        yield Finding("info", split, f"boxes that extend beyond their image: {over} of {len(rows)}")
    sides = [_side_px(row["bbox"], examined.files[row["image_id"]], preprocessing) for row in rows]
    tiny = sum(side < TINY_PX for side in sides)
    if sides and tiny > TINY_SHARE * len(sides):
        size = f"{preprocessing.width} x {preprocessing.height}"
        text = f"objects below {TINY_PX:g} px at the network's input of {size}: {tiny} of {len(sides)}; enlarge data.preprocessing"
        yield Finding("warning", split, text)


def _side_px(box: Sequence[float], file: ImageFile, preprocessing: Preprocessing) -> float:
    """The root of a box's area in px of the network's input."""
    placement = preprocess.place(file.width, file.height, preprocessing)
    return math.sqrt(box[2] * placement.scale_x * box[3] * placement.scale_y)


def _categories(examined: Mapping[str, _Examined]) -> Iterator[Finding]:
    names = examined["train"].names
    gaps = [number for number in range(min(names), max(names)) if number not in names] if max(names) - min(names) < 10_000 else []
    if gaps:
        shown = ", ".join(map(str, gaps[:5])) + (", ..." if len(gaps) > 5 else "")
        yield Finding("info", "", f"category ids not in use: {shown}; the network's labels are contiguous anyway")
    counts = {split: _count(light(one.coco["annotations"])) for split, one in examined.items()}
    for split, count in counts.items():
        absent = [name for number, name in names.items() if not count[number]]
        if absent and count:
            meaning = "cannot be learned" if split == "train" else "has no accuracy there"
            yield Finding("warning" if split in ("train", "val") else "info", split, f"no object of {_listed(absent)}; the class {meaning}")
    present = {names[number]: count for number, count in counts["train"].items()}
    if present and max(present.values()) > IMBALANCE * min(present.values()):
        most, least = max(present, key=lambda name: present[name]), min(present, key=lambda name: present[name])
        yield Finding("info", "train", f"classes are unbalanced: {present[most]} x {most}, {present[least]} x {least}")


def _count(rows: Sequence[Mapping[str, Any]]) -> Counter[int]:
    return Counter(row["category_id"] for row in rows if not row["iscrowd"])


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def _same_files(split: str, examined: _Examined) -> Iterator[Finding]:
    names = _names(examined)
    twice = [number for number, count in Counter(file.sha256 for file in examined.files.values()).items() if count > 1]
    if twice:
        first = [names[number] for number, file in examined.files.items() if file.sha256 == twice[0]]
        yield Finding("info", split, f"images that occur more than once: {len(twice)}, for example {first[0]} as {first[1]}")


def _leaks(examined: Mapping[str, _Examined]) -> Iterator[Finding]:
    """Pictures of one split that are also in another; if one of the two is train, figures overstate accuracy."""
    splits = list(examined)
    for index, one in enumerate(splits):
        for other in splits[index + 1 :]:
            serious = "train" in (one, other)
            same, alike = _shared(examined[one], examined[other])
            if same:
                text = f"files that are also in {one}: {len(same)}, for example {same[0][1]} as {same[0][0]}; figures overstate accuracy"
                yield Finding("error" if serious else "warning", other, text)
            if alike:
                text = f"images that look like one in {one}: {len(alike)}, for example {alike[0][1]} like {alike[0][0]}"
                yield Finding("warning" if serious else "info", other, text)


def _shared(one: _Examined, other: _Examined) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs of file names: the same content, and a different file of the same picture."""
    names, others = _names(one), _names(other)
    by_content = {file.sha256: names[number] for number, file in one.files.items()}
    same = [(by_content[file.sha256], others[number]) for number, file in other.files.items() if file.sha256 in by_content]
    numbers = list(one.files)
    looks = Looks([one.files[number].look for number in numbers])
    alike = []
    for number, file in other.files.items():
        near = [] if file.sha256 in by_content else looks.alike(file.look)
        if near:
            alike.append((names[numbers[near[0]]], others[number]))
    return same, alike


def _names(examined: _Examined) -> dict[int, str]:
    return {row["id"]: row["file_name"] for row in examined.coco["images"]}
