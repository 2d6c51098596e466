"""Frames of videos as images without labels: one per second, as files."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from deploy.contract import Preprocessing
from deploy.errors import DataError
from deploy.prediction import video
from deploy.progress import track
from stages.datasets.layouts import list_files
from stages.notes import Kind, Notes

DAMAGED = Kind("video that is damaged or cannot be read, of which only the frames before the damage are used", "left out", "files")

QUALITY = 95
"""Of the JPEG files, whose colors keep their full resolution: videos have lost more already."""


def videos_in(roots: Sequence[Path]) -> list[Path]:
    """All videos: those named, and those in the folders.

    Raises:
        ConfigError: there are some, and the extra for videos is not installed.
    """
    found = [path for root in roots for path in ([root] if root.is_file() else list_files(root, video.SUFFIXES))]
    if found:
        video.require(found[0])
    return found


def saved_frames(videos: Sequence[Path], out: Path, preprocessing: Preprocessing, split: str, notes: Notes) -> dict[Path, str]:
    """One file per second of each video, and what messages call it; a video that is damaged is noted."""
    found: dict[Path, str] = {}
    for number, path in enumerate(track(videos, "read videos", len(videos))):
        folder = out / f"{number:04}-{path.stem}"
        try:
            for frame in video.frames(path, preprocessing):
                folder.mkdir(parents=True, exist_ok=True)
                file = folder / f"{frame.number:08}.jpg"
                Image.fromarray(frame.pixels).save(file, quality=QUALITY, subsampling=0)
                found[file] = f"{path}, {frame.time_s:.0f} s"
        except DataError as error:
            notes.add(DAMAGED, split, str(error))
    return found
