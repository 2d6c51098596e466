"""What a run publishes: written when something has changed, left alone when nothing has."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import artifact_samples
import pytest
import run_samples

from deploy.bundles.provenance import PROVENANCE
from deploy.bundles.signature import SIGNATURE
from deploy.errors import ArtifactError
from pipeline import outputs
from pipeline.run_result import RunResult
from stages.artifacts import Package


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    root = tmp_path_factory.mktemp("store")
    made = run_samples.run(root, run_samples.dataset(root / "data"))
    targets = tuple(replace(one, bundle=Package(artifact_samples.bundle(root / one.config.name).root)) for one in made.targets)
    return replace(made, targets=targets, onnx=artifact_samples.model(root / "model"))


@pytest.fixture(autouse=True)
def _quick_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.report.page.write_report", lambda _, path: path.write_text("report"))


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """Which file each path is, and when it was written."""
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise ArtifactError("cannot be written")

    monkeypatch.setattr("os.access", lambda *_: False)
    for function in ("copy_bundles", "replace_json", "replace_folder"):
        monkeypatch.setattr(outputs, function, refuse)


def test_bundles_that_have_not_changed_are_left_as_they_are(result: RunResult, tmp_path: Path) -> None:
    outputs.publish(result, tmp_path)
    before = written(tmp_path / "bundle")
    outputs.publish(result, tmp_path)
    assert before
    assert written(tmp_path / "bundle") == before


def test_bundles_that_were_signed_are_left_as_they_are(result: RunResult, tmp_path: Path) -> None:
    outputs.publish(result, tmp_path)
    for target in result.targets:
        for name in (SIGNATURE, PROVENANCE):
            (tmp_path / "bundle" / target.config.name / name).write_text("signed")
    before = written(tmp_path / "bundle")
    outputs.publish(result, tmp_path)
    assert written(tmp_path / "bundle") == before


def test_signatures_of_bundles_that_have_not_changed_are_kept_when_others_are_replaced(result: RunResult, tmp_path: Path) -> None:
    outputs.publish(result, tmp_path)
    changed, *kept = (tmp_path / "bundle" / target.config.name for target in result.targets)
    assert kept
    for folder in (changed, *kept):
        (folder / SIGNATURE).write_text("signed")
    (changed / "labels.txt").write_bytes(b"dog\n")
    (tmp_path / "bundle" / ".DS_Store").write_text("from a file manager")
    outputs.publish(result, tmp_path)
    assert not (tmp_path / "bundle" / ".DS_Store").exists()
    assert not (changed / SIGNATURE).exists()
    assert [(folder / SIGNATURE).read_text() for folder in kept] == ["signed"] * len(kept)


@pytest.mark.parametrize("link", [False, True])
def test_signatures_are_kept_when_other_files_are_removed(result: RunResult, tmp_path: Path, link: bool) -> None:
    outputs.publish(result, tmp_path)
    folder = tmp_path / "bundle" / result.targets[0].config.name
    for name in (SIGNATURE, PROVENANCE):
        (folder / name).write_text("signed")
    if link:
        (folder / "link").symlink_to("nowhere")
    else:
        (folder / "found").mkdir()
        (folder / "found" / "photo.jpg").write_text("boxes")
    before = sorted(path.name for path in folder.iterdir() if path.name not in ("found", "link"))
    outputs.publish(result, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert (folder / SIGNATURE).read_text() == "signed"


def test_a_file_that_became_a_link_to_nowhere_is_replaced(result: RunResult, tmp_path: Path) -> None:
    outputs.publish(result, tmp_path)
    file = tmp_path / "bundle" / result.targets[0].config.name / "labels.txt"
    intact = file.read_bytes()
    file.unlink()
    file.symlink_to("nowhere")
    outputs.publish(result, tmp_path)
    assert (file.is_symlink(), file.read_bytes()) == (False, intact)


def test_bundles_are_put_back_after_a_kill_between_two_renames(result: RunResult, tmp_path: Path) -> None:
    outputs.publish(result, tmp_path)
    for target in result.targets:
        (tmp_path / "bundle" / target.config.name / SIGNATURE).write_text("signed")
    before = written(tmp_path / "bundle")
    (tmp_path / "bundle").rename(tmp_path / ".bundle.old")
    outputs.publish(result, tmp_path)
    assert written(tmp_path / "bundle") == before


def test_runs_that_end_together_publish_one_after_the_other(result: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = outputs.copy_bundles

    def slowly(*given: Any) -> None:
        copy(*given)
        time.sleep(0.05)

    monkeypatch.setattr(outputs, "copy_bundles", slowly)
    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(outputs.publish, result, tmp_path / "run") for _ in range(4)]
        assert len({one.result()["exit_code"] for one in done}) == 1
    assert sorted(path.name for path in (tmp_path / "run" / "bundle").iterdir()) == sorted(one.config.name for one in result.targets)
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("damage", ["changed", "missing", "added"])
def test_bundles_that_have_changed_are_replaced(result: RunResult, tmp_path: Path, damage: str) -> None:
    outputs.publish(result, tmp_path)
    file = next((tmp_path / "bundle").rglob("labels.txt"))
    intact = file.read_bytes()
    match damage:
        case "changed":
            file.write_bytes(b"dog\n")
        case "missing":
            file.unlink()
        case _:
            file.with_name("more.txt").write_text("more")
    outputs.publish(result, tmp_path)
    assert file.read_bytes() == intact
    assert not file.with_name("more.txt").exists()


@pytest.mark.usefixtures("read_only")
def test_a_read_only_folder_that_lacks_something_is_refused(result: RunResult, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be written"):
        outputs.publish(result, tmp_path)


def test_a_read_only_folder_with_everything_published_is_left_alone(
    result: RunResult, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first = outputs.publish(result, tmp_path)
    request.getfixturevalue("read_only")
    assert outputs.publish(result, tmp_path) == first
