"""The data set contract; every other file in this folder is one kind of data set, and its file name is the name in pipeline.yaml.

A file defines `build(out: Path, *, <options>) -> dict[str, Source]`, the splits by name (at least "train" and "val"), and
`identity(*, <the same options>) -> dict`, which is quick and changes whenever the content does. A source that generates
images writes them under `out`. Optional: `image_files(*, <the same options>) -> list[list[Path]]`, each split's images as far as they are
known before the annotations are read; those are decoded meanwhile. Nothing here imports torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.notes import Note


@dataclass(frozen=True)
class Source:
    """A split as found: a folder of images and a COCO object-detection dictionary (images, annotations, categories).

    The annotations are a list, or Rows if they should not all be in memory. `notes` says what reading it repaired, assumed or left out;
    what it left out is not in `coco`.
    """

    images: Path
    coco: Mapping[str, Any]
    notes: tuple[Note, ...] = ()
