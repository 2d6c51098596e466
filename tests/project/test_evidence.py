"""The rows of the evidence belong to the studies' present files: otherwise the page would be written without them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "evidence"


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("evidence_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "evidence_run", module)
    spec.loader.exec_module(module)
    return module


def test_every_row_is_of_a_training_that_its_study_asks_for(evidence: ModuleType) -> None:
    for study in evidence.studies():
        lines = study.rows_file.read_text(encoding="utf-8").splitlines()
        rows = evidence.rows(study)
        assert len(rows) == len(lines) > 0, study.name
        assert {(row["role"], row["seed"]) for row in rows} <= set(study.units())


def test_another_value_makes_another_training(evidence: ModuleType) -> None:
    study = evidence.studies()[0]
    own = evidence.digest(study, evidence.TEACHER, 0)
    teacher = study.config.teacher
    longer = teacher.model_copy(update={"train": teacher.train.model_copy(update={"epochs": teacher.train.epochs + 1})})
    changed = evidence.Study(study.name, study.config.model_copy(update={"teacher": longer}))
    assert evidence.digest(changed, evidence.TEACHER, 0) != own
    assert evidence.digest(study, evidence.TEACHER, 1) != own
