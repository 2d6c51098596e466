"""`import edgedistill`: the predictions of `edgedistill predict`, runs and gates as values, and nothing imported before its use."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import FrozenInstanceError
from inspect import signature
from pathlib import Path
from typing import Any

import artifact_samples
import flow_samples
import numpy as np
import onnx_samples
import pytest
from PIL import Image
from places import ROOT

import edgedistill
from deploy.bundles.bundle import Bundle, write
from deploy.precision import Batch
from deploy.predict import predict_images
from deploy.prediction.detections import to_coco
from deploy.prediction.draw import draw
from deploy.runtimes import Raw
from deploy.runtimes.ort import OrtSession

PAGE, EXAMPLE = ROOT / "docs" / "python.md", ROOT / "examples" / "predict.py"
WIDE = np.repeat(np.repeat(onnx_samples.picture({(1, 1): 2, (2, 3): 0})[16:48], 2, axis=0), 2, axis=1)
"""[64, 128, 3]: halved for the network, with 16 px of padding above and below. A blue and a red square of 32 px."""
BOXES = {"blue": [32, 0, 64, 32], "red": [96, 32, 128, 64]}
ROTATED = 6
"""EXIF: the camera was turned by 90 degrees, clockwise seen from behind."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return artifact_samples.bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(WIDE).save(path)
    return path


def with_masks(root: Path) -> Bundle:
    """A bundle whose detector has masks that cover the image."""
    plain = artifact_samples.bundle(root)
    onnx_samples.write(plain.root / "engine.onnx", mask_frame="image")
    contract = onnx_samples.contract(mask_frame="image")
    return write(plain.root, plain.manifest.model_copy(update={"contract": contract}), plain.manifest.files)


def by_name(found: edgedistill.Prediction) -> dict[str, list[float]]:
    return dict(zip(found.names, found.boxes.tolist(), strict=True))


def test_the_package_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "edgedistill", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"edgedistill {edgedistill.__version__}"


class TestPrediction:
    def test_it_equals_what_the_command_finds(self, bundle: Bundle, photo: Path, tmp_path: Path) -> None:
        written = predict_images(bundle, [photo], tmp_path / "out")
        contract = bundle.manifest.contract
        with edgedistill.Predictor(bundle.root, min_score=0) as predictor:
            found = predictor(photo)
        assert to_coco(found.detections, 1, contract) == written["annotations"]
        assert [contract.category_ids[label] for label in found.labels] == [one["category_id"] for one in written["annotations"]]
        assert {"width": found.width, "height": found.height}.items() <= written["images"][0].items()
        drawn = found.above(signature(predict_images).parameters["min_score"].default).draw()
        assert np.array_equal(np.asarray(drawn), np.asarray(Image.open(tmp_path / "out" / "photo.png")))

    def test_it_says_where_what_and_how_sure(self, bundle: Bundle, photo: Path) -> None:
        with edgedistill.Predictor(str(bundle.root)) as predictor:
            found = predictor(photo)
            assert predictor.classes == found.classes == onnx_samples.CLASSES
        assert by_name(found) == BOXES
        assert [onnx_samples.CLASSES[label] for label in found.labels] == list(found.names)
        assert (len(found), found.boxes.shape, found.scores.shape, found.masks) == (2, (2, 4), (2,), None)
        assert (found.width, found.height, repr(found)) == (128, 64, "<Prediction: 2 objects in 128 x 64 px>")
        assert 0 < found.timings.infer_ms < found.timings.end_to_end_ms

    @pytest.mark.parametrize("kind", ["str", "path", "bytes", "pillow", "opened", "array", "reversed array"])
    def test_every_kind_of_image_gives_the_same(self, bundle: Bundle, photo: Path, kind: str) -> None:
        with Image.open(photo) as opened, edgedistill.Predictor(bundle) as predictor:
            given: dict[str, Any] = {"str": str(photo), "path": photo, "bytes": photo.read_bytes(), "opened": opened}
            given |= {"pillow": Image.fromarray(WIDE), "array": WIDE, "reversed array": WIDE[..., ::-1].copy()[..., ::-1]}
            found = predictor(given[kind])
        assert by_name(found) == BOXES
        assert np.array_equal(found.image, WIDE)

    @pytest.mark.parametrize("kind", [Path, bytes, Image.Image])
    def test_boxes_are_in_the_upright_image(self, bundle: Bundle, tmp_path: Path, kind: type) -> None:
        exif = Image.Exif()
        exif[0x0112] = ROTATED
        path = tmp_path / "turned.png"
        Image.fromarray(np.rot90(WIDE)).save(path, exif=exif)  # stored turned to the left, to be turned to the right
        with Image.open(path) as opened, edgedistill.Predictor(bundle) as predictor:
            given: dict[type, Any] = {Path: path, bytes: path.read_bytes(), Image.Image: opened}
            found = predictor(given[kind])
        assert (found.width, found.height, by_name(found)) == (128, 64, BOXES)

    def test_grey_is_repeated(self, bundle: Bundle, tmp_path: Path) -> None:
        gray = Image.fromarray(np.full((64, 64), 90, np.uint8))
        gray.save(tmp_path / "gray.png")
        with edgedistill.Predictor(bundle, min_score=0) as predictor:
            one, other = predictor(gray), predictor(tmp_path / "gray.png")
        assert one.image.shape == (64, 64, 3)
        assert np.array_equal(one.image, other.image)
        assert one.boxes.tolist() == other.boxes.tolist()

    def test_nothing_in_the_image_is_an_answer(self, bundle: Bundle) -> None:
        with edgedistill.Predictor(bundle) as predictor:
            found = predictor(np.zeros((48, 64, 3), np.uint8))
        assert (len(found), found.boxes.shape, found.names, found.masks) == (0, (0, 4), (), None)
        assert not np.asarray(found.draw()).any()

    def test_scores_below_the_limit_are_left_out_and_the_limit_itself_is_not(self, bundle: Bundle, photo: Path) -> None:
        with edgedistill.Predictor(bundle, min_score=0) as predictor:
            everything = predictor(photo)
        best = float(everything.scores.max())
        with edgedistill.Predictor(bundle, min_score=best) as predictor:
            found = predictor(photo)
        assert found.scores.tolist() == everything.above(best).scores.tolist() == [one for one in everything.scores if one >= best]
        assert len(everything.above(1.0)) == 0

    def test_masks_are_of_the_image(self, tmp_path: Path) -> None:
        with edgedistill.Predictor(with_masks(tmp_path)) as predictor:
            found = predictor(WIDE)
        assert found.masks is not None
        assert (found.masks.shape, found.masks.dtype.name) == ((2, 64, 128), "bool")
        for box, mask in zip(found.boxes, found.masks, strict=True):
            inside = np.argwhere(mask)
            assert [*inside.min(axis=0)[::-1], *(inside.max(axis=0)[::-1] + 1)] == box.astype(int).tolist()
        assert not found.masks.flags.writeable
        assert np.array_equal(np.asarray(found.draw()), np.asarray(draw(WIDE, found.detections, onnx_samples.CLASSES)))

    def test_it_cannot_be_changed(self, bundle: Bundle) -> None:
        given = WIDE.copy()
        with edgedistill.Predictor(bundle) as predictor:
            found = predictor(given)
        given[:] = 0  # as a camera's buffer is, for the next frame
        assert np.array_equal(found.image, WIDE)
        for array in (found.image, found.boxes, found.scores, found.labels, found.above(0.5).boxes):
            with pytest.raises(ValueError, match="read-only"):
                array[:] = 0
        with pytest.raises(FrozenInstanceError):
            found.classes = ("other",)  # type: ignore[misc]

    def test_drawing_leaves_the_input_as_it_was(self, bundle: Bundle) -> None:
        given = Image.fromarray(WIDE)
        with edgedistill.Predictor(bundle) as predictor:
            found = predictor(given)
        before = found.image.copy()
        drawn = found.draw()
        assert np.array_equal(np.asarray(given), WIDE)
        assert np.array_equal(found.image, before)
        assert drawn.size == (128 * 4, 64 * 4)  # enlarged
        assert np.asarray(drawn).any(axis=2).sum() > np.asarray(given).any(axis=2).sum() * 16  # ink beside the objects


def _png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


REFUSED: dict[str, tuple[Any, str]] = {
    "no file": ("none.png", "none.png: cannot be read as an image (No such file"),
    "a folder": (Path(), "cannot be read as an image"),
    "not an image": (b"hello", "image of 5 bytes: not an image that can be read"),
    "half an image": (_png()[:60], "cannot be read as an image"),
    "half an image of Pillow's": (Image.open(io.BytesIO(_png()[:60])), "cannot be read as an image"),
    "floating-point pixels": (Image.new("F", (8, 8)), "floating-point pixels have no known range"),
    "no pixel in an array": (np.zeros((0, 9, 3), np.uint8), "an image of 9 x 0 px"),
    "no pixel in a picture": (Image.new("RGB", (9, 0)), "an image of 9 x 0 px"),
    "floats": (np.zeros((8, 8, 3), np.float32), "an array [8, 8, 3] of float32, allowed: [H, W, 3] of uint8"),
    "channels first": (np.zeros((3, 8, 8), np.uint8), "an array [3, 8, 8] of uint8"),
    "a gray array": (np.zeros((8, 8), np.uint8), "an array [8, 8] of uint8"),
}


class TestPredictor:
    @pytest.mark.parametrize(("given", "words"), REFUSED.values(), ids=REFUSED)
    def test_an_image_that_cannot_be_used(self, bundle: Bundle, given: Any, words: str) -> None:
        with edgedistill.Predictor(bundle) as predictor:
            with pytest.raises(edgedistill.DataError, match=re.escape(words)) as caught:
                predictor(given)
            assert "\n" not in str(caught.value)
            assert by_name(predictor(WIDE)) == BOXES  # and the next image is looked at

    def test_something_that_is_no_image_is_a_type_error(self, bundle: Bundle) -> None:
        with edgedistill.Predictor(bundle) as predictor, pytest.raises(TypeError, match="int: an image must be a path"):
            predictor(7)  # type: ignore[arg-type]

    @pytest.mark.parametrize("options", [{"min_score": -0.1}, {"min_score": 1.1}, {"min_score": float("nan")}, {"threads": 0}], ids=str)
    def test_options_out_of_range(self, bundle: Bundle, options: dict[str, Any]) -> None:
        with pytest.raises(edgedistill.ConfigError, match="allowed"):
            edgedistill.Predictor(bundle, **options)

    def test_a_damaged_bundle(self, bundle: Bundle, tmp_path: Path) -> None:
        folder = shutil.copytree(bundle.root, tmp_path / "copy")
        (folder / "model.onnx").write_bytes(b"half")
        with pytest.raises(edgedistill.ArtifactError, match="sha256"):
            edgedistill.Predictor(folder)

    def test_closed_is_closed(self, bundle: Bundle) -> None:
        predictor = edgedistill.Predictor(bundle, threads=1)
        predictor.close()
        predictor.close()
        with pytest.raises(RuntimeError, match="closed"):
            predictor(WIDE)
        with edgedistill.Predictor(bundle) as predictor:
            pass
        with pytest.raises(RuntimeError, match="closed"):
            predictor(WIDE)

    def test_threads_share_it_and_the_engine_has_one_image_at_a_time(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        inside, most = [0], [0]
        fast = OrtSession.infer

        def infer(self: OrtSession, images: Batch) -> Raw:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            found = fast(self, images)
            threading.Event().wait(0.005)
            inside[0] -= 1
            return found

        monkeypatch.setattr(OrtSession, "infer", infer)
        pictures = [onnx_samples.picture({(number % 4, number // 4): number % 3}) for number in range(16)]
        found: dict[int, tuple[str, list[float]]] = {}

        def work(predictor: edgedistill.Predictor, numbers: range) -> None:
            for number in numbers:
                one = predictor(pictures[number])
                found[number] = one.names[0], one.boxes[0].tolist()

        with edgedistill.Predictor(bundle, threads=1) as predictor:
            threads = [threading.Thread(target=work, args=(predictor, range(first, 16, 4))) for first in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        cell = onnx_samples.CELL
        expected = {
            n: (onnx_samples.CLASSES[n % 3], [n // 4 * cell, n % 4 * cell, (n // 4 + 1) * cell, (n % 4 + 1) * cell]) for n in range(16)
        }
        assert found == expected
        assert most == [1]

    def test_close_waits_for_the_image_in_work(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        begun, go_on = threading.Event(), threading.Event()
        fast, found = OrtSession.infer, []

        def infer(self: OrtSession, images: Batch) -> Raw:
            begun.set()
            assert go_on.wait(60)
            return fast(self, images)

        monkeypatch.setattr(OrtSession, "infer", infer)
        predictor = edgedistill.Predictor(bundle)
        looking = threading.Thread(target=lambda: found.append(by_name(predictor(WIDE))))
        closing = threading.Thread(target=predictor.close)
        looking.start()
        assert begun.wait(60)
        closing.start()
        closing.join(0.1)
        assert closing.is_alive()
        go_on.set()
        looking.join(60)
        closing.join(60)
        assert found == [BOXES]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline whose networks are made up."""
    flow_samples.replace_training(monkeypatch)
    path = tmp_path / "pipeline.yaml"
    path.write_text(flow_samples.CONFIG)
    return path


class TestRun:
    def test_it_returns_what_the_command_writes(self, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        done = edgedistill.run(config, runs=tmp_path / "runs")
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "train_teacher" in printed.err
        assert done.folder == tmp_path / "runs" / "small"
        assert done.summary == json.loads((done.folder / "summary.json").read_text())
        assert done.exit_code == done.summary["exit_code"]
        assert (done.report.is_file(), sorted(done.bundles)) == (True, ["cpu", "gpu"])
        assert done.result.student.facts.accuracy.map == flow_samples.MAPS["student"]
        with edgedistill.Predictor(done.bundles["cpu"]) as predictor:
            assert by_name(predictor(WIDE)) == BOXES

    def test_the_second_reuses_everything_but_what_is_forced(self, config: Path, tmp_path: Path) -> None:
        chosen = edgedistill.load_config(config)
        edgedistill.run(chosen, runs=tmp_path / "runs")
        again = edgedistill.run(chosen, runs=str(tmp_path / "runs"))
        assert all(record.reused for record in again.result.stages)
        forced = edgedistill.run(chosen, runs=tmp_path / "runs", force="parity")
        assert {record.name for record in forced.result.stages if not record.reused} == {"parity"}
        with pytest.raises(edgedistill.ConfigError, match=r"no stage 'parrity' \(did you mean parity\?\)"):
            edgedistill.run(chosen, runs=tmp_path / "runs", force="parrity")

    def test_a_failed_gate_is_a_result(self, config: Path, tmp_path: Path) -> None:
        chosen = edgedistill.load_config(config, ["gates=[{metric: bytes, max: 1, target: cpu}]"])
        done = edgedistill.run(chosen, runs=tmp_path / "runs")
        assert (done.exit_code, done.summary["gates"][0]["verdict"]) == (10, "fail")

    def test_one_process_only(self, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(edgedistill.ConfigError, match="torchrun --no-python edgedistill run"):
            edgedistill.run(config, runs=tmp_path / "runs")

    def test_a_missing_extra_is_one_line(self, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def without_torch(*arguments: object) -> None:
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

        monkeypatch.setattr("pipeline.commands.run.compress", without_torch)
        with pytest.raises(edgedistill.ConfigError) as caught:
            edgedistill.run(config, runs=tmp_path / "runs")
        assert str(caught.value) == "this needs torch, which is not installed; run: pip install 'edgedistill[train]'"
        assert caught.value.exit_code == 2

    def test_the_unexpected_stays_what_it_is(self, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*arguments: object) -> None:
            raise ZeroDivisionError("our mistake")

        monkeypatch.setattr("pipeline.commands.run.compress", broken)
        with pytest.raises(ZeroDivisionError):
            edgedistill.run(config, runs=tmp_path / "runs")

    def test_configurations_are_read_as_by_the_command(self, config: Path) -> None:
        assert edgedistill.load_config(str(config), ["seed=7"]).seed == 7
        with pytest.raises(edgedistill.ConfigError, match="seed"):
            edgedistill.load_config(config, ["seed=many"])
        with pytest.raises(edgedistill.ConfigError, match=r"none\.yaml"):
            edgedistill.load_config(config.with_name("none.yaml"))


class TestGate:
    def test_a_bundle_carries_its_verdicts(self, bundle: Bundle) -> None:
        for subject in (bundle, bundle.root, str(bundle.root)):
            judged = edgedistill.gate(subject)
            assert (judged.exit_code, judged.passed, judged.verdicts) == (0, True, bundle.manifest.verdicts)

    def test_a_bundle_against_a_reference(self, tmp_path: Path) -> None:
        gates = [{"metric": "bytes", "max_increase": "0%"}]
        new, old = artifact_samples.bundle(tmp_path / "new", gates), artifact_samples.bundle(tmp_path / "old", gates)
        alone = edgedistill.gate(new)
        assert (alone.exit_code, [one.verdict for one in alone.verdicts]) == (12, ["incomparable"])
        judged = edgedistill.gate(new, reference=old.root)
        assert (judged.passed, [one.verdict for one in judged.verdicts]) == (True, ["pass"])

    def test_a_pipeline_that_has_run(self, config: Path, tmp_path: Path) -> None:
        runs = tmp_path / "runs"
        with pytest.raises(edgedistill.EdgedistillError) as caught:
            edgedistill.gate(config, runs=runs)
        assert caught.value.exit_code == 12
        done = edgedistill.run(config, runs=runs)
        for subject in (config, edgedistill.load_config(config)):
            judged = edgedistill.gate(subject, runs=runs)
            assert judged.exit_code == done.exit_code
            assert [one.model_dump(mode="json") for one in judged.verdicts] == done.summary["gates"]
        assert not (runs / "small" / "gate.json").exists()

    @pytest.mark.parametrize("options", [{"data": "x"}, {"reference": "x"}])
    def test_what_would_judge_nothing_is_refused(self, bundle: Bundle, config: Path, tmp_path: Path, options: dict[str, Any]) -> None:
        edgedistill.run(config, runs=tmp_path / "runs")
        for subject in (bundle, config):
            with pytest.raises(edgedistill.ConfigError):
                edgedistill.gate(subject, runs=tmp_path / "runs", **options)


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-P", "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


class TestImport:
    def test_nothing_is_loaded_before_it_is_used(self, tmp_path: Path) -> None:
        code = """
import sys
before = set(sys.modules)
import edgedistill
import edgedistill as again
dir(edgedistill)
print(sorted({name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
edgedistill.EdgedistillError
print(sorted({name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
edgedistill.Predictor
print(sorted({"torch", "onnxruntime", "pipeline", "numpy"} & {name.split(".")[0] for name in sys.modules}))
edgedistill.run, edgedistill.gate
print(sorted({"torch", "onnxruntime"} & {name.split(".")[0] for name in sys.modules}))
"""
        done = python(code, tmp_path)
        assert (done.stderr, done.stdout.splitlines()) == ("", ["['edgedistill']", "['deploy', 'edgedistill']", "['numpy']", "[]"])

    def test_every_name_is_there_and_no_other(self) -> None:
        assert set(edgedistill.__all__) == set(edgedistill._MODULES)
        assert {*edgedistill.__all__, "__version__"} <= set(dir(edgedistill))
        for name in edgedistill.__all__:
            assert getattr(edgedistill, name).__name__ == name
        assert re.fullmatch(r"\d+\.\d+\.\d+", edgedistill.__version__)

    def test_a_misspelled_name_names_the_right_one(self) -> None:
        with pytest.raises(AttributeError, match=r"edgedistill has no Predicter \(did you mean Predictor\?\)"):
            _ = edgedistill.Predicter  # type: ignore[attr-defined]
        assert not hasattr(edgedistill, "zzz")

    def test_types_are_known(self, tmp_path: Path) -> None:
        (tmp_path / "use.py").write_text(TYPED, encoding="utf-8")
        command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
        done = subprocess.run([*command, str(tmp_path / "use.py"), str(EXAMPLE)], cwd=ROOT, capture_output=True, text=True, check=False)
        wrong, misspelled = done.stdout.splitlines()
        assert "use.py:13: error" in wrong
        assert wrong.endswith("[arg-type]")
        assert "use.py:14: error" in misspelled
        assert misspelled.endswith("[attr-defined]")


TYPED = """\
from typing import assert_type
import numpy as np
from numpy.typing import NDArray
import edgedistill

found = edgedistill.Predictor("bundle")("photo.jpg")
assert_type(found, edgedistill.Prediction)
assert_type(found.boxes, NDArray[np.float64])
assert_type(edgedistill.load_config("pipeline.yaml"), edgedistill.PipelineConfig)
assert_type(edgedistill.gate("bundle").passed, bool)
assert_type(edgedistill.run("pipeline.yaml").exit_code, int)
assert_type(edgedistill.__version__, str)
edgedistill.Predictor("bundle")(7)
edgedistill.Predicter
"""
"""Right uses, of which none is Any, then one wrong type and one wrong name."""


class TestExample:
    def test_it_runs(self, bundle: Bundle, photo: Path, tmp_path: Path) -> None:
        code = f"import runpy, sys; sys.argv[1:] = {[str(bundle.root), photo.name]!r}; runpy.run_path({str(EXAMPLE)!r})"
        done = python(code, tmp_path)
        assert done.stderr == ""
        first, *found, last = done.stdout.splitlines()
        assert first.startswith("photo.png: 2 objects in 128 x 64 px, ")
        assert sorted(found[:2]) == ["blue 1.00 at [32.0, 0.0, 64.0, 32.0]", "red 1.00 at [96.0, 32.0, 128.0, 64.0]"]
        assert found[2] == "map >= 0.5 on here: pass, measured 0.5"
        assert last == "passed"
        with Image.open(tmp_path / "found.png") as drawn:
            assert drawn.size == (512, 256)

    def test_the_page_shows_it_as_it_is(self) -> None:
        shown = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        assert shown[0] in EXAMPLE.read_text(encoding="utf-8")

    def test_the_page_has_every_name(self) -> None:
        page = PAGE.read_text(encoding="utf-8")
        assert not [name for name in edgedistill.__all__ if f"`{name}" not in page]
        parts = [name for kind in (edgedistill.Prediction, edgedistill.FinishedRun, edgedistill.GateResult) for name in public(kind)]
        assert not [name for name in parts if f"`{name}" not in page]


def public(kind: type) -> list[str]:
    """The fields and properties of a class."""
    return [name for name in {**vars(kind), **getattr(kind, "__dataclass_fields__", {})} if not name.startswith("_")]
