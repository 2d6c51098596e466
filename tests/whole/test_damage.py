"""What a disk does to a run: full, or with damaged files in the store, in a checkpoint, in a bundle."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import artifact_samples
import flow_samples
import numpy as np
import onnx_samples
import pytest
from PIL import Image
from places import ROOT

import stages.distill
from deploy.bundles import bundle
from pipeline import cli, flow
from stages.artifacts import Checkpoint, Dataset, ImagePool, PseudoLabels
from stages.config import DetectorConfig, ExportConfig, StudentConfig, TeacherConfig
from stages.measurement.torch_accuracy import graph_options
from stages.stage import stage
from stages.training.checkpoint import build_detector, save

SMALL = ROOT / "examples" / "small.yaml"
Outcome = tuple[int, str, str]
Run = Callable[..., Outcome]


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> Outcome:
    """Exit code, stdout and the line of an error without its prefix."""
    code = cli.main(arguments)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    lines = [line for line in captured.err.splitlines() if line.startswith("edgedistill: ")]
    assert len(lines) == (0 if code == 0 else 1), captured.err
    return code, captured.out, "".join(lines).removeprefix("edgedistill: ")


def spoil(file: Path) -> None:
    """Other bytes, as many as before."""
    file.write_bytes(b"\x13" * file.stat().st_size)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `runs` after a whole run."""
    return flow_samples.finished(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`edgedistill run` where it ran before."""
    monkeypatch.chdir(tmp_path)
    flow_samples.replace_training(monkeypatch)
    Path("pipeline.yaml").write_text(flow_samples.CONFIG)
    shutil.copytree(finished, "runs")
    return lambda *arguments: outcome(capsys, "run", *arguments)


def only(pattern: str) -> Path:
    """The one file of the store that fits."""
    (found,) = Path("runs/.store").glob(pattern)
    return found


class TestStore:
    @pytest.mark.parametrize(
        ("damage", "stage", "reason"),
        [
            (lambda: next(Path("runs/.store").glob("optimize-*/engine.onnx")).unlink(), "optimize:", "engine.onnx in the store is not"),
            (lambda: only("prepare-*/val.json").unlink(), "prepare", "val.json in the store is not"),
            (lambda: os.truncate(only("prepare-*/train.json"), 20), "prepare", "train.json in the store is not"),
            (lambda: only("prepare-*/stage.json").unlink(), "prepare", "its result is gone"),
            (lambda: spoil(only("distill-*/stage.json")), "distill", "stage.json in the store is not"),
            (lambda: shutil.rmtree(only("distill-*")), "distill", "its result is gone"),
        ],
        ids=["no engine", "no annotations", "cut short", "not stamped", "stamp spoiled", "no folder"],
    )
    def test_a_result_that_is_not_whole_is_made_again(self, run: Run, damage: Callable[[], object], stage: str, reason: str) -> None:
        before = Path("runs/small/bundle/cpu/manifest.json").read_bytes()
        damage()
        code, said, _ = run()
        assert code == 0
        running = [line for line in said.splitlines() if " running: " in line]
        assert running
        assert all(line.startswith(stage) and f"running: {reason}" in line for line in running)
        assert Path("runs/small/bundle/cpu/manifest.json").read_bytes() == before
        assert run()[1].count(" running: ") == 0

    @pytest.mark.parametrize(
        ("pattern", "arguments"),
        [
            ("distill-*/artifact.json", ()),
            ("distill-*/weights.safetensors", ("--force", "export")),
            ("export-*/model.onnx", ("--force", "optimize:cpu")),
            ("optimize-*/engine.onnx", ("--force", "validate")),
            ("package-*/engine.onnx", ()),
            ("validate-*/artifact.json", ()),
        ],
    )
    def test_flipped_bytes_are_named_and_made_again(self, run: Run, pattern: str, arguments: tuple[str, ...]) -> None:
        kept = {file: file.read_bytes() for file in Path("runs/.store").glob(pattern)}
        published = {file: file.read_bytes() for file in Path("runs/small/bundle").rglob("*") if file.suffix == ".onnx"}
        for file in kept:
            spoil(file)
        code, said, line = run(*arguments)
        assert code == 0, line
        assert said.count(f"running: {pattern.split('/')[1]} in the store is not as it was written") == len(kept)
        assert {file: file.read_bytes() for file in published} == published
        if pattern.endswith(("onnx", "safetensors")):
            assert {file: file.read_bytes() for file in kept} == kept

    def test_what_was_said_of_the_last_run_is_not_needed(self, run: Run) -> None:
        spoil(Path("runs/small/lock.json"))
        spoil(Path("runs/small/summary.json"))
        assert run()[0] == 0
        assert json.loads(Path("runs/small/summary.json").read_text())["exit_code"] == 0


DETECTOR = {"name": "fcos", "backbone": "resnet10", "width": 8, "norm": "group", "fpn_channels": 32, "strides": [8], "head_convs": 1}


@stage(version=1)
def untrained(
    out: Path,
    config: TeacherConfig | StudentConfig,
    seed: int,
    device: str,
    split: str,
    dataset: Dataset,
    export: ExportConfig,
    pool: ImagePool | None = None,
    classes: Mapping[str, str] | None = None,
    labels: PseudoLabels | None = None,
) -> Checkpoint:
    """A checkpoint without training."""
    choice = DetectorConfig.model_validate(DETECTOR)
    contract = dataset.facts.contract
    detector = build_detector(choice, len(contract.classes))
    save(out, detector, choice, contract, 0, artifact_samples.accuracy(), graph_options(export))
    return Checkpoint(out)


class TestCheckpoint:
    @pytest.fixture
    def distill(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
        """`edgedistill run --until distill` with a teacher in the store."""
        monkeypatch.chdir(tmp_path)
        flow_samples.replace_training(monkeypatch)
        monkeypatch.setattr(flow, "train_teacher", untrained)
        monkeypatch.setattr(flow, "distill", stages.distill.distill)
        Path("pipeline.yaml").write_text(flow_samples.CONFIG.replace(flow_samples.FCOS, json.dumps(DETECTOR)))
        assert outcome(capsys, "run", "--until", "train_baseline")[0] == 0
        return lambda *arguments: outcome(capsys, "run", "--until", "distill", *arguments)

    @pytest.mark.parametrize("num_bytes", [8, 200])
    def test_damaged_weights_in_the_store_are_made_again(self, distill: Run, num_bytes: int) -> None:
        weights = only("untrained-*/weights.safetensors")
        whole = weights.read_bytes()
        weights.write_bytes(b"\xff" * num_bytes + whole[num_bytes:])
        words = "weights.safetensors in the store is not as it was written"
        assert words in distill("--dry-run")[1]
        code, said, line = distill()
        assert (code, words in said) == (0, True), line
        assert weights.read_bytes() == whole

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"width": 16}, "instead of (8, 3, 7, 7), so it belongs to a detector with different options"),
            ({"head_convs": 2}, "to a different detector"),
        ],
    )
    def test_weights_of_another_detector_are_refused(self, distill: Run, changes: dict[str, int], words: str) -> None:
        other = build_detector(DetectorConfig.model_validate({**DETECTOR, **changes}), 3)
        Path("other").mkdir()
        choice = DetectorConfig.model_validate(DETECTOR)
        save(Path("other"), other, choice, onnx_samples.contract(), 0, artifact_samples.accuracy(), graph_options(ExportConfig()))
        code, _, line = distill("--set", "student.weights=other")
        assert (code, words in line) == (4, True), line


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_goes_while_training_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int) -> None:
    options = (
        "data.train_images=4",
        "data.val_images=1",
        "data.test_images=1",
        "data.shifted_images=1",
        f"teacher.train.workers={workers}",
    )
    command = ["run", str(SMALL), "--runs", str(tmp_path), *(word for option in options for word in ("--set", option)), "--until"]
    assert outcome(capsys, *command, "prepare")[0] == 0
    (image,) = tmp_path.glob(".store/prepare-*/images/train/000003.jpg")
    spoil(image)
    (stamp,) = tmp_path.glob(".store/prepare-*/stage.json")
    known = json.loads(stamp.read_text())
    stamp.write_text(json.dumps({**known, "sha256": {}}))  # or the store would make it again
    code, _, line = outcome(capsys, *command, "train_teacher")
    assert (code, line.startswith(f"{image}: not an image that can be read")) == (3, True), line


class TestFullDisk:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Callable[[int], Path]]:
        """Mounts a disk of so many KiB, or gives it that size."""
        folder = tmp_path / "disk"
        folder.mkdir()

        def mount(size: int) -> Path:
            options = f"{'remount,' if folder.is_mount() else ''}size={size}k"
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False)
            if done.returncode != 0:
                pytest.skip("a small disk can only be mounted by root, on Linux")
            return folder

        if not shutil.which("mount"):
            pytest.skip("no mount on this system")
        yield mount
        subprocess.run(["umount", str(folder)], capture_output=True, check=False)

    @pytest.mark.parametrize(
        ("size", "stage"), [(40, "prepare"), (500, "train_teacher"), (1200, "train_teacher"), (2000, "train_teacher")], ids=str
    )
    def test_one_line_and_then_the_same_command_goes_on(
        self, disk: Callable[[int], Path], capsys: pytest.CaptureFixture[str], size: int, stage: str
    ) -> None:
        runs = disk(size) / "runs"
        options = ("data.train_images=8", "data.val_images=4", "data.test_images=1", "data.shifted_images=1", "teacher.train.epochs=2")
        command = [
            "run",
            str(SMALL),
            "--runs",
            str(runs),
            "--until",
            "train_teacher",
            *(w for option in options for w in ("--set", option)),
        ]
        code, said, line = outcome(capsys, *command)
        assert (code, said.splitlines()[-1]) == (4, f"{stage:<28} running: never ran")
        assert "No space left on device" in line or "is the disk full?" in line
        disk(20_000)
        code, said, _ = outcome(capsys, *command)
        assert code == 0
        assert ("prepare                      reused" in said) == (stage != "prepare")

    def test_a_state_that_torch_cannot_write(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(*_: object) -> None:
            raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 184512 vs 184404")

        monkeypatch.setattr("accelerate.Accelerator.save_state", full)
        command = ["run", str(SMALL), "--runs", str(tmp_path), "--until", "train_teacher", "--set", "data.train_images=8"]
        code, _, line = outcome(capsys, *command)
        assert (code, "resume.new: cannot be written (is the disk full?)" in line) == (4, True)


class TestBundle:
    @pytest.fixture
    def made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The folder of a bundle, and image.png in the working folder."""
        monkeypatch.chdir(tmp_path)
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("image.png")
        return artifact_samples.bundle(Path("made")).root

    @pytest.mark.parametrize("share", [0, 0.5])
    @pytest.mark.parametrize("command", ["predict", "serve"])
    def test_an_engine_that_is_none_is_refused_though_its_hash_is_right(
        self, made: Path, capsys: pytest.CaptureFixture[str], command: str, share: float
    ) -> None:
        engine, manifest = made / "engine.onnx", made / "manifest.json"
        engine.write_bytes(engine.read_bytes()[: int(engine.stat().st_size * share)])
        named = json.loads(manifest.read_text())
        named["files"]["engine.onnx"] = bundle.sha256(engine)
        manifest.write_text(json.dumps(named))
        rest = ["image.png", "--out", "found"] if command == "predict" else ["--port", "0"]
        code, _, line = outcome(capsys, command, str(made), *rest)
        assert (code, "engine.onnx: not an engine" in line) == (4, True), line
        assert not Path("found").exists()

    @pytest.mark.parametrize("out", ["image.png", "image.png/found", "/proc/found"])
    def test_a_folder_that_cannot_be_made_is_refused(self, made: Path, capsys: pytest.CaptureFixture[str], out: str) -> None:
        if out.startswith("/proc") and not Path("/proc").is_dir():
            pytest.skip("no /proc on this system")
        code, _, line = outcome(capsys, "predict", str(made), "image.png", "--out", out)
        assert (code, line.startswith(f"{out}: cannot be written (")) == (4, True), line

    def test_a_drawing_that_cannot_be_written_is_refused(self, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
        Path("found/image.png").mkdir(parents=True)
        code, _, line = outcome(capsys, "predict", str(made), "image.png", "--out", "found")
        assert (code, "found/image.png" in line) == (4, True), line

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["predict", "made/bundle", "image.png", "--out", "found", "--score", "5"], "--score 5.0: allowed: 0 to 1"),
            (["predict", "made/bundle", "image.png", "--out", "found", "--score", "nan"], "--score nan: allowed: 0 to 1"),
            (["serve", "made/bundle", "--port", "99999"], "--port: got 99999, allowed: "),
            (["gate", "made/bundle", "--set", "gates.0.min=0"], "made/bundle is a bundle, whose gates were judged when it was packaged"),
        ],
    )
    def test_an_option_that_means_nothing_is_refused(
        self, made: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
    ) -> None:
        code, _, line = outcome(capsys, *arguments)
        assert (code, words in line) == (2, True), line
        assert not Path("found").exists()
