"""Which split serves as which, and what is held out of train: how many, of which classes, and what stays together."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from places import ROOT

from deploy.contract import Preprocessing
from deploy.errors import ConfigError, DataError
from pipeline.commands.check import data_findings
from pipeline.config import load
from stages.config import DataConfig, RobustnessConfig
from stages.datasets import Source
from stages.datasets.cleaning.likeness import Looks
from stages.datasets.splits.arrange import arrange, held_out
from stages.datasets.splits.stratify import hold_out
from stages.notes import Note
from stages.prepare import find, gather, prepare

CLASSES = ("cat", "dog", "bird")
RNG = np.random.default_rng
PLAIN = Preprocessing()


def picture(seed: int) -> NDArray[np.uint8]:
    """64 x 48 px that look like no other seed's."""
    return RNG(seed).integers(0, 256, (6, 8, 1)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1).repeat(3, axis=2)


def frame(step: int, scene: int = 0) -> NDArray[np.uint8]:
    """A scene in which a bright square moves by 3 px per step."""
    pixels = picture(1000 + scene)
    pixels[20:32, 3 * step : 3 * step + 12] = 255
    return pixels


class Train:
    """A train split that grows image by image."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, name: str, pixels: NDArray[np.uint8], classes: Sequence[int] = (1,), **save: Any) -> None:
        """One more image with an object of each class."""
        number = len(self.images) + 1
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **save)
        self.images.append({"id": number, "file_name": name, "width": pixels.shape[1], "height": pixels.shape[0]})
        for category in classes:
            row = {"id": len(self.annotations) + 1, "image_id": number, "category_id": category, "bbox": [1, 2, 9, 9], "iscrowd": 0}
            self.annotations.append(row)

    def fill(self, count: int, classes: Sequence[int] = (1,), seed: int = 0) -> "Train":
        for number in range(seed, seed + count):
            self.add(f"p{number}.png", picture(number), classes)
        return self

    def coco(self) -> dict[str, Any]:
        kinds = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
        return {"images": self.images, "annotations": self.annotations, "categories": kinds}

    def source(self) -> Source:
        return Source(self.root, self.coco())


@pytest.fixture
def train(tmp_path: Path) -> Train:
    return Train(tmp_path)


def names(source: Source) -> set[str]:
    return {row["file_name"] for row in source.coco["images"]}


def classes(source: Source) -> list[int]:
    """How many images have an object of each class."""
    pairs = {(row["image_id"], row["category_id"]) for row in source.coco["annotations"]}
    return [sum(category == number for _, category in pairs) for number in (1, 2, 3)]


def notes(source: Source) -> list[tuple[str, str, int, int | None]]:
    return [(note.kind, note.action, note.count, note.total) for note in source.notes]


class TestHeldOut:
    @pytest.mark.parametrize(
        ("count", "share", "expected"), [(10, 0.2, 2), (12, 0.2, 2), (13, 0.2, 3), (20, 0.05, 1), (3, 0.01, 1), (3, 0.99, 2)]
    )
    def test_the_share_is_exact(self, train: Train, count: int, share: float, expected: int) -> None:
        kept, val = held_out(train.fill(count).source(), share, 0, PLAIN)
        assert (len(names(kept)), len(names(val))) == (count - expected, expected)
        assert notes(kept) == [("no val split, held out of train", "divided", expected, count)]
        assert set(kept.notes[0].images) <= names(val)

    def test_nothing_is_lost_or_doubled(self, train: Train) -> None:
        train.fill(9, (1, 2)).fill(4, (), seed=9)
        kept, val = held_out(train.source(), 0.3, 0, PLAIN)
        for key in ("images", "annotations"):
            assert sorted(row["id"] for part in (kept, val) for row in part.coco[key]) == [row["id"] for row in train.coco()[key]]
        for part in (kept, val):
            assert {row["image_id"] for row in part.coco["annotations"]} <= {row["id"] for row in part.coco["images"]}
            assert part.coco["categories"] == train.coco()["categories"]

    def test_every_class_has_its_share(self, train: Train) -> None:
        train.fill(40, (1,)).fill(15, (2, 3), seed=40).fill(2, (3,), seed=55).fill(3, (), seed=57)
        kept, val = held_out(train.source(), 0.2, 0, PLAIN)
        assert (classes(kept), classes(val)) == ([32, 12, 14], [8, 3, 3])
        assert len(names(val)) == 12

    def test_images_without_objects_are_divided_too(self, train: Train) -> None:
        train.fill(20).fill(20, (), seed=20)
        _, val = held_out(train.source(), 0.25, 0, PLAIN)
        assert (len(names(val)), classes(val)) == (10, [5, 0, 0])

    def test_the_only_image_of_a_class_is_for_learning(self, train: Train) -> None:
        for seed in range(5):
            kept, _ = held_out(train.fill(4 if seed == 0 else 0).source(), 0.5, seed, PLAIN)
            assert classes(kept)[0] == 2
        train.add("rare.png", picture(77), (1, 2))
        assert all("rare.png" in names(held_out(train.source(), 0.8, seed, PLAIN)[0]) for seed in range(5))

    def test_crowds_and_boxes_without_area_do_not_count(self, train: Train) -> None:
        train.fill(8)
        for row in train.annotations[:2]:
            row["iscrowd"] = 1
        for row in train.annotations[2:4]:
            row["bbox"] = [1, 1, 0, 5]
        _, val = held_out(train.source(), 0.5, 0, PLAIN)
        assert len(names(val) & {f"p{number}.png" for number in range(4)}) == 2

    def test_unreadable_files_stay_in_train(self, train: Train) -> None:
        train.fill(10)
        train.images += [{"id": 11, "file_name": "missing.png"}, {"id": 12, "file_name": "broken.png"}]
        (train.root / "broken.png").write_bytes(b"no image")
        kept, val = held_out(train.source(), 0.2, 0, PLAIN)
        assert names(kept) > {"missing.png", "broken.png"}
        assert len(names(val)) == 2

    @pytest.mark.parametrize(("count", "problem"), [(0, "no image can be read"), (1, "one image cannot be divided")])
    def test_too_few(self, train: Train, count: int, problem: str) -> None:
        with pytest.raises(DataError, match=problem):
            held_out(train.fill(count).source(), 0.2, 0, PLAIN)

    def test_one_picture_many_times(self, train: Train) -> None:
        for number in range(5):
            train.add(f"{number}.png", picture(1))
        with pytest.raises(DataError, match="all 5 show the same picture"):
            held_out(train.source(), 0.2, 0, PLAIN)


class TestDeterminism:
    def test_neither_order_nor_names_nor_folder_matter(self, train: Train, tmp_path: Path) -> None:
        train.fill(30, (1,)).fill(6, (2,), seed=30)
        _, val = held_out(train.source(), 0.2, 0, PLAIN)
        moved = Train(tmp_path / "elsewhere")
        for number in (*range(35, 29, -1), *range(29, -1, -1)):
            moved.add(f"renamed/{number}.png", picture(number), (1,) if number < 30 else (2,))
        _, other = held_out(moved.source(), 0.2, 0, PLAIN)
        assert {name.removeprefix("renamed/") for name in names(other)} == {name.removeprefix("p") for name in names(val)}

    def test_the_seed_matters(self, train: Train) -> None:
        train.fill(20)
        assert len({frozenset(names(held_out(train.source(), 0.2, seed, PLAIN)[1])) for seed in range(8)}) > 4

    def test_pythons_hash_seed_does_not(self, train: Train) -> None:
        train.fill(12, (1, 2))
        (train.root / "train.json").write_text(json.dumps(train.coco()))
        code = (
            "import json, sys, pathlib; from stages.datasets import Source; from stages.datasets.splits.arrange import held_out\n"
            "from deploy.contract import Preprocessing; PLAIN = Preprocessing()\n"
            "root = pathlib.Path(sys.argv[1]); source = Source(root, json.loads((root / 'train.json').read_text()))\n"
            "print([row['file_name'] for row in held_out(source, 0.4, 3, PLAIN)[1].coco['images']])"
        )
        said = {
            subprocess.run(
                [sys.executable, "-P", "-c", code, str(train.root)],
                env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for seed in ("1", "2")
        }
        assert len(said) == 1
        assert "p" in said.pop()


class TestTogether:
    @pytest.mark.parametrize("seed", range(4))
    def test_near_duplicates_are_on_one_side(self, train: Train, seed: int) -> None:
        train.fill(12)
        for number in range(12):
            train.add(f"same{number}.png", picture(number))
            train.add(f"larger{number}.jpg", picture(number).repeat(4, axis=0).repeat(4, axis=1), quality=80)
        kept, val = held_out(train.source(), 0.25, seed, PLAIN)
        assert len(names(val)) == 9
        numbers = [{"".join(filter(str.isdigit, name)) for name in names(part)} for part in (kept, val)]
        assert not numbers[0] & numbers[1]

    @pytest.mark.parametrize("seed", range(4))
    def test_roboflows_copies_are_on_one_side(self, train: Train, seed: int) -> None:
        for number in range(10):
            for copy, pixels in enumerate((picture(number), picture(number)[:, ::-1], picture(number)[::-1] // 2)):
                train.add(f"im{number}_jpg.rf.{RNG((number, copy)).bytes(16).hex()}.png", pixels)
        kept, val = held_out(train.source(), 0.2, seed, PLAIN)
        assert len(names(val)) == 6
        assert not {name.split(".rf.")[0] for name in names(kept)} & {name.split(".rf.")[0] for name in names(val)}

    @pytest.mark.parametrize("seed", range(4))
    def test_frames_of_one_scene_are_on_one_side(self, train: Train, seed: int) -> None:
        for scene in range(5):
            for step in range(6):
                train.add(f"frame_{7 + 6 * scene + step}.png", frame(step, scene))
        _, val = held_out(train.source(), 0.2, seed, PLAIN)
        scenes = {(int(name[6:-4]) - 7) // 6 for name in names(val)}
        assert (len(names(val)), len(scenes)) == (6, 1)

    def test_consecutive_names_of_different_scenes_are_divided(self, train: Train) -> None:
        for number in range(10):
            train.add(f"frame_{number:04d}.png", picture(number))
        kept, val = held_out(train.source(), 0.3, 0, PLAIN)
        assert len(names(val)) == 3
        assert len(kept.notes) == 1

    def test_a_chain_longer_than_half_is_cut_into_blocks(self, train: Train) -> None:
        for step in range(15):
            train.add(f"frame_{step}.png", frame(step))
        train.fill(5)
        kept, val = held_out(train.source(), 0.2, 0, PLAIN)
        assert len(names(val)) == 4
        steps = sorted(int(name[6:-4]) for name in names(val) if name.startswith("frame"))
        assert steps, "a block of the chain is held out"
        assert kept.notes[1].action == "assumed"
        assert kept.notes[1].kind == "val images that look like one in train"
        edges = [step for step in steps if {step - 1, step + 1} & set(range(15)) - set(steps)]
        assert {f"frame_{step}.png" for step in edges} <= set(kept.notes[1].images)
        assert kept.notes[1].count < len(steps) or len(steps) == len(edges)

    def test_white_pages_are_not_alike(self, train: Train) -> None:
        for number in range(10):
            pixels = np.full((48, 64, 3), 255, dtype=np.uint8)
            pixels[number, number] = 0
            train.add(f"page{number}.png", pixels)
        kept, val = held_out(train.source(), 0.2, 0, PLAIN)
        assert (len(names(val)), len(kept.notes)) == (2, 1)


class TestStratification:
    @pytest.mark.parametrize("seed", range(20))
    def test_every_class_of_two_groups_is_on_both_sides(self, seed: int) -> None:
        rng = RNG(seed)
        num_groups, num_classes = int(rng.integers(30, 200)), int(rng.integers(1, 8))
        sizes = rng.integers(1, 1 + rng.integers(1, 5), num_groups)
        counts = rng.binomial(sizes[:, None], np.exp(rng.uniform(np.log(2 / num_groups), np.log(0.7), num_classes)))
        held = hold_out(sizes, counts, 0.2)
        groups = (counts > 0).sum(axis=0)
        assert ((counts[held].sum(axis=0) > 0) == (groups >= 2)).all()
        assert ((counts[~held].sum(axis=0) > 0) == (groups >= 1)).all()
        assert abs(sizes[held].sum() - 0.2 * sizes.sum()) <= max(0.05 * sizes.sum(), 1)

    def test_frequent_classes_keep_their_share(self) -> None:
        counts = (RNG(0).random((1000, 6)) < (0.5, 0.3, 0.2, 0.1, 0.05, 0.02)).astype(int)
        held = hold_out(np.ones(1000, dtype=int), counts, 0.25)
        assert held.sum() == 250
        assert np.abs(counts[held].sum(axis=0) - 0.25 * counts.sum(axis=0)).max() <= 1

    def test_both_sides_have_images_even_if_groups_are_large(self) -> None:
        held = hold_out(np.array([6, 6]), np.zeros((2, 1), dtype=int), 0.1)
        assert sorted(held) == [False, True]


class TestLooks:
    def test_it_finds_what_comparing_all_pairs_finds(self) -> None:
        base = RNG(0).integers(20, 230, (12, 256))
        looks = np.concatenate([base + RNG(seed).integers(-4, 5, base.shape) for seed in range(6)]).astype(np.uint8)
        index = Looks([one.tobytes() for one in looks])
        expected = [[row for row, other in enumerate(looks) if np.abs(one.astype(int) - other).max() <= 4] for one in looks]
        assert [index.alike(one.tobytes()) for one in looks] == expected

    def test_chains_are_transitive(self) -> None:
        ramp = np.arange(256)
        looks = [(np.minimum(ramp, 230) + 4 * step).astype(np.uint8).tobytes() for step in range(5)]
        assert [sorted(chain) for chain in Looks(looks).chains()] == [[0, 1, 2, 3, 4]]
        assert Looks(looks[::2]).chains() == []

    def test_none(self) -> None:
        assert Looks([]).chains() == []
        assert Looks([]).alike(bytes(range(256))) == []


def source(**numbers: int) -> dict[str, Source]:
    """Splits of one image each, told apart by its name, with a note of the reader."""
    note = {"kind": "k", "action": "repaired", "unit": "images", "count": 1, "examples": ("x",)}
    kinds = [{"id": 1, "name": "cat"}]
    return {
        split: Source(
            Path(),
            {"images": [{"id": number, "file_name": split}], "annotations": [], "categories": kinds},
            (Note.model_validate(note | {"split": split}),),
        )
        for split, number in numbers.items()
    }


def told(found: Mapping[str, Source], **splits: str) -> dict[str, str]:
    arranged = arrange(found, splits, None, 0, PLAIN)
    assert all(note.split == split for split, one in arranged.items() for note in one.notes)
    return {split: one.coco["images"][0]["file_name"] for split, one in arranged.items()}


class TestNames:
    def test_a_found_split_serves_as_another(self) -> None:
        assert told(source(train=1, test=2), val="test") == {"train": "train", "val": "test"}
        assert told(source(train=1, val=2, test=3), val="test", test="val") == {"train": "train", "val": "test", "test": "val"}
        assert told(source(train=1, test=2), train="train", val="test") == {"train": "train", "val": "test"}

    def test_each_word_for_a_split_is_understood(self) -> None:
        assert told(source(train=1, val=2), val="valid", train="training") == {"train": "train", "val": "val"}
        assert told(source(train=1, valid=2), val="valid") == {"train": "train", "val": "valid"}

    def test_a_name_of_its_own(self) -> None:
        assert told(source(train=1, val=2, test=3), night="test") == {"train": "train", "val": "val", "night": "test"}

    @pytest.mark.parametrize(
        ("splits", "message"),
        [
            ({"val": "tests"}, "has no split tests (did you mean test?); it has train, test"),
            ({"val": "test", "night": "test"}, "test is used twice, as val and night"),
            ({"train": "test"}, "has a split train of its own; name what it is to be as well, such as {train: test, test: train}"),
            ({"valid": "test"}, "valid is not a name of ours; write val: followed by the data's name"),
        ],
    )
    def test_what_is_refused(self, splits: dict[str, str], message: str) -> None:
        with pytest.raises(DataError) as caught:
            arrange(source(train=1, test=2), splits, None, 0, PLAIN)
        assert message in str(caught.value)

    def test_a_share_for_data_with_a_val_split(self) -> None:
        with pytest.raises(DataError, match=r"data.val_share: 0.2 makes a val split, but the data has one of 1 images; leave out"):
            arrange(source(train=1, val=2), {}, 0.2, 0, PLAIN)


class SplitFolder(Train):
    """A COCO folder with splits of these names."""

    def write(self, **splits: Sequence[int]) -> "SplitFolder":
        for split, numbers in splits.items():
            part = Train(self.root / split)
            for number in numbers:
                part.add(f"{number}.png", picture(number), (1, 2))
            (part.root / "_annotations.coco.json").write_text(json.dumps(part.coco()))
        return self

    def config(self, **options: Any) -> DataConfig:
        return DataConfig.model_validate({"dataset": "coco", "root": str(self.root), **options})

    def sizes(self, **options: Any) -> dict[str, int]:
        out = self.root.parent / "out"
        out.mkdir(exist_ok=True)
        return {split: facts.num_images for split, facts in prepare(out, self.config(**options)).facts.splits.items()}


@pytest.fixture
def folder(tmp_path: Path) -> SplitFolder:
    (tmp_path / "data").mkdir()
    return SplitFolder(tmp_path / "data")


class TestPrepare:
    def test_train_and_test_only(self, folder: SplitFolder) -> None:
        folder.write(train=range(8), test=range(8, 12))
        expected = (
            "no val split: the data has train, test, and train and val are needed; set data.splits: {val: test}, or data.val_share: 0.2"
        )
        with pytest.raises(DataError) as caught:
            folder.sizes()
        assert str(caught.value) == f"{expected}, which holds out a part of train"
        assert folder.sizes(splits={"val": "test"}) == {"train": 8, "val": 4}
        assert folder.sizes(val_share=0.25) == {"train": 6, "val": 2, "test": 4}

    @pytest.mark.parametrize(
        ("splits", "remedy"),
        [
            ({"train": range(3)}, "; set data.val_share: 0.2, which holds out a part of train"),
            ({"test": range(3)}, "; set data.splits: {train: test} and data.val_share: 0.2, which holds out a part of it as val"),
            ({"val": range(3)}, "; set data.splits: {train: val} and data.val_share: 0.2, which holds out a part of it as val"),
            ({"val": range(3), "test": range(3, 6)}, "; set data.splits: {train: test}"),
        ],
    )
    def test_the_message_names_what_works(self, folder: SplitFolder, splits: dict[str, range], remedy: str) -> None:
        folder.write(**splits)
        with pytest.raises(DataError) as caught:
            folder.sizes()
        message = str(caught.value)
        assert message.endswith(remedy)
        assert f"the data has {', '.join(splits)}," in message

    def test_data_to_judge_on_needs_only_its_split(self, folder: SplitFolder) -> None:
        folder.write(test=range(3))
        expected = prepare(folder.root.parent / "first", folder.config(splits={"train": "test"}, val_share=0.4)).facts.contract
        with pytest.raises(DataError) as caught:
            gather(folder.root.parent / "second", folder.config(), "val", (), expected)
        assert str(caught.value) == f"{folder.root}: no split val; the data has test; choose one to judge on with --split NAME"
        judged = gather(folder.root.parent / "third", folder.config(splits={"val": "test"}), "val", ("train",), expected)
        assert {split: facts.num_images for split, facts in judged.facts.splits.items()} == {"val": 3}

    def test_splits_and_share_together(self, folder: SplitFolder) -> None:
        folder.write(test=range(10))
        assert folder.sizes(splits={"train": "test"}, val_share=0.2) == {"train": 8, "val": 2}

    def test_check_sees_the_same_splits(self, folder: SplitFolder) -> None:
        folder.write(train=range(10))
        config = load(ROOT / "pipeline.yaml").model_copy(update={"robustness": RobustnessConfig()})
        data = [finding.message for finding in data_findings(config.model_copy(update={"data": folder.config()}))]
        assert "data.val_share: 0.2" in data[0]
        findings = data_findings(config.model_copy(update={"data": folder.config(val_share=0.2)}))
        assert [finding for finding in findings if finding.level == "error"] == []
        assert {finding.split for finding in findings} >= {"train", "val"}

    def test_near_duplicates_leave_no_finding(self, folder: SplitFolder) -> None:
        folder.write(train=[number % 10 for number in range(30)])
        part = Train(folder.root / "train")
        for number in range(30):
            part.add(f"{number}.png", picture(number % 10), (1, 2))
        (part.root / "_annotations.coco.json").write_text(json.dumps(part.coco()))
        config = load(ROOT / "pipeline.yaml")
        findings = data_findings(config.model_copy(update={"data": folder.config(val_share=0.2)}))
        assert not [finding for finding in findings if "also in" in finding.message or "look like" in finding.message]

    def test_the_split_is_the_same_in_another_process_of_the_pipeline(self, folder: SplitFolder, tmp_path: Path) -> None:
        folder.write(train=range(10))
        config = folder.config(val_share=0.3)
        first, second = (find(tmp_path, config)["val"] for _ in range(2))
        assert names(first) == names(second)


class TestConfiguration:
    def load(self, tmp_path: Path, text: str) -> DataConfig:
        path = tmp_path / "pipeline.yaml"
        path.write_text(f"extends: {ROOT / 'pipeline.yaml'}\ndata:\n  {text}\n")
        return load(path).data

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("val_share: 0", "greater than 0"),
            ("val_share: 1", "less than 1"),
            ("val_share: 20%", "val_share"),
            ("splits: {val: train}", "train cannot also be val"),
            ("splits: {../x: test}", "splits"),
            ("splits: test", "splits"),
            ("split_share: 0.2", "val_share"),
        ],
    )
    def test_what_is_refused(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            self.load(tmp_path, text)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_what_is_accepted(self, tmp_path: Path) -> None:
        assert self.load(tmp_path, "splits: {val: train, train: test}").splits == {"val": "train", "train": "test"}
