"""Groups of the judged split's images: by a field of the annotations, by their file names, by a CSV file, by their objects."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.accuracy.matches import AREAS
from deploy.comparison.robustness import ImageGroup
from deploy.errors import DataError
from deploy.machine import files
from deploy.plugins import suggest
from stages.artifacts import Dataset
from stages.config import GroupingConfig, RobustnessConfig
from stages.measurement.splits import labeled_split

MOST_GROUPS = 100
COLUMNS = ("file", "group")
CROWDS = {"1 object": (1, 1), "2 to 5 objects": (2, 5), "6 or more objects": (6, 10**9)}


def groups_of(config: RobustnessConfig, split: str, dataset: Dataset) -> list[ImageGroup]:
    """Every group, also those with few images.

    Raises:
        DataError: a grouping cannot be made: a field that no image has, a pattern that matches nothing, a CSV file that does not name
            every image.
    """
    found = []
    for name, one in config.groups.items():
        found += _groups(name, one, labeled_split(dataset, split).truth, split, dataset)
    return found


def digests(config: RobustnessConfig) -> dict[str, str]:
    """The content of the CSV files."""
    named = {name: one.csv for name, one in config.groups.items() if one.csv is not None}
    return {f"groups.{name}": files.sha256(_existing(name, path)) for name, path in named.items()}


def _existing(name: str, path: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"robustness.groups.{name}: {path} is not a file; write a CSV file with the columns {','.join(COLUMNS)}")
    return file


def _groups(name: str, one: GroupingConfig, truth: Mapping[str, Any], split: str, dataset: Dataset) -> list[ImageGroup]:
    if one.by == "size":
        return _by_size(name, truth)
    images = truth["images"]
    if one.by == "crowding":
        labels = _by_crowding(truth)
    elif one.pattern is not None:
        labels = _by_pattern(name, one.pattern, images, split)
    elif one.csv is not None:
        labels = _by_csv(name, one.csv, images, split)
    else:
        labels = _by_field(name, str(one.field), images, split, dataset)
    members: dict[str, set[int]] = defaultdict(set)
    for number, label in labels.items():
        members[label].add(number)
    if len(members) > MOST_GROUPS:
        some = ", ".join(sorted(members)[:3])
        raise DataError(f"robustness.groups.{name}: {len(members)} groups ({some}, ...); at most {MOST_GROUPS} are allowed")
    order = list(CROWDS) if one.by == "crowding" else sorted(members)
    return [ImageGroup(name, label, frozenset(members[label])) for label in order if label in members]


def _by_size(name: str, truth: Mapping[str, Any]) -> list[ImageGroup]:
    """Objects by COCO's ranges of area; the images of a group are those with such an object."""
    groups = []
    for area, (low, high) in AREAS.items():
        rows = [row for row in truth["annotations"] if not row.get("iscrowd") and low <= row["area"] <= high]
        if area != "all" and rows:
            groups.append(ImageGroup(name, area, frozenset(row["image_id"] for row in rows), area))
    return groups


def _by_crowding(truth: Mapping[str, Any]) -> dict[int, str]:
    counts = Counter(row["image_id"] for row in truth["annotations"] if not row.get("iscrowd"))
    return {number: label for number, count in counts.items() for label, (low, high) in CROWDS.items() if low <= count <= high}


def _by_pattern(name: str, pattern: str, images: Sequence[Mapping[str, Any]], split: str) -> dict[int, str]:
    """Images whose names do not match are in no group."""
    found = {image["id"]: re.search(pattern, image["file_name"]) for image in images}
    labels = {number: hit[1] for number, hit in found.items() if hit is not None and hit[1]}
    if not labels:
        example = images[0]["file_name"]
        raise DataError(f"robustness.groups.{name}: pattern '{pattern}' matches no file name of split {split}, such as {example}")
    return labels


def _by_csv(name: str, path: str, images: Sequence[Mapping[str, Any]], split: str) -> dict[int, str]:
    rows = read_csv(name, path)
    known = {image["file_name"]: image["id"] for image in images}
    lacking = [file for file in known if file not in rows]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise DataError(f"robustness.groups.{name}: {path} has no row for {lacking[0]}{more} of split {split}; name every image")
    return {number: rows[file] for file, number in known.items()}


def refuse_strange(config: RobustnessConfig, split: str, dataset: Dataset) -> None:
    """Refuse CSV files that name images which are in no split: most likely they are misspelt.

    An image that is there but was left out, because it is damaged for example, may be named.

    Raises:
        DataError: an image is in no split.
    """
    for name, one in config.groups.items():
        if one.csv is None:
            continue
        left = dict.fromkeys(read_csv(name, one.csv))
        for other in sorted(dataset.facts.splits, key=lambda each: each != split):
            if left:
                for image in labeled_split(dataset, other).truth["images"]:
                    left.pop(image["file_name"], None)
        for file in left:
            if any((dataset.images(other) / file).is_file() for other in dataset.facts.splits):
                continue
            raise DataError(f"robustness.groups.{name}: {one.csv} names {file}, which is not an image of any split; mend or remove it")


def read_csv(name: str, path: str) -> dict[str, str]:
    """The group of each file.

    Raises:
        DataError: not a CSV file with the two columns, a row without a group, a file named twice.
    """
    try:
        lines = _existing(name, path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"robustness.groups.{name}: {path} is not text in UTF-8; save it as UTF-8") from error
    table = csv.DictReader(lines)
    if not set(COLUMNS) <= set(table.fieldnames or ()):
        given = ",".join(table.fieldnames or ()) or "nothing"
        raise DataError(f"robustness.groups.{name}: {path}:1: the columns are {given[:80]}; write {','.join(COLUMNS)}")
    rows: dict[str, str] = {}
    for row in _rows(name, path, table):
        where = f"robustness.groups.{name}: {path}:{table.line_num}"
        if None in row:
            raise DataError(f"{where}: more values than columns; write a name that contains a comma in quotation marks")
        file, label = ((row[column] or "").strip() for column in COLUMNS)
        if not file or not label:
            raise DataError(f"{where}: no {'file' if not file else 'group'}; every row needs both")
        if rows.setdefault(file, label) != label:
            raise DataError(f"{where}: {file} is in group {label} here and in {rows[file]} above; keep one of the rows")
    return rows


def _rows(name: str, path: str, table: "csv.DictReader[str]") -> Iterator[dict[str | Any, str | Any]]:
    try:
        yield from table
    except csv.Error as error:
        raise DataError(f"robustness.groups.{name}: {path}:{table.line_num + 1}: {error}; is a quotation mark missing?") from error


def _by_field(name: str, key: str, images: Sequence[Mapping[str, Any]], split: str, dataset: Dataset) -> dict[int, str]:
    """Images without the field are in no group."""
    fields = dataset.image_fields(split)
    labels = {number: str(values[key]) for number, values in fields.items() if key in values}
    if not labels:
        there = sorted({one for values in fields.values() for one in values})
        has = f"they have {', '.join(there)}" if there else "they have none of their own"
        hint = suggest(key, there) or ("" if there else "; if the file has some, read it again: --force prepare")
        raise DataError(f"robustness.groups.{name}: no image of split {split} has a field '{key}'; {has}{hint}")
    return {image["id"]: labels[image["id"]] for image in images if image["id"] in labels}
