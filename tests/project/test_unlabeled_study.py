"""The study of images without labels: what is trained in which order, and what its verdict is about."""

import argparse
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from places import ROOT

from deploy.errors import Diverged
from pipeline.store.store import Store
from stages.datasets import digits

FOLDER = ROOT / "benchmarks" / "evidence"


@dataclass(frozen=True)
class UnlabeledStudy:
    """The script and its modules."""

    script: ModuleType
    units: ModuleType
    data: ModuleType
    page: ModuleType


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UnlabeledStudy:
    """The study with its own files and no rows."""
    monkeypatch.syspath_prepend(str(FOLDER))
    found = UnlabeledStudy(*(importlib.import_module(f"unlabeled{name}") for name in ("", "_units", "_data", "_page")))
    for name in found.units.SEEDS:
        (tmp_path / f"{name}.yaml").write_text(f"extends: {FOLDER / 'unlabeled' / name}.yaml\n", encoding="utf-8")
    monkeypatch.setattr(found.units, "FOLDER", tmp_path)
    return found


def measure(study: UnlabeledStudy, unit: Any, on_val: float, on_test: float) -> None:
    """A row as if the unit had been trained."""
    split = {"map_50": 0.5, "num_images": 4}
    row = {"study": unit.study, "role": unit.role, "seed": unit.seed, "digest": unit.digest}
    row |= {"val": {"map": on_val, **split}, "test": {"map": on_test, **split}}
    with study.units.rows_file(unit.study).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def missing(study: UnlabeledStudy, **wanted: Any) -> list[tuple[str, int, str]]:
    args = argparse.Namespace(**{"study": [], "role": [], "seed": [], **wanted})
    return [(unit.study, unit.seed, unit.role) for unit in study.units.missing(args)]


def train_all(study: UnlabeledStudy, on_val: Mapping[str, float], on_test: Mapping[str, float]) -> list[tuple[str, int, str]]:
    """Measure everything as `run` does, with mAPs by role; what was trained, in order."""
    trained = []
    while (unit := next(study.units.missing(argparse.Namespace(study=["bccd"], role=[], seed=[])), None)) is not None:
        measure(study, unit, on_val.get(unit.role, 0.4) + unit.seed / 1000, on_test.get(unit.role, 0.4) + unit.seed / 1000)
        trained.append((unit.study, unit.seed, unit.role))
    return trained


def test_what_tells_early_is_trained_first_and_every_training_once(study: UnlabeledStudy) -> None:
    order = missing(study)
    assert len(set(order)) == len(order)
    assert [one[2] for one in order[:4]] == ["teacher", "baseline", "labeled only", "both"]
    assert {one[0] for one in order[:12]} == {"bccd", "nuclei", "digits"}
    firsts = [one for one in order if one[1] == 0 and one[2] != study.units.FOREIGN]
    assert order[: len(firsts)] == firsts
    others = [one for one in order if one[1] > 0]
    assert not {one[2] for one in others} & {*study.units.TRIED, *study.units.BETTER}
    assert ("digits", 1, "teacher") not in order
    assert ("bccd", 1, "teacher") in order


def test_an_arm_that_is_tried_goes_on_with_its_teacher_if_it_is_the_best_at_the_first_seed(study: UnlabeledStudy) -> None:
    name = "teacher, self-trained"
    trained = train_all(study, {f"both, {name}": 0.5}, {})
    assert [seed for _, seed, role in trained if role == f"both, {name}"] == [0, 1, 2, 3, 4]
    assert [seed for _, seed, role in trained if role == name] == [0, 1, 2, 3, 4]
    assert [seed for _, seed, role in trained if role == "both, dense labels"] == [0]
    on_val = study.page.maps("bccd", "val")
    assert study.page.chosen(on_val) == f"both, {name}"
    assert "both, dense labels" not in on_val, "it has no figures at other seeds"


def test_the_verdict_is_about_the_arm_that_val_chose(study: UnlabeledStudy) -> None:
    on_test = {"teacher": 0.45, "baseline": 0.40, "labeled only": 0.41, "both": 0.46, "features": 0.48, "ceiling": 0.50}
    train_all(study, {"both": 0.5}, on_test)
    reached, line = study.page.verdict("bccd", study.page.maps("bccd", "test"), study.page.chosen(study.page.maps("bccd", "val")))
    assert line.startswith("bccd: both, chosen on val: +6.00")
    assert reached == {"gain": True, "beats its teacher": True, "half of the way": True}


def test_a_leading_arm_is_trained_at_every_seed_before_there_is_a_verdict(
    study: UnlabeledStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    on_val = {"features": 0.5}
    while (unit := next(study.units.missing(argparse.Namespace(study=["bccd"], role=[], seed=[])), None)) is not None:
        if unit.role == study.units.FOREIGN:
            break
        study.page.show()
        printed = capsys.readouterr().out
        assert "chosen on val" not in printed or "so far, bccd: features, chosen on val" in printed
        measure(study, unit, on_val.get(unit.role, 0.4) + unit.seed / 1000, 0.4)
    study.page.show()
    assert "\nbccd: features, chosen on val" in capsys.readouterr().out


def test_the_page_has_what_val_chose_and_what_was_tried_once(study: UnlabeledStudy) -> None:
    assert study.page.section_of_page("Nothing yet.\n") == "## Images without labels\n\nNothing yet.\n"
    train_all(study, {"both": 0.5}, {"both": 0.46})
    page = study.page.section_of_page("It helps.")
    assert page.startswith("## Images without labels\n\nIt helps.\n\n**bccd**: ")
    assert "| both | 0.5020 | 0.4620 | +6.00 (+6.00 to +6.00) |" in page
    assert "\n\nbccd: both, chosen on val: +6.00 (+6.00 to +6.00) over baseline" in page
    assert page.count("| both, dense labels |") == 1
    assert "nuclei" not in page


def test_the_ceiling_has_at_most_four_times_the_students_steps(study: UnlabeledStudy) -> None:
    units = {name: study.units.UnlabeledUnit(name, "ceiling", 0).config for name in study.units.SEEDS}
    found = {
        name: study.script.ceiling(units[name], *images).train.epochs for name, images in {"bccd": (56, 221), "digits": (50, 2050)}.items()
    }
    assert found == {"bccd": 240, "digits": 30}


def test_the_digits_without_labels_are_of_handwriting_that_no_network_is_judged_on(
    study: UnlabeledStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = "{train_images: 2, val_images: 1, test_images: 1, shifted_images: 1}"
    (tmp_path / "digits.yaml").write_text(f"extends: {FOLDER / 'unlabeled' / 'digits'}.yaml\ndata: {small}\n", encoding="utf-8")
    monkeypatch.setattr(study.data, "UNLABELED_DIGITS", 3)
    dealt, deal = list[Mapping[str, Any]](), digits._deal

    def noted(labels: Any, seed: int) -> Any:
        dealt.append(deal(labels, seed))
        return dealt[-1]

    monkeypatch.setattr(digits, "_deal", noted)
    _, parts = study.data.divided(study.units.UnlabeledUnit("digits", "both", 0), Store(tmp_path / "runs", "unlabeled"))
    learned, judged = ({int(one) for groups in dealt for name in names for one in groups[name]} for names in (("train",), ("val", "test")))
    assert len(dealt) == 2
    assert not learned & judged
    contents = [path.read_bytes() for name in ("train", "unlabeled", "val", "test") for path, _, _ in parts[name]]
    assert [len(parts[name]) for name in ("train", "unlabeled")] == [2, 3]
    assert len(set(contents)) == len(contents)


def test_a_student_that_diverges_is_left_out_and_a_teacher_ends_the_study(
    study: UnlabeledStudy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str] = []

    def diverging(unit: Any) -> None:
        begun.append(unit.role)
        raise Diverged("loss is nan")

    monkeypatch.setattr(study.script, "fetch_imagenet_start", lambda: None)
    monkeypatch.setattr(study.script, "measure", diverging)
    asked = {"study": ["bccd"], "seed": [0], "units": -1}
    study.script.work(argparse.Namespace(**asked, role=["baseline", "both"]))
    assert begun == ["baseline", "both"]
    assert "bccd, both, seed 0: loss is nan" in capsys.readouterr().out
    with pytest.raises(Diverged):
        study.script.work(argparse.Namespace(**asked, role=[]))
