"""The study of methods: its rows are enough to go on, and to draw its tables, on a machine without its store."""

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import arena_samples
import pytest
from places import ROOT

from pipeline.results.contest import figures

FOLDER = ROOT / "benchmarks" / "evidence"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, on a comparison whose trainings take no time; one of its methods diverges."""
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("evidence_methods", FOLDER / "methods.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "evidence_methods", module)
    spec.loader.exec_module(module)
    text = arena_samples.CONFIG.replace("[attention, pearson]", f"[attention, pearson, {arena_samples.DIVERGES}]")
    (tmp_path / "tiny.yaml").write_text(text, encoding="utf-8")
    for name, value in (("PAIRS", tmp_path), ("RUNS", tmp_path / "runs"), ("before_trainings", lambda _: {})):
        monkeypatch.setattr(module, name, value)
    with arena_samples.counting():
        yield module


def test_rows_resume_without_the_store(study: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    (pair,) = study.pairs()
    assert study.work(pair, 6) == 0
    assert study.complete(pair) is None
    before = pair.rows()
    shutil.rmtree(study.RUNS)
    study.work(pair, -1)
    assert pair.rows()[: len(before)] == before
    assert len({row["artifact"] for row in pair.rows()}) == len(pair.rows())
    found = study.complete(pair)
    assert [*found.left_out] == [arena_samples.DIVERGES]
    shutil.rmtree(study.RUNS, ignore_errors=True)
    capsys.readouterr()
    study.work(pair, -1)
    assert "running" not in capsys.readouterr().out, "nothing is trained again, not even the teacher"
    assert figures(study.complete(pair)) == figures(found)
    page = "\n".join(study.section([found]))
    assert page.startswith("## Methods of distillation")
    assert "| pearson | 1 |" in page


def test_rows_are_looked_up_with_the_weights_that_their_hashes_contain(study: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    (pair,) = study.pairs()
    done: list[str] = []
    monkeypatch.setattr(study, "fetch_imagenet_start", lambda: done.append("weights"))
    monkeypatch.setattr(study, "complete", lambda _: done.append("looked up"))
    monkeypatch.setattr(sys, "argv", ["methods.py"])
    study.main()
    assert not done, "nothing has been begun"
    pair.rows_file.write_text('{"artifact": "distill-0"}\n', encoding="utf-8")
    study.main()
    assert done == ["weights", "looked up"]
