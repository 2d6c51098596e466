"""The rows of the evidence belong to the studies' present files: otherwise the page would be written without them."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deploy.errors import Diverged

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


def loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script in benchmarks/evidence/."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def at_equal_cost(monkeypatch: pytest.MonkeyPatch, evidence: ModuleType) -> ModuleType:
    monkeypatch.setitem(sys.modules, "run", evidence)
    return loaded("at_equal_cost", monkeypatch)


@pytest.fixture
def auto_weights(monkeypatch: pytest.MonkeyPatch, at_equal_cost: ModuleType) -> ModuleType:
    assert at_equal_cost.COST
    return loaded("auto_weights", monkeypatch)


@pytest.fixture
def thirteen(monkeypatch: pytest.MonkeyPatch, at_equal_cost: ModuleType) -> ModuleType:
    assert at_equal_cost.COST
    return loaded("thirteen", monkeypatch)


def test_thirteen_kinds_see_equally_many_images_and_share_three_teachers(thirteen: ModuleType, evidence: ModuleType) -> None:
    known = thirteen.kinds()
    assert [kind.config.student.detector.name for kind in known] == [kind.name for kind in known]
    assert len(known) == 13
    assert {kind.config.data.options["train_images"] * kind.config.student.train.epochs for kind in known} == {16_000}
    assert len({evidence.digest(kind, evidence.TEACHER, 0) for kind in known}) == 3
    assert {tuple(loss.weight for loss in kind.losses(thirteen.STUDENT)) for kind in known} == {("auto", "auto")}
    for kind in known:
        units = list(kind.units())
        assert (len(units), len(set(units))) == (8, 8)
        assert len({evidence.digest(kind, role, 0) for role in kind.roles()}) == 4


def test_rows_of_the_thirteen_kinds_are_of_trainings_that_are_asked_for(thirteen: ModuleType, evidence: ModuleType) -> None:
    for kind in thirteen.kinds():
        lines = kind.rows_file.read_text(encoding="utf-8").splitlines() if kind.rows_file.exists() else []
        assert len(evidence.rows(kind)) == len(lines), kind.name
        assert {(row["role"], row["seed"]) for row in evidence.rows(kind)} <= set(kind.units())


def test_the_baseline_of_equal_cost_has_as_many_epochs_at_every_seed(
    auto_weights: ModuleType, evidence: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = auto_weights.pairs()[0]
    monkeypatch.setattr(type(pair), "rows_file", property(lambda _: tmp_path / "rows.jsonl"))
    monkeypatch.setattr(type(pair), "ratio", lambda _: 1.5)
    cost = auto_weights.COST
    assert pair.training(cost).epochs == 1.5 * pair.config.student.train.epochs
    row = {"role": cost, "seed": 0, "epochs": 333, "digest": evidence.digest(pair, cost, 0)}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert pair.training(cost).epochs == 333
    for known in auto_weights.pairs():
        assert len({row["epochs"] for row in evidence.rows(known) if row["role"] == cost}) <= 1, known.name


def test_a_teacher_that_is_there_is_not_trained_again_and_its_row_is_the_one_beside_its_weights(
    at_equal_cost: ModuleType, thirteen: ModuleType, evidence: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = next(one for one in thirteen.kinds() if one.name == "cascade_mask_rcnn")
    monkeypatch.setattr(type(kind), "rows_file", property(lambda self: tmp_path / f"{self.name}.jsonl"))
    for module in (evidence, at_equal_cost):
        monkeypatch.setattr(module, "RUNS", tmp_path)
    monkeypatch.setattr(at_equal_cost, "fetch_imagenet_start", lambda: None)
    monkeypatch.setattr(at_equal_cost, "run", lambda *_: pytest.fail("trained"))
    digest = evidence.digest(kind, evidence.TEACHER, 0)
    (tmp_path / digest).mkdir()
    (tmp_path / digest / "weights.safetensors").write_bytes(b"")
    row = {"study": "mask_rcnn", "role": "teacher", "seed": 0, "digest": digest, "test": {"map": 0.7}}
    (tmp_path / digest / evidence.KEPT_ROW).write_text(json.dumps(row))
    at_equal_cost.work([kind], [0], 1)
    assert [json.loads(line) for line in kind.rows_file.read_text().splitlines()] == [{**row, "study": kind.name}]


def test_a_student_that_diverges_is_left_out_and_a_teacher_ends_the_study(
    at_equal_cost: ModuleType,
    thirteen: ModuleType,
    evidence: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kinds = thirteen.kinds()[:2]
    monkeypatch.setattr(type(kinds[0]), "rows_file", property(lambda self: tmp_path / f"{self.name}.jsonl"))
    monkeypatch.setattr(at_equal_cost, "RUNS", tmp_path)
    monkeypatch.setattr(at_equal_cost, "fetch_imagenet_start", lambda: None)
    monkeypatch.setattr(at_equal_cost, "has_teacher", lambda *_: True)
    monkeypatch.setattr(
        at_equal_cost, "kept_row", lambda study, role, seed: {"role": role, "seed": seed, "digest": evidence.digest(study, role, seed)}
    )
    begun = []

    def diverging(study: Any, role: str, seed: int) -> None:
        begun.append((study.name, role, seed))
        raise Diverged(f"{role} is nan")

    monkeypatch.setattr(at_equal_cost, "run", diverging)
    at_equal_cost.work(kinds, [], -1)
    assert begun == [(kind.name, role, seed) for kind in kinds for role, seed in kind.units() if role != thirteen.TEACHER]
    assert "student is nan" in capsys.readouterr().out
    monkeypatch.setattr(at_equal_cost, "has_teacher", lambda *_: False)
    with pytest.raises(Diverged):
        at_equal_cost.work(kinds, [], -1)


def test_the_page_on_thirteen_kinds_has_a_line_for_each_that_has_a_student(
    thirteen: ModuleType, evidence: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [one for one in thirteen.kinds() if one.name in ("fcos", "mask_rcnn")]
    monkeypatch.setattr(type(kinds[0]), "rows_file", property(lambda self: tmp_path / f"{self.name}.jsonl"))
    level = {thirteen.TEACHER: 0.7, thirteen.BASELINE: 0.5, thirteen.STUDENT: 0.6, thirteen.COST: 0.52}
    for role, seed in kinds[0].units():
        test = {"map": level[role] + (0.01 * seed if role == thirteen.STUDENT else 0)}
        row = {"role": role, "seed": seed, "digest": evidence.digest(kinds[0], role, seed), "test": test}
        with kinds[0].rows_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    lines = thirteen.section(kinds, "Each gains.\n").splitlines()
    assert lines[:3] == ["## Thirteen kinds of detectors", "", "Each gains."]
    assert lines[-1] == "| `fcos` | 0.7000 | 0.5000 | 0.6100 | +11.00 (+8.52 to +13.48) | +8.00 | - |"
    assert len(lines) == 7


def test_the_study_of_found_weights_has_four_pairs_and_differs_only_in_the_weights(auto_weights: ModuleType, evidence: ModuleType) -> None:
    known = auto_weights.pairs()
    assert [pair.name for pair in known] == ["digits", "own-images", "set-prediction", "two-stage"]
    (own_images,) = (pair for pair in known if pair.name == auto_weights.OWN_IMAGES)
    assert [seed for _, seed in own_images.units()].count(1) == 5  # each seed has its own images, and so its own teacher
    for pair in known:
        hand, found = pair.losses(auto_weights.HAND), pair.losses(auto_weights.AUTO)
        assert [loss.weight for loss in found] == ["auto"] * len(hand)
        assert [(loss.name, loss.options) for loss in found] == [(loss.name, loss.options) for loss in hand]
        digests = {evidence.digest(pair, role, 0) for role in pair.roles()}
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


@pytest.fixture
def robustness(monkeypatch: pytest.MonkeyPatch, evidence: ModuleType) -> ModuleType:
    monkeypatch.setitem(sys.modules, "run", evidence)
    return loaded("robustness", monkeypatch)


def test_rows_on_robustness_are_of_networks_that_are_asked_for(robustness: ModuleType) -> None:
    lines = robustness.ROWS.read_text(encoding="utf-8").splitlines() if robustness.ROWS.exists() else []
    assert len(robustness.measured()) == len(lines)
    assert len({row["digest"] for row in robustness.measured()}) == len(lines)


def test_tables_on_robustness_pair_networks_of_the_same_seed(robustness: ModuleType) -> None:
    page = robustness.robust_page

    def row(role: str, seed: int, level: float, rpc: float | None = 0.5) -> dict[str, object]:
        figures = {"map": level, "mpc": level / 2, "rpc": rpc, "maps": {"fog": {"3": level / 2}}}
        more = {"mpc_full": 0.25, "rpc_full": 0.5} if seed == 0 else {}
        return {"study": "one", "role": role, "seed": seed, "engines": {name: {**figures, **more} for name in page.ENGINES}}

    rows = [row("baseline", 0, 0.5), row("baseline", 1, 0.7), row("student", 1, 0.8), row("student", 0, 0.58, None)]
    found = page.tables(rows)
    header, means = found["one: means over the seeds"]
    assert header == ["engine", "network", "seeds", "clean", "mpc", "rpc"]
    assert means[0] == ["fp32", "baseline", "2", "0.6000", "0.3000", "0.5000"]
    assert means[2] == ["fp32", "student", "2", "0.6900", "0.3450", "-"]
    _, gains = found["one: paired gains in points, with 95% intervals"]
    assert gains[0] == ["fp32", "student over baseline", "+9.0 (-3.7 to +21.7)", "+4.5 (-1.9 to +10.9)", "-"]
    assert gains[1][2:] == ["-"] * 3
    _, whole = found["one: all images and severities 1 to 5, first seed"]
    assert whole[0] == ["fp32", "baseline", "0.2500", "0.5000"]
    assert found["one: mAP by corruption, fp32, severity 3, means over the seeds"][1] == [["fog", "0.3000", "-", "0.3450", "-"]]
    text = page.section(rows, "More robust.\n")
    assert text.startswith("## Robustness\n\nMore robust.\n\none: means over the seeds:\n\n| engine | network |")
    assert text.count("<details>") == 1
