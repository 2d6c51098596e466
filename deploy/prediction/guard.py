"""Pillow's own limit on pixels, which is one for the whole process, kept out of the way of the contract's."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import IO

from PIL import Image, ImageFile

from deploy.contract import MAX_PIXELS
from deploy.machine.files import open_regular

_LOCK = Lock()


@contextmanager
def unguarded() -> Iterator[None]:
    """Pillow neither warns of large images nor refuses them; one thread at a time, as the setting is global."""
    with _LOCK:
        kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = kept


@contextmanager
def open_image(source: Path | IO[bytes], formats: Sequence[str]) -> Iterator[ImageFile.ImageFile]:
    """Read an image's header; the caller checks its size before loading it. A path leads to a regular file, or OSError is raised."""
    with ExitStack() as stack:
        file = stack.enter_context(open_regular(source)) if isinstance(source, Path) else source
        with unguarded():
            image = stack.enter_context(Image.open(file, formats=tuple(formats)))
        if isinstance(source, Path):
            image.filename = str(source)
        yield image


def load(image: Image.Image) -> None:
    """Decode an image whose size is allowed; those above Pillow's limit one at a time."""
    if image.width * image.height > MAX_PIXELS:
        with unguarded():
            image.load()
    else:
        image.load()
