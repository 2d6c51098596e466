"""The rules of tests/project/house.py: kept by the project, and noticed where they are broken."""

from collections.abc import Callable, Iterator
from pathlib import Path

import house
import pytest


def test_the_project_keeps_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert house.main([]) == 0, capsys.readouterr().out


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a module of a small project with the packages' folders."""
    monkeypatch.setattr(house, "ROOT", tmp_path)
    for folder in (*house.PACKAGES, *house.REGISTRIES):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)

    def module(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    return module


def broken(rule: Callable[[], Iterator[str]]) -> list[str]:
    return [line.partition(":")[0] for line in rule()]


def test_sixteen_side_by_side_are_allowed_and_seventeen_are_not(write: Callable[[str, str], None]) -> None:
    for number in range(16):
        write(f"deploy/module{number}.py", "")
        write(f"deploy/runtimes/plugin{number}.py", "")
    assert broken(house.crowded) == ["deploy"]  # with the folder runtimes they are seventeen
    (house.ROOT / "deploy/module0.py").unlink()
    assert broken(house.crowded) == []


def test_plugins_commands_and_stages_are_not_counted(write: Callable[[str, str], None]) -> None:
    for number in range(20):
        write(f"stages/losses/loss{number}.py", "")
        write(f"pipeline/commands/command{number}.py", "")
        write(f"stages/stage{number}.py", "@stage(version=1)\ndef made() -> None: ...\n")
    assert broken(house.crowded) == []
    for number in range(20):
        write(f"stages/helper{number}.py", "def made() -> None: ...\n")
    assert broken(house.crowded) == ["stages"]


def test_lines_of_modules_and_functions(write: Callable[[str, str], None]) -> None:
    write("deploy/long.py", "\n" * 299)
    write("deploy/longer.py", "\n" * 300)
    write("deploy/functions.py", "@cache\ndef fits():\n" + "    pass\n" * 48 + "\n\n@cache\ndef does_not():\n" + "    pass\n" * 49)
    assert broken(house.long_modules) == ["deploy/longer.py"]
    assert [line.split()[1] for line in house.long_functions()] == ["does_not"]


def test_a_class_name_stands_once_in_the_whole_project(write: Callable[[str, str], None]) -> None:
    write("deploy/one.py", "class Engine: ...\nclass _Own: ...\n")
    write("benchmarks/two.py", "class Engine: ...\nclass _Own: ...\n")
    assert broken(house.names_twice) == ["class Engine stands 2 times"]


def test_our_names_are_imported_as_they_are(write: Callable[[str, str], None]) -> None:
    write("tests/test_one.py", "from deploy.one import run as start\nimport numpy as np\nimport stages.losses as package\n")
    assert broken(house.renamed) == ["tests/test_one.py"] * 2


def test_neither_plugins_nor_their_parts_import_plugins(write: Callable[[str, str], None]) -> None:
    write("stages/losses/one.py", "")
    write("stages/losses/two.py", "from stages.losses import one\n")
    write("stages/losses/features/part.py", "from stages.losses.one import build\n")
    write("stages/train.py", "from stages.losses.one import build\n")
    assert broken(house.back_into_registries) == ["stages/losses/features/part.py", "stages/losses/two.py"]
