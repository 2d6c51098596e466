"""Both baselines in the flow: which are trained, which one gates compare with, what a dry run knows."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import artifact_samples
import flow_samples
import pytest

from pipeline import cli, flow
from stages.artifacts import Checkpoint, Dataset, ImagePool, PseudoLabels
from stages.config import DataConfig, ExportConfig, UnlabelledConfig
from stages.facts import write_facts
from stages.stage import stage
from stages.unlabeled_facts import PoolFacts, PseudoClass, PseudoFacts

Run = Callable[..., tuple[int, Any]]
ONE_TARGET = "targets=[{name: cpu, runtime: ort}]"
VERSUS = "gates=[{metric: map, max_drop: 1, versus: baseline, target: cpu}]"
BASELINES = ("time_steps", "train_baseline", "train_baseline:equal_cost")


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `runs` after a run with both baselines, of which the one at equal cost is the stronger."""
    return flow_samples.finished(tmp_path_factory.mktemp("both"), "--set", ONE_TARGET)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`edgedistill <command> --json` for one target, with settings: exit code and answer."""
    monkeypatch.chdir(tmp_path)
    flow_samples.replace_training(monkeypatch)
    (tmp_path / "pipeline.yaml").write_text(flow_samples.CONFIG)

    def command(name: str, *settings: str, options: tuple[str, ...] = ()) -> tuple[int, Any]:
        every = (ONE_TARGET, *settings)
        code = cli.main([name, "--json", *options, *(part for setting in every for part in ("--set", setting))])
        return code, json.loads(capsys.readouterr().out)

    return command


@pytest.fixture
def run(fresh: Run, finished_runs: Path, tmp_path: Path) -> Run:
    """The same after a run with both baselines."""
    shutil.copytree(finished_runs, tmp_path / "runs")
    return fresh


def trained(answer: Any) -> list[str]:
    return [stage["instance"] for stage in answer["stages"] if stage["instance"] in BASELINES]


def ran(answer: Any) -> list[str]:
    return [stage["instance"] for stage in answer["stages"] if not stage["reused"]]


class TestEachKind:
    def test_equal_steps_is_as_it_was(self, run: Run) -> None:
        _, summary = run("run", "baseline.equal=steps", VERSUS)
        assert trained(summary) == ["train_baseline"]
        assert (summary["baseline"]["map"], summary["baseline_equal_cost"], summary["step_times"]) == (0.4, None, None)
        assert (summary["gain_map"], summary["gain_map_equal_cost"]) == (pytest.approx(0.1), None)
        assert summary["gates"][0]["limit"] == "falls <= 1 from baseline"

    def test_equal_cost_has_only_the_longer_one_however_long_it_takes(self, run: Run) -> None:
        _, summary = run("run", "baseline={equal: cost, max_minutes: 0}", VERSUS)
        assert trained(summary) == ["time_steps", "train_baseline:equal_cost"]
        assert (summary["baseline"], summary["baseline_equal_cost"]["map"], summary["baseline_equal_cost"]["epochs"]) == (None, 0.45, 18)
        assert (summary["gain_map"], summary["gain_map_equal_cost"]) == (None, pytest.approx(0.05))
        assert (summary["gap_closed"], summary["gap_closed_equal_cost"]) == (None, pytest.approx(0.05 / 0.15))
        assert summary["gates"][0]["limit"] == "falls <= 1 from baseline at equal cost"

    @pytest.mark.parametrize(("longer", "named"), [(0.45, "cost"), (0.35, "steps"), (0.4, "steps"), (None, "steps")])
    def test_of_both_gates_compare_with_the_stronger_and_say_which(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, longer: float | None, named: str
    ) -> None:
        monkeypatch.setitem(flow_samples.MAPS, "baseline_equal_cost", longer)
        _, summary = run("run", VERSUS, options=("--force", "train_baseline:equal_cost"))
        assert trained(summary) == [*BASELINES]
        gate = summary["gates"][0]
        assert (gate["limit"], gate["name"]) == (f"falls <= 1 from baseline at equal {named}", "map falls <= 1 from baseline on cpu")
        keys = {stage["instance"]: stage["key"] for stage in summary["stages"]}
        lock = json.loads(Path("runs/small/lock.json").read_text())["stages"]
        chosen = "train_baseline:equal_cost" if named == "cost" else "train_baseline"
        assert lock["export:baseline"]["inputs"]["student"] == keys[chosen]

    def test_gates_on_the_gains(self, run: Run) -> None:
        gates = ", ".join(f"{{metric: {name}, min: 0.59}}" for name in ("gain_map", "gain_map_equal_cost"))
        _, summary = run("run", f"gates=[{gates}]")  # the engine's mAP is 1
        assert [(gate["measured"], gate["verdict"]) for gate in summary["gates"]] == [
            (pytest.approx(0.6), "pass"),
            (pytest.approx(0.55), "fail"),
        ]


class TestSameEpochs:
    @pytest.mark.parametrize("equal", ["both", "cost"])
    def test_one_baseline_serves_as_both(self, run: Run, monkeypatch: pytest.MonkeyPatch, equal: str) -> None:
        monkeypatch.setitem(flow_samples.RATIO, "ratio", 1.04)  # 12.48 epochs
        _, summary = run("run", f"baseline.equal={equal}", VERSUS, options=("--force", "time_steps"))
        assert [stage["instance"] for stage in summary["stages"]].count("train_baseline") == (equal == "both")
        assert summary["gain_map_equal_cost"] == pytest.approx(0.1)
        if equal == "both":
            assert summary["baseline"] == summary["baseline_equal_cost"]
            assert summary["gates"][0]["limit"] == "falls <= 1 from baseline"

    def test_the_terminal_quotes_it_once(self, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setitem(flow_samples.RATIO, "ratio", 1.04)
        assert cli.main(["run", "--force", "time_steps", "--set", ONE_TARGET]) == 0
        text = capsys.readouterr().out
        assert "baseline, equal cost" not in text
        assert "gain from distillation: +0.1000 map at equal steps and cost\n" in text
        assert "for 12 epochs, which are as many steps and take about as long" in text


@stage(version=1)
def prepare(out: Path, config: DataConfig) -> Dataset:
    """Images of colored cells, of which nobody knows what they show."""
    data = artifact_samples.dataset(out)
    truth = json.loads(data.annotations("val").read_text())
    data.annotations("val").write_text(json.dumps({**truth, "annotations": []}))
    splits = {**data.facts.splits, "val": data.facts.splits["val"].model_copy(update={"num_boxes": 0})}
    write_facts(out, data.facts.model_copy(update={"splits": splits}))
    return data


@stage(version=1)
def prepare_unlabeled_train(out: Path, config: DataConfig) -> Dataset:
    """Images of colored cells, of which only those of val have labels."""
    data = artifact_samples.dataset(out)
    splits = {**data.facts.splits, "train": data.facts.splits["train"].model_copy(update={"num_boxes": 0})}
    write_facts(out, data.facts.model_copy(update={"splits": splits}))
    return data


@stage(version=1)
def collect(out: Path, config: DataConfig, dataset: Dataset) -> ImagePool:
    """Four images that nobody looks at."""
    write_facts(out, PoolFacts(num_images=4, sha256="0"))
    return ImagePool(out)


@stage(version=1)
def label(
    out: Path,
    config: UnlabelledConfig,
    device: str,
    split: str,
    dataset: Dataset,
    pool: ImagePool,
    teacher: Checkpoint,
    export: ExportConfig,
) -> PseudoLabels:
    """Detections from 0.5 on are targets; the teacher is sure of one on the judged images, which the student finds, too."""
    one = {"image_id": 2, "category_id": dataset.facts.contract.category_ids[0], "bbox": [8, 8, 16, 16]}
    rows = [{**one, "score": 0.9}, {**one, "image_id": 3, "score": 0.2}]
    (teacher.root / "detections.json").write_text(json.dumps(rows))
    limits = PseudoClass(accept=0.5, low=0.5, sure=0.5, num_objects=0, precision=None, recall=None)
    classes = dict.fromkeys(dataset.facts.contract.classes, limits)
    write_facts(out, PseudoFacts(split=split, num_images=4, empty=0, classes=classes))
    (out / PseudoLabels.IMAGES).write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    return PseudoLabels(out)


class TestWithoutLabels:
    SETTINGS = ("data.unlabelled=photos", "distill.unlabelled={only: true, pseudo: {threshold: 0.5}}", "gates=[]")

    @pytest.fixture
    def unlabeled(self, fresh: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
        for one in (prepare, collect, label):
            monkeypatch.setattr(flow, one.__name__, one)
        for name in flow_samples.MAPS:
            monkeypatch.setitem(flow_samples.MAPS, name, None)
        return fresh

    def test_there_is_no_baseline_and_the_students_agreement_with_its_teacher_is_reported(
        self, unlabeled: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, summary = unlabeled("run", *self.SETTINGS)
        assert code == 0
        assert trained(summary) == []
        assert (summary["baseline"], summary["baseline_equal_cost"], summary["gain_map"]) == (None, None, None)
        assert summary["gain"]["agreement"] == {"map": 0.0, "map_50": 0.0, "num_boxes": 1}
        assert "baseline" not in summary["references"]
        given = [word for setting in (ONE_TARGET, *self.SETTINGS) for word in ("--set", setting)]
        assert cli.main(["run", *given]) == 0
        text = capsys.readouterr().out
        why = "split val has no labels to judge one on, and the student sees none"
        assert f"! there is no baseline: {why}\n" in text
        line = "agreement with the teacher's boxes: map 0.0000, map_50 0.0000, with the 1 boxes that the teacher is sure of in 6 images"
        assert line in text
        card = Path("runs/small/bundle/cpu/README.md").read_text(encoding="utf-8")
        assert f"There is no baseline: {why}." in card
        assert "That is not accuracy" in card

    @pytest.mark.parametrize(
        ("settings", "line"),
        [
            ("gates=[{metric: map, min: 0.3}]", "gates.0.metric: map cannot be judged: split val has no labels; label some images"),
            ("gates=[{metric: gain_map, min: 0}]", "gates.0.metric: gain_map cannot be judged: split val has no labels"),
            ("gates=[{metric: bytes, max_increase: 1, versus: baseline}]", "gates.0: there is no baseline where split val has no labels"),
            ("gates=[{metric: speedup_over_baseline, min: 1}]", "gates.0: there is no baseline where split val has no labels"),
            (
                "targets=[{name: cpu, runtime: ort, precision: int8, max_map_drop: 0.01}]",
                "targets.0.max_map_drop cannot be judged: split val has no labels; label some images of split val",
            ),
            ("distill.unlabelled={only: true}", "distill.unlabelled.pseudo.threshold: auto chooses a score on the labels of split val"),
        ],
    )
    def test_what_needs_labels_is_refused_before_any_training(
        self, unlabeled: Run, capsys: pytest.CaptureFixture[str], settings: str, line: str
    ) -> None:
        given = [word for setting in (ONE_TARGET, *self.SETTINGS, settings) for word in ("--set", setting)]
        assert cli.main(["run", *given]) == 2
        printed = capsys.readouterr()
        assert line in printed.err
        assert len(printed.err.splitlines()) == 1
        assert "train_teacher" not in printed.out


class TestWithoutLabelsInTrain:
    TEACHER = "teacher.weights=teacher.safetensors"
    SETTINGS = ("data.unlabelled=photos", "distill.unlabelled={only: true}", TEACHER, "gates=[{metric: map, min: 0}]")

    @pytest.fixture
    def unlabeled(self, fresh: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
        for one in (prepare_unlabeled_train, collect, label):
            monkeypatch.setattr(flow, one.__name__.removesuffix("_unlabeled_train"), one)
        Path("teacher.safetensors").write_bytes(b"")
        return fresh

    def test_a_student_that_sees_none_is_trained_and_judged_without_a_baseline(self, unlabeled: Run) -> None:
        code, summary = unlabeled("run", *self.SETTINGS)
        assert (code, trained(summary)) == (0, [])
        assert summary["gain"]["left_out"] == "split train has no labels to train one on, and the student sees none"
        assert summary["gain"]["agreement"] is None
        assert (summary["student"]["map"], summary["gates"][0]["verdict"]) == (flow_samples.MAPS["student"], "pass")

    @pytest.mark.parametrize(
        ("settings", "code", "line"),
        [
            ("distill.unlabelled={}", 3, "train: no usable box to learn from; label some, or train only a student, with distill"),
            ("teacher.weights=null", 3, "train: no usable box to learn from"),
            ("gates=[{metric: gain_map, min: 0}]", 2, "gates.0: there is no baseline where split train has no labels; label some images"),
        ],
    )
    def test_what_needs_them_is_refused_before_any_training(
        self, unlabeled: Run, capsys: pytest.CaptureFixture[str], settings: str, code: int, line: str
    ) -> None:
        given = [word for setting in (ONE_TARGET, *self.SETTINGS, settings) for word in ("--set", setting)]
        assert cli.main(["run", *given]) == code
        printed = capsys.readouterr()
        assert line in printed.err
        assert "train_teacher" not in printed.out


class TestLeftOut:
    # 0.1 s a step, one step per epoch of six images: 18 epochs take 1.8 s
    SHORT = "baseline.max_minutes=0.02"

    def test_beyond_the_minutes_it_is_left_out_and_said_to_be(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        why = "training it for 18 epochs would take about 0.0 minutes, and baseline.max_minutes is 0.02; set it to 1 to have it"
        code, summary = run("run", self.SHORT, VERSUS.replace("map,", "gain_map,").replace("max_drop: 1, versus: baseline", "min: 0"))
        assert (code, trained(summary)) == (0, ["time_steps", "train_baseline"])
        assert (summary["baseline_equal_cost"], summary["gain"]["left_out"]) == (None, why)
        assert cli.main(["run", "--set", self.SHORT, "--set", ONE_TARGET]) == 0
        text = capsys.readouterr().out
        assert re.search(rf"^train_baseline:equal_cost +left out: {re.escape(why)}$", text, re.MULTILINE)
        assert f"! there is no baseline at equal cost: {why}\n" in text
        card = Path("runs/small/bundle/cpu/README.md").read_text(encoding="utf-8")
        assert f"There is no baseline at equal cost: {why}." in card

    def test_gates_say_that_the_one_at_equal_steps_is_meant_or_that_there_is_none(self, run: Run) -> None:
        gates = "{metric: map, max_drop: 1, versus: baseline}, {metric: gain_map_equal_cost, min: 0}"
        code, summary = run("run", self.SHORT, f"gates=[{gates}]")
        assert (code, summary["gates"][0]["limit"]) == (12, "falls <= 1 from baseline at equal steps")
        assert summary["gates"][1]["why"] == "gain_map_equal_cost: there is no baseline equal cost network next to this engine"

    def test_with_more_minutes_only_the_longer_training_and_what_follows_run(self, fresh: Run) -> None:
        fresh("run", self.SHORT, options=("--until", "export"))
        _, answer = fresh("run", options=("--until", "export"))
        assert ran(answer) == ["train_baseline:equal_cost", "compare", "export:baseline"]


class TestAgain:
    def test_a_finished_run_is_not_timed_again(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(flow_samples.RATIO, "ratio", 3.0)  # the machine would measure otherwise today
        changed = ("distill.losses.0.weight=2", "teacher.train.epochs=7", "seed=3")
        _, answer = run("run", *changed, options=("--until", "compare"))
        assert ran(answer) == ["train_teacher", "train_baseline", "train_baseline:equal_cost", "distill", "compare"]

    def test_a_timing_that_is_forced_trains_again_only_if_the_epochs_differ(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        forced = ("--force", "time_steps", "--until", "compare")
        assert ran(run("run", options=forced)[1]) == ["time_steps", "compare"]
        monkeypatch.setitem(flow_samples.RATIO, "ratio", 3.0)
        assert ran(run("run", options=forced)[1]) == ["time_steps", "train_baseline:equal_cost", "compare"]

    def test_only_the_longer_one_can_be_forced(self, run: Run) -> None:
        _, answer = run("run", options=("--force", "train_baseline:equal_cost", "--until", "compare"))
        assert ran(answer) == ["train_baseline:equal_cost", "compare"]

    def test_until_train_baseline_trains_both(self, fresh: Run) -> None:
        _, answer = fresh("run", options=("--until", "train_baseline"))
        assert ran(answer)[-2:] == ["train_baseline", "train_baseline:equal_cost"]
        _, answer = fresh("run", options=("--until", "time_steps"))
        assert trained(answer) == ["time_steps"]

    @pytest.mark.parametrize("option", ["--until", "--force"])
    def test_a_run_without_the_timing_cannot_stop_there(self, run: Run, option: str) -> None:
        code, answer = run("run", "baseline.equal=steps", options=(option, "time_steps"))
        assert (code, answer["error"]) == (
            2,
            "stage 'time_steps' runs only for a baseline at equal cost; set baseline.equal to cost or both",
        )


class TestDryRun:
    def test_before_the_timing_the_epochs_are_unknown(self, fresh: Run) -> None:
        _, plan = fresh("run", options=("--dry-run",))
        reasons = {stage["instance"]: stage["reason"] for stage in plan["stages"]}
        assert reasons["train_baseline:equal_cost"] == "its epochs follow from time_steps"
        assert reasons["export:baseline"] == "never ran"
        assert not Path("runs").exists()

    def test_it_ends_where_the_run_would(self, fresh: Run) -> None:
        _, plan = fresh("run", "baseline.equal=cost", options=("--dry-run", "--until", "time_steps"))
        assert ran(plan) == ["prepare", "train_teacher", "time_steps"]

    def test_data_that_is_gone_is_made_again_before_anything_is_known(self, run: Run) -> None:
        (data,) = Path("runs/.store").glob("prepare-*")
        shutil.rmtree(data)
        _, plan = run("run", VERSUS, options=("--dry-run",))
        reasons = {stage["instance"]: stage["reason"] for stage in plan["stages"]}
        assert (reasons["prepare"], reasons["train_baseline:equal_cost"]) == ("its result is gone", "its epochs follow from time_steps")
        _, answer = run("run", options=("--until", "compare"))
        assert ran(answer) == ["prepare"]

    def test_after_a_run_everything_is_known(self, run: Run) -> None:
        _, plan = run("run", options=("--dry-run",))
        assert ran(plan) == []
        _, plan = run("run", VERSUS, options=("--dry-run",))
        assert ran(plan) == ["gate:cpu", "package:cpu"]

    def test_nothing_can_be_judged_before_the_timing(self, fresh: Run) -> None:
        fresh("run", "baseline.equal=steps", options=("--until", "distill"))
        code, answer = fresh("gate")
        assert (code, "time_steps: never ran" in answer["error"]) == (12, True)


def test_the_history_has_both_gains(run: Run) -> None:
    for metric, gain in (("gain_map", 0.6), ("gain_map_equal_cost", 0.55)):
        _, answer = run("history", options=("--metric", metric))
        assert answer["targets"]["cpu"] == [pytest.approx(gain)]


def test_the_model_card_quotes_both_gains_the_smaller_first(finished_runs: Path) -> None:
    card = (finished_runs / "small/bundle/cpu/README.md").read_text(encoding="utf-8")
    assert "A baseline is the same network trained for as long or for as many steps without the teacher." in card
    assert "A step with the teacher takes 1.50 times as long as one without." in card
    first, second = "| baseline at equal cost | 18 | 0.45 | +0.0500 |", "| baseline at equal steps | 12 | 0.4 | +0.1000 |"
    assert card.index(first) < card.index(second)
