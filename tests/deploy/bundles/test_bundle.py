import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import artifact_samples as samples
import numpy as np
import onnx_samples
import pytest
from PIL import Image

from deploy import machine
from deploy.bundles import bundle
from deploy.bundles.bundle import Bundle
from deploy.bundles.manifest import Manifest
from deploy.errors import ArtifactError, ConfigError, DataError, EdgedistillError, RuntimeUnavailable
from deploy.machine.packages import git_commit
from deploy.predict import drawn_names, predict_images
from deploy.prediction import draw
from deploy.prediction.detections import Detections
from pipeline.commands import build

CELLS = {(0, 1): 0, (2, 3): 2}
PASSING = samples.PASSING


class TestPackage:
    def test_the_manifest_names_every_file_and_what_made_it(self, tmp_path: Path) -> None:
        made = samples.bundle(tmp_path, license="MIT", description="Finds cells.")
        manifest = made.manifest
        assert set(manifest.files) == {"engine.onnx", "model.onnx", "labels.txt", "README.md"}
        assert {path.name for path in made.root.iterdir()} == {*manifest.files, "manifest.json", "artifact.json"}
        assert (manifest.name, manifest.target, manifest.engine, manifest.onnx) == ("cells-here", "here", "engine.onnx", "model.onnx")
        assert manifest.contract == onnx_samples.contract()
        assert [one.verdict for one in manifest.verdicts] == ["pass", "pass"]
        assert manifest.accuracy == samples.accuracy()
        assert manifest.provenance.artifacts["student"] == "student"
        assert manifest.provenance.packages["numpy"] == np.__version__
        assert (made.root / "labels.txt").read_text() == "red\ngreen\nblue\n"
        assert json.loads((made.root / "artifact.json").read_text())["sha256"] == bundle.sha256(made.root / "manifest.json")

    def test_the_card_tells_people_what_the_manifest_tells_programs(self, tmp_path: Path) -> None:
        card = (samples.bundle(tmp_path, license="MIT", description="Finds cells.").root / "README.md").read_text()
        for words in (
            "# cells-here",
            "Finds cells.",
            "MIT",
            "1,234 parameters",
            "edgedistill predict .",
            "edgedistill serve .",
            "| map >= 0.5",
        ):
            assert words in card
        assert "| mAP, green | undefined |" in card
        assert "| end to end | 1.00 | 2.00 | 3.00 | 9.00 |" in card

    def test_an_engine_that_was_not_measured_gets_a_bundle_too(self, tmp_path: Path) -> None:
        made = samples.bundle(tmp_path, why="no NVIDIA GPU here")
        assert made.manifest.accuracy is None
        assert {one.verdict for one in made.manifest.verdicts} == {"unmeasured"}
        assert "Nothing: no NVIDIA GPU here" in (made.root / "README.md").read_text()

    def test_an_engine_that_was_not_built_gets_a_bundle_with_its_graph(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("deploy.runtimes.nvidia.session.why_not_installed", lambda *_: "tensorrt is not installed")
        made = samples.bundle(tmp_path, why="tensorrt is not installed", built=samples.engine(tmp_path, samples.target(runtime="trt")))
        assert made.manifest.engine is None
        assert set(made.manifest.files) == {"model.onnx", "labels.txt", "README.md"}
        with pytest.raises(RuntimeUnavailable, match="tensorrt is not installed"):
            made.open()

    def test_gates_passed_with_the_instructions_of_another_processor(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = samples.bundle(tmp_path)
        here = {**machine.identity(), "cpu_features": "avx2 fma"}
        monkeypatch.setattr(machine, "identity", lambda: here)
        there = {**here, "cpu_features": "avx2 fma avx512_vnni"}
        other = replace(made, manifest=made.manifest.model_copy(update={"machine": there}))
        reason = other.why_ungated_here()
        assert reason is not None
        assert "on a machine with avx2 fma avx512_vnni, and this one has avx2 fma; judge it here" in reason
        former = {key: value for key, value in here.items() if key != "cpu_features"}
        assert replace(made, manifest=made.manifest.model_copy(update={"machine": former})).why_ungated_here() is None

    def test_the_commit_is_none_outside_a_repository(self, tmp_path: Path) -> None:
        assert git_commit(tmp_path) is None

    def test_two_packagings_are_the_same(self, tmp_path: Path) -> None:
        first = samples.bundle(tmp_path / "1").manifest
        assert first == samples.bundle(tmp_path / "2").manifest


def rewrite(made: Bundle, **changes: object) -> None:
    path = made.root / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGES = {
    "no folder": (lambda b: (b.root / "manifest.json").rename(b.root / "x"), "pass the folder of a bundle"),
    "half a manifest": (lambda b: (b.root / "manifest.json").write_bytes((b.root / "manifest.json").read_bytes()[:300]), "not JSON"),
    "not text": (lambda b: (b.root / "manifest.json").write_bytes(b"\xff\xfe\x00"), "not JSON"),
    "a list": (lambda b: (b.root / "manifest.json").write_text("[]"), "not a bundle's manifest"),
    "newer format": (lambda b: rewrite(b, format=3), "format 3; this edgedistill reads format 2"),
    "unknown key": (lambda b: rewrite(b, colour=1), "colour"),
    "missing engine": (lambda b: (b.root / "engine.onnx").unlink(), "No such file"),
    "half an engine": (lambda b: (b.root / "engine.onnx").write_bytes((b.root / "engine.onnx").read_bytes()[:-1]), "sha256"),
    "another engine": (lambda b: (b.root / "engine.onnx").write_bytes(b"other"), r"engine\.onnx: its sha256"),
    "another card": (lambda b: (b.root / "README.md").write_text("all is well"), "sha256"),
    "engine not listed": (lambda b: rewrite(b, files={"model.onnx": b.manifest.files["model.onnx"]}), "without its sha256"),
    "outside the folder": (lambda b: rewrite(b, engine="../engine.onnx"), "not a bundle's manifest"),
    "outside by a file": (lambda b: rewrite(b, files={"../x": "0" * 64}), "not a bundle's manifest"),
    "a folder for a file": (lambda b: ((b.root / "labels.txt").unlink(), (b.root / "labels.txt").mkdir()), "Is a directory"),
}


class TestLoad:
    @pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
    def test_a_damaged_bundle_is_refused_in_one_line(self, tmp_path: Path, damage: Callable[[Bundle], object], message: str) -> None:
        made = samples.bundle(tmp_path)
        damage(made)
        with pytest.raises(ArtifactError, match=message) as caught:
            Bundle.load(made.root)
        assert "\n" not in str(caught.value)

    def test_files_beside_the_manifests_do_not_matter(self, tmp_path: Path) -> None:
        made = samples.bundle(tmp_path)
        (made.root / "notes.txt").write_text("mine")
        assert Bundle.load(made.root).manifest == made.manifest

    def test_an_unknown_runtime_is_refused(self, tmp_path: Path) -> None:
        made = samples.bundle(tmp_path)
        rewrite(made, runtime="abacus")
        with pytest.raises(ArtifactError, match=r"no 'abacus' in deploy\.runtimes"):
            Bundle.load(made.root).open()


class TestGated:
    @pytest.mark.parametrize(
        ("gates", "why", "gated", "message"),
        [
            (PASSING, None, True, ""),
            ((), None, False, "no gate was set"),
            (({"metric": "map", "max_drop": 0.01},), None, False, "none of its gates was judged when it was packaged"),
            (({"metric": "map", "min": 0.9},), None, False, "'map >= 0.9 on here' is fail"),
            ((*PASSING, {"metric": "map_small", "min": 0}), None, False, "is incomparable"),
            (PASSING, "no GPU", False, "is unmeasured"),
            ((), "no GPU", False, "no GPU"),
        ],
    )
    def test_only_what_was_measured_and_passed_is_deployed_unasked(
        self, tmp_path: Path, gates: Any, why: str | None, gated: bool, message: str
    ) -> None:
        made = samples.bundle(tmp_path, gates, why=why)
        assert made.gated == gated
        if gated:
            made.refuse_ungated()
        else:
            with pytest.raises(ArtifactError, match=re.escape(message) + ".*--allow-ungated"):
                made.refuse_ungated()


class TestPredict:
    def test_it_draws_and_lists_what_it_found(self, tmp_path: Path) -> None:
        made = samples.bundle(tmp_path)
        photo = tmp_path / "photo.png"
        Image.fromarray(onnx_samples.picture(CELLS)).save(photo)
        (tmp_path / "other").mkdir()
        Image.fromarray(onnx_samples.picture({})).save(tmp_path / "other" / "photo.png")
        result = predict_images(made, [photo, tmp_path / "other" / "photo.png"], tmp_path / "out" / "deep")
        assert json.loads((tmp_path / "out" / "deep" / "predictions.json").read_text()) == result
        assert {path.name for path in (tmp_path / "out" / "deep").iterdir()} == {"photo.png", "photo-2.png", "predictions.json"}
        found = {(one["image_id"], one["category_id"], *one["bbox"]) for one in result["annotations"]}
        assert found == {(1, 3, 16, 0, 16, 16), (1, 90, 48, 32, 16, 16)}
        assert result["images"][1] == {
            "id": 2,
            "file_name": str(tmp_path / "other" / "photo.png"),
            "drawn": "photo-2.png",
            "width": 64,
            "height": 64,
        }
        with Image.open(tmp_path / "out" / "deep" / "photo.png") as drawn:
            assert drawn.width >= 480

    def test_names_of_drawn_images(self, tmp_path: Path) -> None:
        paths = [tmp_path / "a.JPG", tmp_path / "b" / "a.jpg", tmp_path / "c.tif", tmp_path / "a-2.jpg"]
        assert drawn_names(paths) == ["a.jpg", "a-2.jpg", "c.png", "a-2-2.jpg"]
        assert drawn_names([Path("A.png"), Path("a.PNG"), b""]) == ["A.png", "a-2.png", "stdin.png"]

    def test_what_cannot_be_used_is_refused(self, tmp_path: Path) -> None:
        made = samples.bundle(tmp_path)
        (tmp_path / "bad.png").write_bytes(b"no image")
        with pytest.raises(DataError, match=r"bad\.png"):
            predict_images(made, [tmp_path / "bad.png"], tmp_path / "out")
        with pytest.raises(ArtifactError, match="pass a different --out"):
            predict_images(made, [], tmp_path / "bad.png")

    def test_an_image_that_cannot_be_read_is_listed_and_the_others_are_done(self, tmp_path: Path) -> None:
        made = samples.bundle(tmp_path)
        good, bad, gone = (tmp_path / name for name in ("good.png", "bad.png", "gone.png"))
        Image.fromarray(onnx_samples.picture(CELLS)).save(good)
        bad.write_bytes(b"no image")
        result = predict_images(made, [bad, good, gone], tmp_path / "out")
        assert [(one["id"], one["file_name"]) for one in result["images"]] == [(1, str(good))]
        assert {one["image_id"] for one in result["annotations"]} == {1}
        assert [one["file_name"] for one in result["failed"]] == [str(bad), str(gone)]
        assert "No such file" in result["failed"][1]["error"]
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"good.png", "predictions.json"}

    def test_without_a_readable_image_what_was_there_is_left(self, tmp_path: Path) -> None:
        made = samples.bundle(tmp_path)
        out, good, bad = (tmp_path / name for name in ("out", "good.png", "bad.png"))
        Image.fromarray(onnx_samples.picture(CELLS)).save(good)
        predict_images(made, [good], out)
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        bad.write_bytes(b"no image")
        for folder in (out, tmp_path / "new" / "deep"):
            with pytest.raises(DataError, match=r"none of the 2 images can be read; the first: .*bad\.png"):
                predict_images(made, [bad, bad], folder)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize("there", [True, False])
    def test_ctrl_c_leaves_nothing_half_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
        made, photo, out = samples.bundle(tmp_path), tmp_path / "photo.png", tmp_path / "out"
        Image.fromarray(onnx_samples.picture(CELLS)).save(photo)
        if there:
            out.mkdir()
        before = {path.name for path in tmp_path.iterdir()}
        monkeypatch.setattr("deploy.predict.to_coco", Mock(side_effect=[[], KeyboardInterrupt]))
        with pytest.raises(KeyboardInterrupt):
            predict_images(made, [photo, photo], out)
        assert {path.name for path in tmp_path.iterdir()} == before
        assert not there or not any(out.iterdir())

    def test_the_content_of_a_file_is_drawn_as_stdin(self, tmp_path: Path) -> None:
        made, photo = samples.bundle(tmp_path), tmp_path / "photo.png"
        Image.fromarray(onnx_samples.picture(CELLS)).save(photo)
        found = predict_images(made, [photo.read_bytes()], tmp_path / "out")
        assert (found["images"][0]["file_name"], found["images"][0]["drawn"], len(found["annotations"])) == ("-", "stdin.png", 2)

    @pytest.mark.parametrize("name", ["photo.png", "link.png"])
    def test_an_image_is_not_drawn_over(self, tmp_path: Path, name: str) -> None:
        made = samples.bundle(tmp_path)
        photo = tmp_path / "photo.png"
        Image.fromarray(onnx_samples.picture(CELLS)).save(photo)
        (tmp_path / "link.png").symlink_to(photo)
        before = photo.read_bytes()
        with pytest.raises(ConfigError, match=rf"{name}: the drawn copy .*; pass a different --out"):
            predict_images(made, [tmp_path / name], tmp_path / "made" / "..")
        assert photo.read_bytes() == before
        assert not (tmp_path / "predictions.json").exists()

    def test_an_image_is_not_drawn_over_a_folder_of_another(self, tmp_path: Path) -> None:
        images = [tmp_path / "a.png", tmp_path / "other" / "a.png" / "b.png"]
        with pytest.raises(ConfigError, match=r"other/a\.png: the drawn copy .*; pass a different --out"):
            predict_images(samples.bundle(tmp_path), images, tmp_path / "other")

    def test_each_path_is_resolved_once_however_many_there_are(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        resolved: list[Path] = []
        resolve = Path.resolve

        def counted(path: Path, strict: bool = False) -> Path:
            resolved.append(path)
            return resolve(path, strict)

        monkeypatch.setattr(Path, "resolve", counted)
        images = [tmp_path / str(number) / "a.png" for number in range(100)]
        with pytest.raises(DataError, match="none of the 100 images can be read"):
            predict_images(samples.bundle(tmp_path), images, tmp_path / "out")
        assert sum(path.name == "a.png" for path in resolved) == len(images) + 1  # and the first drawn copy, which is also called so

    def test_many_images_of_one_name_are_numbered_at_once(self) -> None:
        started = time.process_time()
        assert drawn_names([Path("a.png")] * 20_000)[-1] == "a-20000.png"
        assert time.process_time() - started < 5

    def test_errors_keep_their_exit_codes(self) -> None:
        assert {kind.exit_code for kind in (ArtifactError, DataError)} == {3, 4}
        assert issubclass(ArtifactError, EdgedistillError)


class TestDraw:
    def found(self, *boxes: list[int]) -> Detections:
        return Detections(np.array(boxes, float).reshape(-1, 4), np.full(len(boxes), 0.9, np.float32), np.arange(len(boxes)))

    def test_the_box_lies_where_it_was_found(self) -> None:
        picture = draw.draw(np.full((600, 800, 3), 30, np.uint8), self.found([100, 200, 301, 401]), ["thing"])
        assert picture.size == (800, 600)
        pixels = np.asarray(picture)
        ink = list(draw.color(0))
        for x, y in ((100, 300), (300, 300), (200, 400), (200, 200)):
            assert pixels[y, x].tolist() == ink
        assert pixels[300, 200].tolist() == [30, 30, 30]
        assert pixels[450, 200].tolist() == [30, 30, 30]

    def test_small_images_are_enlarged_and_names_stay_inside(self) -> None:
        picture = draw.draw(np.zeros((40, 60, 3), np.uint8), self.found([50, 0, 60, 40], [0, 38, 1, 40]), ["a long name", "b"])
        assert picture.size == (480, 320)

    def test_nothing_found_and_no_area_are_fine(self) -> None:
        empty = draw.draw(np.zeros((500, 500, 3), np.uint8), self.found(), [])
        assert not np.asarray(empty).any()
        draw.draw(np.zeros((500, 500, 3), np.uint8), self.found([5, 5, 5, 5], [500, 500, 500, 500]), ["a", "b"])

    def test_the_first_colors_are_far_apart(self) -> None:
        colors = np.array([draw.color(label) for label in range(20)], int)
        apart = np.abs(colors[:, None] - colors[None]).sum(-1) + 999 * np.eye(20, dtype=int)
        assert apart.min() >= 40
        assert len({tuple(color) for color in colors.tolist()}) == 20


def test_a_bundle_of_an_earlier_version_is_read_under_the_present_names(tmp_path: Path) -> None:
    folder = samples.bundle(tmp_path).root
    manifest = json.loads((folder / "manifest.json").read_text())
    common = {"target": "here", "verdict": "pass", "measured": 0.0}
    change = {**common, "effect": {"change": 0.0, "low": -0.001, "high": 0.001, "num": 9}}
    manifest["verdicts"] = [
        {**common, "name": "lossless", "metric": "torch_drop_map", "limit": "<= 0.0005"},
        {**common, "name": "torch_drop_map <= 0.0005 on here", "metric": "torch_drop_map", "limit": "<= 0.0005"},
        {**change, "name": "no undistilled red", "metric": "map/undistilled", "limit": "falls <= 0.01 from undistilled"},
        {**change, "name": "map falls <= 1% from undistilled on here", "metric": "map", "limit": "falls <= 1% from undistilled"},
    ]
    manifest["plan"]["gates"] = [
        {"metric": "torch_drop_map", "max": 0.0005, "name": "torch_drop_map"},
        {"metric": "map/undistilled", "max_drop": 0.01, "versus": "undistilled"},
        {"metric": "map", "max_drop": 0.01, "versus": None},
    ]
    samples.resign(folder, manifest)
    read = Bundle.load(folder)
    assert [(one.name, one.metric, one.limit) for one in read.manifest.verdicts] == [
        ("lossless", "student_drop_map", "<= 0.0005"),
        ("student_drop_map <= 0.0005 on here", "student_drop_map", "<= 0.0005"),
        ("no undistilled red", "map/undistilled", "falls <= 0.01 from baseline"),
        ("map falls <= 1% from baseline on here", "map", "falls <= 1% from baseline"),
    ]
    _, gates, _ = build.plan(read, None)
    assert [(one.metric, one.versus, one.name) for one in gates] == [
        ("student_drop_map", None, "torch_drop_map"),
        ("map/undistilled", "baseline", None),
        ("map", None, None),
    ]


def test_manifests_round_trip_through_json(tmp_path: Path) -> None:
    manifest = samples.bundle(tmp_path).manifest
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
