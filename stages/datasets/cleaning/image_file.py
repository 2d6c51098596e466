"""What was found in an image file."""

from dataclasses import dataclass

from stages.datasets.cleaning.pixels import Stored

SWAPPED = range(5, 9)
"""EXIF orientations that swap width and height."""


@dataclass(frozen=True)
class ImageFile:
    """A readable image: its size in px when upright, and the EXIF orientation that made it so.

    `stored` is what the contract makes of its values. `sha256` is the file's; `look` is 16 x 16 of its gray values, to recognize the
    same picture. Both are empty unless requested.
    """

    width: int
    height: int
    orientation: int
    stored: Stored
    sha256: str = ""
    look: bytes = b""

    @property
    def turned(self) -> bool:
        """Whether width and height are swapped in the file."""
        return self.orientation in SWAPPED
