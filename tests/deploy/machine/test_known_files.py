"""What was found in files is kept until their size or time changes."""

import os
import time
from pathlib import Path

import pytest

from deploy.machine import known_files
from deploy.machine.known_files import kept_in, recall

OLD = time.time() - 100


class Question:
    """Reads a file, and counts how often."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked = 0

    def read(self) -> str:
        self.asked += 1
        return self.path.read_text()

    def __call__(self, kept: Path, what: str = "content") -> str:
        with kept_in(kept):
            return recall(what, [self.path], self.read)


@pytest.fixture
def question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Question:
    monkeypatch.setattr(known_files, "SETTLED_NS", -(10**12))  # the time of a change of state cannot be set back
    path = tmp_path / "data.json"
    path.write_text("abc")
    os.utime(path, (OLD, OLD))
    return Question(path)


def test_an_unchanged_file_is_read_once(question: Question, tmp_path: Path) -> None:
    assert [question(tmp_path / "kept.json") for _ in range(3)] == ["abc"] * 3
    assert question.asked == 1
    assert question(tmp_path / "kept.json", "another question") == "abc"
    assert question.asked == 2


def test_processes_of_the_same_number_in_two_containers_write_side_by_side(
    question: Question, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace
    inner: list[Path] = []

    def meanwhile(scratch: Path, path: Path) -> Path:
        if not inner:
            inner.append(scratch)
            question(tmp_path / "kept.json", "another question")
        return replace(scratch, path)

    monkeypatch.setattr(Path, "replace", meanwhile)
    assert question(tmp_path / "kept.json") == "abc"
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".partial"] == []


@pytest.mark.parametrize(("text", "seconds"), [("abcd", 0), ("xyz", 1)], ids=["size", "time"])
def test_a_change_of_size_or_time_is_seen(question: Question, tmp_path: Path, text: str, seconds: int) -> None:
    question(tmp_path / "kept.json")
    question.path.write_text(text)
    os.utime(question.path, (OLD + seconds, OLD + seconds))
    assert question(tmp_path / "kept.json") == text


def test_nothing_is_kept_of_a_file_that_may_still_change_within_its_time(
    question: Question, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_files, "SETTLED_NS", 10**11)
    assert [question(tmp_path / "kept.json") for _ in range(2)] == ["abc"] * 2
    assert question.asked == 2
    assert not (tmp_path / "kept.json").exists()


@pytest.mark.parametrize("content", ["", "[1]", '{"content 1": 3}', "\0"])
def test_a_damaged_file_of_answers_is_as_none(question: Question, tmp_path: Path, content: str) -> None:
    (tmp_path / "kept.json").write_text(content)
    assert question(tmp_path / "kept.json") == "abc"
    assert question(tmp_path / "kept.json") == "abc"
    assert question.asked == 1


def test_without_a_place_or_without_the_file_the_answer_is_found_each_time(question: Question, tmp_path: Path) -> None:
    assert question(tmp_path / "missing" / "kept.json") == "abc"
    assert not (tmp_path / "missing").exists()
    assert recall("content", [question.path], question.read) == "abc"
    assert question.asked == 2
    question.path.unlink()
    with pytest.raises(FileNotFoundError):
        question(tmp_path / "kept.json")
    assert [path.name for path in tmp_path.iterdir()] == []
