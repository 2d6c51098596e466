"""A network that was trained for int8: what it gained over post-training int8, and the ranges that it was trained with."""

from dataclasses import asdict
from pathlib import Path

from pydantic import Field, ValidationError, field_validator

from deploy.contract import Frozen
from deploy.errors import ArtifactError
from deploy.machine import files
from deploy.precision import Recipe

INT8 = "int8.json"
"""The file with an Int8Training next to the graph."""

_MOST = 2**24
"""Bytes that the file may have."""


class Int8Figures(Frozen):
    """mAP of the student in fp32, of post-training int8 and of the network trained for int8, on the same images of a split.

    `gain` is the last one's lead over post-training int8; null if mAP is undefined or nothing was trained. `low` and `high` are its 95%
    interval, image by image on the same images; null, too, if fewer than 20 of them have objects. The network is kept only if the whole
    interval is above 0. The graphs are computed by ONNX Runtime as they are written.
    """

    split: str
    num_images: int
    epochs: int
    float_map: float | None
    post_training_map: float | None
    trained_map: float | None = None
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    kept: bool = False

    def __str__(self) -> str:
        """In one sentence."""
        if self.trained_map is None or self.post_training_map is None:
            return "nothing was trained for int8"
        interval = f", {100 * self.low:+.1f} to {100 * self.high:+.1f}" if self.low is not None and self.high is not None else ""
        lead = f" ({100 * (self.gain or 0):+.1f} points{interval})"
        why = "too few images have objects to tell" if self.low is None else "the interval is not above 0"
        verdict = "kept" if self.kept else f"not kept, because {why}"
        maps = f"mAP {self.trained_map:.4f}, post-training int8 {self.post_training_map:.4f}{lead}"
        epochs = "1 epoch" if self.epochs == 1 else f"{self.epochs} epochs"
        return f"trained for int8 over {epochs}: {maps}; {verdict}"


class Int8Training(Int8Figures):
    """The figures, the kind of int8, and the range of each tensor; no ranges if the network was not kept."""

    recipe: dict[str, bool]
    ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)

    @field_validator("ranges")
    @classmethod
    def _ordered(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (low, high) in ranges.items():
            if low > high:
                raise ValueError(f"{name} ranges from {low:g} down to {high:g}")
        return ranges

    def fits(self, recipe: Recipe) -> bool:
        """Whether its ranges are for this kind of int8."""
        return self.kept and self.recipe == asdict(recipe)

    @property
    def figures(self) -> Int8Figures:
        """Without the ranges."""
        return Int8Figures(**self.model_dump(include=set(Int8Figures.model_fields)))


def write(folder: Path, training: Int8Training) -> None:
    """Write int8.json."""
    (folder / INT8).write_text(training.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Int8Training | None:
    """What int8.json in the folder says; None without one.

    Raises:
        ArtifactError: it is damaged.
    """
    file = folder / INT8
    if not file.exists():
        return None
    try:
        return Int8Training.model_validate_json(files.read_bytes(file, most=_MOST))
    except OSError as error:
        raise ArtifactError(f"{file}: {error.strerror}; package the bundle again") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ArtifactError(f"{file}: not the ranges of an int8 network ({where}: {first['msg']}); package the bundle again") from error
