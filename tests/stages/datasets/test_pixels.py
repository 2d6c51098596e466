"""Images that the contract shows wrongly are counted; those that it shows rightly are not."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deploy.contract import Preprocessing
from stages.datasets.cleaning import images, pixels
from stages.notes import Note, Notes

DEFAULT = Preprocessing()
RAMP = np.linspace(0, 1, 10_000).reshape(100, 100)


def gray(top: int) -> NDArray[np.uint16]:
    return (RAMP * top).round().astype(np.uint16)


def noted(tmp_path: Path, pictures: list[Image.Image], preprocessing: Preprocessing = DEFAULT) -> list[Note]:
    paths = [tmp_path / f"{number}.png" for number in range(len(pictures))]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    files = images.scan(paths, "read", preprocessing)
    notes = Notes()
    pixels.add(notes, "train", images.stored([{"file_name": path.name} for path in paths], files), preprocessing)
    return list(notes)


@pytest.mark.parametrize(("top", "white"), [(200, 255), (1000, 1023), (1024, 4095), (4095, 4095), (16_000, 16_383)])
def test_unused_bits_name_the_white_to_set(tmp_path: Path, top: int, white: int) -> None:
    [note] = noted(tmp_path, [Image.fromarray(gray(top)), Image.fromarray(gray(top // 2))])
    assert (note.kind, note.action, note.count) == (pixels.DARK.name, "assumed", 2)
    assert note.examples[0].startswith("0.png: ")
    assert note.examples[0].endswith(f"set data.preprocessing.white to {white}")
    assert noted(tmp_path, [Image.fromarray(gray(top)), Image.fromarray(gray(top // 2))], DEFAULT.model_copy(update={"white": white})) == []


def test_a_full_range_and_eight_bits_are_as_they_should_be(tmp_path: Path) -> None:
    assert noted(tmp_path, [Image.fromarray(gray(65_535)), Image.fromarray(gray(20_000)), Image.linear_gradient("L")]) == []


def test_a_hot_pixel_does_not_hide_the_range(tmp_path: Path) -> None:
    values = gray(4095)
    values[50, 50] = 65_535
    [note] = noted(tmp_path, [Image.fromarray(values)])
    assert note.examples[0].endswith("white to 4095")


def test_dark_images_among_bright_ones(tmp_path: Path) -> None:
    [note] = noted(tmp_path, [Image.fromarray(gray(65_535)), Image.fromarray(gray(4000))])
    assert note.images == ("1.png",)
    assert "other images of the split reach 65535" in note.examples[0]


def test_values_above_white_are_counted(tmp_path: Path) -> None:
    [note] = noted(tmp_path, [Image.fromarray(gray(65_535))], DEFAULT.model_copy(update={"white": 32_767}))
    assert note.kind == pixels.CLIPPED.name
    assert "50% of its values are above data.preprocessing.white, 32767" in note.examples[0]


@pytest.mark.parametrize("alpha", [0, 1])
def test_a_picture_under_transparency(tmp_path: Path, alpha: int) -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    picture.putalpha(alpha)
    [note] = noted(tmp_path, [picture])
    assert (note.kind, note.action) == (pixels.HIDDEN.name, "assumed")
    assert "set data.preprocessing.alpha to ignore" in note.examples[0]
    assert noted(tmp_path, [picture], DEFAULT.model_copy(update={"alpha": "ignore"})) == []


def test_a_cut_out_object_is_not_a_hidden_picture(tmp_path: Path) -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    picture.putalpha(Image.linear_gradient("L"))
    assert noted(tmp_path, [picture]) == []


@pytest.mark.parametrize("picture", [Image.new("RGB", (40, 30), (9, 9, 9)), Image.new("I;16", (40, 30), 300)])
def test_a_blank_image(tmp_path: Path, picture: Image.Image) -> None:
    [note] = noted(tmp_path, [picture])
    assert (note.kind, note.examples) == (pixels.BLANK.name, ("0.png: every px has the same value",))
    picture.putpixel((39, 29), 0)
    assert noted(tmp_path, [picture], DEFAULT.model_copy(update={"white": 300})) == []
