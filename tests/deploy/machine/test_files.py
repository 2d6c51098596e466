"""Only regular files are opened, wherever a path of a user or of a stranger leads; files are replaced in one step."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import artifact_samples
import numpy as np
import pytest
from PIL import Image

from deploy.bundles.bundle import Bundle
from deploy.contract import Preprocessing
from deploy.errors import ArtifactError, ConfigError, DataError
from deploy.machine import files
from deploy.machine.files import NotRegular
from deploy.prediction import video
from deploy.prediction.image_files import load_image
from deploy.prediction.inputs import expand
from pipeline.cli import main
from pipeline.config.document import read_document
from stages.datasets.cleaning.images import size
from stages.datasets.layouts import digest
from stages.datasets.layouts.entries import document
from stages.datasets.layouts.pascal_voc.xml_text import read_xml
from stages.datasets.layouts.text import read_text
from stages.detectors.backbones import pretrained
from stages.notes import Notes
from stages.training.digests import weights_digest

pytestmark = pytest.mark.timeout(20)  # a FIFO blocks whoever opens it


def fifo(path: Path) -> str:
    os.mkfifo(path)
    return "a FIFO"


def device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return "a character device"


def listener(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
    return "a socket"


def folder(path: Path) -> str:
    path.mkdir()
    return "Is a directory"


MAKERS = {made.__name__: made for made in (fifo, device, listener, folder)}

READERS: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "text": (lambda path: read_text(path, Notes(), "train"), DataError),
    "xml": (lambda path: read_xml(path, Notes(), "train"), DataError),
    "coco": (lambda path: document.read(path, Notes(), "train"), DataError),
    "digest": (lambda path: digest([path], []), DataError),
    "image": (lambda path: load_image(path, Preprocessing()), DataError),
    "video": (lambda path: next(video.frames(path, Preprocessing())), DataError),
    "yaml": (read_document, ConfigError),
    "weights": (lambda path: weights_digest(str(path)), ArtifactError),
    "backbone": (lambda path: pretrained._load("weights", path), ArtifactError),
}


class TestOpener:
    @pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
    def test_what_is_not_a_file_is_refused_with_its_kind(self, tmp_path: Path, make: Callable[[Path], str]) -> None:
        found = make(tmp_path / "x")
        (tmp_path / "link").symlink_to("x")
        for path in (tmp_path / "x", tmp_path / "link"):
            for read in (files.open_regular, files.check_regular, files.read_bytes, files.sha256):
                with pytest.raises(NotRegular) as caught:
                    read(path)
                assert str(caught.value.strerror).startswith(found)

    def test_a_path_that_changes_between_the_look_and_the_opening_does_not_block(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        os.mkfifo(tmp_path / "x")
        monkeypatch.setattr(files, "check_regular", lambda _: None)
        with pytest.raises(NotRegular, match="FIFO"):
            files.open_regular(tmp_path / "x")

    def test_links_to_files_are_followed(self, tmp_path: Path) -> None:
        (tmp_path / "blobs").mkdir()
        (tmp_path / "blobs" / "1").write_bytes(b"content")
        (tmp_path / "once").symlink_to("blobs/1")
        (tmp_path / "twice").symlink_to("once")
        assert files.read_bytes(tmp_path / "twice") == b"content"
        assert files.copy(tmp_path / "twice", tmp_path / "copy").read_bytes() == b"content"
        assert not (tmp_path / "copy").is_symlink()

    def test_a_file_may_have_a_largest_size(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"1234")
        assert files.read_bytes(tmp_path / "x", most=4) == b"1234"
        with pytest.raises(NotRegular, match="more than 3 bytes"):
            files.read_bytes(tmp_path / "x", most=3)


class TestReaders:
    @pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
    @pytest.mark.parametrize(("read", "error"), READERS.values(), ids=READERS)
    def test_each_says_what_it_found_in_one_line(
        self, tmp_path: Path, read: Callable[[Path], object], error: type[Exception], make: Callable[[Path], str]
    ) -> None:
        path = tmp_path / "given.pth"
        found = make(path)
        if found == "Is a directory" and read is READERS["weights"][0]:
            found = "No such file"  # a folder is a checkpoint's, and this one has no weights
        with pytest.raises(error, match=found) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_an_image_that_is_a_fifo_has_no_size(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.png")
        assert size(tmp_path / "a.png") is None

    def test_a_list_of_images_that_is_a_fifo_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "list.txt")
        with pytest.raises(DataError, match=r"list\.txt: cannot be read \(a FIFO"):
            expand([str(tmp_path / "list.txt")], bytes)

    def test_a_link_to_an_image_is_read_like_the_image(self, tmp_path: Path) -> None:
        pixels = np.full((8, 6, 3), 7, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "blob.bmp")
        (tmp_path / "link.bmp").symlink_to("blob.bmp")
        assert (load_image(tmp_path / "link.bmp", Preprocessing()) == pixels).all()


class TestBundles:
    @pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
    @pytest.mark.parametrize("name", ["README.md", "engine.onnx", "manifest.json"])
    def test_a_bundle_with_something_else_than_files_is_refused(self, tmp_path: Path, name: str, make: Callable[[Path], str]) -> None:
        made = artifact_samples.bundle(tmp_path)
        (made.root / name).unlink()
        with pytest.raises(ArtifactError, match=make(made.root / name)):
            Bundle.load(made.root)

    def test_a_bundle_of_links_to_files_elsewhere_is_whole(self, tmp_path: Path) -> None:
        made = artifact_samples.bundle(tmp_path)
        (tmp_path / "blobs").mkdir()
        for index, path in enumerate(sorted(made.root.iterdir())):
            path.rename(tmp_path / "blobs" / str(index))
            path.symlink_to(tmp_path / "blobs" / str(index))
        assert Bundle.load(made.root).manifest == made.manifest

    def test_a_copy_has_the_listed_files_and_nothing_else(self, tmp_path: Path) -> None:
        made = artifact_samples.bundle(tmp_path)
        os.mkfifo(made.root / "more")
        (made.root / "secret").symlink_to("/etc/hostname")
        made.copy(tmp_path / "copy")
        assert {path.name for path in (tmp_path / "copy").iterdir()} == {"manifest.json", *made.manifest.files}
        assert Bundle.load(tmp_path / "copy").manifest == made.manifest


class TestCommands:
    def test_a_configuration_that_is_a_device_ends_with_2(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["config", "/dev/zero"]) == 2
        assert "/dev/zero: cannot be read (a character device, not a regular file)" in capsys.readouterr().err

    def test_a_list_of_training_images_that_is_a_fifo_ends_with_3(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = tmp_path / "data"
        data.mkdir()
        (data / "data.yaml").write_text("train: train.lst\nval: images\nnames: [a]\n")
        os.mkfifo(data / "train.lst")
        assert main(["init", str(data), "--out", str(tmp_path / "p.yaml")]) == 3
        assert "a FIFO" in capsys.readouterr().err


def test_a_file_is_replaced_at_the_end_or_left_as_it_was(tmp_path: Path) -> None:
    def killed(scratch: Path) -> None:
        scratch.write_text("half")
        raise KeyboardInterrupt

    path = tmp_path / "kept"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as scratch:
        killed(scratch)
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {"kept": "old"}
    with files.replacing(path) as scratch:
        scratch.write_text("new")
        assert path.read_text() == "old"
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {"kept": "new"}
