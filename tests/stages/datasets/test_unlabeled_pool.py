"""Images without labels: which are used, and why the others are not."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import unlabeled_samples
from PIL import Image

from deploy.errors import ConfigError, DataError
from stages.artifacts import Dataset, ImagePool
from stages.collect import collect, identity
from stages.facts import write_facts


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.dataset(tmp_path_factory.mktemp("data"))


def picture(file: Path, seed: int, size: tuple[int, int] = (60, 40)) -> Path:
    """Coarse noise, which looks like no other picture."""
    file.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file)
    return file


def collected(tmp_path: Path, data: Dataset, **options: object) -> ImagePool:
    out = tmp_path / "out"
    out.mkdir()
    return collect(out, unlabeled_samples.data_config(tmp_path / "pool", **options), data)


def kinds(pool: ImagePool) -> dict[str, int]:
    return {note.kind: note.count for note in pool.facts.notes}


def test_every_readable_image_is_used_whatever_its_mode(tmp_path: Path, data: Dataset) -> None:
    for number in range(3):
        picture(tmp_path / "pool" / "camera" / f"{number}.png", number)
    gray = Image.open(picture(tmp_path / "gray.png", 7)).convert("L")
    turned = Image.Exif()
    turned[0x0112] = 6
    gray.save(tmp_path / "pool" / "gray.jpg", exif=turned)
    pool = collected(tmp_path, data)
    assert pool.facts.num_images == 4
    assert not pool.facts.notes
    rows = {Path(row["file_name"]).name: (row["width"], row["height"]) for row in pool.images()}
    assert rows["gray.jpg"] == (40, 60), "upright"
    assert rows["0.png"] == (60, 40)
    assert all(Path(row["file_name"]).is_absolute() for row in pool.images())


def test_broken_files_copies_and_known_pictures_are_left_out_and_counted(tmp_path: Path, data: Dataset) -> None:
    folder = tmp_path / "pool"
    for number in range(6):
        picture(folder / f"{number}.png", number)
    shutil.copy(folder / "0.png", folder / "copy.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff not an image")
    val, train = (data.images(split) / data.table(split).name(0) for split in ("val", "train"))
    shutil.copy(train, folder / f"train{train.suffix}")
    Image.open(val).convert("RGB").resize((128, 128), Image.Resampling.NEAREST).save(folder / "resized.png")
    pool = collected(tmp_path, data)
    assert pool.facts.num_images == 6
    assert kinds(pool) == {
        "unreadable image": 1,
        "image that is twice among the unlabeled ones": 1,
        "unlabeled image that is in train": 1,
        "unlabeled image that looks like one that networks are judged on": 1,
    }
    assert {note.total for note in pool.facts.notes} == {10}
    lines = [str(note) for note in pool.facts.notes]
    assert any("resized.png is val's" in line for line in lines)


def test_images_of_a_train_split_without_labels_are_used(tmp_path: Path, data: Dataset) -> None:
    bare = Dataset(Path(shutil.copytree(data.root, tmp_path / "data")))
    splits = {**bare.facts.splits, "train": bare.facts.splits["train"].model_copy(update={"num_boxes": 0})}
    write_facts(bare.root, bare.facts.model_copy(update={"splits": splits}))
    shutil.copytree(data.images("train"), tmp_path / "pool")
    shutil.copytree(data.images("val"), tmp_path / "pool" / "val")
    pool = collected(tmp_path, bare)
    assert (pool.facts.num_images, list(kinds(pool).values())) == (12, [4])


def test_formats_that_are_not_read_are_counted(tmp_path: Path, data: Dataset) -> None:
    for number in range(9):
        picture(tmp_path / "pool" / f"{number}.png", number)
    config = unlabeled_samples.data_config(tmp_path / "pool")
    before = identity(config)
    (tmp_path / "pool" / "phone.HEIC").write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00")
    assert identity(config) != before
    pool = collected(tmp_path, data, max_doubtful=1)
    assert (pool.facts.num_images, kinds(pool)) == (9, {"unreadable image": 1})
    assert "HEIC (a phone's format) cannot be read; convert it to JPEG or PNG" in str(pool.facts.notes[0])


def test_what_is_known_casts_no_doubt_but_what_is_broken_does(tmp_path: Path, data: Dataset) -> None:
    folder = tmp_path / "pool"
    picture(folder / "0.png", 0)
    for number in range(3):
        shutil.copy(folder / "0.png", folder / f"copy{number}.png")
    assert collected(tmp_path, data).facts.num_images == 1
    for number in range(3):
        (folder / f"broken{number}.png").write_bytes(b"nothing")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(DataError, match=r"3 of 7 images are left out or assumed.*max_doubtful to 0.43"):
        collected(tmp_path, data)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(DataError, match=r"unreadable image.*data.strict"):
        collected(tmp_path, data, max_doubtful=1, strict=True)


def film(path: Path, seconds: int) -> Path:
    """Ten frames per second, a different picture in each second."""
    cv2 = pytest.importorskip("cv2", reason='needs the extra: pip install "edgedistill[video]"')
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for second in range(seconds):
        coarse = np.random.default_rng(100 + second).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        frame = np.asarray(Image.fromarray(coarse).resize((64, 48), Image.Resampling.NEAREST))
        for _ in range(10):
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def test_videos_give_a_frame_per_second_that_stays_with_the_artifact(tmp_path: Path, data: Dataset) -> None:
    picture(tmp_path / "pool" / "0.png", 0)
    film(tmp_path / "pool" / "street.avi", 3)
    other = film(tmp_path / "other.avi", 5)
    other.write_bytes(other.read_bytes()[: other.stat().st_size * 7 // 10])
    config = unlabeled_samples.data_config(tmp_path).model_copy(
        update={"unlabelled": (str(tmp_path / "pool"), str(other)), "max_doubtful": 1}
    )
    out = tmp_path / "out"
    out.mkdir()
    before = identity(config)
    pool = collect(out, config, data)
    damaged = next(note for note in pool.facts.notes if note.kind.startswith("video that is damaged"))
    assert (damaged.count, damaged.action) == (1, "left out")
    assert "other.avi: damaged or cut off" in str(damaged)
    assert sum(note.count for note in pool.facts.notes if note.kind.startswith("image that is twice")) == 3, "the same pictures"
    pool = ImagePool(out.rename(tmp_path / "moved"))
    names = [Path(row["file_name"]) for row in pool.images()]
    assert [path.name for path in names] == ["0.png", "00000000.jpg", "00000010.jpg", "00000020.jpg", "00000030.jpg"]
    assert all(path.is_absolute() and path.exists() for path in names)
    film(tmp_path / "pool" / "street.avi", 4)
    assert identity(config) != before


def test_a_folder_may_hold_videos_only_and_needs_the_extra_then(tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    film(tmp_path / "pool" / "street.avi", 2)
    assert collected(tmp_path, data).facts.num_images == 2
    monkeypatch.setattr("deploy.prediction.video.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"street\.avi: reading videos needs opencv.*edgedistill\[video\]"):
        identity(unlabeled_samples.data_config(tmp_path / "pool"))


def test_a_changed_folder_is_another_input(tmp_path: Path, data: Dataset) -> None:
    picture(tmp_path / "pool" / "0.png", 0)
    config = unlabeled_samples.data_config(tmp_path / "pool")
    before = identity(config)
    assert identity(config, data) == before
    picture(tmp_path / "pool" / "1.png", 1)
    assert identity(config) != before


@pytest.mark.parametrize(
    ("prepared", "folders", "why"),
    [
        ("", ["nowhere"], "nowhere: no such folder; name a folder of images"),
        ("pool/a.png", ["pool/a.png"], "a.png is a file, but not a video; name the folder that it is in"),
        ("pool/notes.txt", ["pool"], "pool has no image; name a folder with images"),
        ("pool/in/a.png", ["pool", "pool/in"], "in is inside .*pool, or is the same folder"),
        ("pool/a.png", ["pool", "pool/../pool"], "is the same folder; name the outer one only"),
        ("pool/a.png", ["pool", "empty"], "empty: no such folder"),
        ("pool/b.heic", ["pool"], "no usable image remains of 1; unlabelled: left out: unreadable image"),
        ("pool/b.jpg", ["pool"], "no usable image remains of 1; unlabelled: left out: unreadable image"),
    ],
)
def test_folders_that_cannot_be_used_are_refused_in_one_line(
    tmp_path: Path, data: Dataset, prepared: str, folders: list[str], why: str
) -> None:
    if prepared.endswith(".png"):
        picture(tmp_path / prepared, 0)
    elif prepared:
        (tmp_path / prepared).parent.mkdir(parents=True)
        (tmp_path / prepared).write_text("not an image")
    config = unlabeled_samples.data_config(tmp_path).model_copy(update={"unlabelled": tuple(str(tmp_path / one) for one in folders)})
    with pytest.raises(DataError, match=why) as refused:
        collect(tmp_path, config, data)
    assert "\n" not in str(refused.value)
