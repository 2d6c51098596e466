"""YOLO folders as tools export them and people rearrange them: what is read, what is noted, what is refused."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from deploy.errors import DataError
from stages.datasets import Source, yolo

SIZE = (20, 10)
LINES = "1 0.5 0.5 0.2 0.4\n0 0.25 0.5 0.5 1.0\n"
TRUE = [("dog", [8, 3, 4, 4]), ("cat", [0, 0, 10, 10])]
NAMES = ["cat", "dog"]
HEAD = "train: train/images\nval: val/images\nnames: [cat, dog]\n"


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, "white").save(path, format="PNG")


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def fill(root: Path, images: str = "{0}/images", labels: str = "{0}/labels", head: str | None = HEAD, lines: str = LINES) -> Path:
    """Two splits of two images each; only the first image of a split has two objects, the second has one."""
    for split in ("train", "val"):
        for name, text in (("a", lines), ("b", lines.splitlines()[0] + "\n")):
            draw(root / images.format(split) / f"{name}.png")
            write(root / labels.format(split) / f"{name}.txt", text)
    if head is not None:
        write(root / "data.yaml", head)
    return root


def read(root: Path, names: list[str] | None = None) -> dict[str, Source]:
    found = yolo.build(root, root=str(root), names=names)
    assert yolo.identity(root=str(root), names=names) == yolo.identity(root=str(root), names=names)
    return found


def objects(source: Source) -> list[tuple[str, str, list[float]]]:
    """The image's name, the class and the box of every object, rounded to 1/100 px."""
    files = {row["id"]: Path(row["file_name"]).name for row in source.coco["images"]}
    names = {row["id"]: row["name"] for row in source.coco["categories"]}
    rows = source.coco["annotations"]
    return [(files[row["image_id"]], names[row["category_id"]], [round(value, 2) for value in row["bbox"]]) for row in rows]


def noted(source: Source) -> dict[str, int]:
    """The number of cases of each note."""
    return {f"{note.action}: {note.kind}": note.count for note in source.notes}


def expect(found: Mapping[str, Source], *, splits: Sequence[str] = ("train", "val")) -> None:
    """The objects that `fill` writes."""
    assert list(found) == list(splits)
    for source in found.values():
        assert objects(source) == [("a.png", *one) for one in TRUE] + [("b.png", *TRUE[0])]
        assert [row["name"] for row in source.coco["categories"]] == NAMES
        for row in source.coco["images"]:
            assert (source.images / row["file_name"]).is_file()


class TestNames:
    @pytest.mark.parametrize(
        ("text", "action"),
        [
            ("[cat, dog]", None),
            ("{0: cat, 1: dog}", None),
            ("{'0': cat, '1': dog}", None),
            ('\n  "1": dog\n  "0": cat', None),
            ("\n- cat\n- dog", None),
            ("cat, dog", "repaired"),
            ("'cat;dog'", "repaired"),
            ("cat dog\nnc: 2", "repaired"),
            ("|\n  cat\n  dog\n", "repaired"),
            ("|\n  0: cat\n  1: dog\n", "repaired"),
            ("\"['cat', 'dog']\"", "repaired"),
            ("{cat: 0, dog: 1}", "repaired"),
            ("\n- 0: cat\n- 1: dog", "repaired"),
            ("\n- {id: 1, name: dog}\n- {id: 0, name: cat}", "repaired"),
            ("kinds.txt", None),
            ("/home/me/set/kinds.txt", None),
            ("C:\\set\\kinds.txt", None),
        ],
    )
    def test_every_form(self, tmp_path: Path, text: str, action: str | None) -> None:
        write(tmp_path / "kinds.txt", "cat\r\ndog\r\n\r\n")
        found = read(fill(tmp_path, head=f"train: train/images\nval: val/images\nnames: {text}\n"))
        expect(found)
        assert noted(found["train"]) == ({} if action is None else {f"{action}: class names in an unusual form": 1})

    def test_words_that_yaml_knows(self, tmp_path: Path) -> None:
        head = HEAD.replace("[cat, dog]", "[yes, no, null, on, 1.0, 007, 2024-01-01, ~, 1e3, 0x10, true]")
        found = read(fill(tmp_path, head=head))["train"].coco["categories"]
        words = ["yes", "no", "null", "on", "1.0", "007", "2024-01-01", "~", "1e3", "0x10", "true"]
        assert [row["name"] for row in found] == words

    def test_numbers_of_ones_own(self, tmp_path: Path) -> None:
        fill(tmp_path, head=HEAD.replace("[cat, dog]", "{1: cat, 2: dog}"), lines="2 0.5 0.5 0.2 0.4\n1 0.25 0.5 0.5 1\n")
        expect(read(tmp_path))

    @pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16", "utf-16-le"])
    def test_encodings(self, tmp_path: Path, mark: str) -> None:
        bom = "\ufeff" if mark == "utf-16-le" else ""
        fill(tmp_path, images="images/{0}", labels="labels/{0}", head=None, lines=LINES)
        write(tmp_path / "classes.txt", (bom + "cat\r\ndog\r\n").encode(mark))
        for path in tmp_path.rglob("labels/*/*.txt"):
            write(path, (bom + path.read_text().replace("\n", "\r\n")).encode(mark))
        found = read(tmp_path)
        expect(found)
        assert noted(found["val"]) == {"repaired: text in an unusual encoding": 2}

    @pytest.mark.parametrize("names", [("Größe", "Käfer"), ("créée", "señor")])
    def test_western_text_that_is_not_utf_8(self, tmp_path: Path, names: tuple[str, str]) -> None:
        fill(tmp_path, head=HEAD.replace("[cat, dog]", f"[{', '.join(names)}]"))
        write(tmp_path / "data.yaml", (tmp_path / "data.yaml").read_text(encoding="utf-8").encode("cp1252"))
        found = read(tmp_path)["train"]
        assert [row["name"] for row in found.coco["categories"]] == [*names]
        assert noted(found) == {"assumed: text in an unknown encoding": 1}

    @pytest.mark.parametrize(
        ("names", "encoding"), [("红\n绿色\n", "gbk"), ("杯cup\n杯\n", "gbk"), ("красный\nжёлтый\n", "cp1251"), ("빨강\n초록\n", "euc_kr")]
    )
    def test_other_text_that_is_not_utf_8_is_refused(self, tmp_path: Path, names: str, encoding: str) -> None:
        fill(tmp_path, head=None)
        write(tmp_path / "classes.txt", names.encode(encoding))
        with pytest.raises(DataError, match=r"classes\.txt: neither UTF-8 nor Windows-1252 text; save it as UTF-8"):
            read(tmp_path)

    @pytest.mark.parametrize("place", ["classes.txt", "obj.names", "labels/classes.txt", "predefined_classes.txt", "train/_darknet.labels"])
    def test_lists(self, tmp_path: Path, place: str) -> None:
        fill(tmp_path, images="images/{0}", labels="labels/{0}", head=None)
        write(tmp_path / place, "cat\ndog\n")
        found = read(tmp_path)
        expect(found)
        assert not noted(found["train"])

    def test_numbered_lines_and_names_in_quotes(self, tmp_path: Path) -> None:
        fill(tmp_path, images="images/{0}", labels="labels/{0}", head=None)
        for text in ("0: cat\n1: dog\n", "0 cat\n1 dog\n", "'cat'\n'dog'\n", '"cat",\n"dog"\n'):
            write(tmp_path / "classes.txt", text)
            found = read(tmp_path)
            expect(found)
            assert noted(found["train"]) == {"repaired: class names in an unusual form": 1}

    def test_notes_json_of_label_studio(self, tmp_path: Path) -> None:
        fill(tmp_path, images="images/{0}", labels="labels/{0}", head=None)
        write(tmp_path / "notes.json", '{"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}], "info": {}}')
        expect(read(tmp_path))

    @pytest.mark.parametrize(
        ("head", "message"),
        [
            ("names: [cat, cat]", r"data\.yaml: two classes are named 'cat'"),
            ("names: [cat, '']", r"data\.yaml: class 1 has no name"),
            ("names: [cat, [dog]]", r"data\.yaml: class 1 has no name"),
            ("nc: 2", r"data\.yaml: no class names, only nc: 2; list them as names"),
            ("names:", r"data\.yaml: no class names; list"),
            ("names: gone/classes.txt", r"names is gone/classes\.txt, but there is no such file"),
            ("names: {0: cat, 0: dog}", r"data\.yaml: not readable as YAML \(a key occurs twice"),
            ("names: {a: cat, b: dog}", r"data\.yaml: names should be a list, or a mapping from numbers"),
            ("names: {0: cat, 00: dog}", r"every one of names needs a number of its own, got 0, 0"),
        ],
    )
    def test_refused(self, tmp_path: Path, head: str, message: str) -> None:
        fill(tmp_path, head=f"train: train/images\nval: val/images\n{head}\n")
        with pytest.raises(DataError, match=message):
            read(tmp_path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("cat\n\ndog\n", r"classes\.txt:2: a blank line among the class names"),
            ("# my classes\ncat\ndog\n", r"classes\.txt:1: a comment among the class names"),
            ("cat,dog\n", r"classes\.txt:1: several class names in one line"),
            ("cat\ncat\n", r"classes\.txt: two classes are named 'cat'"),
        ],
    )
    def test_lists_refused(self, tmp_path: Path, text: str, message: str) -> None:
        fill(tmp_path, images="images/{0}", labels="labels/{0}", head=None)
        write(tmp_path / "classes.txt", text)
        with pytest.raises(DataError, match=message):
            read(tmp_path)

    def test_lists_that_differ(self, tmp_path: Path) -> None:
        fill(tmp_path, images="images/{0}", labels="labels/{0}", head=None)
        write(tmp_path / "classes.txt", "cat\ndog\n")
        write(tmp_path / "labels/classes.txt", "dog\ncat\n")
        with pytest.raises(DataError, match=r"labels/classes\.txt: other class names than .*classes\.txt; keep one"):
            read(tmp_path)
        write(tmp_path / "data.yaml", "names: [cat, dog]\n")
        found = read(tmp_path)
        expect(found)
        assert noted(found["train"]) == {"assumed: second list of class names": 1}

    def test_nc_that_disagrees(self, tmp_path: Path) -> None:
        found = read(fill(tmp_path, head=HEAD + "nc: 3\n"))
        expect(found)
        assert noted(found["train"]) == {"assumed: nc disagrees with names": 1}


class TestDataFile:
    @pytest.mark.parametrize("name", ["data.yaml", "dataset.yml", "my set.yaml", "DATA.YAML"])
    def test_any_name(self, tmp_path: Path, name: str) -> None:
        fill(tmp_path, head=None)
        write(tmp_path / name, HEAD)
        write(tmp_path / "args.yaml", "task: detect\nmode: train\nval: true\nepochs: 3\nnames: [x]\n")
        write(tmp_path / "hyp.yaml", "lr0: 0.01\n")
        write(tmp_path / "compose.yaml", "services: {}\n")
        found = read(tmp_path)
        expect(found)
        assert not noted(found["train"])

    def test_two_that_fit(self, tmp_path: Path) -> None:
        fill(tmp_path, head=None)
        write(tmp_path / "one.yaml", HEAD)
        write(tmp_path / "two.yaml", HEAD)
        expect(read(tmp_path))
        write(tmp_path / "two.yaml", HEAD.replace("cat, dog", "dog, cat"))
        with pytest.raises(DataError, match=r"one\.yaml: two\.yaml fits as well and differs; keep one"):
            read(tmp_path)
        write(tmp_path / "data.yaml", HEAD)
        found = read(tmp_path)
        expect(found)
        assert noted(found["train"]) == {"assumed: second data file": 1}

    @pytest.mark.parametrize(
        ("head", "notes"),
        [
            (
                "train: ../train/images\nval: ../val/images\ntest: ../test/images\n",
                {"left out: split that the data file names but the folder lacks": 1},
            ),
            ("train: ../train/images\nval: ../val/images\ntest: ../other/images\n", "no test"),
            ("train: ../train/images\nval: ../val/images\ntest:\n", {}),
            ("train: ./train/images/\nval: ./val/images/\ntest: null\n", {}),
            ("train: [train/images]\nval: [val/images]\n", {}),
            ("train: train\\images\nval: val\\images\n", {}),
            ("train: train/images/*.png\nval: val/images/*.png\n", {}),
            ("train: train/**/*.png\nval: val/images/**/*.png\n", {}),
            ("path: .\ntrain: train/images/*.png\nval: val/*/*.png\n", {}),
            ("path: .\ntrain: train/images\nval: val/images\n", {}),
            ("path: /gone\ntrain: train/images\nval: val/images\n", {"repaired: path that does not exist on this machine": 1}),
            ("path: ../datasets/x\ntrain: train/images\nval: val/images\n", {"repaired: path that does not exist on this machine": 1}),
            ("train: /content/x/train/images\nval: /content/x/val/images\n", {"repaired: path that does not exist on this machine": 1}),
            ("train: C:\\x\\train\\images\nval: D:/x/val/images\n", {"repaired: path that does not exist on this machine": 1}),
            ("train: images/train\nval: images/val\n", {"repaired: path that does not exist on this machine": 1}),
            ("train: imgs\nval: imgs\n", {"assumed: split found by its folder": 1}),
            ("train: train/images\n", {}),
            ("", {}),
        ],
    )
    def test_places(self, tmp_path: Path, head: str, notes: dict[str, int] | str) -> None:
        fill(tmp_path, head=head + "names: [cat, dog]\n")
        if notes == "no test":
            with pytest.raises(DataError, match=r"other/images: no such folder or list of images; data\.yaml names it for test"):
                read(tmp_path)
            return
        found = read(tmp_path)
        expect(found)
        assert noted(found["train"]) == notes
        missing = head.startswith("train") and "val:" not in head
        assert noted(found["val"]).get("assumed: split found by its folder", 0) == int(missing or "imgs" in head)

    def test_another_split_is_not_taken(self, tmp_path: Path) -> None:
        fill(tmp_path, images="images", labels="labels", head="train: images\nval: /gone/val/images\nnames: [cat, dog]\n")
        with pytest.raises(DataError, match=r"/gone/val/images: no such folder or list"):
            read(tmp_path)

    def test_a_copy_elsewhere_is_not_read(self, tmp_path: Path) -> None:
        other = fill(tmp_path / "old", lines="0 0.5 0.5 1 1\n")
        home = fill(tmp_path / "new", head=f"path: {other}\n{HEAD}")
        found = read(home)
        expect(found)
        assert noted(found["train"]) == {"assumed: path that exists twice": 1}

    def test_images_elsewhere(self, tmp_path: Path) -> None:
        other = fill(tmp_path / "pictures", head=None)
        write(tmp_path / "conf/data.yaml", f"path: {other}\n{HEAD}")
        expect(read(tmp_path / "conf"))

    def test_lists_of_folders(self, tmp_path: Path) -> None:
        fill(tmp_path, head="train: [train/images, val/images, train/images]\nnames: [cat, dog]\nval: val/images\n")
        found = read(tmp_path)
        assert len(found["train"].coco["images"]) == 4
        assert noted(found["train"]) == {"repaired: image listed twice": 2}

    @pytest.mark.parametrize(
        ("head", "message"),
        [
            (f"train: {'x' * 300}\nnames: [cat]", "is not a path of images"),
            ("train: list.txt\nnames: [cat]", r"list\.txt: 'y*\.\.\.' is not a path of images"),
            ("test: /gone/*/[a-]**x\nnames: [cat]", "no such folder"),
            ("names: ' '", "class 0 has no name"),
        ],
    )
    def test_texts_that_are_no_paths(self, tmp_path: Path, head: str, message: str) -> None:
        write(tmp_path / "list.txt", "y" * 300)
        with pytest.raises(DataError, match=message):
            read(fill(tmp_path, head=head + "\n"))

    @pytest.mark.parametrize("head", ["train: {a: b}\nnames: [cat]\n", "train: [[a]]\nnames: [cat]\n"])
    def test_places_that_are_none(self, tmp_path: Path, head: str) -> None:
        fill(tmp_path, head=head)
        with pytest.raises(DataError, match="train should be a folder, a list of folders or a file that lists images"):
            read(tmp_path)


class TestRoot:
    @pytest.mark.parametrize("inner", ["", "set", "images/set", "images/labels/train"])
    def test_labels_are_not_looked_for_above(self, tmp_path: Path, inner: str) -> None:
        root = tmp_path / "images" / inner
        fill(root, images="{0}", labels="{0}", head="train: train\nval: val\nnames: [cat, dog]\n")
        expect(read(root))

    @pytest.mark.parametrize("given", ["..", "train", "images"])
    def test_one_folder_off(self, tmp_path: Path, given: str) -> None:
        layout = {"images": "images/{0}", "labels": "labels/{0}"} if given == "images" else {}
        fill(tmp_path / "set", **layout, head=HEAD if not layout else "names: [cat, dog]\n")
        found = read(tmp_path / "set" / given)
        expect(found)
        assert noted(found["train"]) == {"repaired: data.root one folder off": 1}

    def test_the_neighbor_is_not_taken(self, tmp_path: Path) -> None:
        fill(tmp_path)
        draw(tmp_path / "mine/x.png")
        with pytest.raises(DataError, match="none of its 1 images has a label file"):
            read(tmp_path / "mine", NAMES)

    def test_images_without_any_label(self, tmp_path: Path) -> None:
        draw(tmp_path / "images/train/a.png")
        with pytest.raises(DataError, match=r"none of its 1 images has a label file; for a\.png looked for .*labels/train/a\.txt"):
            read(tmp_path, NAMES)


class TestUnsplit:
    @pytest.mark.parametrize(("images", "labels"), [("images", "labels"), (".", "."), ("JPEGImages", "labels")])
    def test_one_split(self, tmp_path: Path, images: str, labels: str) -> None:
        fill(tmp_path, images=images, labels=labels, head=None)
        write(tmp_path / labels / "classes.txt", "cat\ndog\n")
        found = read(tmp_path)
        expect(found, splits=["train"])
        assert not noted(found["train"])

    def test_train_and_test_only(self, tmp_path: Path) -> None:
        fill(tmp_path, head=None)
        (tmp_path / "val").rename(tmp_path / "test")
        write(tmp_path / "data.yaml", "train: ../train/images\ntest: ../test/images\nnames: [cat, dog]\n")
        expect(read(tmp_path), splits=["train", "test"])


class TestLists:
    @pytest.mark.parametrize(
        ("line", "renamed"),
        [
            ("images/{0}/{1}.png", False),
            ("./images/{0}/{1}.png", False),
            ("  'images/{0}/{1}.png'  ", False),
            ("data/images/{0}/{1}.png", True),
            ("/home/me/set/images/{0}/{1}.png", True),
            ("images/{0}/{1}.jpg", True),
            ("images/{0}/{1}", True),
            ("C:\\set\\images\\{0}\\{1}.png", True),
            ("images\\{0}\\{1}.png", False),
            ("images/{0}/{1}.PNG", True),
        ],
    )
    def test_lines(self, tmp_path: Path, line: str, renamed: bool) -> None:
        fill(tmp_path, images="images/{0}", labels="labels/{0}", head="train: train.txt\nval: val.txt\nnames: [cat, dog]\n")
        for split in ("train", "val"):
            rows = [line.format(split, name) for name in "ab"]
            write(tmp_path / f"{split}.txt", "\ufeff# images\r\n\r\n" + "\r\n".join(rows) + "\r\n\r\n")
        found = read(tmp_path)
        expect(found)
        assert noted(found["val"]).get("repaired: image named differently from its file", 0) == 2 * renamed

    def test_images_that_do_not_exist(self, tmp_path: Path) -> None:
        fill(tmp_path, images="images/{0}", labels="labels/{0}", head="train: train.txt\nval: val.txt\nnames: [cat, dog]\n")
        write(tmp_path / "train.txt", "images/train/gone.png\nimages/train/lost.png\n")
        write(tmp_path / "val.txt", "images/val/a.png\nimages/val/gone.png\nimages/val/a.png\n")
        with pytest.raises(DataError, match=r"train\.txt: none of its 2 images exists below .*, the first is images/train/gone\.png"):
            read(tmp_path)
        write(tmp_path / "train.txt", "images/train/a.png\n")
        found = read(tmp_path)["val"]
        assert [row["file_name"] for row in found.coco["images"]] == ["images/val/a.png", "images/val/gone.png"]
        assert noted(found) == {"repaired: image listed twice": 1, "left out: label file without an image": 1}

    def test_an_image_of_another_split_is_not_taken(self, tmp_path: Path) -> None:
        fill(tmp_path, images="images/{0}", labels="labels/{0}", head="train: train.txt\nval: val.txt\nnames: [cat, dog]\n")
        write(tmp_path / "train.txt", "images/train/a.png\nimages/train/b.png\n")
        write(tmp_path / "val.txt", "/gone/val/c.png\n/gone/val/b.png\n")
        draw(tmp_path / "images/train/c.png")
        found = read(tmp_path)["val"]
        assert [(found.images / row["file_name"]).is_file() for row in found.coco["images"]] == [False, True]

    def test_darknet_and_cvat(self, tmp_path: Path) -> None:
        fill(tmp_path, images="obj_{0}_data", labels="obj_{0}_data", head=None)
        write(
            tmp_path / "obj.data", "classes = 2\ntrain = data/train.txt\nvalid = data/val.txt\nnames = data/obj.names\nbackup = backup/\n"
        )
        write(tmp_path / "obj.names", "cat\ndog\n")
        for split in ("train", "val"):
            write(tmp_path / f"{split}.txt", f"data/obj_{split}_data/a.png\ndata/obj_{split}_data/b.png\n")
        found = read(tmp_path)
        expect(found)
        moved, renamed = "repaired: path that does not exist on this machine", "repaired: image named differently from its file"
        assert noted(found["train"]) == {moved: 1, renamed: 2}
        (tmp_path / "obj.data").unlink()
        expect(read(tmp_path))


class TestPairs:
    @pytest.mark.parametrize(
        ("images", "labels"),
        [
            ("images/{0}", "labels/{0}"),
            ("{0}/images", "{0}/labels"),
            ("{0}/images", "{0}/images"),
            ("{0}", "{0}"),
            ("{0}/images", "labels/{0}"),
            ("images/{0}", "{0}/labels"),
            ("{0}", "labels/{0}"),
            ("{0}/images/sub", "{0}/labels/sub"),
            ("Images/{0}", "Labels/{0}"),
            ("{0}/images/images", "{0}/images/labels"),
        ],
    )
    def test_places(self, tmp_path: Path, images: str, labels: str) -> None:
        fill(tmp_path, images=images, labels=labels, head="names: [cat, dog]\n")
        found = read(tmp_path)
        expect(found)
        assert not noted(found["train"])

    @pytest.mark.parametrize("spelled", ["A.txt", "a.TXT", "a.png.txt", "0a1b2c3d-a.txt"])
    def test_other_spellings(self, tmp_path: Path, spelled: str) -> None:
        fill(tmp_path)
        (tmp_path / "train/labels/a.txt").rename(tmp_path / "train/labels" / spelled)
        found = read(tmp_path)
        expect(found)
        assert noted(found["train"]) == {"repaired: label file named differently from its image": 1}
        assert found["train"].notes[0].examples == (f"train/labels/{spelled} is train/images/a.png's",)

    def test_two_spellings_are_not_guessed(self, tmp_path: Path) -> None:
        fill(tmp_path)
        (tmp_path / "train/labels/a.txt").rename(tmp_path / "train/labels/A.txt")
        write(tmp_path / "train/labels/a.png.txt", "0 0.5 0.5 1 1\n")
        found = read(tmp_path)["train"]
        assert objects(found) == [("b.png", *TRUE[0])]
        assert noted(found) == {"assumed: image without a label file": 1, "left out: label file without an image": 2}

    def test_lost_and_found(self, tmp_path: Path) -> None:
        fill(tmp_path)
        draw(tmp_path / "train/images/c.heic")
        write(tmp_path / "train/labels/c.txt", LINES)
        write(tmp_path / "train/labels/d.txt", LINES)
        write(tmp_path / "train/labels/empty.txt", "")
        write(tmp_path / "train/README.roboflow.txt", "Exported by a tool at 10 11 12 13 14\n")
        draw(tmp_path / "train/images/e.png")
        draw(tmp_path / "val/images/f.HEIC")
        found = read(tmp_path)
        unread, orphan, unlabeled = (
            "left out: image in a format that is not read",
            "left out: label file without an image",
            "assumed: image without a label file",
        )
        assert noted(found["train"]) == {unlabeled: 1, unread: 1, orphan: 1}
        assert noted(found["val"]) == {unread: 1}
        examples = {note.kind: note.examples for note in found["train"].notes}
        assert examples["label file without an image"] == ("train/labels/d.txt",)
        assert examples["image in a format that is not read"] == ("train/images/c.heic: convert it to JPEG or PNG",)

    @pytest.mark.parametrize("text", ["\n0 0.5 0.5 1 1\n", "# objects\n0 0.5 0.5 1 1\n", "0;0.5;0.5;1;1\n", "0 0,5 0,5 1 1\n"])
    def test_lost_labels_however_they_are_written(self, tmp_path: Path, text: str) -> None:
        write(fill(tmp_path) / "train/labels/d.txt", text)
        assert noted(read(tmp_path)["train"]) == {"left out: label file without an image": 1}

    def test_a_pattern_takes_no_hidden_files(self, tmp_path: Path) -> None:
        fill(tmp_path, head="train: train/**/*.png\nval: val/images/*.png\nnames: [cat, dog]\n")
        for name in ("train/images/.ipynb_checkpoints/a-checkpoint.png", "train/images/@eaDir/a.png", "val/images/._a.png"):
            draw(tmp_path / name)
        found = read(tmp_path)
        expect(found)
        assert not noted(found["train"])

    def test_suffixes_of_jpeg(self, tmp_path: Path) -> None:
        fill(tmp_path)
        for suffix in (".jfif", ".JPE", ".JPG", ".Jpeg"):
            draw(tmp_path / f"val/images/x{suffix[1:]}{suffix}")
            write(tmp_path / f"val/labels/x{suffix[1:]}.txt", "")
        found = read(tmp_path)["val"]
        assert len(found.coco["images"]) == 6
        assert not noted(found)

    def test_hidden_copies(self, tmp_path: Path) -> None:
        fill(tmp_path)
        draw(tmp_path / "train/images/.ipynb_checkpoints/a-checkpoint.png")
        write(tmp_path / "train/labels/.ipynb_checkpoints/a-checkpoint.txt", LINES)
        write(tmp_path / "train/images/._a.png", "junk")
        found = read(tmp_path)
        expect(found)
        assert not noted(found["train"])

    def test_one_label_for_two_images(self, tmp_path: Path) -> None:
        fill(tmp_path)
        draw(tmp_path / "train/images/a.jpg")
        found = read(tmp_path)["train"]
        assert noted(found) == {"assumed: label file of several images": 1}

    def test_two_labels_for_one_image(self, tmp_path: Path) -> None:
        fill(tmp_path)
        write(tmp_path / "train/images/a.txt", LINES)
        write(tmp_path / "train/images/b.txt", "0 0.5 0.5 1 1\n")
        found = read(tmp_path)
        expect(found)
        assert noted(found["train"]) == {"assumed: second label file of an image": 1, "left out: label file without an image": 2}


class TestLines:
    @pytest.mark.parametrize(
        ("lines", "note"),
        [
            ("1\t0.5\t0.5\t0.2\t0.4\n0  0.25 0.5 0.5 1.0  \n", None),
            ("# a comment\n1 0.5 0.5 0.2 0.4\n\n   \n0 0.25 5e-1 .5 1", None),
            ("1.0 0.5 0.5 0.2 0.4\n0.000000 0.25 0.5 0.5 1.0\n", "repaired: class number written as a fraction"),
            ("dog 0.5 0.5 0.2 0.4\nCat 0.25 0.5 0.5 1.0\n", "repaired: class name instead of its number"),
            ("1,0.5,0.5,0.2,0.4\n0, 0.25, 0.5, 0.5, 1.0\n", "repaired: numbers separated by commas or semicolons"),
            ("1;0.5;0.5;0.2;0.4\n0;0,25;0,5;0,5;1\n", "repaired: numbers separated by commas or semicolons"),
            ("1 0,5 0,5 0,2 0,4\n0 0,25 0,5 0,5 1\n", "repaired: numbers separated by commas or semicolons"),
            ("1 0.5 0.5 0.2 0.4 0.93\n0 0.25 0.5 0.5 1.0 0.5\n", "assumed: confidence after the box"),
            ("1 0.4 0.3 0.6 0.3 0.6 0.7 0.4 0.7\n0 0 0 0.5 0 0.5 1 0 1\n", "repaired: four corners instead of a box"),
            ("1 0.5 0.5 0.2 0.4 0.5 0.5 2\n0 0.25 0.5 0.5 1.0 0 0 0\n", "assumed: keypoints without kpt_shape"),
        ],
    )
    def test_read(self, tmp_path: Path, lines: str, note: str | None) -> None:
        fill(tmp_path)
        for split in ("train", "val"):
            write(tmp_path / f"{split}/labels/a.txt", lines)
        found = read(tmp_path)
        expect(found)
        assert noted(found["train"]) == ({} if note is None else {note: 2})

    def test_names_with_spaces_and_digits(self, tmp_path: Path) -> None:
        fill(tmp_path, head=HEAD.replace("cat, dog", "my cat, dog 2"), lines="dog 2 0.5 0.5 0.2 0.4\nmy cat 0.25 0.5 0.5 1.0\n")
        found = read(tmp_path)["train"]
        assert [one[1:] for one in objects(found)] == [("dog 2", TRUE[0][1]), ("my cat", TRUE[1][1]), ("dog 2", TRUE[0][1])]

    def test_boxes_and_polygons(self, tmp_path: Path) -> None:
        fill(tmp_path)
        write(tmp_path / "train/labels/a.txt", "1 0.5 0.5 0.2 0.4\n0 0 0 0.5 0 0.5 0.5 0.5 1 0 1\n")
        found = read(tmp_path)
        expect(found)
        assert found["train"].coco["annotations"][1]["segmentation"] == [[0, 0, 10, 0, 10, 5, 10, 10, 0, 10]]
        assert not noted(found["train"])

    @pytest.mark.parametrize(
        "line", ["garbage", "0 0.5 0.5 0.2", "1.5 0.5 0.5 0.2 0.2", "bird 0.5 0.5 0.2 0.2", "0 .5 .5 .2 .2 45", "0,0,5,0,5,0,2,0,2", "{"]
    )
    def test_a_line_that_means_nothing_is_left_out(self, tmp_path: Path, line: str) -> None:
        fill(tmp_path, lines=f"{LINES}{line}\n")
        found = read(tmp_path)
        expect(found)
        assert noted(found["train"]) == {"left out: unreadable line": 1}
        assert found["train"].notes[0].examples == (f"{tmp_path}/train/labels/a.txt:3: '{line}'",)

    @pytest.mark.parametrize("line", ["0 nan 0.5 0.1 0.1", "0 0.5 inf 0.1 0.1", "0 0.5 0.5 -0.1 0.1", "0 0.5 0.5 0.1 0", "0 1e300 0 1 1"])
    def test_degenerate_boxes_go_to_cleaning_with_their_place(self, tmp_path: Path, line: str) -> None:
        fill(tmp_path, lines=f"{LINES}{line}\n")
        row = read(tmp_path)["train"].coco["annotations"][2]
        assert row["bbox"] == f"train/labels/a.txt:3: {line}"

    def test_a_box_far_larger_than_its_image(self, tmp_path: Path) -> None:
        found = read(fill(tmp_path, lines=f"{LINES}0 0.5 0.5 12 30\n"))
        expect(found)
        assert noted(found["train"]) == {"left out: box far larger than its image": 1}

    def test_a_box_beyond_the_edge(self, tmp_path: Path) -> None:
        found = read(
            fill(tmp_path, lines="1 0.9 0.5 0.4 0.2\n0 0.5 0.5 0.2 0.2\n0 0.995 0.5 0.02 0.2\n0 0.3 0.3 0.1 0.1\n1 0.2 0.5 0.6 0.9\n")
        )
        assert objects(found["train"])[0] == ("a.png", "dog", [14, 4, 8, 2])
        assert noted(found["train"])["assumed: box beyond its image's edge"] == 3


class TestMeaning:
    def test_keypoints(self, tmp_path: Path) -> None:
        fill(
            tmp_path, head=HEAD + "kpt_shape: [2, 3]\n", lines="1 0.5 0.5 0.2 0.4 0.5 0.5 2 0 0 0\n0 0.25 0.5 0.5 1.0 0.1 0.1 1 0.9 0.9 1\n"
        )
        found = read(tmp_path)
        expect(found)
        assert noted(found["train"]) == {"repaired: keypoints after the box": 3}

    def test_keypoints_of_another_number(self, tmp_path: Path) -> None:
        fill(tmp_path, head=HEAD + "kpt_shape: [3, 3]\n", lines="1 0.5 0.5 0.2 0.4 0.5 0.5 2 0 0 0\n")
        with pytest.raises(DataError, match=r"a\.txt:1: .* is not 'class x y width height'"):
            read(tmp_path)

    def test_keypoints_or_a_polygon(self, tmp_path: Path) -> None:
        fill(tmp_path, lines="1 0.5 0.5 0.2 0.4 0.45 0.45 0.5 0.6 0.55 0.4\n0 0.25 0.5 0.5 1.0 0.1 0.1 0.3 0.9 0.2 0.2\n")
        with pytest.raises(
            DataError, match=r"a\.txt:1: .*a polygon, or a box and its keypoints.*kpt_shape: \[number, 2 or 3\] in data\.yaml"
        ):
            read(tmp_path)
        write(tmp_path / "data.yaml", HEAD + "kpt_shape: none\n")
        assert objects(read(tmp_path)["train"])[1] == ("a.png", "cat", [2, 1, 8, 9])
        write(tmp_path / "data.yaml", HEAD + "kpt_shape: [3, 2]\n")
        expect(read(tmp_path))

    @pytest.mark.parametrize(
        "long",
        [
            "1 0.5 0.5 0.2 0.4 0.45 0.45 0.5 0.6 0.55 0.4",
            "1 0.5 0.5 0.2 0.4 0.45 0.45 0.9 0.5 0.6 0.95 0.55 0.4 0.87 0.5 0.4 0.9",  # x, y and how visible a detector found it
        ],
    )
    def test_keypoints_or_polygons_among_boxes(self, tmp_path: Path, long: str) -> None:
        fill(tmp_path, lines=f"1 0.5 0.5 0.2 0.4\n{long}\n")
        with pytest.raises(DataError, match=r"a\.txt:2: .*a polygon, or a box and its keypoints, as all 2 lines longer than a box"):
            read(tmp_path)

    @pytest.mark.parametrize("shape", ["3", "[0, 2]", "[2, 4]", "[a, 2]", "[1, 2, 3]"])
    def test_a_bad_kpt_shape(self, tmp_path: Path, shape: str) -> None:
        fill(tmp_path, head=HEAD + f"kpt_shape: {shape}\n")
        with pytest.raises(DataError, match=r"data\.yaml: kpt_shape should be \[number of keypoints, 2 or 3\], got"):
            read(tmp_path)

    def test_classes_that_count_from_1(self, tmp_path: Path) -> None:
        fill(tmp_path, lines="2 0.5 0.5 0.2 0.4\n1 0.25 0.5 0.5 1.0\n")
        with pytest.raises(DataError, match=r"a\.txt:1: .*class numbers run from 1 to 2, but the 2 names are counted from 0; subtract 1"):
            read(tmp_path)

    def test_a_class_without_a_name(self, tmp_path: Path) -> None:
        fill(tmp_path, lines=f"{LINES}2 0.5 0.5 0.1 0.1\n")
        with pytest.raises(DataError, match=r"train/labels/a\.txt:3: '2 0\.5 .*': class 2 has no name; the names are numbered 0 to 1"):
            read(tmp_path)

    @pytest.mark.parametrize("lines", ["1 10 5 4 4\n0 5 5 10 10\n", "1 50 50 20 40\n0 25 50 50 100\n"])
    def test_px_and_percent(self, tmp_path: Path, lines: str) -> None:
        with pytest.raises(DataError, match=r"a\.txt:1: .*6 of 6 lines have numbers far above 1; YOLO's are fractions"):
            read(fill(tmp_path, lines=lines))

    @pytest.mark.parametrize(
        ("lines", "words"),
        [
            ("1 0.4 0.3 0.6 0.7\n0 0 0 0.5 1\n", "two corners"),
            ("1 0.1 0.1 0.4 0.4\n0 0 0 0.5 0.6\n", "two corners|the top left corner"),
            ("1 0.4 0.1 0.2 0.4\n0 0 0.5 0.5 0.4\n", "the top left corner and the size"),
        ],
    )
    def test_corners(self, tmp_path: Path, lines: str, words: str) -> None:
        with pytest.raises(DataError, match=rf"reach beyond their image; the numbers seem to be ({words}), but YOLO's are the center"):
            read(fill(tmp_path, lines=lines))


def test_an_image_in_two_splits_is_noted(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", head=HEAD.replace("val/images", "val.txt"))
    write(root / "val.txt", "val/images/a.png\nval/images/b.png\ntrain/images/a.png\n")
    found = read(root)
    assert noted(found["val"]) == {"assumed: image in two splits": 1}
    assert noted(found["train"]) == {}


def test_so_is_one_without_a_label_file(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", head=HEAD.replace("val/images", "val.txt"))
    next(root.glob("train/labels/a.txt")).unlink()
    write(root / "val.txt", "val/images/a.png\nval/images/b.png\ntrain/images/a.png\n")
    assert noted(read(root)["val"])["assumed: image in two splits"] == 1


class TestIdentity:
    def test_it_changes_if_an_image_and_its_label_move_to_another_split(self, tmp_path: Path) -> None:
        for split, stem in (("train", "a"), ("train", "b"), ("val", "c")):
            draw(tmp_path / split / f"images/{stem}.png")
            write(tmp_path / split / f"labels/{stem}.txt", LINES)
        write(tmp_path / "data.yaml", HEAD)
        first = yolo.identity(root=str(tmp_path))
        for name in ("images/b.png", "labels/b.txt"):
            (tmp_path / "train" / name).rename(tmp_path / "val" / name)
        moved = yolo.identity(root=str(tmp_path))
        assert (moved["annotations"], moved["splits"] != first["splits"]) == (first["annotations"], True)

    def test_it_changes_if_a_label_file_becomes_another_images(self, tmp_path: Path) -> None:
        for folder in ("one", "two"):
            draw(tmp_path / f"images/train/{folder}/a.png")
        draw(tmp_path / "images/val/b.png")
        write(tmp_path / "labels/train/one/a.txt", LINES)
        write(tmp_path / "labels/val/b.txt", LINES)
        write(tmp_path / "classes.txt", "cat\ndog\n")
        first = yolo.identity(root=str(tmp_path))
        (tmp_path / "labels/train/two").mkdir()
        (tmp_path / "labels/train/one/a.txt").rename(tmp_path / "labels/train/two/a.txt")
        assert yolo.identity(root=str(tmp_path)) != first

    @pytest.mark.parametrize(
        ("head", "file", "text"),
        [
            ("", "notes.json", '{"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]}'),
            ("names: own.csv\n", "own.csv", "cat\ndog\n"),
        ],
    )
    def test_it_changes_with_the_names_wherever_they_are(self, tmp_path: Path, head: str, file: str, text: str) -> None:
        fill(tmp_path, head="train: train/images\nval: val/images\n" + head)
        write(tmp_path / file, text)
        expect(read(tmp_path))
        first = yolo.identity(root=str(tmp_path))
        write(tmp_path / file, text.replace("dog", "cow"))
        assert yolo.identity(root=str(tmp_path)) != first

    def test_it_is_the_same_in_another_place(self, tmp_path: Path) -> None:
        fill(tmp_path / "one")
        shutil.copytree(tmp_path / "one", tmp_path / "two")
        assert yolo.identity(root=str(tmp_path / "one")) == yolo.identity(root=str(tmp_path / "two"))
