"""A run's results for people and programs: runs/<name>/ with summary.json, report.html and one bundle per target."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from deploy.bundles.bundle import Bundle, sha256
from deploy.bundles.manifest import MANIFEST
from deploy.bundles.provenance import PROVENANCE
from deploy.bundles.signature import SIGNATURE
from pipeline.results import history
from pipeline.results.summary import summarize
from pipeline.run_result import RunResult
from pipeline.store.files import put_back, replace_folder, replace_json


def publish(result: RunResult, folder: Path, *, redraw: bool = False) -> dict[str, Any]:
    """Write bundles, report and, last, the summary; return the summary's contents.

    If nothing has run since they were written, bundles and report are left as they are, unless `redraw`; a folder that cannot be
    written to is then left alone. Of several processes, one writes after the other.
    """
    summary = summarize(result)
    if folder.is_dir() and not os.access(folder, os.W_OK) and not _is_outdated(summary, folder, redraw=redraw) and _has_all(result, folder):
        return summary
    lock = folder.parent / ".store" / f".publish-{folder.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, mode=0o666):  # for other users of the same store
        put_back(folder / "bundle")
        if not _has_all(result, folder):
            copy_bundles(_bundles(result, folder / "bundle"), folder / "bundle")
        if _is_outdated(summary, folder, redraw=redraw):
            from pipeline.report.page import write_report  # plots take seconds to import, and a second run draws none

            write_report(result, folder / "report.html")
        replace_json(folder / "summary.json", summary)
        history.add(result, folder, summary["exit_code"])
    return summary


def _is_outdated(summary: dict[str, Any], folder: Path, *, redraw: bool) -> bool:
    """Whether the report has to be drawn."""
    return redraw or not (folder / "report.html").exists() or _outcome(summary) != _outcome(_previous(folder / "summary.json"))


def _bundles(result: RunResult, folder: Path) -> dict[str, Path | Bundle]:
    """What to copy bundles from: where `folder` has one already, itself, with its signature, but without files that it does not list."""
    made = {target.config.name: Bundle.load(target.bundle.root) for target in result.targets}
    return {name: replace(one, root=folder / name) if _holds(folder / name, one) else one for name, one in made.items()}


def _has_all(result: RunResult, folder: Path) -> bool:
    return _are_published({target.config.name: target.bundle.root for target in result.targets}, folder / "bundle")


def copy_bundles(bundles: Mapping[str, Path | Bundle], folder: Path) -> None:
    """Replace the contents of `folder` with these bundles or bundles' folders; the keys are the names of the new folders.

    Raises:
        ArtifactError: a bundle is damaged.
    """
    scratch = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    for name, given in bundles.items():
        if isinstance(given, Path) and given.parent == folder:
            shutil.copytree(given, scratch / name, symlinks=True)
        else:
            (given if isinstance(given, Bundle) else Bundle.load(given)).copy(scratch / name)
    replace_folder(scratch, folder)


def _are_published(bundles: Mapping[str, Path], folder: Path) -> bool:
    """Whether `folder` contains these bundles, byte for byte, and nothing else but their signatures."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return names == sorted(bundles) and all(_is_copy(folder / name, Bundle.load(root)) for name, root in bundles.items())


def _is_copy(folder: Path, bundle: Bundle) -> bool:
    """Whether a folder holds a bundle and, apart from its signature, nothing else."""
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    return there - {PROVENANCE, SIGNATURE} == {MANIFEST, *bundle.manifest.files} and _holds(folder, bundle)


def _holds(folder: Path, bundle: Bundle) -> bool:
    """Whether every file of a bundle is in a folder, byte for byte."""
    names = (MANIFEST, *bundle.manifest.files)
    return all((folder / name).is_file() and sha256(folder / name) == sha256(bundle.root / name) for name in names)


def _previous(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _outcome(summary: Any) -> Any:
    """A summary without the fields that differ between two runs with the same artifacts."""
    if not isinstance(summary, dict):
        return None
    return {**summary, "stages": [(stage["instance"], stage["key"], stage["seconds"]) for stage in summary.get("stages", [])]}
