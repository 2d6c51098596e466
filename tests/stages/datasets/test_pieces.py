"""Large annotation files are read piece by piece, with the same result as when they are read at once."""

import json
import tempfile
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy import machine
from deploy.errors import DataError
from deploy.machine import parallel
from stages.datasets.layouts.entries import document, pieces
from stages.datasets.tables import rows
from stages.datasets.tables.rows import Rows, light
from stages.notes import Notes

CONTENT: Mapping[str, Any] = {
    "info": {"description": '[{"', "lists": [[1, [2]], {"a": []}]},
    "licenses": [{"id": 1}, [], "x", 1e400, None],
    "images": [{"id": 1, "file_name": "ä.jpg", "width": 40, "height": 30}, {"id": 2, "file_name": "\ud800 b", "id ": -0.5}],
    "annotations": [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": [1.25, 2, number / 3, 1e-7], "segmentation": [[0.1 * number] * 6]}
        for number in range(700)
    ],
    "categories": [{"id": 1, "name": "a,]}"}],
}


def write(path: Path, content: object, *, mark: bool = False, **options: Any) -> Path:
    path.write_bytes(b"\xef\xbb\xbf" * mark + json.dumps(content, **options).encode("utf-8", "surrogatepass"))
    return path


def read(path: Path, notes: Notes | None = None) -> dict[str, Any] | None:
    return pieces.read(path, notes or Notes(), "train", document.LISTS, {"annotations"})


@pytest.fixture(params=[7, 64, 4096, 1 << 22])
def small_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_PIECE", request.param)
    monkeypatch.setattr(pieces, "_MARGIN", 3)


@pytest.mark.usefixtures("small_pieces")
class TestPieces:
    @pytest.mark.parametrize("options", [{}, {"indent": 1}, {"ensure_ascii": False, "separators": (",", ":")}], ids=str)
    def test_any_spelling_gives_the_entries_of_the_whole_file(self, tmp_path: Path, options: dict[str, Any]) -> None:
        content = {**CONTENT, "images": CONTENT["images"][:1]}
        found = read(write(tmp_path / "a.json", content, **options))
        assert found == {**content, "info": None, "licenses": None}
        assert isinstance(found["annotations"], Rows)

    def test_a_number_is_never_cut(self, tmp_path: Path) -> None:
        found = [{"id": int("1234567890" * 4), "values": [1234567890.0987654321, -12345e-200, True]}] * 50
        assert (read(write(tmp_path / "a.json", {"annotations": found})) or {})["annotations"] == found

    def test_a_byte_order_mark_is_noted(self, tmp_path: Path) -> None:
        notes = Notes()
        assert read(write(tmp_path / "a.json", {"images": []}, mark=True), notes) == {"images": []}
        assert [note.examples for note in notes] == [("a.json: read as utf-8-sig",)]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{",
            '{"images": [] "annotations": []}',
            '{"images": [], "images": []}',
            '{"images": [],}',
            '{"images": [{},]}',
            '{"images": [{} {}]}',
            '{"images": [{}, 3]}',
            '{"images": []} 1',
            '{"images": [{"a": tru}]}',
            "{1: []}",
            '{"annotations": [{"id": ' + "1" * 101 + "}]}",
            '{"annotations": [{"id": ' + "[" * 70 + "]" * 70 + "}]}",
            '{"a": ' + "[" * 20_000,
        ],
        ids=lambda text: text[:40],
    )
    def test_everything_unusual_is_left_to_the_reader_of_entire_files(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "a.json").write_text(text)
        assert read(tmp_path / "a.json") is None

    @pytest.mark.parametrize("raw", [b'{"a": "\xff"}', '{"a": 1}'.encode("utf-16"), b'{"a": "\x00"}', b'{"a": "\xc3'])
    def test_so_is_what_is_not_utf_8(self, tmp_path: Path, raw: bytes) -> None:
        (tmp_path / "a.json").write_bytes(raw)
        assert read(tmp_path / "a.json") is None


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json: cannot be read"):
        read(tmp_path / "a.json")


def test_a_single_value_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_PIECE", 100)
    monkeypatch.setattr(pieces, "_MOST", 1000)
    assert read(write(tmp_path / "a.json", {"info": "x" * 800})) is not None
    assert read(write(tmp_path / "a.json", {"info": "x" * 1300})) is None


class TestRows:
    def test_are_what_was_kept_on_every_pass_and_changing_one_changes_nothing(self) -> None:
        plain = [{"id": number, "values": [number / 7, None, "ü"], "segmentation": [[1, 2.5]]} for number in range(600)]
        found = Rows.kept(iter(plain))
        for row in found:
            row.clear()
        assert found == plain
        assert plain == found
        assert found != plain[:-1]
        assert [found[0], found[-1], found[599]] == [plain[0], plain[-1], plain[599]]
        assert found[254:259] == plain[254:259]
        with pytest.raises(IndexError):
            found[600]

    def test_without_masks_they_have_only_whether_there_is_one(self) -> None:
        plain: list[dict[str, Any]] = [{"id": 1, "segmentation": [[1, 2]]}, {"id": 2}, {"id": 3, "segmentation": None}]
        assert Rows.kept(plain).light() == [{"id": 1, "segmentation": True}, {"id": 2}, {"id": 3, "segmentation": False}]
        assert light(plain) is plain
        assert Rows.kept(plain) == plain

    def test_changes_are_made_one_after_the_other(self) -> None:
        found = Rows.kept([{"id": 1}, {"id": 5}]).changed(lambda row: {"id": row["id"] + 1}).changed(lambda row: {"id": row["id"] * 2})
        assert found == [{"id": 4}, {"id": 12}]
        assert found[1] == {"id": 12}

    def test_a_full_disk_is_an_error_that_names_the_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Full:
            def __init__(self, size: int) -> None: ...
            def tell(self) -> int:
                return 0

            def write(self, data: bytes) -> None:
                raise OSError(28, "No space left on device")

            def close(self) -> None: ...

        monkeypatch.setattr(tempfile, "SpooledTemporaryFile", Full)
        with pytest.raises(OSError, match=str(tempfile.gettempdir())):
            Rows.kept([{"id": 1}])


def test_the_memory_for_annotations_does_not_grow_with_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_PIECE", 2**16)
    monkeypatch.setattr(rows, "_IN_MEMORY", 2**16)
    peaks = []
    for count in (1000, 8000):
        content = {
            "images": [{"id": 1, "file_name": "a.jpg"}],
            "annotations": [{"id": one, "bbox": [1, 2, 30, 20], "segmentation": [[one + 0.5] * 100]} for one in range(count)],
            "categories": [{"id": 1, "name": "a"}],
        }
        path = write(tmp_path / "a.json", content)
        del content
        tracemalloc.start()
        assert len(document.read(path, Notes(), "train").annotations) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert path.stat().st_size > 5e6
    assert peaks[1] < peaks[0] + 1e6


def test_what_comes_after_the_list_of_images_is_not_read_to_know_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"images": CONTENT["images"][:1], "annotations": CONTENT["annotations"]})
    path.write_bytes(path.read_bytes()[:-9])
    assert document.image_rows(path) == CONTENT["images"][:1]
    with pytest.raises(DataError, match="not JSON"):
        document.read(path, Notes(), "train")


@pytest.mark.parametrize("in_memory", [1, 1 << 24])
def test_blocks_are_read_by_threads_and_processes_at_the_same_time(monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    monkeypatch.setattr(rows, "_IN_MEMORY", in_memory)
    monkeypatch.setattr(rows, "_BLOCK", 1)
    monkeypatch.setattr(machine, "num_cores", lambda: 2)
    kept = Rows.kept(CONTENT["annotations"])
    assert kept.num_blocks == len(CONTENT["annotations"])
    for few in (10, 10**9):
        monkeypatch.setattr(parallel, "FEW", few)
        found = parallel.mapped(lambda number: list(kept.block(number)), range(kept.num_blocks))
        assert list(kept) == CONTENT["annotations"]  # while others read
        assert [row for block in found for row in block] == CONTENT["annotations"]
