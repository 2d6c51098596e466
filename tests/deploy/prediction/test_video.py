from pathlib import Path

import artifact_samples as samples
import numpy as np
import onnx_samples
import pytest

from deploy.errors import ConfigError, DataError
from deploy.predict import predict_images
from deploy.prediction import video

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
