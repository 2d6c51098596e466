"""Pascal VOC folders as labeling tools export them: which files belong to which split, and which image each XML file means."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from noted import counts, examples
from PIL import Image

from deploy.errors import DataError
from stages.config import DataConfig
from stages.datasets import Source, voc
from stages.prepare import prepare

ONE = "<object><name>cat</name><bndbox><xmin>{0}</xmin><ymin>2</ymin><xmax>{1}</xmax><ymax>8</ymax></bndbox></object>"


def draw(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", size, "white")
    picture.putpixel((0, 0), (0, 0, 0))
    picture.save(path, format="PNG")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def annotate(path: Path, left: int, filename: str | None = None) -> None:
    """An XML file with one box of 5 x 6 px at left, 2."""
    named = path.stem + ".png" if filename is None else filename
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
    write(path, f"<annotation><filename>{named}</filename>{size}{ONE.format(left, left + 5)}</annotation>")


def devkit(root: Path, stems: Sequence[str], **lists: str) -> Path:
    """Annotations, JPEGImages and lists; box number i is at i, 2."""
    for number, stem in enumerate(stems):
        draw(root / f"JPEGImages/{stem}.png")
        annotate(root / f"Annotations/{stem}.xml", number)
    for name, text in lists.items():
        write(root / f"ImageSets/Main/{name}.txt", text)
    return root


def lefts(source: Source) -> dict[str, float]:
    """The left edge of each image's box."""
    files = {row["id"]: row["file_name"] for row in source.coco["images"]}
    return {files[row["image_id"]]: row["bbox"][0] for row in source.coco["annotations"]}


def notes(sources: dict[str, Source]) -> dict[str, dict[str, int]]:
    """How often each kind of note was made, by split."""
    return {split: {note.kind: note.count for note in source.notes} for split, source in sources.items()}


def build(root: Path) -> dict[str, Source]:
    return voc.build(root, root=str(root))


class TestLists:
    @pytest.mark.parametrize(
        "line",
        [
            "img (0)",
            "img (0) 1",
            "img (0)  -1",
            '"img (0)" 1',
            "img (0).png",
            "img (0).xml",
            "./JPEGImages/img (0).png",
            "C:\\data\\JPEGImages\\img (0).png",
            "/home/someone/voc/Annotations/img (0).xml",
            "JPEGImages/img (0).png Annotations/img (0).xml",
            "/data/JPEGImages/img (0).png 1,2,6,8,0 3,4,5,6,1",
            "IMG (0)",
            "\ufeffimg (0)",
            "\n  img (0)  \r\n\r",
        ],
    )
    def test_a_line_as_tools_write_it(self, tmp_path: Path, line: str) -> None:
        found = build(devkit(tmp_path, ["img (0)", "img (1)"], train=line, val="img (1)\n"))
        assert lefts(found["train"]) == {"img (0).png": 0}
        assert lefts(found["val"]) == {"img (1).png": 1}

    def test_dots_in_names_are_not_suffixes(self, tmp_path: Path) -> None:
        found = build(devkit(tmp_path, ["a.v2", "a.v3", "a"], train="a.v2\na.v3\n", val="a\n"))
        assert lefts(found["train"]) == {"a.v2.png": 0, "a.v3.png": 1}

    def test_a_name_that_ends_like_a_column(self, tmp_path: Path) -> None:
        assert lefts(build(devkit(tmp_path, ["img 1", "b"], train="img 1\n", val="b\n"))["train"]) == {"img 1.png": 0}
        with pytest.raises(DataError, match=r"train\.txt:1: 'img 1' could be img 1\.xml or img\.xml"):
            build(devkit(tmp_path, ["img 1", "img"], train="img 1\n", val="b\n"))

    @pytest.mark.parametrize(
        ("lists", "splits"),
        [
            ({"Train": "a", "Validation": "b"}, {"train": ["a"], "val": ["b"]}),
            ({"train": "a", "val": "b", "trainval": "a\nb\n", "test": "c"}, {"train": ["a"], "val": ["b"], "test": ["c"]}),
            ({"trainval": "a\nb\n", "test": "c"}, {"train": ["a", "b"], "test": ["c"]}),
            ({"default": "a\nb\nc\n"}, {"train": ["a", "b", "c"]}),
            ({"job_7": "a\nb\nc\n"}, {"train": ["a", "b", "c"]}),
            (
                {"cat_train": "a.png 1\nb.png -1\n", "dog_train": "a.png -1\nb.png 1\n", "cat_val": "c.png 1\n"},
                {"train": ["a", "b"], "val": ["c"]},
            ),
            ({"train": "a", "val": "b", "cat_train": "c 1\n"}, {"train": ["a"], "val": ["b"]}),
        ],
    )
    def test_which_lists_are_read(self, tmp_path: Path, lists: dict[str, str], splits: dict[str, list[str]]) -> None:
        found = build(devkit(tmp_path, ["a", "b", "c"], **lists))
        assert {split: [name.removesuffix(".png") for name in lefts(source)] for split, source in found.items()} == splits
        assert not any(source.notes for source in found.values())

    def test_lists_of_unknown_splits_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"cannot tell the splits from the lists one\.txt, two\.txt; name them train\.txt and val\.txt"):
            build(devkit(tmp_path, ["a", "b"], one="a", two="b"))

    def test_lists_next_to_the_folders(self, tmp_path: Path) -> None:
        devkit(tmp_path, ["a", "b"])
        write(tmp_path / "train_list.txt", "JPEGImages/a.png Annotations/a.xml\n")
        write(tmp_path / "val_list.txt", "JPEGImages/b.png Annotations/b.xml\n")
        found = build(tmp_path)
        assert (lefts(found["train"]), lefts(found["val"])) == ({"a.png": 0}, {"b.png": 1})

    def test_names_without_annotation_are_counted(self, tmp_path: Path) -> None:
        devkit(tmp_path, ["a", "b"], train="a\nunlabeled\ngone\nlost\na\n", val="b")
        draw(tmp_path / "JPEGImages/unlabeled.png")
        found = build(tmp_path)
        assert notes(found)["train"] == {
            "image without an XML file": 1,
            "name in a list without XML file and image": 2,
            "name twice in a list": 1,
        }
        assert {note.action for note in found["train"].notes} == {"left out", "repaired"}
        assert lefts(found["train"]) == {"a.png": 0}
        assert found["val"].notes == ()

    def test_a_list_of_which_nothing_exists(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"train\.txt: none of its 2 names has an XML file in .*Annotations, the first 'x'"):
            build(devkit(tmp_path, ["a"], train="x\ny\n", val="a"))

    def test_an_empty_list(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"val\.txt: lists no names; fill it, or remove it if there is no val split"):
            build(devkit(tmp_path, ["a"], train="a", val="\n"))

    def test_a_test_list_without_annotations(self, tmp_path: Path) -> None:
        found = build(devkit(tmp_path, ["a", "b"], train="a", val="b", test="x\ny\n"))
        assert set(found) == {"train", "val"}
        assert [str(note) for note in found["train"].notes] == [
            "test: left out: name in a list without XML file and image: 2 images, first: x in test.txt"
        ]

    def test_only_a_test_list_without_annotations(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"test\.txt: no image has an XML file in .*Annotations"):
            build(devkit(tmp_path, ["a"], test="x\n"))

    def test_names_in_several_subfolders(self, tmp_path: Path) -> None:
        root = devkit(tmp_path, ["Train/a", "Validation/a", "Train/b"], Train="a\nb\n", Validation="Validation/a\n")
        found = build(root)
        assert lefts(found["train"]) == {"Train/a.png": 0, "Train/b.png": 2}
        assert lefts(found["val"]) == {"Validation/a.png": 1}
        write(root / "ImageSets/Main/Train.txt", "other/a\n")
        with pytest.raises(DataError, match=r"Train\.txt: none of its 1 names"):
            build(root)

    @pytest.mark.parametrize("whole", ["trainval", "all"])
    def test_without_a_list_for_train_it_is_what_the_others_leave_of_all(self, tmp_path: Path, whole: str) -> None:
        root = devkit(tmp_path, ["a", "b", "c", "d"], **{whole: "a\nb\nc\nd\ngone\n"}, val="b\ngone\n", test="d\n")
        found = build(root)
        assert {split: sorted(lefts(source)) for split, source in found.items()} == {
            "train": ["a.png", "c.png"],
            "val": ["b.png"],
            "test": ["d.png"],
        }
        kind = "image of another split in the list of all, not used for train"
        assert notes(found)["train"] == {kind: 2}
        (note,) = found["train"].notes
        assert note.examples == (f"{whole}.txt: b is in val.txt", f"{whole}.txt: d is in test.txt")

    def test_a_list_of_all_that_another_list_has_completely_is_refused(self, tmp_path: Path) -> None:
        root = devkit(tmp_path, ["a", "b"], trainval="a\nb\n", val="b\na\n")
        with pytest.raises(DataError, match=r"trainval\.txt: all of its images are in val\.txt; list those to train on in train\.txt$"):
            build(root)

    def test_an_image_in_two_splits_is_noted_in_the_later_one(self, tmp_path: Path) -> None:
        root = devkit(tmp_path, ["a", "b"], train="a\nb\n", val="b\n")
        assert notes(build(root)) == {"train": {}, "val": {"image in two splits": 1}}

    def test_identity_changes_with_the_lists(self, tmp_path: Path) -> None:
        root = devkit(tmp_path, ["a", "b", "c"], train="a\nb\n", val="c\n")
        first = voc.identity(root=str(root))
        write(root / "ImageSets/Main/train.txt", "a\n")
        write(root / "ImageSets/Main/val.txt", "b\nc\n")
        assert voc.identity(root=str(root)) != first


class TestFolders:
    def test_labelimg_without_a_split_is_train_alone(self, tmp_path: Path) -> None:
        for number, stem in enumerate(("a", "b")):
            draw(tmp_path / f"{stem}.png")
            annotate(tmp_path / f"{stem}.xml", number)
        draw(tmp_path / "background.png")
        write(tmp_path / "predefined_classes.txt", "cat\n")
        found = build(tmp_path)
        assert set(found) == {"train"}
        assert lefts(found["train"]) == {"a.png": 0, "b.png": 1}
        assert [str(note) for note in found["train"].notes] == [
            "train: left out: image without an XML file: 1 image, first: background.png"
        ]

    @pytest.mark.parametrize(
        ("images", "annotations"),
        [
            ("images", "annotations"),
            ("JPEGImages", "Annotations"),
            ("Images", "xmls"),
            (".", "Annotations"),
            ("photos", "xmls"),
            ("images", "."),
            ("images/day1", "annotations/day1"),
        ],
    )
    def test_names_of_folders(self, tmp_path: Path, images: str, annotations: str) -> None:
        draw(tmp_path / images / "a.png")
        annotate(tmp_path / annotations / "a.XML", 3)
        found = build(tmp_path)
        assert [(found["train"].images / name).is_file() for name in lefts(found["train"])] == [True]
        assert not found["train"].notes

    @pytest.mark.parametrize(
        ("images", "annotations"),
        [
            ("{0}", "{0}"),
            ("images/{0}", "images/{0}"),
            ("images/{0}", "annotations/{0}"),
            ("JPEGImages/{0}", "Annotations/{0}"),
            ("{0}/JPEGImages", "{0}/Annotations"),
            ("{0}/images", "{0}/annotations"),
            ("images", "annotations/{0}"),
            ("JPEGImages/{0}", "Annotations"),
            ("{0}", "xmls"),
        ],
    )
    def test_a_folder_for_each_split(self, tmp_path: Path, images: str, annotations: str) -> None:
        for number, (split, stem) in enumerate((("train", "a"), ("Valid", "b"), ("test", "c"))):
            draw(tmp_path / images.format(split) / f"{stem}.png")
            annotate(tmp_path / annotations.format(split) / f"{stem}.xml", number)
        found = build(tmp_path)
        assert [[Path(name).name, left] for split in ("train", "val", "test") for name, left in lefts(found[split]).items()] == [
            ["a.png", 0],
            ["b.png", 1],
            ["c.png", 2],
        ]
        assert not any(source.notes for source in found.values())

    def test_files_outside_the_splits_are_counted(self, tmp_path: Path) -> None:
        for number, place in enumerate(("train/a", "valid/b", "more/c")):
            draw(tmp_path / f"{place}.png")
            annotate(tmp_path / f"{place}.xml", number)
        found = build(tmp_path)
        assert [str(note) for note in found["train"].notes] == ["train: left out: XML file in no split's folder: 1 file, first: more/c.xml"]
        assert found["val"].notes == ()

    def test_a_split_without_any_annotation(self, tmp_path: Path) -> None:
        for split in ("train", "val", "test"):
            draw(tmp_path / split / f"{split}.png")
        for split in ("train", "val"):
            annotate(tmp_path / split / f"{split}.xml", 1)
        found = build(tmp_path)
        assert set(found) == {"train", "val"}
        assert [str(note) for note in found["train"].notes] == ["test: left out: image without an XML file: 1 image, first: test.png"]

    def test_the_same_name_in_two_splits(self, tmp_path: Path) -> None:
        for number, split in enumerate(("train", "valid")):
            draw(tmp_path / f"{split}/1.png")
            annotate(tmp_path / f"{split}/1.xml", number)
        found = build(tmp_path)
        assert [(source.images.name, lefts(source)) for source in found.values()] == [("train", {"1.png": 0}), ("valid", {"1.png": 1})]

    @pytest.mark.parametrize("given", [".", "VOC2007", "VOC2007/JPEGImages", "VOC2007/Annotations", "VOC2007/ImageSets"])
    def test_a_root_above_or_below(self, tmp_path: Path, given: str) -> None:
        devkit(tmp_path / "VOCdevkit/VOC2007", ["a", "b"], train="a", val="b")
        for root in (tmp_path / "VOCdevkit", tmp_path) if given == "." else (tmp_path / "VOCdevkit" / given,):
            found = build(root)
            assert (lefts(found["train"]), lefts(found["val"])) == ({"a.png": 0}, {"b.png": 1})

    def test_several_years_are_refused(self, tmp_path: Path) -> None:
        for year in ("VOC2007", "VOC2012"):
            devkit(tmp_path / year, ["a", "b"], train="a", val="b")
        with pytest.raises(DataError, match=r"several VOC folders \(VOC2007, VOC2012\); set data\.root to one of them"):
            build(tmp_path)

    def test_subfolders_that_mirror_each_other(self, tmp_path: Path) -> None:
        assert lefts(build(devkit(tmp_path, ["day/1", "night/1"]))["train"]) == {"day/1.png": 0, "night/1.png": 1}

    def test_masks_of_the_same_name_are_not_images(self, tmp_path: Path) -> None:
        for folder in ("photos", "SegmentationClass", "SegmentationObject"):
            draw(tmp_path / folder / "a.png")
        annotate(tmp_path / "Annotations/a.xml", 4)
        found = build(tmp_path)
        assert lefts(found["train"]) == {"photos/a.png": 4}
        assert not found["train"].notes
        Image.new("RGB", (40, 30)).save(tmp_path / "photos/b.jpg")
        for folder in ("SegmentationClass", "SegmentationObject"):
            draw(tmp_path / folder / "b.png")
        annotate(tmp_path / "Annotations/b.xml", 5, "b.png")
        assert lefts(build(tmp_path)["train"]) == {"photos/a.png": 4, "photos/b.jpg": 5}

    def test_a_folder_without_annotations(self, tmp_path: Path) -> None:
        draw(tmp_path / "a.png")
        with pytest.raises(DataError, match="is it a VOC folder"):
            build(tmp_path)


class TestImages:
    @pytest.mark.parametrize(
        "filename",
        [
            "00001.jpg",
            "a.jpg",
            "a",
            "",
            "C:\\Users\\x\\a.png",
            "/mnt/x/a.png",
            "sub/a.png",
            "A.PNG",
            "a%20b.png",
            "http://x.org/a.png?b=1",
            "http://[x",
            "x" * 300 + ".png",
        ],
    )
    def test_filename_is_stale(self, tmp_path: Path, filename: str) -> None:
        draw(tmp_path / "JPEGImages/a.PNG")
        annotate(tmp_path / "Annotations/a.xml", 3, filename)
        assert lefts(build(tmp_path)["train"]) == {"a.PNG": 3}

    @pytest.mark.parametrize("filename", ["photo 1.png", "photo 1.jpg", "photo 1", "D:\\x\\photo 1.png", "photo%201.png", "PHOTO 1.png"])
    def test_filename_is_used_if_no_image_has_the_files_own_name(self, tmp_path: Path, filename: str) -> None:
        draw(tmp_path / "JPEGImages/photo 1.png")
        annotate(tmp_path / "Annotations/0.xml", 3, filename)
        found = build(tmp_path)
        assert lefts(found["train"]) == {"photo 1.png": 3}
        assert notes(found)["train"] == ({} if filename == "photo 1.png" else {"image named differently from its file": 1})

    def test_renumbered_after_labeling(self, tmp_path: Path) -> None:
        devkit(tmp_path, ["0", "1", "2"])
        for number in range(3):
            annotate(tmp_path / f"Annotations/{number}.xml", number, f"{(number + 1) % 3}.png")
        found = build(tmp_path)
        assert lefts(found["train"]) == {"0.png": 0, "1.png": 1, "2.png": 2}
        (note,) = found["train"].notes
        assert (note.kind, note.action, note.unit, note.count) == ("<filename> names a different image", "assumed", "images", 3)
        assert note.examples[0] == "0.xml names 1.png; 0.png is used"
        assert note.images == ("0.png", "1.png", "2.png")

    def test_numbered_xml_files_that_happen_to_have_the_name_of_an_image(self, tmp_path: Path) -> None:
        for name in ("3", "4", "5"):
            draw(tmp_path / f"JPEGImages/{name}.png")
        for number, name in enumerate(("3", "4", "5"), start=2):
            annotate(tmp_path / f"Annotations/{number}.xml", number, f"{name}.png")
        found = build(tmp_path)
        assert lefts(found["train"]) == {"3.png": 2, "4.png": 3, "5.png": 4}
        assert notes(found)["train"] == {"<filename> names a different image": 2}

    def test_one_file_that_names_a_different_image_than_all_others(self, tmp_path: Path) -> None:
        devkit(tmp_path, ["a", "b", "c"])
        (tmp_path / "JPEGImages/a.png").unlink()
        (tmp_path / "Annotations/b.xml").unlink()
        annotate(tmp_path / "Annotations/a.xml", 7, "b.png")
        found = build(tmp_path)
        assert lefts(found["train"]) == {"b.png": 7, "c.png": 2}
        assert [note.examples for note in found["train"].notes if note.action == "assumed"] == [("a.xml names b.png; b.png is used",)]

    def test_neither_name_fits_throughout(self, tmp_path: Path) -> None:
        devkit(tmp_path, ["0", "1"])
        annotate(tmp_path / "Annotations/0.xml", 0, "1.png")
        annotate(tmp_path / "Annotations/9.xml", 0, "gone.png")
        with pytest.raises(DataError, match=r"0\.xml: <filename> names 1\.png, the file's own name is of 0\.png"):
            build(tmp_path)

    def test_two_files_that_mean_one_image(self, tmp_path: Path) -> None:
        devkit(tmp_path, ["a"])
        annotate(tmp_path / "Annotations/a (copy).xml", 5, "a.png")
        with pytest.raises(DataError, match=r"a\.xml: means the same image as .*a \(copy\)\.xml, a\.png"):
            build(tmp_path)

    def test_two_images_of_one_name(self, tmp_path: Path) -> None:
        devkit(tmp_path, ["a"])
        draw(tmp_path / "JPEGImages/a.jpg")
        found = build(tmp_path)
        assert lefts(found["train"]) == {"a.png": 0}
        assert notes(found)["train"] == {"image without an XML file": 1}
        annotate(tmp_path / "Annotations/a.xml", 0, "stale.png")
        with pytest.raises(DataError, match=r"a\.xml: could mean a\.jpg or a\.png"):
            build(tmp_path)

    def test_an_image_of_a_different_folder_is_not_meant(self, tmp_path: Path) -> None:
        devkit(tmp_path, ["day/1", "night/1"])
        (tmp_path / "JPEGImages/night/1.png").unlink()
        assert [row["file_name"] for row in build(tmp_path)["train"].coco["images"]] == ["day/1.png", "1.png"]

    @pytest.mark.parametrize("filename", ["b.png", "", "..", "x" * 300 + ".png"])
    def test_missing_images_are_counted_by_prepare(self, tmp_path: Path, filename: str) -> None:
        root = devkit(tmp_path / "data", ["a", "b", "c"], train="a\nb\n", val="c")
        (root / "JPEGImages/b.png").unlink()
        annotate(root / "Annotations/b.xml", 1, filename)
        (tmp_path / "out").mkdir()
        facts = prepare(tmp_path / "out", DataConfig.model_validate({"dataset": "voc", "root": str(root), "max_doubtful": 1})).facts
        assert counts(facts) == {"missing image": 1}
        assert str(root / "JPEGImages") in examples(facts, "missing image")[0]

    def test_path_is_never_used(self, tmp_path: Path) -> None:
        devkit(tmp_path, ["a", "b"])
        text = (tmp_path / "Annotations/a.xml").read_text()
        write(tmp_path / "Annotations/a.xml", text.replace("<filename>", f"<path>{tmp_path}/JPEGImages/b.png</path><filename>"))
        assert lefts(build(tmp_path)["train"]) == {"a.png": 0, "b.png": 1}
