"""Frames of video files as images, through OpenCV's FFmpeg, one at a time."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.contract import Preprocessing
from deploy.errors import ConfigError, DataError
from deploy.prediction import containers

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
_SLACK_S = 1.0
"""Sound may be longer than the picture by this much."""


@dataclass(frozen=True)
class Frame:
    """One frame: RGB [H, W, 3], upright; its number from 0; its time from the start in seconds."""

    pixels: NDArray[np.uint8]
    number: int
    time_s: float


def is_named_video(path: object) -> bool:
    """Whether a path ends like a video that is read."""
    return isinstance(path, Path) and path.suffix.lower() in SUFFIXES


def require(path: Path) -> None:
    """Refuse a video if the extra is not installed.

    Raises:
        ConfigError: OpenCV is not installed.
    """
    if find_spec("cv2") is None:
        raise ConfigError(f'{path}: reading videos needs opencv, which is not installed: pip install "edgedistill[video]"')


def frames(path: Path, preprocessing: Preprocessing, every: int | None = None) -> Iterator[Frame]:
    """Every `every`-th frame, beginning with the first; by default the first frame of every second of the video.

    Raises:
        DataError: not a video, above the contract's max_pixels, or damaged; what can be read is returned before.
    """
    try:
        container = containers.examine(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read as a video ({error.strerror})") from error
    if container is None:
        raise DataError(f"{path}: not a video that can be read; allowed: MP4, MOV, AVI, MKV, WebM")
    cv2 = _library()
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise DataError(f"{path}: cannot be read as a video ({_reason(container)}); record or convert it again")
        width, height = (int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > preprocessing.max_pixels:
            limit = f"{preprocessing.max_pixels:,}; make it smaller or raise data.preprocessing.max_pixels"
            raise DataError(f"{path}: frames of {width} x {height} px are more than {limit}")
        yield from _selected(capture, path, container, every)
    finally:
        capture.release()


def _selected(capture: Any, path: Path, container: containers.Container, every: int | None) -> Iterator[Frame]:
    cv2 = _library()
    fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    number, time_s, due = 0, 0.0, 0
    while capture.grab():
        time_s = _time(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, number, time_s, fps)
        if number % every == 0 if every else time_s + 1e-6 >= due:
            ok, pixels = capture.retrieve()
            if not ok:
                raise DataError(f"{path}: frame {number} cannot be decoded; the {number} frames before it were read")
            yield Frame(np.ascontiguousarray(pixels[..., ::-1]), number, round(time_s, 6))
            due = math.floor(time_s + 1e-6) + 1
        number += 1
    if number == 0:
        raise DataError(f"{path}: no frame can be decoded ({_reason(container)}); record or convert it again")
    length = container.duration_s or (count / fps if fps > 0 else 0.0)
    early = number < count and (container.kind == "avi" or time_s + _SLACK_S < length)
    if container.cut or early:
        raise DataError(f"{path}: damaged or cut off; only {number} frames, to {time_s:.2f} s, can be read, and these were done")


def _time(stated: float, number: int, last: float, fps: float) -> float:
    """The time of a frame: as stated, or from the rate if the file has no times that grow."""
    if number == 0:
        return max(stated, 0.0)
    return stated if stated > last else last + (1 / fps if 0 < fps < 1000 else 0.0)


def _reason(container: containers.Container) -> str:
    if container.cut or (container.kind == "mp4" and container.duration_s is None):
        return "its end is missing"
    return "its codec is unknown, or it is damaged"


def _library() -> ModuleType:
    """OpenCV, imported late because it is an extra; its own lines on stderr are switched off."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    import cv2

    return cv2
