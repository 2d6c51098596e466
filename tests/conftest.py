"""What most tests of the pipeline start from."""

import signal
from pathlib import Path

import pytest

from deploy.engines import fastest

# A shell that starts the tests in the background has them ignore SIGINT, and so would the programs whose Ctrl-C they test.
signal.signal(signal.SIGINT, signal.default_int_handler)

SMALL = """\
name: small
data: {dataset: digits}
teacher: {detector: {name: fcos}}
student: {detector: {name: fcos}, train: {epochs: 2}}
distill:
  losses:
    - {name: attention, weight: 1.0}
targets:
  - {name: cpu, runtime: ort}
gates:
  - {metric: map, min: 0.1}
"""


LONG = ("whole", "stages/training", "project")
"""Folders of files with few tests that take long."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests come first, so that none begins when the others are done. What is slow may take an hour before it counts as hanging."""
    long = [Path(__file__).parent / name for name in LONG]
    items.sort(key=lambda item: not any(map(item.path.is_relative_to, long)))
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(autouse=True)
def _quick_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that are chosen among are timed for a second instead of ten."""
    monkeypatch.setattr(fastest, "PROTOCOL", fastest.PROTOCOL.model_copy(update={"budget_seconds": 1.0}))


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on the variables of the shell that started it."""
    for name in ("CI", "RANK", "WORLD_SIZE", "LOCAL_RANK", "EDGEDISTILL_DATA", "EDGEDISTILL_TRUSTED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    """A small configuration file."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path
