from collections.abc import Iterator
from pathlib import Path

import artifact_samples as samples
import numpy as np
import onnx_samples
import pytest

from deploy.errors import ConfigError, DataError
from deploy.predict import predict_images
from deploy.prediction import video
from pipeline.cli import main

cv2 = pytest.importorskip("cv2", reason='needs the extra: pip install "edgedistill[video]"')
PREPROCESSING = onnx_samples.contract().preprocessing


def film(path: Path, codec: str, count: int = 25) -> Path:
    """Red frames of 64 x 48 px with a green strip at the left, 10 per second."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 10, (64, 48))
    image = np.zeros((48, 64, 3), np.uint8)
    image[..., 2], image[:, :16] = 255, (0, 255, 0)
    for _ in range(count):
        writer.write(image)
    writer.release()
    return path


@pytest.mark.parametrize(("name", "codec"), [("film.avi", "MJPG"), ("film.mp4", "mp4v"), ("film.mkv", "MJPG")])
def test_frames_times_and_colors(tmp_path: Path, name: str, codec: str) -> None:
    path = film(tmp_path / name, codec)
    assert [(one.number, one.time_s) for one in video.frames(path, PREPROCESSING)] == [(0, 0), (10, 1), (20, 2)]
    found = list(video.frames(path, PREPROCESSING, 12))
    assert [(one.number, one.time_s) for one in found] == [(0, 0), (12, 1.2), (24, 2.4)]
    assert found[0].pixels.shape == (48, 64, 3)
    assert np.abs(found[0].pixels[24, 48].astype(int) - (255, 0, 0)).max() < 16


def test_a_phones_rotation_is_applied(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", "mp4v")
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    content[at : at + 20] = b"".join(value.to_bytes(4, "big", signed=True) for value in (0, 65536, 0, -65536, 0))
    path.write_bytes(content)
    pixels = next(video.frames(path, PREPROCESSING)).pixels
    assert (pixels.shape, int(pixels[4, 24].argmax()), int(pixels[60, 24].argmax())) == ((64, 48, 3), 1, 0)


@pytest.mark.parametrize(("name", "codec"), [("film.avi", "MJPG"), ("film.mkv", "MJPG")])
def test_of_a_cut_video_the_frames_before_are_done(tmp_path: Path, name: str, codec: str) -> None:
    path = film(tmp_path / name, codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    result = predict_images(samples.bundle(tmp_path), [path], tmp_path / "out", every=4)
    assert [one["frame"] for one in result["images"]][:2] == [0, 4]
    assert (tmp_path / "out" / "film" / "000004.jpg").exists()
    assert "damaged or cut off" in result["failed"][0]["error"]


@pytest.mark.parametrize(("name", "codec"), [("film.avi", "MJPG"), ("film.mkv", "MJPG")])
def test_a_video_that_is_damaged_in_the_middle_is_named(tmp_path: Path, name: str, codec: str) -> None:
    path = film(tmp_path / name, codec)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + len(content) // 5] = bytes(len(content) // 5)
    path.write_bytes(content)
    result = predict_images(samples.bundle(tmp_path), [path], tmp_path / "out", every=4)
    assert [one["frame"] for one in result["images"]][:2] == [0, 4]
    assert [one["frame"] for one in result["images"]] != [0, 4, 8, 12, 16, 20, 24]
    assert path.name in result["failed"][0]["error"]


def test_of_several_files_a_damaged_video_spoils_no_other(tmp_path: Path) -> None:
    good, bad = film(tmp_path / "good.avi", "MJPG"), film(tmp_path / "bad.avi", "MJPG")
    bad.write_bytes(bad.read_bytes()[:600])
    result = predict_images(samples.bundle(tmp_path), [bad, good], tmp_path / "out", every=12)
    assert [one["frame"] for one in result["images"]] == [0, 12, 24]
    assert len(result["failed"]) == 1


@pytest.mark.parametrize("before", [True, False])
def test_after_ctrl_c_in_the_middle_nothing_is_written(
    tmp_path: Path, before: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, bundle, out = film(tmp_path / "film.avi", "MJPG"), samples.bundle(tmp_path), tmp_path / "out"
    if before:
        out.mkdir()
        (out / "mine.txt").write_text("kept")
    frames = video.frames

    def interrupted(*arguments: object, **more: object) -> Iterator[object]:
        for number, frame in enumerate(frames(*arguments, **more)):  # type: ignore[arg-type]
            if number == 2:
                raise KeyboardInterrupt
            yield frame

    monkeypatch.setattr(video, "frames", interrupted)
    assert main(["predict", str(bundle.root), str(path), "--out", str(out), "--every", "2"]) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert [file.name for file in out.glob("**/*")] == (["mine.txt"] if before else [])
    assert not [file.name for file in tmp_path.iterdir() if file.name.startswith(".out")]


@pytest.mark.parametrize("every", ["0", "-3"])
def test_every_is_at_least_1(tmp_path: Path, every: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, bundle = film(tmp_path / "film.avi", "MJPG"), samples.bundle(tmp_path)
    assert main(["predict", str(bundle.root), str(path), "--out", str(tmp_path / "out"), "--every", every]) == 2
    assert f"--every {every}: allowed: 1 (all frames) and above" in capsys.readouterr().err


def test_what_is_not_a_video_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path / "film.mp4", "mp4v")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DataError, match="its end is missing"):
        list(video.frames(path, PREPROCESSING))
    path.write_bytes(b"text")
    with pytest.raises(DataError, match="not a video"):
        list(video.frames(path, PREPROCESSING))
    monkeypatch.setattr(video, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install \"edgedistill\[video\]\""):
        video.require(path)
