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


@pytest.fixture
def auto_weights(monkeypatch: pytest.MonkeyPatch, evidence: ModuleType) -> ModuleType:
    monkeypatch.setitem(sys.modules, "run", evidence)
    spec = importlib.util.spec_from_file_location("auto_weights", FOLDER / "auto_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "auto_weights", module)
    spec.loader.exec_module(module)
    return module


def test_the_study_of_found_weights_has_four_pairs_and_differs_only_in_the_weights(auto_weights: ModuleType) -> None:
    known = auto_weights.pairs()
    assert [pair.name for pair in known] == ["digits", "own-images", "set-prediction", "two-stage"]
    assert len(list(auto_weights.missing(["own-images"], [1]))) == 5  # each seed has its own images, and so its own teacher
    for pair in known:
        hand, found = pair.losses(auto_weights.HAND), pair.losses(auto_weights.AUTO)
        assert [loss.weight for loss in found] == ["auto"] * len(hand)
        assert [(loss.name, loss.options) for loss in found] == [(loss.name, loss.options) for loss in hand]
        digests = {auto_weights.digest(pair, role, 0) for role in pair.roles()}
        assert len(digests) == len(pair.roles()) == 5


def test_found_weights_are_as_good_unless_a_pair_says_otherwise(auto_weights: ModuleType) -> None:
    def maps(auto: float, hand: float) -> dict[str, list[float]]:
        noise = (0.0, 0.001, -0.001)
        level = {auto_weights.BASELINE: 0.5, auto_weights.COST: 0.52, auto_weights.HAND: hand}
        return {**{role: [value] * 3 for role, value in level.items()}, auto_weights.AUTO: [auto + one for one in noise]}

    good, lines = auto_weights.verdict({"one": maps(0.6, 0.6), "other": maps(0.55, 0.54)})
    assert good
    assert "mean of the pairs: auto over baseline +7.50 (+7.25 to +7.75), over baseline, equal cost +5.50" in lines[-1]
    assert not auto_weights.verdict({"one": maps(0.6, 0.7), "other": maps(0.6, 0.5)})[0]
    assert not auto_weights.verdict({"one": maps(0.5, 0.5), "other": maps(0.5, 0.5)})[0]
