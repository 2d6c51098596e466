import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flow_samples
import pytest

from pipeline import cli
from stages import STAGES
from stages.stage import StageInfo

Run = Callable[..., tuple[int, Any]]

UNASKED = {"stress", "assess", "collect", "label", "finetune_int8"}
"""Stages that most runs do without."""
ALL = [
    *("prepare", "train_teacher", "time_steps", "train_baseline", "train_baseline:equal_cost", "distill", "compare"),
    *("export", "export:teacher", "export:baseline"),
    *("optimize:cpu", "optimize:gpu", "optimize:teacher", "optimize:baseline", "optimize:float"),
    *("validate:cpu", "validate:gpu", "validate:teacher", "validate:baseline", "validate:float"),
    *("measure", "parity:cpu", "parity:gpu"),
    *("gate:cpu", "gate:gpu", "package:cpu", "package:gpu"),
]


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `runs` after a whole run."""
    return flow_samples.finished(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`edgedistill <command> --json` in a folder with a pipeline.yaml: exit code and answer."""
    monkeypatch.chdir(tmp_path)
    flow_samples.replace_training(monkeypatch)
    (tmp_path / "pipeline.yaml").write_text(flow_samples.CONFIG)

    def command(*arguments: str) -> tuple[int, Any]:
        code = cli.main([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return command


@pytest.fixture
def again(run: Run, finished_runs: Path, tmp_path: Path) -> Run:
    """The same after a whole run."""
    shutil.copytree(finished_runs, tmp_path / "runs")
    return run


def ran(answer: Any) -> list[str]:
    return [stage["instance"] for stage in answer["stages"] if not stage["reused"]]


def test_every_stage_runs_once_and_then_never_again(run: Run) -> None:
    code, first = run("run")
    assert (code, ran(first)) == (0, ALL)
    code, second = run("run")
    assert (code, ran(second)) == (0, [])
    assert [stage["instance"] for stage in second["stages"]] == ALL
    assert list(dict.fromkeys(stage["name"] for stage in second["stages"])) == [one for one in STAGES if one not in UNASKED]
    assert [stage["seconds"] for stage in first["stages"]] == [stage["seconds"] for stage in second["stages"]]


def test_a_target_may_ask_for_a_network_that_was_trained_for_its_int8(again: Run) -> None:
    settings = ("--set", "targets.0.precision=int8", "--set", "targets.0.int8={finetune: true, epochs: 2}")
    code, answer = again("run", *settings)
    assert code == 0
    assert [stage for stage in ran(answer) if stage.partition(":")[0] in {"finetune_int8", "export", "optimize"}] == [
        *("finetune_int8:cpu", "export:cpu", "optimize:cpu"),
    ]
    figures = answer["targets"]["cpu"]
    assert (figures["int8"]["kept"], figures["int8"]["gain"], figures["int8"]["epochs"]) == (False, -0.5, 2)
    assert [step["name"] for step in figures["parity"]["steps"]] == ["student", "onnx", "other_int8", "typed", "engine"]
    manifest = json.loads(Path("runs/small/bundle/cpu/manifest.json").read_text())
    assert manifest["int8"]["trained_map"] == 0
    assert "int8.json" not in manifest["files"]
    assert "int8" in Path("runs/small/bundle/cpu/README.md").read_text()
    assert again("run", *settings)[1]["stages"][0]["reused"]
    _, plan = again("run", "--dry-run", "--set", "targets.0.int8.epochs=3", *settings[:2], "--set", "targets.0.int8.finetune=true")
    assert {stage["instance"] for stage in plan["stages"] if not stage["reused"]} >= {"finetune_int8:cpu", "export:cpu", "optimize:cpu"}


def test_a_gate_is_judged_again_and_nothing_is_measured(again: Run) -> None:
    code, answer = again("run", "--set", "gates.0.max=0.5")
    assert code == 10
    assert ran(answer) == ["gate:cpu", "gate:gpu", "package:cpu", "package:gpu"]
    assert [(gate["target"], gate["verdict"]) for gate in answer["gates"]] == [("cpu", "fail"), ("gpu", "unmeasured")]
    assert json.loads(Path("runs/small/summary.json").read_text()) == answer
    manifest = json.loads(Path("runs/small/bundle/cpu/manifest.json").read_text())
    assert [verdict["verdict"] for verdict in manifest["verdicts"]] == ["fail"]


def test_a_distillation_weight_leaves_teacher_and_baseline_alone(again: Run) -> None:
    _, plan = again("run", "--dry-run", "--set", "distill.losses.0.weight=3")
    stale = {stage["instance"]: stage["reason"] for stage in plan["stages"] if not stage["reused"]}
    assert next(iter(stale.items())) == ("distill", "distill.losses.0.weight 1.0 -> 3.0")
    assert stale["export"] == "input student changed"
    assert not [name for name in stale if "teacher" in name or "baseline" in name]
    _, answer = again("run", "--set", "distill.losses.0.weight=3")
    assert ran(answer) == list(stale)


def test_until_ends_early_and_leaves_no_summary(run: Run) -> None:
    code, answer = run("run", "--until", "export")
    assert (code, ran(answer)) == (0, ALL[:10])
    assert not Path("runs/small/summary.json").exists()


def test_until_the_last_stage_is_a_whole_run(run: Run) -> None:
    assert run("run", "--until", "package")[0] == 0
    assert Path("runs/small/summary.json").exists()


def test_force_runs_what_follows_too(again: Run) -> None:
    _, answer = again("run", "--force", "train_baseline")
    judged_again = ["compare", "measure", "gate:cpu", "gate:gpu", "package:cpu", "package:gpu"]
    assert ran(answer) == [name for name in ALL if "baseline" in name or name in judged_again]
    _, answer = again("run", "--force", "validate:cpu")
    assert ran(answer) == ["validate:cpu", "parity:cpu", "gate:cpu", "package:cpu"]


def test_force_knows_every_instance_and_no_other(again: Run) -> None:
    _, answer = again("run", "--force", "validate:float")
    assert ran(answer) == ["validate:float", "parity:cpu", "parity:gpu"]
    code, answer = again("run", "--force", "parity:teacher")
    assert (code, "no stage 'parity:teacher'" in answer["error"]) == (2, True)


@pytest.mark.parametrize("option", ["--until", "--force"])
def test_an_unknown_stage_is_refused(run: Run, option: str) -> None:
    code, answer = run("run", option, "destill")
    assert (code, answer["error"][:44]) == (2, "no stage 'destill' (did you mean distill?); ")


class TestSummary:
    def test_it_holds_what_is_promised(self, again: Run) -> None:
        _, summary = again("run")
        for network, value in flow_samples.MAPS.items():
            figures = summary[network]
            accuracy = {"map": value, "map_50": 0.5, "map_75": 0.5, "split": "val", "num_images": 6}
            epochs = 18 if network == "baseline_equal_cost" else 12
            assert figures == {**accuracy, "mask_map": None, "parameters": 1234, "macs": 5_000_000, "epochs": epochs, "curve": None}
        assert (summary["gain_map"], summary["gain_map_equal_cost"]) == pytest.approx((0.1, 0.05))
        assert (summary["gap_closed"], summary["gap_closed_equal_cost"]) == pytest.approx((0.5, 0.05 / 0.15))
        assert summary["step_times"]["ratio"]["ratio"] == 1.5
        cpu = summary["targets"]["cpu"]
        assert (cpu["runtime"], cpu["precision"], cpu["split"], cpu["num_images"], cpu["why"]) == ("ort", "fp32", "val", 6, None)
        assert 0 <= cpu["map"] <= 1
        assert set(cpu["latency_ms"]) == {"pre", "infer", "post", "end_to_end", "low", "high"}
        assert all(set(part) == {"p50", "p90", "p95", "p99"} for part in cpu["latency_ms"].values())
        assert cpu["bytes"] == Path("runs/small/bundle/cpu/engine.onnx").stat().st_size
        assert len(cpu["sha256"]) == 64
        assert set(summary["gates"][0]) >= {"name", "target", "verdict", "measured", "limit"}
        assert set(summary["stages"][0]) >= {"name", "seconds", "reused"}

    def test_a_target_that_cannot_run_here_says_why(self, again: Run) -> None:
        code, summary = again("run")
        gpu = summary["targets"]["gpu"]
        assert code == 0
        assert (gpu["map"], gpu["latency_ms"], gpu["why"]) == (None, None, "tensorrt is not installed")

    @pytest.mark.parametrize(
        ("settings", "code"),
        [
            (["targets.1.required=true"], 5),
            (["gates.0.target=gpu"], 12),
            (["gates.0.metric=map_large"], 12),
            (["targets=[{name: gpu, runtime: trt}]"], 12),
            (["gates=[]"], 0),
            (["gates=[{metric: map, max: 0.5}, {metric: map, min: 0, target: gpu}]", "targets.1.required=true"], 10),
        ],
    )
    def test_the_exit_code_comes_last(self, again: Run, settings: list[str], code: int) -> None:
        assert again("run", *(part for setting in settings for part in ("--set", setting)))[0] == code
        assert json.loads(Path("runs/small/summary.json").read_text())["exit_code"] == code
        assert Path("runs/small/report.html").exists()
        assert Path("runs/small/bundle/gpu/manifest.json").exists()

    def test_gate_gives_the_exit_code_of_run_without_any_gate(self, again: Run) -> None:
        settings = ("--set", "gates=[]", "--set", "targets.1.required=true")
        assert again("run", *settings)[0] == 5
        assert again("gate", "pipeline.yaml", *settings)[0] == 5

    def test_an_undefined_figure_is_null(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(flow_samples.MAPS, "baseline", None)
        _, summary = run("run")
        assert (summary["baseline"]["map"], summary["gain_map"], summary["gap_closed"]) == (None, None, None)

    def test_the_gap_is_null_unless_the_teacher_leads(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(flow_samples.MAPS, "teacher", 0.4)
        _, summary = run("run")
        assert (summary["gain_map"], summary["gap_closed"]) == (pytest.approx(0.1), None)


class TestOutputs:
    def test_bundles_are_those_of_the_last_run(self, again: Run) -> None:
        assert sorted(path.name for path in Path("runs/small/bundle").iterdir()) == ["cpu", "gpu"]
        again("run", "--set", "targets=[{name: other, runtime: ort}]")
        assert [path.name for path in Path("runs/small/bundle").iterdir()] == ["other"]
        assert not list(Path("runs/small").glob(".*"))

    def test_a_bundle_holds_what_its_manifest_names(self, again: Run) -> None:
        manifest = json.loads(Path("runs/small/bundle/cpu/manifest.json").read_text())
        assert {path.name for path in Path("runs/small/bundle/cpu").iterdir()} == {*manifest["files"], "manifest.json"}

    def test_the_report_is_drawn_when_something_changed(self, again: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn: list[Path] = []

        def draw(_: object, file: Path) -> None:
            drawn.append(file)
            file.write_text("<html>")

        monkeypatch.setattr("pipeline.report.page.write_report", draw)
        for count, settings in ((0, []), (1, ["--set", "gates.0.min=0.2"]), (1, ["--set", "gates.0.min=0.2"])):
            again("run", *settings)
            assert len(drawn) == count
        assert again("report", "--set", "gates.0.min=0.2") == (0, {"report": "runs/small/report.html"})
        assert len(drawn) == 2
        Path("runs/small/report.html").unlink()
        again("run", "--set", "gates.0.min=0.2")
        assert len(drawn) == 3


class TestGate:
    def test_nothing_was_measured(self, run: Run) -> None:
        code, answer = run("gate")
        assert code == 12
        assert answer["error"].startswith("nothing measured for this configuration (prepare: never ran); run: edgedistill run")

    def test_a_stale_configuration_has_no_measurement(self, again: Run) -> None:
        code, answer = again("gate", "--set", "distill.losses.0.weight=2")
        assert (code, "distill: distill.losses.0.weight 1.0 -> 2.0" in answer["error"]) == (12, True)

    @pytest.mark.parametrize(("limit", "code"), [("1.0", 0), ("0.5", 10)])
    def test_measurements_are_judged_without_a_run(self, again: Run, limit: str, code: int) -> None:
        before = Path("runs/small/summary.json").read_text()
        found, answer = again("gate", "--set", f"gates.0.max={limit}")
        assert (found, answer["gates"][0]["target"]) == (code, "cpu")
        assert Path("runs/small/summary.json").read_text() == before

    def test_no_gate_judges_nothing(self, run: Run) -> None:
        run("run", "--set", "gates=[]")
        assert run("gate", "--set", "gates=[]")[0] == 12

    def test_a_bundle_carries_its_verdicts(self, again: Run) -> None:
        assert [again("gate", f"runs/small/bundle/{target}")[0] for target in ("cpu", "gpu")] == [0, 12]
        again("run", "--set", "gates.0.max=0.5")
        assert again("gate", "runs/small/bundle/cpu")[0] == 10


class TestTorchrun:
    def test_a_follower_ends_after_the_last_distributed_stage_and_says_nothing(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run("run", "--until", "distill")
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert cli.main(["run", "--json"]) == 0
        assert capsys.readouterr().out == ""
        assert not Path("runs/small/summary.json").exists()


def test_a_new_version_of_a_stage_runs_again(again: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(flow_samples.export.__dict__, "stage_info", StageInfo(version=2))
    _, plan = again("run", "--dry-run")
    assert [stage["reason"] for stage in plan["stages"]][7] == "stage code version 1 -> 2"


CHANGES = "gates=[{metric: map, max_drop: 0.01}, {metric: bytes, max_increase: 0%}, {metric: latency_infer_p50_ms, max_increase: 1000}]"


class TestReference:
    def test_is_kept_and_compared_with(self, again: Run) -> None:
        assert again("gate", "--set", CHANGES)[0] == 12
        code, answer = again("gate", "--set", CHANGES, "--save-reference", "kept")
        assert (code, answer["gates"]) == (0, [])
        assert sorted(path.name for path in Path("kept").iterdir()) == ["cpu"]  # no engine of gpu was measured
        code, answer = again("gate", "--set", CHANGES, "--reference", "kept", "--out", "out")
        assert [(one["target"], one["verdict"]) for one in answer["gates"]] == [
            *[("cpu", "inconclusive"), ("cpu", "pass"), ("cpu", "pass")],
            *[("gpu", "unmeasured")] * 3,
        ]
        assert (code, answer["gates"][0]["why"]) == (11, "6 images are too few to tell; at least 20 are needed")
        assert {path.name for path in Path("out").iterdir()} == {"gate.json", "gate.xml", "gate.md"}

    def test_gates_versus_the_other_networks_are_judged_by_a_run(self, again: Run) -> None:
        changes = [f"{{metric: map, max_drop: 1, versus: {name}, target: cpu}}" for name in ("teacher", "baseline", "float")]
        numbers = [f"{{metric: {name}, min: 1, target: cpu}}" for name in ("gain_map", "student_drop_map")]
        code, answer = again("run", "--set", f"gates=[{', '.join([*changes, *numbers])}]")
        assert code == 10
        assert set(ran(answer)) == {"gate:cpu", "gate:gpu", "package:cpu", "package:gpu"}
        assert [one["verdict"] for one in answer["gates"]] == ["inconclusive"] * 3 + ["fail"] * 2  # on six images
        assert [one["effect"]["num"] for one in answer["gates"][:3]] == [6, 6, 6]
        assert [one["measured"] for one in answer["gates"][3:]] == pytest.approx([1.0 - 0.4, 0.5 - 1.0])

    def test_data_is_named_by_the_file(self, again: Run) -> None:
        for option, value in (("data", "x"), ("split", "test"), ("max-doubtful", "0.1")):
            code, answer = again("gate", "--reference", "kept", f"--{option}", value)
            assert (code, f"--{option} {value}: pipeline small names its own" in answer["error"]) == (2, True)


class TestHistory:
    def test_has_a_row_for_every_run_with_other_figures(self, again: Run) -> None:
        summary = json.loads(Path("runs/small/summary.json").read_text())
        assert again("history")[1]["targets"]["cpu"] == [summary["targets"]["cpu"]["map"]]
        again("run")
        assert len(again("history")[1]["runs"]) == 1
        again("run", "--set", "gates.0.max=0.5")
        code, answer = again("history", "--metric", "bytes", "--target", "cpu")
        assert (code, [one["exit_code"] for one in answer["runs"]]) == (0, [0, 10])
        assert len(answer["targets"]["cpu"]) == 2
        page = Path("runs/small/history.html").read_text(encoding="utf-8")
        assert "bytes over 2 runs of cpu" in page

    def test_half_a_line_is_no_run(self, again: Run) -> None:
        with Path("runs/small/history.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"time": "2026')
        assert len(again("history")[1]["runs"]) == 1

    def test_refusals(self, run: Run, again: Run) -> None:
        assert again("history", "--metric", "mapp")[0] == 2
        assert again("history", "--target", "cpuu")[0] == 2
        code, answer = again("history", "--metric", "torch_drop_map")
        assert (code, answer["error"]) == (2, "--metric torch_drop_map: metric 'torch_drop_map' is now called student_drop_map")

    def test_nothing_on_record(self, run: Run) -> None:
        code, answer = run("history")
        assert (code, answer["runs"]) == (0, [])
