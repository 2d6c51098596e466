"""The splits as pipeline.yaml names them: data.splits, and data.val_share for data without a val split."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from deploy.contract import Preprocessing
from deploy.errors import DataError
from deploy.plugins import suggest
from stages.datasets import Source
from stages.datasets.cleaning import clean, rules
from stages.datasets.cleaning.image_file import ImageFile
from stages.datasets.cleaning.images import scan
from stages.datasets.cleaning.likeness import Looks
from stages.datasets.layouts import SPLITS
from stages.datasets.splits.groups import Groups, group
from stages.datasets.splits.stratify import hold_out
from stages.datasets.tables.rows import Rows, light
from stages.notes import MAX_EXAMPLES, Kind, Note

HELD_OUT = Kind("no val split, held out of train", "divided", "images")
CUT = Kind("val images that look like one in train", "assumed", "images")


def arrange(
    found: Mapping[str, Source], splits: Mapping[str, str], val_share: float | None, seed: int, preprocessing: Preprocessing
) -> dict[str, Source]:
    """The data's splits by our names.

    Args:
        found: the splits by the data's names.
        splits: the data's name by our name; splits that are not in it keep their names.
        val_share: share of train's images to hold out as val; None holds out none.
        seed: which images are held out.
        preprocessing: how files are decoded, for comparing images.

    Raises:
        DataError: a split that does not exist or would be used twice, val_share for data with a val split, or too few images.
    """
    named = rename(found, splits)
    if val_share is None or "train" not in named:
        return named
    if "val" in named:
        count = len(named["val"].coco.get("images") or ())
        raise DataError(
            f"data.val_share: {val_share:g} makes a val split, but the data has one of {count} images; leave out data.val_share"
        )
    train, val = held_out(named["train"], val_share, seed, preprocessing)
    return {"train": train, "val": val, **{split: source for split, source in named.items() if split != "train"}}


def rename(found: Mapping[str, Source], splits: Mapping[str, str]) -> dict[str, Source]:
    """The sources by our names, with their notes."""
    ours: dict[str, str] = {}
    for our, name in splits.items():
        _refuse_data_name(our, found)
        theirs = _found(name, found)
        if theirs is None:
            there = ", ".join(found) or "none"
            raise DataError(f"data.splits: {{{our}: {name}}}: the data has no split {name}{suggest(name, found)}; it has {there}")
        if theirs in ours:
            raise DataError(f"data.splits: {theirs} is used twice, as {ours[theirs]} and {our}; one image must not be in two splits")
        ours[theirs] = our
    for theirs in found:
        if theirs in splits and theirs not in ours:
            both = f"{{{theirs}: {splits[theirs]}, {splits[theirs]}: {theirs}}}"
            raise DataError(f"data.splits: the data has a split {theirs} of its own; name what it is to be as well, such as {both}")
    return {ours.get(theirs, theirs): _as(source, ours.get(theirs, theirs)) for theirs, source in found.items()}


def _found(name: str, found: Mapping[str, Source]) -> str | None:
    """The split of this name, whichever of the words for it is used."""
    if name in found:
        return name
    return next((split for split, words in SPLITS.items() if name in words and split in found), None)


def _refuse_data_name(our: str, found: Mapping[str, Source]) -> None:
    meant = next((split for split, words in SPLITS.items() if our in words and our != split), None)
    if meant is not None and our not in found:
        raise DataError(f"data.splits: {our} is not a name of ours; write {meant}: followed by the data's name")


def _as(source: Source, split: str) -> Source:
    return replace(source, notes=tuple(note.model_copy(update={"split": split}) for note in source.notes))


def held_out(train: Source, share: float, seed: int, preprocessing: Preprocessing) -> tuple[Source, Source]:
    """Train without the images held out, and those as val; the same whatever the order of files.

    Files that cannot be read remain in train, where cleaning reports them.

    Raises:
        DataError: all images belong together.
    """
    rules.check("train", train.coco)
    rows: list[dict[str, Any]] = train.coco["images"]
    scanned = scan([train.images / row["file_name"] for row in rows], "compare train images", preprocessing, fingerprints=True)
    usable = [(row, file) for row, file in zip(rows, scanned, strict=True) if isinstance(file, ImageFile)]
    # By content: neither the order nor the names of the files decide what is held out.
    usable.sort(key=lambda pair: (pair[1].sha256, pair[0]["file_name"], pair[0]["id"]))
    names, files = [row["file_name"] for row, _ in usable], [file for _, file in usable]
    grouped = group(names, files, share) if usable else Groups([])
    groups = sorted(grouped.groups, key=lambda members: _digest(seed, members, files))
    if len(groups) < 2:
        why = f"all {len(names)} show the same picture" if len(names) > 1 else "one image cannot be divided"
        problem = why if names else "no image can be read"
        raise DataError(f"data.val_share: {share:g}: {problem}; add images, or name a val split with data.splits")
    held = hold_out(np.array([len(one) for one in groups]), _counts(train.coco, [row["id"] for row, _ in usable], groups), share)
    chosen = {one for members, out in zip(groups, held, strict=True) if out for one in members}
    ids = {usable[one][0]["id"] for one in chosen}
    notes = (*train.notes, _note(HELD_OUT, [names[one] for one in sorted(chosen)], len(rows)), *_leaks(grouped, chosen, names, files))
    return Source(train.images, _part(train.coco, ids, held=False), notes), Source(train.images, _part(train.coco, ids, held=True))


def _digest(seed: int, members: Sequence[int], files: Sequence[ImageFile]) -> bytes:
    return hashlib.sha256(f"{seed} {' '.join(files[one].sha256 for one in members)}".encode()).digest()


def _counts(coco: Mapping[str, Any], image_ids: Sequence[int], groups: Sequence[Sequence[int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """How many images of each group [G] have a usable object of each category [L]."""
    column = {number: index for index, number in enumerate(rules.categories(coco))}
    row_of = {image_ids[one]: row for row, members in enumerate(groups) for one in members}
    pairs = {
        (row["image_id"], column[row["category_id"]])
        for row in light(coco["annotations"])
        if row["image_id"] in row_of and row.get("iscrowd") not in (1, True) and clean.read_box(row.get("bbox")) is not None
    }
    counts = np.zeros((len(groups), len(column)), dtype=np.int64)
    for image, category in pairs:
        counts[row_of[image], category] += 1
    return counts


def _part(coco: Mapping[str, Any], ids: set[int], *, held: bool) -> dict[str, Any]:
    images = [row for row in coco["images"] if (row["id"] in ids) == held]
    return {**coco, "images": images, "annotations": Rows.kept(row for row in coco["annotations"] if (row["image_id"] in ids) == held)}


def _leaks(grouped: Groups, chosen: set[int], names: Sequence[str], files: Sequence[ImageFile]) -> tuple[Note, ...]:
    """A note if a chain of similar images was cut: the images held out that still look like one that was kept."""
    kept = sorted(grouped.cut - chosen)
    index = Looks([files[one].look for one in kept])
    linked = {one for link in grouped.links if (link[0] in chosen) != (link[1] in chosen) for one in link}
    alike = sorted(one for one in grouped.cut & chosen if one in linked or index.alike(files[one].look))
    return (_note(CUT, [names[one] for one in alike], len(names)),) if alike else ()


def _note(kind: Kind, images: Sequence[str], total: int) -> Note:
    first = tuple(sorted(images)[:MAX_EXAMPLES])
    return Note(
        kind=kind.name, action=kind.action, unit=kind.unit, split="train", count=len(images), total=total, examples=first, images=first
    )
