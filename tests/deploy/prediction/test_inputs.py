import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deploy.contract import Preprocessing
from deploy.errors import ConfigError, DataError
from deploy.prediction.image_files import FORMATS, load_image
from deploy.prediction.inputs import Picture, expand


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """b.JPG, a.png and sub/c.jpg in the folder photos of the working directory, with files that are not images."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.JPG", "a.png", "sub/c.jpg", "notes.md", ".hidden.png", "._b.JPG", ".cache/d.png", "__MACOSX/e.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "photos"


def names(found: list[Picture]) -> list[str]:
    return [one.as_posix() if isinstance(one, Path) else repr(one) for one in found]


def nothing() -> bytes:
    raise AssertionError("standard input was not asked for")


ALL = ["photos/a.png", "photos/b.JPG", "photos/sub/c.jpg"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["photos"], ALL),
        (["photos/"], ALL),
        (["photos/*"], ALL[:2]),
        (["photos/*.jpg"], []),
        (["photos/**/*.jpg"], ["photos/sub/c.jpg"]),
        (["p*s"], ALL),
        (["photos/*.md"], ["photos/notes.md"]),
        (["photos/sub/c.jpg", "photos"], ["photos/sub/c.jpg", *ALL[:2]]),
        (["photos/none.png"], ["photos/none.png"]),
        (["./photos/a.png", "photos/a.png"], ["photos/a.png"]),
    ],
)
def test_folders_patterns_and_files(photos: Path, words: list[str], expected: list[str]) -> None:
    if expected:
        assert names(expand(words, nothing)) == expected
    else:
        with pytest.raises(DataError, match=re.escape("photos/*.jpg: no file matches this pattern")):
            expand(words, nothing)


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(photos: Path) -> None:
    (photos / "a[1].png").write_bytes(b"")
    assert names(expand(["photos/a[1].png"], nothing)) == ["photos/a[1].png"]


def test_results_below_a_folder_are_not_predicted_again(photos: Path) -> None:
    assert names(expand(["photos"], nothing, leave_out=photos / "sub")) == ALL[:2]
    assert names(expand(["photos"], nothing, leave_out=photos)) == ALL


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_names_files_from_its_folder_or_from_the_working_directory(photos: Path, encoding: str) -> None:
    text = "# two photographs\r\n\r\nb.JPG\r\n  photos\\sub\\c.jpg\r\nmissing.png\r\n"
    (photos / "list.txt").write_bytes(text.encode(encoding))
    assert names(expand(["photos/list.txt"], nothing)) == ["photos/b.JPG", "photos/sub/c.jpg", "photos/missing.png"]


def test_a_list_may_name_folders_and_patterns(photos: Path) -> None:
    (photos / "list.TXT").write_text("sub\n*.png\n")
    assert names(expand(["photos/list.TXT"], nothing)) == ["photos/sub/c.jpg", "photos/a.png"]


@pytest.mark.parametrize("content", [b"photos/a.png\nphotos/b.JPG", b"photos/a.png\0photos/b.JPG\0"])
def test_standard_input_lists_paths(photos: Path, content: bytes) -> None:
    assert names(expand(["-"], lambda: content)) == ALL[:2]


@pytest.mark.parametrize(
    "start",
    [
        *(b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\n\0\0\0WEBP", b"BM\x36\n\0\0\0\0\0\0", b"GIF89a", b"II*\0", b"P6\n# x\n2 2\n"),
        *(b"II+\0", b"MM\0+", *(b"\0\0\0\x1cftyp" + brand for brand in (b"avif", b"avis", b"mif1", b"heic"))),
    ],
)
def test_standard_input_is_one_image_if_it_begins_as_one(photos: Path, start: bytes) -> None:
    assert expand(["-"], lambda: start) == [start]


@pytest.mark.parametrize(("kind", "options"), [("TIFF", {"big_tiff": True}), ("AVIF", {}), ("WEBP", {}), ("JPEG2000", {})])
def test_standard_input_may_be_of_every_format_that_is_read(photos: Path, kind: str, options: dict[str, Any]) -> None:
    if kind not in FORMATS:
        pytest.skip(f"this Pillow has no {kind}")
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, kind, **options)
    (found,) = expand(["-"], content.getvalue)
    assert load_image(found, Preprocessing()).shape == (8, 8, 3)


def test_a_video_on_standard_input_is_refused(photos: Path) -> None:
    with pytest.raises(DataError, match="standard input is a video"):
        expand(["-"], lambda: b"\0\0\0\x1cftypisom\0\0\2\0")


def test_a_path_that_begins_as_a_bitmap_is_a_path(photos: Path) -> None:
    assert names(expand(["-"], lambda: b"BMW/front.jpg\n")) == ["BMW/front.jpg"]


def test_a_file_address_is_its_path(photos: Path) -> None:
    assert names(expand([f"{(photos / 'a.png').as_uri()}"], nothing)) == [str(photos / "a.png")]


@pytest.mark.parametrize(
    ("words", "given", "error", "message"),
    [
        (
            ["https://example.org/a.jpg"],
            b"",
            ConfigError,
            "nothing is downloaded; fetch the file first (curl -O https",
        ),
        (["-"], b"photos/a.png\ns3://x/y.png", ConfigError, "standard input:2: s3://x/y.png: nothing is downloaded"),
        (["-", "-"], b"", ConfigError, "pass it once"),
        (["-"], b" \n", DataError, "standard input is empty"),
        (["-"], b"\xfe\x01\x02", DataError, "standard input: neither an image nor a list"),
        (["empty"], b"", DataError, "empty: no image in this folder"),
        (["photos/none.txt"], b"", DataError, "photos/none.txt: lists no image"),
        (["photos/twice.txt"], b"", DataError, "photos/twice.txt:2: means both photos/a.png and a.png; write the whole path"),
        (["photos/star.txt"], b"", DataError, "photos/star.txt:1: "),
    ],
)
def test_what_has_no_image_or_two_meanings_is_refused(
    photos: Path, words: list[str], given: bytes, error: type[Exception], message: str
) -> None:
    (photos.parent / "empty").mkdir()
    (photos.parent / "a.png").write_bytes(b"")
    (photos / "none.txt").write_text("# nothing\n")
    (photos / "twice.txt").write_text("b.JPG\na.png\n")
    (photos / "star.txt").write_text("*.webp\n")
    with pytest.raises(error, match=re.escape(message)) as caught:
        expand(words, lambda: given)
    assert "\n" not in str(caught.value)
