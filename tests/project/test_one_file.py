"""A plugin is one file: it is added to a copy of the project, and everything passes after `make docs`, with no other edit."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import EXTENDING, text
from places import ROOT

FILES = dict(re.findall(r"The example, `([\w/.]+\.py)`:\n\n```python\n(.*?)^```$", text(EXTENDING), re.MULTILINE | re.DOTALL))
TESTS = {
    "stages/losses": ["tests/stages/losses"],
    "stages/detectors": ["tests/stages/detectors", "-k", "grid", "-m", "slow or not slow"],  # minutes for each of the others
    "stages/datasets": ["tests/stages/datasets"],
    "deploy/runtimes": ["tests/deploy/runtimes"],
}
OF_ALL = ["tests/project/test_docs.py", "tests/project/test_packaging.py", "tests/deploy/test_plugins.py", "tests/pipeline/config"]
"""Tests that look at the plugins of all kinds."""
IGNORED = (".git", ".venv", "runs", "build", "dist", "__pycache__", ".*_cache")


def run(copy: Path, *command: str) -> str:
    """What a command prints in the copy, with the packages of the copy.

    Raises:
        AssertionError: it failed.
    """
    done = subprocess.run(command, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def make(copy: Path, target: str) -> str:
    """A target of the copy's Makefile, with the tools of this environment instead of a new one."""
    return run(copy, "make", "--old-file=install", target, f"BIN={Path(sys.executable).parent}")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project; one for all tests, so that mypy knows most of it already."""
    copy = tmp_path_factory.mktemp("copy") / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*IGNORED))
    return copy


@pytest.fixture
def copy(project: Path) -> Iterator[Path]:
    """The copy as the project is."""
    before = {path: path.read_bytes() for path in (project / "README.md", *(project / "docs").iterdir())}
    yield project
    for name in FILES:
        (project / name).unlink(missing_ok=True)
    for path, content in before.items():
        path.write_bytes(content)


def test_there_is_one_of_each_kind() -> None:
    assert sorted(Path(name).parent.as_posix() for name in FILES) == sorted(TESTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_one_file_then_make_docs_and_everything_passes(copy: Path, name: str) -> None:
    file, kind = copy / name, Path(name).parent.as_posix()
    file.write_text(FILES[name], encoding="utf-8")
    stale = subprocess.run([sys.executable, "docs/write.py", "--check"], cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, check=False)
    assert stale.returncode == 1
    assert "wrote docs/configuration.md" in make(copy, "docs")
    assert f": {file.stem}\n" in (copy / "docs" / "configuration.md").read_text(encoding="utf-8")
    make(copy, "check")
    for tests in (TESTS[kind], OF_ALL):
        passed = run(copy, sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
        assert re.search(r"\d+ passed", passed)
