"""Images held out of train to choose settings on: a data set like any other, whatever kind of data it comes from."""

from pathlib import Path

import pytest
import tiny

from deploy.errors import DataError
from stages.artifacts import Dataset
from stages.hold_out import TUNING, hold_out
from stages.measurement.splits import labeled_split


def held(out: Path, data: Dataset, share: float = 0.25) -> Dataset:
    out.mkdir()
    return hold_out(out, data, share, 0)


def test_every_image_and_object_of_train_is_on_one_side(tmp_path: Path) -> None:
    data = tiny.dataset(tmp_path / "data")
    found = held(tmp_path / "held", data)
    before, *parts = (labeled_split(one, name) for one, name in ((data, "train"), (found, "train"), (found, TUNING)))
    assert [len(part.images) for part in parts] == [9, 3]
    for key in ("images", "annotations"):
        both = [row for part in parts for row in part.truth[key]]
        assert sorted(both, key=lambda row: row["id"]) == sorted(before.truth[key], key=lambda row: row["id"])
    for split, part in zip(("train", TUNING), parts, strict=True):
        assert all(file.is_file() for file in part.images)
        assert found.facts.splits[split].num_boxes == len(part.truth["annotations"])
        table = found.table(split)
        assert [table.name(index) for index in range(len(table))] == [row["file_name"] for row in part.truth["images"]]
    moved = Dataset((tmp_path / "store").joinpath("held"))
    moved.root.parent.mkdir()
    for one in (data, found):
        one.root.rename(moved.root.parent / one.root.name)
    assert all(file.is_file() for file in labeled_split(moved, TUNING).images), "in a store that was moved"


def test_a_single_image_cannot_be_divided(tmp_path: Path) -> None:
    data = tiny.dataset(tmp_path / "data", train_images=1)
    with pytest.raises(DataError, match=r"one image cannot be divided; name a labeled split with compare\.tuning_split"):
        held(tmp_path / "held", data)
