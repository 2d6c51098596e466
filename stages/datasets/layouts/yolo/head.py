"""The file that describes a YOLO folder: data.yaml by any name, or darknet's obj.data. Values are used as the text written.

YAML reads `no`, `null`, `1.0` and dates as other things than text, so no value is interpreted before it is known what it is for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deploy.errors import DataError
from deploy.machine.documents import Bounded, parse_yaml
from stages.datasets.layouts import SPLITS
from stages.datasets.layouts.text import read_text
from stages.datasets.layouts.yolo import kinds
from stages.notes import Notes

NOTHING = ("", "null", "Null", "NULL", "~", "None", "none")
_USUAL = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_LONGEST = 10
"""Digits of a number of classes or keypoints are fewer."""
_OF_TRAINING = ("task", "epochs", "lr0", "backbone", "depth_multiple", "hyp")
"""Keys of files that trainings leave behind or read: args.yaml, hyp.yaml, opt.yaml, a model's own."""


@dataclass(frozen=True)
class DataFile:
    """`entries` is where each split's images are; `names` is as found; `keypoints` is kpt_shape.

    `polygons`: the file states that there are no keypoints.
    """

    path: Path | None = None
    entries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    base: str = ""
    names: Any = None
    num_classes: int | None = None
    keypoints: tuple[int, int] | None = None
    polygons: bool = False

    @property
    def rank(self) -> tuple[bool, bool]:
        """How well the file fits."""
        complete = bool(self.names) and bool(self.entries)
        return complete, self.path is not None and self.path.name.lower() in _USUAL


class _AsText(Bounded, yaml.BaseLoader):
    """Everything as text; a key that occurs twice is an error."""

    most = 1_000_000

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep=True)
        if len(found) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key occurs twice", node.start_mark)
        return found


def load(text: str) -> Any:
    """YAML with every value as the text written.

    Raises:
        ValueError: not YAML, or not within the bounds of `documents`.
    """
    try:
        return parse_yaml(text, _AsText)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def find(root: Path, notes: Notes, split: str) -> DataFile:
    """The folder's data file; an empty one if it has none.

    Raises:
        DataError: it cannot be read, or two files fit equally well and differ.
    """
    files = [path for path in sorted(root.iterdir()) if path.suffix.lower() in (".yaml", ".yml") and path.is_file()]
    failed: DataError | None = None
    fitting: list[DataFile] = []
    for path in files:
        try:
            read = _read_yaml(path, Notes(), split)
        except DataError as error:
            failed = failed or error
        else:
            fitting += [read] if read is not None else []
    if not fitting and failed is not None:
        raise failed
    if not fitting:
        fitting = [_read_darknet(path, Notes(), split) for path in sorted(root.glob("*.data")) if path.is_file()]
    best = _best(fitting, notes, split) if fitting else DataFile()
    if best.path is not None:
        read_text(best.path, notes, split)
    return best


def fits(root: Path) -> bool:
    """Whether a folder has a data file."""
    try:
        return find(root, Notes(), "").path is not None
    except DataError:
        return True


def _best(fitting: list[DataFile], notes: Notes, split: str) -> DataFile:
    fitting = sorted(fitting, key=lambda one: one.rank, reverse=True)
    first = fitting[0]
    for other in fitting[1:]:
        if _facts(other) == _facts(first) or not other.rank[0]:
            continue
        if other.rank == first.rank:
            raise DataError(f"{first.path}: {other.path and other.path.name} fits as well and differs; keep one, or move one away")
        notes.add(kinds.OTHER_FILE, split, f"{first.path and first.path.name} is used, not {other.path and other.path.name}")
    return first


def _facts(one: DataFile) -> tuple[Any, ...]:
    return one.entries, one.base, one.names, one.keypoints


def _read_yaml(path: Path, notes: Notes, split: str) -> DataFile | None:
    """The file if it describes data; None if it is for something else."""
    try:
        found = load(read_text(path, notes, split))
    except ValueError as error:
        raise DataError(f"{path}: not readable as YAML ({error})") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: should be a mapping with train, val and names")
    entries = _entries(path, found)
    if any(key in found for key in _OF_TRAINING) or not (entries or "names" in found or "nc" in found):
        return None
    keypoints = found.get("kpt_shape")
    none = keypoints in (*NOTHING, "false", "0") and "kpt_shape" in found
    shape = None if keypoints is None or none else _shape(path, keypoints)
    base = found.get("path", "")
    base = base if isinstance(base, str) and base not in NOTHING else ""
    return DataFile(path, entries, base, found.get("names"), _whole(found.get("nc")), shape, none)


def _entries(path: Path, found: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    entries = {}
    for split, words in SPLITS.items():
        value = next((found[word] for word in words if found.get(word) and found[word] not in NOTHING), None)
        if value is None or value in ("true", "false", "True", "False"):  # a switch of a training
            continue
        places = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) and one for one in places):
            raise DataError(f"{path}: {split} should be a folder, a list of folders or a file that lists images, got {str(value)[:80]}")
        entries[split] = tuple(places)
    return entries


def _shape(path: Path, value: Any) -> tuple[int, int]:
    values = value if isinstance(value, list) else str(value).strip("[]() ").split(",")
    numbers = [_whole(one) for one in values]
    if len(numbers) != 2 or numbers[0] is None or numbers[0] < 1 or numbers[1] not in (2, 3):
        raise DataError(f"{path}: kpt_shape should be [number of keypoints, 2 or 3], got {value}")
    return numbers[0], numbers[1]


def _whole(value: Any) -> int | None:
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < _LONGEST else None


def _read_darknet(path: Path, notes: Notes, split: str) -> DataFile:
    """obj.data: lines `key = value`; `names` is a file."""
    lines = (line.partition("=") for line in read_text(path, notes, split).splitlines() if "=" in line)
    found = {key.strip(): value.strip() for key, _, value in lines}
    return DataFile(path, _entries(path, found), "", found.get("names"), _whole(found.get("classes")))
