import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import artifact_samples
import flow_samples
import numpy as np
import onnx_samples
import pytest
import yaml
from PIL import Image
from waiting import PATIENCE

from deploy.bundles.trust import Trust
from deploy.errors import ArtifactError, BuildError, ConfigError, DataError, RuntimeUnavailable
from deploy.serving.options import ServeConfig
from pipeline import cli, flow
from pipeline.commands import run
from pipeline.terminal import answer
from pipeline.terminal.answer import Answer
from pipeline.terminal.refusals import refusal
from stages import STAGES

PROGRAM = (sys.executable, "-P", "-c", "import sys; from pipeline.cli import main; sys.exit(main())")


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def broken(args: object) -> Answer:
        raise error

    monkeypatch.setattr(run, "run", broken)


def disk_full() -> Exception:
    error = ValueError("could not be saved")
    error.__cause__ = RuntimeError("I/O error: No space left on device (os error 28)")
    return error


class TestExitCodes:
    @pytest.mark.parametrize(
        ("error", "code", "line"),
        [
            (ConfigError("a.yaml: wrong"), 2, "a.yaml: wrong"),
            (DataError("no images"), 3, "no images"),
            (ArtifactError("weights\nare cut short"), 4, "weights are cut short"),
            (BuildError("no such layer"), 5, "no such layer"),
            (RuntimeUnavailable("pip install it"), 5, "pip install it"),
            (KeyboardInterrupt(), 130, "interrupted; run the same command again to continue"),
            (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x"), 4, "runs/x: cannot be written (No space left on device)"),
            (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "runs/x"), 4, "runs/x: cannot be written (Permission denied)"),
            (OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), "a", None, "b"), 4, "b: cannot be written (Directory not empty)"),
            (OSError(errno.EROFS, os.strerror(errno.EROFS), "runs"), 4, "runs: cannot be written (Read-only file system)"),
            (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/x']"), 4, "No usable temporary directory found in"),
            (disk_full(), 4, "No space left on device; free some"),
            (ModuleNotFoundError("", name="torch.nn"), 2, "this needs torch.nn, which is not installed; run: pip install "),
        ],
    )
    def test_an_expected_error_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
    ) -> None:
        fail_with(monkeypatch, error)
        found, out, err = outcome(capsys, "run")
        assert (found, out) == (code, "")
        assert err.startswith(f"edgedistill: {line}")
        assert err.count("\n") == 1

    @pytest.mark.parametrize("error", [ZeroDivisionError("0"), ModuleNotFoundError("no", name="stages.x"), FileNotFoundError(2, "x")])
    def test_an_unexpected_error_keeps_its_traceback(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
    ) -> None:
        fail_with(monkeypatch, error)
        code, out, err = outcome(capsys, "run", "--json")
        assert code == 1
        assert "Traceback (most recent call last)" in err
        assert json.loads(out)["exit_code"] == 1

    def test_with_json_the_error_is_an_object(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        code, out, err = outcome(capsys, "config", str(tmp_path / "none.yaml"), "--json")
        assert (code, json.loads(out)["exit_code"]) == (2, 2)
        assert json.loads(out)["error"] in err

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            ([], "the following arguments are required: COMMAND; see edgedistill --help"),
            (["destill"], "argument COMMAND: invalid choice: 'destill'"),
            (["compare", "--metod=x"], "unrecognized arguments: --metod=x; see edgedistill compare --help"),
            (["run", "--dry"], "unrecognized arguments: --dry (did you mean --dry-run?); see edgedistill run --help"),
            (
                ["init", "photos", "--latenzy=5"],
                "unrecognized arguments: --latenzy=5 (did you mean --latency?); see edgedistill init --help",
            ),
            (["predict", "bundle", "--out", "x"], "the following arguments are required: INPUT; see edgedistill predict --help"),
            (["serve", "bundle", "--port", "many"], "argument --port: invalid int value: 'many'; see edgedistill serve --help"),
            (["run", "a.yaml", "b.yaml"], "unrecognized arguments: b.yaml"),
            (["run", "--runs", ""], "--runs is empty; give it a value; see edgedistill run --help"),
            (["predict", "bundle", "", "--out", "x"], "INPUT is empty; give it a value"),
        ],
    )
    def test_a_wrong_command_line_is_one_line(self, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
        code, out, err = outcome(capsys, *arguments)
        assert (code, out) == (2, "")
        assert err.startswith(f"edgedistill: {line}")
        assert err.count("\n") == 1

    def test_help_and_readers_of_this_table_see_every_code(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.main(["--help"])
        found = {int(number) for number in re.findall(r"^  (\d+) ", capsys.readouterr().out, re.MULTILINE)}
        assert found == {0, 1, 2, 3, 4, 5, 10, 11, 12, 130, 143}


class TestWriting:
    """Results go nowhere: a file where the folder should be, a device without room."""

    def test_a_folder_that_cannot_be_made(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        flow_samples.replace_training(monkeypatch)
        monkeypatch.chdir(tmp_path)
        Path("pipeline.yaml").write_text(flow_samples.CONFIG)
        Path("file").touch()
        for folder in ("file", "file/runs", "/proc/runs" if Path("/proc").exists() else "file"):
            code, _, err = outcome(capsys, "run", "--runs", folder)
            assert (code, err.count("\n")) == (4, 1)
            assert "cannot be created" in err

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
    def test_a_full_disk(self) -> None:
        with pytest.raises(OSError, match="No space") as caught:
            Path("/dev/full").write_text("x")
        found = refusal(caught.value)
        assert found is not None
        assert found[0] == 4

    def test_a_working_directory_that_was_deleted(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        assert outcome(capsys, "config") == (2, "", "edgedistill: the working directory was deleted; change into one that exists\n")

    def test_a_summary_that_cannot_be_written_leaves_the_old_one(self, tmp_path: Path) -> None:
        from pipeline.store.files import replace_json

        file = tmp_path / "summary.json"
        replace_json(file, {"map": 0.5})
        with pytest.raises(ValueError, match="not JSON compliant"):
            replace_json(file, {"map": float("nan")})
        assert json.loads(file.read_text()) == {"map": 0.5}
        assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


class TestProcess:
    """What only a process of its own shows."""

    def test_help_imports_neither_torch_nor_numpy_nor_pydantic(self) -> None:
        script = (
            "import sys\nfrom pipeline.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
            "sys.exit(sorted({'torch', 'numpy', 'pydantic', 'yaml', 'PIL', 'onnxruntime'} & set(sys.modules)) or 0)"
        )
        done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    def test_a_plan_needs_no_torch(self, small_file: Path) -> None:
        script = (
            "import sys\nfrom pipeline.cli import main\n"
            f"code = main(['run', {str(small_file)!r}, '--dry-run', '--runs', {str(small_file.parent)!r}])\n"
            "sys.exit(sorted({'torch', 'torchvision', 'onnxruntime', 'matplotlib'} & set(sys.modules)) or code)"
        )
        done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    def test_a_reader_that_leaves_does_not_end_the_work(self, small_file: Path) -> None:
        with subprocess.Popen([*PROGRAM, "config", str(small_file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 0

    def test_a_terminal_that_lacks_a_character_shows_its_number(self, small_file: Path) -> None:
        command = [*PROGRAM, "config", str(small_file), "--set", "package.description=grün"]
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr, "description: gr\\xfcn" in done.stdout) == (0, "", True)
        done = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, check=False)
        assert json.loads(done.stdout)["package"]["description"] == "grün"

    @pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
    def test_closed_streams_change_no_exit_code(self, small_file: Path, closed: str) -> None:
        command = ["sh", "-c", f'exec "$@" {closed}', "sh", *PROGRAM, "config", str(small_file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")
        assert bool(done.stdout) == (closed == "2>&-")

    def test_what_is_opened_later_does_not_take_the_place_of_a_closed_stream(self, small_file: Path) -> None:
        """Otherwise what is printed, or what a library reports, would end up in it."""
        script = f"import os\nfrom pipeline.cli import main\nmain(['config', {str(small_file)!r}])\n"
        script += f"raise SystemExit(os.open({str(small_file)!r}, os.O_RDONLY))"
        command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-P", "-c", script]
        assert subprocess.run(command, check=False, timeout=PATIENCE).returncode > 2

    def test_sigterm_is_one_line_and_ends_the_program_as_a_signal_does(self, small_file: Path) -> None:
        wait = "import time; from pipeline.commands import run; run.run = lambda args: (print('in', flush=True), time.sleep(600))"
        script = f"import sys\nfrom pipeline.cli import main\n{wait}\nsys.exit(main(['run', {str(small_file)!r}, '--json']))"
        command = [sys.executable, "-P", "-c", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "in\n"
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=PATIENCE)
        line = "terminated; run the same command again to continue"
        assert (process.returncode, err) == (-signal.SIGTERM, f"edgedistill: {line}\n")
        assert json.loads(out) == {"error": line, "exit_code": 143}

    def test_a_sigterm_that_an_import_turned_into_another_error_is_still_one(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], small_file: Path
    ) -> None:
        def broken(args: object) -> Answer:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
            raise AttributeError("partially initialized module")

        ended: list[bool] = []
        monkeypatch.setattr(run, "run", broken)
        monkeypatch.setattr(cli, "end_by_sigterm", lambda: ended.append(True))
        code, _, err = outcome(capsys, "run", str(small_file))
        assert (code, err, ended) == (143, "edgedistill: terminated; run the same command again to continue\n", [True])

    def test_ctrl_c_is_one_line(self, small_file: Path) -> None:
        wait = "import time; from pipeline.commands import run; run.run = lambda args: (print('in', flush=True), time.sleep(600))"
        script = f"import sys\nfrom pipeline.cli import main\n{wait}\nsys.exit(main(['run', {str(small_file)!r}]))"
        command = [sys.executable, "-P", "-c", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "in\n"
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (130, "edgedistill: interrupted; run the same command again to continue\n")


class TestConfig:
    def test_what_it_prints_is_a_configuration_again(self, capsys: pytest.CaptureFixture[str], small_file: Path) -> None:
        _, printed, _ = outcome(capsys, "config", str(small_file), "--set", "seed=7")
        again = small_file.with_name("again.yaml")
        again.write_text(printed)
        assert outcome(capsys, "config", str(again))[1] == printed
        assert yaml.safe_load(printed)["seed"] == 7

    def test_json_and_schema(self, capsys: pytest.CaptureFixture[str], small_file: Path) -> None:
        assert json.loads(outcome(capsys, "config", str(small_file), "--json")[1])["name"] == "small"
        assert json.loads(outcome(capsys, "config", "--schema")[1])["title"] == "edgedistill pipeline.yaml"


class TestRunText:
    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
        monkeypatch.chdir(tmp_path)
        flow_samples.replace_training(monkeypatch)
        Path("pipeline.yaml").write_text(flow_samples.CONFIG)
        return lambda *arguments: outcome(capsys, "run", *arguments)[1].splitlines()

    def test_stages_then_tables_then_paths(self, run: Callable[..., list[str]]) -> None:
        lines = run()
        assert re.fullmatch(r"prepare +running: never ran", lines[0])
        assert re.fullmatch(r"prepare +done in \d+\.\d s", lines[1])
        text = "\n".join(lines)
        for name, figure in (("teacher", "0.6000"), ("baseline", "0.4000"), ("baseline, equal cost", "0.4500"), ("student", "0.5000")):
            assert re.search(rf"^{name} +{figure} ", text, re.MULTILINE)
        assert "gain from distillation: +0.0500 map at equal cost, +0.1000 at equal steps" in lines
        assert "33% of the gap to the teacher at equal cost; on 6 images of split val" in lines
        baselines = "baseline: the student's network trained without the teacher, for as many steps and, at equal cost, for as long"
        assert baselines in lines
        assert "a distilled step takes 1.50 times as long as a plain one (95% interval 1.48 to 1.52)" in lines
        assert "! 6 images are too few to tell any of these gains from 0; at least 20 are needed" in lines
        assert re.search(r"^cpu +ort +fp32 +1\.0000 ", text, re.MULTILINE)
        assert "! gpu was not measured: tensorrt is not installed" in text
        assert re.search(r"^accuracy +cpu +map +1\.0000 +>= 0\.1 +pass$", text, re.MULTILINE)
        assert lines[-4:] == [f"runs/small/{name}" for name in ("summary.json", "report.html", "bundle/cpu", "bundle/gpu")]
        assert re.fullmatch(r"prepare +reused", run()[0])

    def test_a_plan(self, run: Callable[..., list[str]]) -> None:
        assert re.fullmatch(r"prepare +would run: never ran", run("--dry-run")[0])
        assert not Path("runs").exists()

    def test_until(self, run: Callable[..., list[str]]) -> None:
        assert run("--until", "prepare")[-1].startswith("stopped after prepare, as requested")


class TestBundleCommands:
    def test_predict_draws_and_counts(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        bundle = artifact_samples.bundle(tmp_path)
        image = tmp_path / "image.png"
        Image.fromarray(onnx_samples.picture({(0, 1): 0, (2, 3): 2})).save(image)
        code, out, _ = outcome(capsys, "predict", str(bundle.root), str(image), "--out", str(tmp_path / "out"))
        assert (code, out) == (0, f"{tmp_path / 'out' / 'image.png'}: 2 objects in 64 x 64 px\n")
        code, out, _ = outcome(capsys, "predict", str(bundle.root), str(image), "--out", str(tmp_path / "out"), "--json")
        assert json.loads(out)["images"][0]["drawn"] == "image.png"

    def test_predict_names_an_image_that_cannot_be_read_and_does_the_others(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        bundle, photos = artifact_samples.bundle(tmp_path), tmp_path / "photos"
        photos.mkdir()
        Image.fromarray(onnx_samples.picture({(0, 1): 0})).save(photos / "good.png")
        (photos / "bad.png").write_bytes(b"no image")
        code, out, err = outcome(capsys, "predict", str(bundle.root), str(photos), "--out", str(photos / "found"))
        assert (code, out) == (3, f"{photos / 'found' / 'good.png'}: 1 objects in 64 x 64 px\n")
        assert re.fullmatch(r"edgedistill: left out: .*bad\.png: not an image that can be read; .*\n", err)
        code, out, _ = outcome(capsys, "predict", str(bundle.root), str(photos), "--out", str(photos / "found"), "--json")
        answer = json.loads(out)
        assert (code, answer["exit_code"], len(answer["images"]), len(answer["failed"])) == (3, 3, 1, 1)

    def test_a_damaged_bundle_is_refused(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        bundle = artifact_samples.bundle(tmp_path)
        (bundle.root / "engine.onnx").write_bytes(b"other")
        for command, *others in (["gate"], ["predict", "x.png", "--out", str(tmp_path)], ["serve"]):
            code, _, err = outcome(capsys, command, str(bundle.root), *others)
            assert (code, "sha256" in err, err.count("\n")) == (4, True, 1)

    def test_serve_takes_its_address_from_the_configuration_and_the_command_line(
        self, monkeypatch: pytest.MonkeyPatch, small_file: Path
    ) -> None:
        served: list[tuple[str, int, int | None, int, bool]] = []

        def serve(folder: Path, config: ServeConfig, *, allow_ungated: bool, trust: Trust) -> None:
            served.append((config.host, config.port, config.grpc_port, config.sessions, allow_ungated))
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # until the server hears it

        monkeypatch.setattr("deploy.serving.process.serve", serve)
        small_file.write_text(small_file.read_text() + "serve: {port: 9000, sessions: 2}\n")
        before = signal.getsignal(signal.SIGHUP)  # under nohup it is ignored
        cli.main(["serve", "bundle"])
        given = ["--config", str(small_file), "--host", "0.0.0.0", "--set", "sessions=3", "--grpc-port", "9001", "--allow-ungated"]
        cli.main(["serve", "bundle", *given])
        assert signal.getsignal(signal.SIGHUP) is before
        assert served == [("127.0.0.1", 8000, None, 1, False), ("0.0.0.0", 9000, 9001, 3, True)]

    @pytest.mark.parametrize(
        ("given", "line"),
        [
            (["--set", "sesions=2"], "serve.sesions: no such key (did you mean sessions?); choose from host, port, "),
            (["--set", "sessions=0"], "serve.sessions: got 0, allowed: greater than or equal to 1; see docs/configuration.md"),
            (["--workers", "0"], "--workers: got 0, allowed: greater than or equal to 1; see docs/configuration.md"),
            (["--workers", "65"], "--workers: got 65, allowed: less than or equal to 64"),
            (["--set", "sessions=many"], 'serve.sessions: got "many", allowed: '),
            (["--set", "port=010"], '--set port=010: port: got "010", allowed: a number'),
            (["--port", "70000"], "--port: got 70000, allowed: less than or equal to 65535"),
            (["--set", "token_file=nowhere"], "serve.token_file nowhere: No such file or directory"),
        ],
    )
    def test_serve_refuses_what_is_not_allowed(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], line: str
    ) -> None:
        made = artifact_samples.bundle(tmp_path)
        assert cli.main(["serve", str(made.root), *given]) == 2
        assert capsys.readouterr().err.startswith(f"edgedistill: {line}")

    def test_serve_check_says_whether_it_would_be_served(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        made = artifact_samples.bundle(tmp_path / "good")
        assert cli.main(["serve", str(made.root), "--check", "--set", "max_batch_size=2"]) == 0
        assert "can be served here, up to 2 images per pass" in capsys.readouterr().out
        bad = artifact_samples.bundle(tmp_path / "bad", ({"metric": "map", "min": 2.0},))
        assert cli.main(["serve", str(bad.root), "--check"]) == 4
        assert cli.main(["serve", str(bad.root), "--check", "--allow-ungated"]) == 0


class TestCheck:
    @pytest.fixture
    def cells(self, tmp_path: Path) -> Path:
        """A configuration on a folder in COCO's layout."""
        artifact_samples.dataset(tmp_path / "cells")
        path = tmp_path / "pipeline.yaml"
        path.write_text(flow_samples.CONFIG.replace("{dataset: digits}", f"{{dataset: coco, root: {tmp_path / 'cells'}}}"))
        for split in ("train", "val"):
            (tmp_path / "cells" / "annotations").mkdir(exist_ok=True)
            (tmp_path / "cells" / f"{split}.json").rename(tmp_path / "cells" / "annotations" / f"{split}.json")
        return path

    def test_the_environment_alone(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        code, out, _ = outcome(capsys, "check", "--json")
        found = json.loads(out)
        assert (code, found["clashes"], found["config"], found["runtimes"]["ort"]) == (0, {}, None, None)
        assert found["packages"]["numpy"] == np.__version__
        assert "pytest" not in found["packages"]

    def test_a_foreign_package_of_our_name_is_an_error(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        owners = {"pipeline": ["edgedistill", "pipeline"], "stages": ["edgedistill"], "numpy": ["numpy"]}
        monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: owners)
        code, out, _ = outcome(capsys, "check")
        assert code == 2
        assert "error: pipeline installs a package called pipeline, a name that edgedistill uses; run: pip uninstall pipeline && " in out

    def test_data_are_examined(self, capsys: pytest.CaptureFixture[str], cells: Path) -> None:
        code, out, _ = outcome(capsys, "check", str(cells), "--json")
        found = json.loads(out)
        assert found["config"] == str(cells)
        assert code == (3 if any(finding["level"] == "error" for finding in found["data"]) else 0)

    def test_data_that_are_not_there_are_an_error(self, capsys: pytest.CaptureFixture[str], cells: Path) -> None:
        code, out, _ = outcome(capsys, "check", str(cells), "--set", "data.root=/nowhere")
        assert (code, "error: " in out) == (3, True)

    @pytest.mark.parametrize(
        ("setting", "problem"),
        [
            ("student.detector.backbone=resnet81", "detector fcos: no backbone 'resnet81' (did you mean resnet18?)"),
            ("data.preprocessing.height=100", "data.preprocessing.height: got 100, but fcos as configured needs a multiple of 32"),
            ("teacher.detector={name: retinanet, strides: [64, 128]}", "strides"),
        ],
    )
    def test_networks_that_cannot_be_built_are_an_error(
        self, capsys: pytest.CaptureFixture[str], cells: Path, setting: str, problem: str
    ) -> None:
        """Found here, not after the teacher has been trained."""
        code, out, err = outcome(capsys, "check", str(cells), "--set", setting)
        assert code == 2
        assert problem in out + err


def test_lines_from_processes_after_the_first_are_not_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    answer.emit(Answer({}, "text"), as_json=False)
    assert capsys.readouterr().out == ""


def test_the_names_of_stages_are_those_of_their_functions() -> None:
    assert [getattr(flow, name).__name__ for name in STAGES] == list(STAGES)
