"""Folders in COCO's, YOLO's and VOC's layouts, and the blood cells: found, fetched and read as COCO."""

import functools
import http.server
import json
import os
import shutil
import socketserver
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from noted import counts, examples
from PIL import Image
from waiting import join

from deploy import plugins
from deploy.errors import DataError
from stages.config import DataConfig
from stages.datasets import Source, bccd, coco, voc, yolo
from stages.prepare import prepare

KINDS = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def draw(path: Path, size: tuple[int, int] = (20, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", size, "white")
    picture.putpixel((0, 0), (0, 0, 0))
    picture.save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def boxes(source: Source) -> list[tuple[str, str, list[float]]]:
    """File name, class and box of every object."""
    files = {row["id"]: row["file_name"] for row in source.coco["images"]}
    names = {row["id"]: row["name"] for row in source.coco["categories"]}
    return [(files[row["image_id"]], names[row["category_id"]], row["bbox"]) for row in source.coco["annotations"]]


class TestContract:
    @pytest.mark.parametrize("name", plugins.names("stages.datasets"))
    def test_build_and_identity_take_the_same_options(self, name: str) -> None:
        built = plugins.schema("stages.datasets", name).model_fields
        module = plugins.load("stages.datasets", name)
        options = {key: field.default for key, field in built.items()}
        if name in ("digits", "bccd"):
            assert module.identity(**options)
        else:
            with pytest.raises(DataError, match=r"data\.root"):
                module.identity(**options)
            with pytest.raises(DataError, match=r"data\.root"):
                module.build(Path("nowhere"), **options)

    @pytest.mark.parametrize("name", ["coco", "yolo", "voc", "bccd"])
    def test_a_root_that_is_not_there(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no such folder; set data\.root"):
            plugins.load("stages.datasets", name).build(tmp_path, root=str(tmp_path / "gone"))


class TestCoco:
    def annotations(self, file_name: str) -> str:
        rows = {
            "images": [{"id": 1, "file_name": file_name, "width": 20, "height": 10}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}],
            "categories": KINDS,
        }
        return json.dumps(rows)

    @pytest.mark.parametrize(
        ("annotations", "images"),
        [
            ("annotations/instances_{0}.json", "images"),
            ("annotations/instances_{0}2017.json", "{0}2017"),
            ("annotations/instances_{0}2017.json", "images/{0}2017"),
            ("annotations/instances_{0}2014.json", "{0}2014"),
            ("annotations/instances_{0}.json", "images/{0}"),
            ("annotations/instances_{0}.json", "{0}"),
            ("annotations/{0}.json", "{0}"),
            ("{0}/_annotations.coco.json", "{0}"),
            ("{0}.json", "."),
        ],
    )
    def test_layouts(self, tmp_path: Path, annotations: str, images: str) -> None:
        for split in ("train", "val"):
            draw(tmp_path / images.format(split) / f"{split}.png")
            write(tmp_path / annotations.format(split), self.annotations(f"{split}.png"))
        found = coco.build(tmp_path, root=str(tmp_path))
        assert list(found) == ["train", "val"]
        for split, source in found.items():
            assert (source.images / f"{split}.png").is_file()
            assert boxes(source) == [(f"{split}.png", "dog", [1, 2, 3, 4])]

    def test_the_folder_that_holds_the_images_wins(self, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        for split, word in (("train", "train"), ("val", "valid")):
            draw(tmp_path / word / "a.png")
            write(tmp_path / f"annotations/instances_{split}.json", self.annotations("a.png"))
        found = coco.build(tmp_path, root=str(tmp_path))
        assert {split: source.images.name for split, source in found.items()} == {"train": "train", "val": "valid"}

    def test_pairs_of_ones_own(self, tmp_path: Path) -> None:
        draw(tmp_path / "photos/a.png")
        write(tmp_path / "one.json", self.annotations("a.png"))
        pair = {"images": "photos", "annotations": "one.json"}
        options: dict[str, Any] = {f"{split}_{part}": path for split in ("train", "val") for part, path in pair.items()}
        found = coco.build(tmp_path, root=str(tmp_path), **options)
        assert set(found) == {"train", "val"}
        absolute: dict[str, Any] = {key: str(tmp_path / value) for key, value in options.items()}
        assert coco.build(tmp_path, **absolute)["val"].coco == found["val"].coco
        assert coco.identity(**absolute) == coco.identity(root=str(tmp_path), **options)

    def test_half_a_pair_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"data\.val_annotations is missing"):
            coco.build(tmp_path, val_images="here")

    @pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[1, 2]", "not a COCO file"), ("\x00", "not a text file")])
    def test_what_is_no_coco_file(self, tmp_path: Path, text: str, message: str) -> None:
        draw(tmp_path / "images/a.png")
        write(tmp_path / "annotations/instances_train.json", text)
        with pytest.raises(DataError, match=message):
            coco.build(tmp_path, root=str(tmp_path))

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no file such as annotations/instances_train\.json"):
            coco.build(tmp_path, root=str(tmp_path))

    def test_missing_pieces_are_named(self, tmp_path: Path) -> None:
        named: dict[str, Any] = {"train_images": "images", "train_annotations": "a.json"}
        with pytest.raises(DataError, match="images: no such folder; it should hold the train images"):
            coco.build(tmp_path, root=str(tmp_path), **named)
        (tmp_path / "images").mkdir()
        with pytest.raises(DataError, match=r"a\.json: cannot be read \(No such file"):
            coco.build(tmp_path, root=str(tmp_path), **named)

    def test_identity_follows_content_not_place(self, tmp_path: Path) -> None:
        home = tmp_path / "one"
        draw(home / "images/a.png")
        for split in ("train", "val"):
            write(home / f"annotations/instances_{split}.json", self.annotations("a.png"))
        first = coco.identity(root=str(home))
        moved = tmp_path / "two"
        shutil.copytree(home, moved)  # keeps the files' times
        assert coco.identity(root=str(moved)) == first
        write(moved / "annotations/instances_val.json", self.annotations("a.png") + " ")
        assert coco.identity(root=str(moved))["annotations"] != first["annotations"]
        assert coco.identity(root=str(moved))["images"] == first["images"]
        os.utime(moved / "images/a.png", ns=(0, 0))
        assert coco.identity(root=str(moved))["images"] != first["images"]
        draw(home / "images/b.png")
        assert coco.identity(root=str(home))["images"] != first["images"]

    def test_identity_changes_if_a_split_gets_another_name(self, tmp_path: Path) -> None:
        draw(tmp_path / "images/a.png")
        for split in ("train", "valid"):
            write(tmp_path / f"{split}/_annotations.coco.json", self.annotations("a.png"))
        first = coco.identity(root=str(tmp_path))
        (tmp_path / "valid").rename(tmp_path / "test")
        assert coco.identity(root=str(tmp_path)) != first

    def test_identity_changes_if_an_image_moves_to_another_splits_folder(self, tmp_path: Path) -> None:
        for split, stem in (("train", "a"), ("train", "b"), ("val", "c")):
            draw(tmp_path / f"images/{split}/{stem}.png")
        for split, stem in (("train", "a"), ("val", "c")):
            write(tmp_path / f"annotations/instances_{split}.json", self.annotations(f"{stem}.png"))
        first = coco.identity(root=str(tmp_path))
        (tmp_path / "images/train/b.png").rename(tmp_path / "images/val/b.png")
        assert coco.identity(root=str(tmp_path)) != first


class TestYolo:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for split in ("train", "val"):
            draw(tmp_path / f"images/{split}/a.png")
            write(tmp_path / f"labels/{split}/a.txt", "1 0.5 0.5 0.2 0.4\n\n0 0.25 0.5 0.5 1.0\n")
        draw(tmp_path / "images/val/empty.png")
        write(tmp_path / "labels/val/empty.txt", "")
        return tmp_path

    def expect(self, found: dict[str, Source]) -> None:
        rows = boxes(found["val"])
        assert [row[:2] for row in rows] == [("images/val/a.png", "dog"), ("images/val/a.png", "cat")]
        assert rows[0][2] == pytest.approx([8, 3, 4, 4])
        assert rows[1][2] == pytest.approx([0, 0, 10, 10])
        assert [row["file_name"] for row in found["val"].coco["images"]] == ["images/val/a.png", "images/val/empty.png"]
        assert found["val"].coco["categories"] == [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]

    @pytest.mark.parametrize(
        "head",
        [
            "train: images/train\nval: images/val\nnames: [cat, dog]\nnc: 2\n",
            "path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n",
            "path: /gone\ntrain: ../images/train\nval: [../images/val]\nnames: [cat, dog]\n",
            "train: train.txt\nval: val.txt\nnames: [cat, dog]\n",
        ],
    )
    def test_data_yaml(self, root: Path, head: str) -> None:
        write(root / "data.yaml", head)
        write(root / "train.txt", "./images/train/a.png\n")
        write(root / "val.txt", "images/val/a.png\nimages/val/empty.png\n\n")
        self.expect(yolo.build(root, root=str(root)))

    def test_folders_and_names(self, root: Path) -> None:
        self.expect(yolo.build(root, root=str(root), names=["cat", "dog"]))
        write(root / "classes.txt", "cat\ndog\n")
        self.expect(yolo.build(root, root=str(root)))

    def test_split_folders(self, tmp_path: Path) -> None:
        for split in ("train", "valid"):
            draw(tmp_path / f"{split}/images/a.png")
            write(tmp_path / f"{split}/labels/a.txt", "0 0.5 0.5 1 1")
        found = yolo.build(tmp_path, root=str(tmp_path), names=["cat"])
        assert boxes(found["val"]) == [("valid/images/a.png", "cat", [0, 0, 20, 10])]

    def test_a_polygon_gives_its_box(self, root: Path) -> None:
        write(root / "labels/train/a.txt", "0 0.1 0.2 0.5 0.2 0.5 0.8")
        row = yolo.build(root, root=str(root), names=["cat", "dog"])["train"].coco["annotations"][0]
        assert row["bbox"] == pytest.approx([2, 2, 8, 6])
        assert row["segmentation"] == [pytest.approx([2, 2, 10, 2, 10, 8])]

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_fractions_are_of_the_upright_image(self, root: Path, kind: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        (root / "images/train/a.png").unlink()
        Image.new("RGB", (20, 10)).save(root / f"images/train/a.{kind.lower()}", kind, exif=exif)
        row = yolo.build(root, root=str(root), names=["cat", "dog"])["train"].coco["annotations"][0]
        assert row["bbox"] == pytest.approx([4, 6, 2, 8])

    @pytest.mark.parametrize("line", ["0 0.5 0.5 0.2", "bird 0.5 0.5 0.2 0.2", "0 a b c d", "0 0.1 0.1 0.2 0.2 0.3 0.3 0.4"])
    def test_lines_that_mean_nothing(self, root: Path, line: str) -> None:
        write(root / "labels/train/a.txt", f"{line}\n\n{line}\n0 0.5 0.5 0.1 0.1\n")
        with pytest.raises(DataError, match=r"a\.txt:1: '.*' is not 'class x y width height', as 2 of 3 lines"):
            yolo.build(root, root=str(root), names=["cat", "dog"])

    def test_boxes_that_cannot_be_are_left_out_by_prepare(self, root: Path, tmp_path: Path) -> None:
        write(root / "labels/train/a.txt", "0 0.5 0.5 0.1 0.1\n0 nan 0.5 0.1 0.1\n0 0.5 0.5 -0.1 0.1\n0 0.5 0.5 0 0.1\n0 3 0.5 0.1 0.1\n")
        (tmp_path / "out").mkdir()
        data = DataConfig.model_validate({"dataset": "yolo", "root": str(root), "names": ["cat", "dog"], "max_doubtful": 1})
        facts = prepare(tmp_path / "out", data).facts
        assert counts(facts) == {"degenerate box": 3, "box outside its image": 1, "box beyond its image's edge": 1}
        assert facts.splits["train"].num_boxes == 1
        assert 'bbox "labels/train/a.txt:2: 0 nan 0.5 0.1 0.1"' in examples(facts, "degenerate box")[0]

    def test_a_class_without_a_name_is_refused(self, root: Path, tmp_path: Path) -> None:
        write(root / "labels/train/a.txt", "5 0.5 0.5 0.1 0.1\n")
        data = DataConfig.model_validate({"dataset": "yolo", "root": str(root), "names": ["cat", "dog"]})
        with pytest.raises(DataError, match=r"train/a\.txt:1: '5 .*': class 5 has no name; the names are numbered 0 to 1"):
            prepare(tmp_path / "out", data)

    @pytest.mark.parametrize(
        ("head", "message"),
        [
            ("test: images/gone\nnames: [cat]\n", "images/gone: no such folder"),
            ("train: images/train\n", "no class names"),
            ("train: images/train\nnames: {0: cat, 2: dog}\n", "class 1 has no name; the names are numbered 0, 2"),
            ("just text\n", "should be a mapping"),
            ("a: [\n", "not readable as YAML"),
        ],
    )
    def test_a_bad_data_yaml(self, root: Path, head: str, message: str) -> None:
        write(root / "data.yaml", head)
        with pytest.raises(DataError, match=message):
            yolo.build(root, root=str(root))

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="is it a YOLO folder"):
            yolo.build(tmp_path, root=str(tmp_path))

    def test_identity(self, root: Path) -> None:
        options: dict[str, Any] = {"root": str(root), "names": ["cat", "dog"]}
        first = yolo.identity(**options)
        write(root / "labels/train/a.txt", "0 0.5 0.5 0.1 0.1\n")
        second = yolo.identity(**options)
        assert second["annotations"] != first["annotations"]
        assert second["images"] == first["images"]
        draw(root / "images/val/b.png")
        assert yolo.identity(**options)["images"] != first["images"]


def page(*objects: tuple[str, tuple[Any, Any, Any, Any]], name: str = "a.png", difficult: int = 0) -> str:
    rows = "".join(
        f"<object><name>{kind}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for kind, (x1, y1, x2, y2) in objects
    )
    return f"<annotation><filename>{name}</filename><size><width>20</width><height>10</height><depth>3</depth></size>{rows}</annotation>"


class TestVoc:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for name in ("a", "b"):
            draw(tmp_path / f"JPEGImages/{name}.png")
            write(tmp_path / f"Annotations/{name}.xml", page(("dog", (1, 2, 5, 8)), ("cat", (0, 0, 20, 10)), name=f"{name}.png"))
        write(tmp_path / "ImageSets/Main/train.txt", "a\n")
        write(tmp_path / "ImageSets/Main/val.txt", "b  1\n\n")
        return tmp_path

    def test_lists(self, root: Path) -> None:
        found = voc.build(root, root=str(root))
        assert boxes(found["val"]) == [("b.png", "dog", [1, 2, 4, 6]), ("b.png", "cat", [0, 0, 20, 10])]
        assert found["train"].coco["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        assert found["train"].coco["images"] == [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}]

    def test_a_folder_for_each_split(self, tmp_path: Path) -> None:
        for split in ("train", "valid"):
            draw(tmp_path / f"{split}/a.png")
            write(tmp_path / f"{split}/a.xml", page(("dog", (1, 2, 5, 8)), name="renamed.jpg"))
        found = voc.build(tmp_path, root=str(tmp_path))
        assert boxes(found["val"]) == [("a.png", "dog", [1, 2, 4, 6])]

    def test_names_fix_the_order(self, root: Path) -> None:
        found = voc.build(root, root=str(root), names=["dog", "cat"])
        assert found["train"].coco["categories"] == [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
        with pytest.raises(DataError, match=r"a\.xml: unknown class 'cat'; data\.names has dog"):
            voc.build(root, root=str(root), names=["dog"])

    def test_difficult_objects_become_crowds(self, root: Path) -> None:
        write(root / "Annotations/a.xml", page(("dog", (1, 2, 5, 8)), difficult=1))
        assert [row["iscrowd"] for row in voc.build(root, root=str(root))["train"].coco["annotations"]] == [1]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("<annotation>", "not readable as XML"),
            (page(("dog", ("one", 2, 5, 8))), r"a\.xml: <xmin> in <bndbox> is 'one'"),
        ],
    )
    def test_a_bad_page(self, root: Path, text: str, message: str) -> None:
        write(root / "Annotations/a.xml", text)
        with pytest.raises(DataError, match=message):
            voc.build(root, root=str(root))

    def test_corners_that_are_not_finite_are_left_out_by_prepare(self, root: Path, tmp_path: Path) -> None:
        write(root / "Annotations/a.xml", page(("cat", (0, 0, 4, 4)), ("dog", (1, "nan", 5, 8))))
        (tmp_path / "out").mkdir()
        facts = prepare(tmp_path / "out", DataConfig.model_validate({"dataset": "voc", "root": str(root), "max_doubtful": 1})).facts
        assert counts(facts) == {"degenerate box": 1}
        assert "xmin 1 ymin nan xmax 5 ymax 8" in examples(facts, "degenerate box")[0]

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="is it a VOC folder"):
            voc.build(tmp_path, root=str(tmp_path))

    def test_identity(self, root: Path) -> None:
        first = voc.identity(root=str(root))
        write(root / "ImageSets/Main/train.txt", "a\nb\n")
        assert voc.identity(root=str(root)) != first


class TestBccd:
    @pytest.fixture
    def nowhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A machine without the data, whose cache is below the folder returned."""
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")
        monkeypatch.setattr(bccd, "__file__", str(tmp_path / "a/b/stages/datasets/bccd.py"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv("EDGEDISTILL_DATA", raising=False)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        return tmp_path

    @pytest.fixture
    def archive(self, tmp_path: Path) -> Path:
        """An archive laid out as the repository's, with something beside what is wanted."""
        home = tmp_path / "made"
        for number, split in enumerate(("train", "val", "test")):
            draw(home / f"BCCD/JPEGImages/Image_{number}.jpg")
            cells = page(("WBC", (1, 1, 5, 5)), ("RBC", (5, 5, 9, 9)), name=f"Image_{number}.jpg")
            write(home / f"BCCD/Annotations/Image_{number}.xml", cells)
            write(home / f"BCCD/ImageSets/Main/{split}.txt", f"Image_{number}\n")
        path = tmp_path / "served/repo.zip"
        path.parent.mkdir()
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(home.rglob("*.*")):
                archive.write(file, f"BCCD_Dataset-d272/{file.relative_to(home)}")
            archive.writestr("BCCD_Dataset-d272/README.md", "no data")
            archive.writestr("BCCD_Dataset-d272/BCCD/../../../escape.txt", "never written")
        return path

    @pytest.fixture
    def address(self, archive: Path) -> Iterator[str]:
        handler = functools.partial(QuietHandler, directory=str(archive.parent))
        with socketserver.TCPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
            thread.start()
            yield f"http://127.0.0.1:{server.server_address[1]}/repo.zip"
            server.shutdown()
            join(thread)

    def digest(self, archive: Path) -> str:
        return bccd.content(bccd._unpack(archive.read_bytes()))

    def test_it_is_fetched_once(self, nowhere: Path, archive: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bccd, "URL", address)
        monkeypatch.setattr(bccd, "SHA256", self.digest(archive))
        before = bccd.identity()
        found = bccd.build(nowhere)
        assert boxes(found["val"]) == [("Image_1.jpg", "WBC", [1, 1, 4, 4]), ("Image_1.jpg", "RBC", [5, 5, 4, 4])]
        assert [row["name"] for row in found["test"].coco["categories"]] == ["RBC", "WBC", "Platelets"]
        assert sorted(path.name for path in (nowhere / "cache/edgedistill").iterdir()) == [bccd.cached().name]
        assert not list(nowhere.rglob("escape.txt"))
        archive.unlink()
        assert bccd.build(nowhere)["val"].coco == found["val"].coco
        assert bccd.identity() == before == {"commit": bccd.COMMIT}

    def test_what_differs_from_the_sha256_is_refused(self, nowhere: Path, archive: Path, address: str) -> None:
        with pytest.raises(DataError, match=r"have sha256 \w+, not 00; download https://github\.com/Shenggan") as error:
            bccd.fetch(address, nowhere / "cache/x", "00")
        assert self.digest(archive) in str(error.value)
        assert not (nowhere / "cache").exists()

    def test_one_changed_byte_changes_the_digest(self, archive: Path) -> None:
        files = bccd._unpack(archive.read_bytes())
        name = next(iter(files))
        assert bccd.content(files | {name: files[name] + b" "}) != bccd.content(files)
        assert bccd.content(dict(reversed(files.items()))) == bccd.content(files)

    @pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.zip", "file:///gone.zip"])
    def test_no_network_is_one_line(self, nowhere: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bccd, "URL", url)
        with pytest.raises(
            DataError, match=r"not on this machine and cannot be downloaded \(.*\); download .* and set data\.root"
        ) as error:
            bccd.build(nowhere)
        assert "\n" not in str(error.value)
        assert not (nowhere / "cache").exists()

    @pytest.mark.parametrize("keep", [0, 10, 300])
    def test_half_an_archive(self, nowhere: Path, archive: Path, address: str, keep: int) -> None:
        archive.write_bytes(archive.read_bytes()[:keep])
        with pytest.raises(DataError, match="cannot be downloaded"):
            bccd.fetch(address, nowhere / "cache/x", "00")

    def test_local_folders_in_their_order(self, nowhere: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shared, named, given = nowhere / "shared/data/bccd", nowhere / "data/bccd", nowhere / "own"
        for folder, size in ((shared, 5), (named, 6), (given, 7)):
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(nowhere / "unpacked", [name for name in opened.namelist() if "escape" not in name])
            shutil.move(nowhere / "unpacked/BCCD_Dataset-d272/BCCD", folder)
            write(folder / "Annotations/Image_0.xml", page(("WBC", (0, 0, size, size)), name="Image_0.jpg"))
        assert boxes(bccd.build(nowhere)["train"])[0][2][2] == 5
        monkeypatch.setenv("EDGEDISTILL_DATA", str(named.parent))
        assert boxes(bccd.build(nowhere)["train"])[0][2][2] == 6
        assert boxes(bccd.build(nowhere, root=str(given))["train"])[0][2][2] == 7
        assert len({json.dumps(bccd.identity(root=root)) for root in (None, str(shared), str(given))}) == 3

    def test_the_real_data(self, tmp_path: Path) -> None:
        found = bccd._find(None)
        if found is None:
            pytest.skip("the blood cells are not on this machine")
        facts = prepare(tmp_path, DataConfig(dataset="bccd")).facts
        assert facts.contract.classes == ("RBC", "WBC", "Platelets")
        assert {name: (split.num_images, split.num_boxes) for name, split in facts.splits.items()} == {
            "train": (205, 2804),
            "val": (87, 1137),
            "test": (72, 945),
        }


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Nothing."""
