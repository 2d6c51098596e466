import io
import time

import pytest

from deploy.progress import Steps, track


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until it is set."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_items_pass_through_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([3, 1, 2], "count")) == [3, 1, 2]
    assert list(track(iter("ab"), "count")) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


def test_away_from_a_terminal_there_is_a_plain_line_now_and_then(capsys: pytest.CaptureFixture[str], seconds: list[float]) -> None:
    for _ in track(range(5), "validate"):
        seconds[0] += 6
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["validate: 2/5 (40%), 12 s, 18 s left", "validate: 4/5 (80%), 24 s, 6 s left", "validate: 5/5 (100%), 30 s"]


def test_a_line_is_not_said_twice(capsys: pytest.CaptureFixture[str], seconds: list[float]) -> None:
    for _ in track(range(4), "validate"):
        seconds[0] += 6
    assert capsys.readouterr().err.count("4/4") == 1


def test_a_resumed_count_starts_where_it_was(capsys: pytest.CaptureFixture[str], seconds: list[float]) -> None:
    with Steps("train", 10, start=6) as steps:
        seconds[0] += 20
        steps.advance("loss 0.5")
        steps.advance()
    assert capsys.readouterr().err.splitlines()[0] == "train: 7/10 (70%), 20 s, 60 s left, loss 0.5"


def test_processes_after_the_first_are_silent(
    capsys: pytest.CaptureFixture[str], seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    for _ in track(range(4), "validate"):
        seconds[0] += 60
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_unless_ci_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for ci, bar in (("", True), ("true", False)):
        terminal = Terminal()
        monkeypatch.setenv("CI", ci)
        monkeypatch.setattr("sys.stderr", terminal)
        list(track(range(3), "validate"))
        assert ("validate" in terminal.getvalue()) == bar
