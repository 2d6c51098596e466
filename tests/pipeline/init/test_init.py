"""`edgedistill init`: what it chooses, what it writes, what it refuses."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flow_samples
import numpy as np
import pytest
import yaml
from PIL import Image

from deploy.errors import ConfigError, DataError
from pipeline.cli import main
from pipeline.config import PipelineConfig, load
from pipeline.init import networks, own_figure, speed
from pipeline.init.document import Given, can_flip, name_of, write
from pipeline.init.folder import LabeledFolder, look
from pipeline.init.networks import ON_CPU, macs
from pipeline.init.plan import MARGIN, FirstPlan, Wish, plan
from pipeline.init.sample import Decoding
from pipeline.init.sizes import InputSize, Levels, candidates, levels, wanted
from stages.config import BaselineConfig

Box = tuple[float, float, float, float]


def write_coco(root: Path, boxes: Sequence[Box], *, images: dict[str, int], classes: Sequence[str] = ("cell",), side: int = 128) -> Path:
    """A COCO folder; every image has all boxes, in every other one moved by 1 px; their classes alternate."""
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    for split, count in images.items():
        rows: list[dict[str, Any]] = [{"id": i + 1, "file_name": f"{split}{i}.png", "width": side, "height": side} for i in range(count)]
        objects = [
            {"id": i * len(boxes) + j + 1, "image_id": i + 1, "category_id": 1 + j % len(classes), "iscrowd": 0}
            | {"bbox": [x + i % 2, y + i % 2, width, height]}
            for i in range(count)
            for j, (x, y, width, height) in enumerate(boxes)
        ]
        content = {"images": rows, "annotations": objects, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
        if rows:
            picture = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
            Image.fromarray(picture).save(root / "images" / rows[0]["file_name"])
            for row in rows[1:]:
                os.link(root / "images" / rows[0]["file_name"], root / "images" / row["file_name"])
    return root


@pytest.fixture(autouse=True)
def _without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_measure", lambda *_: None)
    monkeypatch.setattr(networks, "weights_here", dict)


MIXED: tuple[Box, ...] = ((4, 4, 20, 24), (40, 40, 30, 30), (70, 10, 44, 40))


def planned(root: Path, **wish: Any) -> tuple[LabeledFolder, FirstPlan]:
    folder = look(root)
    return folder, plan(folder, Wish(**{"device": "cpu", **wish}))


def document(folder: LabeledFolder, chosen: FirstPlan, name: str = "cells", latency: float | None = None) -> str:
    return write(folder, chosen, Decoding({}, ()), Given(name, latency))


def written(root: Path, tmp_path: Path, **wish: Any) -> tuple[str, PipelineConfig]:
    folder, chosen = planned(root, **wish)
    text = document(folder, chosen, latency=wish.get("latency"))
    (tmp_path / "written.yaml").write_text(text, encoding="utf-8")
    return text, load(tmp_path / "written.yaml")


class TestTheFile:
    def test_it_is_a_configuration_whose_choices_follow_from_the_data(self, tmp_path: Path) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 100, "val": 20}, classes=("cell", "wall"))
        _, config = written(root, tmp_path)
        assert config.data.dataset == "coco"
        assert config.data.options["root"] == str(root)
        assert config.data.preprocessing.height % 32 == 0
        assert config.teacher.detector.options["strides"] == config.student.detector.options["strides"]
        assert {loss.name for loss in config.distill.losses} == {"attention", "non_local"}
        assert [target.name for target in config.targets][:2] == ["ort-fp32", "ort-int8"]

    def test_every_choice_has_a_comment(self, tmp_path: Path) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 100, "val": 20})
        text, _ = written(root, tmp_path)
        lines = text.splitlines()
        sections = ("  preprocessing", "  detector", "  losses", "baseline", "export", "targets")
        for start in (*sections, "  - {name: lossless", "  - {name: speed"):
            index = next(i for i, line in enumerate(lines) if line.startswith(start))
            assert any(line.lstrip().startswith("#") for line in lines[max(0, index - 3) : index]), start
        assert "Estimate:" in lines[1]

    def test_the_baseline_at_equal_cost_is_in_the_estimate_and_not_meant_to_be_left_out(self, tmp_path: Path) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 100, "val": 20})
        for minutes in (40.0, 600.0):
            folder, chosen = planned(root, minutes=minutes)
            longer = chosen.seconds["baseline at equal cost"]
            assert longer == chosen.seconds["student"] > chosen.seconds["baseline"]
            assert chosen.minutes == pytest.approx(sum(chosen.seconds.values()) / 60)
            text = document(folder, chosen)
            assert f"baseline at equal cost {longer / 60:.1f}" in text.splitlines()[1]
            asked = BaselineConfig.model_validate(yaml.safe_load(text)["baseline"])
            assert (asked.equal, asked.max_minutes) == ("both", max(60, math.ceil(2 * longer / 60)))
            assert asked.why_left_out(chosen.epochs, 1.5 * longer) is None

    def test_where_the_minutes_are_few_the_baseline_at_equal_cost_makes_room_for_longer_trainings(self, tmp_path: Path) -> None:
        folder, chosen = planned(write_coco(tmp_path / "cells", MIXED, images={"train": 100, "val": 20}), minutes=5.0)
        text = document(folder, chosen)
        assert set(chosen.seconds) == {"teacher", "baseline", "student", "rest"}
        assert yaml.safe_load(text)["baseline"] == {"equal": "steps"}
        assert {loss["weight"] for loss in yaml.safe_load(text)["distill"]["losses"]} == {"auto"}
        assert yaml.safe_load(text)["distill"]["share"] == 0.3
        assert "equal: both adds it" in text
        with_both = chosen.seconds["student"] + sum(chosen.seconds.values())
        assert with_both + chosen.seconds["student"] / chosen.epochs > 5 * 60 * MARGIN

    def test_gates_compare_with_float_and_teacher_and_limit_latency(self, tmp_path: Path) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 100, "val": 20})
        _, config = written(root, tmp_path, latency=50.0)
        assert {gate.versus for gate in config.gates} == {None, "teacher"}
        assert [gate.max for gate in config.gates if gate.metric == "latency_end_to_end_p99_ms"] == [50.0]
        assert all(gate.target in {target.name for target in config.targets} for gate in config.gates)

    def test_a_folder_without_val_sets_a_share_aside(self, tmp_path: Path) -> None:
        folder, chosen = planned(write_coco(tmp_path / "cells", MIXED, images={"train": 100}))
        found = yaml.safe_load(document(folder, chosen))
        assert found["data"]["val_share"] == 0.2
        assert (chosen.train_images, chosen.val_images) == (80, 20)

    def test_a_test_split_stays_one_if_there_is_no_val(self, tmp_path: Path) -> None:
        folder, chosen = planned(write_coco(tmp_path / "cells", MIXED, images={"train": 100, "test": 30}))
        data = yaml.safe_load(document(folder, chosen))["data"]
        assert (data.get("splits"), data["val_share"]) == (None, 0.2)
        assert (chosen.train_images, chosen.val_images) == (80, 20)

    def test_names_that_yaml_would_read_as_something_else(self, tmp_path: Path) -> None:
        root = write_coco(tmp_path / "a: b #c 'd' \"e\"", MIXED, images={"train": 20, "val": 5})
        _, config = written(root, tmp_path)
        assert config.data.options["root"] == str(root)

    @pytest.mark.parametrize(("given", "expected"), [("Bl\u00fcten 2024", "Bl-ten-2024"), ("...", "detector"), ("ok_1", "ok_1")])
    def test_the_name_of_a_run(self, given: str, expected: str) -> None:
        assert name_of(given) == expected

    def test_one_that_looks_like_a_number_stays_text(self, tmp_path: Path) -> None:
        folder, chosen = planned(write_coco(tmp_path / "cells", MIXED, images={"train": 20, "val": 5}))
        for name in ("2024", "1e3", "no", "null"):
            assert yaml.safe_load(document(folder, chosen, name))["name"] == name


class TestSizes:
    def test_small_objects_get_a_larger_input(self, tmp_path: Path) -> None:
        small = look(write_coco(tmp_path / "small", ((4, 4, 12, 12),), images={"train": 20, "val": 5}, side=512))
        large = look(write_coco(tmp_path / "large", ((4, 4, 200, 200),), images={"train": 20, "val": 5}, side=512))
        sizes = [candidates(folder)[wanted(candidates(folder))] for folder in (small, large)]
        assert sizes[0].area > 4 * sizes[1].area

    def test_it_has_the_aspect_of_the_images(self, tmp_path: Path) -> None:
        root = write_coco(tmp_path / "wide", MIXED, images={"train": 5, "val": 5})
        for split in ("train", "val"):
            path = root / "annotations" / f"instances_{split}.json"
            content = json.loads(path.read_text(encoding="utf-8"))
            content["images"] = [{**row, "width": 256, "height": 128} for row in content["images"]]
            path.write_text(json.dumps(content), encoding="utf-8")
        assert all(size.width >= size.height for size in candidates(look(root)))
        assert any(size.width == 2 * size.height for size in candidates(look(root)))

    def test_the_share_below_8_px_is_counted_at_the_scale_of_each_image(self, tmp_path: Path) -> None:
        folder = look(write_coco(tmp_path / "cells", ((0, 0, 8, 8), (0, 0, 40, 40)), images={"train": 5, "val": 5}))
        shares = {size.width: size.small for size in candidates(folder)}
        assert shares[64] == 0.5
        assert shares[128] == 0.0

    def test_tiny_objects_on_huge_images_are_stated(self, tmp_path: Path) -> None:
        root = write_coco(tmp_path / "huge", ((10, 10, 12, 12),), images={"train": 4, "val": 2}, side=4000)
        text, config = written(root, tmp_path)
        assert "100.0% of the objects are below 8 px" in text
        assert config.data.preprocessing.width <= 1344

    def test_levels_take_the_objects_that_fcos_gives_them(self, tmp_path: Path) -> None:
        folder = look(write_coco(tmp_path / "cells", ((0, 0, 20, 20), (0, 0, 60, 20), (0, 0, 100, 20)), images={"train": 5, "val": 5}))
        found = levels(folder, InputSize(128, 128, 0.0, 20.0))
        assert found.strides == (4, 8, 16)
        assert found.shares == pytest.approx((1 / 3, 1 / 3, 1 / 3))
        assert levels(folder, InputSize(128, 128, 0.0, 40.0)).strides == (8, 16, 32)


class TestMinutes:
    def test_more_minutes_never_mean_a_smaller_training(self, tmp_path: Path) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 200, "val": 50})
        work = []
        for minutes in (5, 20, 60, 200):
            _, chosen = planned(root, minutes=minutes)
            assert chosen.minutes <= minutes
            work.append(macs(chosen.pair.teacher, chosen.levels, chosen.size, 1) * chosen.epochs)
        assert work == sorted(work)

    def test_too_few_minutes_are_said(self, tmp_path: Path) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 400, "val": 100})
        text, config = written(root, tmp_path, minutes=0.05)
        assert "A single epoch takes longer than the 0.05 minutes asked for; use fewer images or a faster machine" in text
        assert config.teacher.train.epochs == 1
        assert "Too short to learn much" in written(root, tmp_path, minutes=3.5)[0]

    def test_what_is_not_training_is_named_where_it_takes_the_minutes(self, tmp_path: Path) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 40, "val": 10})
        _, chosen = planned(root, minutes=1.0)
        assert chosen.minutes > 1 > chosen.minutes - chosen.seconds["rest"] / 60
        assert chosen.warning is not None
        assert chosen.warning.startswith("all that is not training takes about 2.")
        assert chosen.warning.endswith("together more than the 1 asked for; pass --minutes with a larger number")
        assert "asked for" not in (planned(root, minutes=math.ceil(chosen.minutes))[1].warning or "")

    def test_a_latency_excludes_slow_students(self, tmp_path: Path) -> None:
        root = write_coco(tmp_path / "cells", ((4, 4, 12, 12),), images={"train": 200, "val": 50}, side=512)
        free, fast = (planned(root, minutes=600, latency=latency)[1] for latency in (None, 6.0))
        assert fast.latency_ms <= 6.0 < free.latency_ms

    def test_one_that_no_student_reaches_is_refused(self, tmp_path: Path) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 20, "val": 5})
        with pytest.raises(ConfigError, match=r"--latency 0\.01: the smallest network takes about"):
            planned(root, latency=0.01)

    @pytest.mark.parametrize("pair", ON_CPU)
    @pytest.mark.parametrize("strides", [(4, 8, 16), (8, 16, 32)])
    def test_products_are_those_of_the_network(self, pair: Any, strides: tuple[int, ...]) -> None:
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        from stages.config import DetectorConfig
        from stages.training.checkpoint import build_detector

        shape, size = Levels(strides, 0.5, (1.0, 0.0, 0.0)), InputSize(128, 96, 0.0, 20.0)
        for network in (pair.teacher, pair.student):
            detector = build_detector(DetectorConfig.model_validate(network.options(shape)), 3).eval()
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                detector(torch.zeros(1, 3, size.height, size.width))
            assert macs(network, shape, size, 3) == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


class TestAugmentation:
    @pytest.mark.parametrize(
        ("classes", "expected"),
        [(("cell",), True), (tuple("0123456789"), False), (("turn left", "turn right"), False), (("car", "license plate"), False)],
    )
    def test_flips_only_where_mirrored_objects_keep_their_class(self, classes: tuple[str, ...], expected: bool) -> None:
        assert can_flip(dict.fromkeys(classes, 1)) is expected

    def test_no_color_if_classes_are_named_after_colors(self, tmp_path: Path) -> None:
        root = write_coco(tmp_path / "balls", MIXED, images={"train": 20, "val": 5}, classes=("red ball", "blue ball"))
        _, config = written(root, tmp_path)
        assert "color" not in [step.name for step in config.student.train.augment]


class TestCommand:
    def test_it_writes_a_file_and_a_page(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 20, "val": 5})
        out = tmp_path / "my.yaml"
        assert main(["init", str(root), "--out", str(out), "--device", "cpu", "--preview", "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["images"] == {"train": 20, "val": 5}
        assert load(out).device == "cpu"
        page = (tmp_path / "my.preview.html").read_text(encoding="utf-8")
        assert page.count("<figure>") == 16
        assert "<script" not in page
        assert "http" not in page.replace("http-equiv", "")

    @pytest.mark.parametrize("name", ["photos \U0001f600", "null", "a: b # c", 'qu"ote\\', "line\u2028separator", "1e3"])
    def test_a_folder_of_any_name_is_found_by_the_file(self, tmp_path: Path, name: str) -> None:
        root = write_coco(tmp_path / name, MIXED, images={"train": 20, "val": 5})
        out = tmp_path / "my.yaml"
        assert main(["init", str(root), "--out", str(out), "--device", "cpu"]) == 0
        assert load(out).data.options["root"] == str(root)

    def test_the_next_command_can_be_pasted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 20, "val": 5})
        monkeypatch.chdir(tmp_path)
        assert main(["init", str(root), "--out", "my first.yaml", "--device", "cpu"]) == 0
        assert "next: edgedistill run 'my first.yaml'\n" in capsys.readouterr().out

    def test_it_replaces_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 20, "val": 5})
        out = tmp_path / "my.yaml"
        out.write_text("mine", encoding="utf-8")
        assert main(["init", str(root), "--out", str(out)]) == 2
        assert "init replaces nothing; pass --out" in capsys.readouterr().err
        assert out.read_text(encoding="utf-8") == "mine"

    def test_a_page_that_exists_stays_too(self, tmp_path: Path) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 20, "val": 5})
        (tmp_path / "my.preview.html").write_text("mine", encoding="utf-8")
        assert main(["init", str(root), "--out", str(tmp_path / "my.yaml"), "--preview"]) == 2
        for out in (".", ""):
            assert main(["init", str(root), "--out", out, "--preview"]) == 2
        assert not (tmp_path / "my.yaml").exists()

    @pytest.mark.parametrize("arguments", [["--minutes", "0"], ["--minutes", "nan"], ["--latency", "-1"], ["--latency", "inf"]])
    def test_numbers_that_mean_nothing(self, tmp_path: Path, arguments: list[str]) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 20, "val": 5})
        assert main(["init", str(root), "--out", str(tmp_path / "my.yaml"), *arguments]) == 2

    def test_a_place_that_cannot_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 20, "val": 5})

        opened = Path.open

        def refused(self: Path, *arguments: Any, **more: Any) -> Any:
            if self.suffix == ".yaml":
                raise PermissionError(13, "Permission denied", str(self))
            return opened(self, *arguments, **more)

        monkeypatch.setattr(Path, "open", refused)  # tests may run as root, whom no folder refuses
        assert main(["init", str(root), "--out", str(tmp_path / "my.yaml")]) == 4
        assert "cannot be written (Permission denied)" in capsys.readouterr().err

    def test_a_folder_for_the_file_that_does_not_exist(self, tmp_path: Path) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 20, "val": 5})
        assert main(["init", str(root), "--out", str(tmp_path / "none" / "my.yaml")]) == 2


class TestFolders:
    def test_an_empty_one(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "empty").mkdir()
        assert main(["init", str(tmp_path / "empty"), "--out", str(tmp_path / "my.yaml")]) == 3
        assert len(capsys.readouterr().err.splitlines()) == 1

    def test_one_that_does_not_exist(self, tmp_path: Path) -> None:
        assert main(["init", str(tmp_path / "none"), "--out", str(tmp_path / "my.yaml")]) == 3

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.zip").write_bytes(b"")
        assert main(["init", str(tmp_path / "a.zip"), "--out", str(tmp_path / "my.yaml")]) == 3

    def test_images_without_labels(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="20 images in split train but no usable box; label some objects first"):
            look(write_coco(tmp_path / "cells", (), images={"train": 20, "val": 5}))

    def test_only_impossible_boxes(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no usable box"):
            look(write_coco(tmp_path / "cells", ((1, 1, 0, 5), (1, 1, float("inf"), 4)), images={"train": 20, "val": 5}))

    @pytest.mark.parametrize("content", [{}, {"images": 3}, {"images": [{}], "annotations": [], "categories": []}])
    def test_a_file_that_prepare_would_refuse(self, tmp_path: Path, content: dict[str, Any]) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 20, "val": 5})
        (root / "annotations" / "instances_train.json").write_text(json.dumps(content), encoding="utf-8")
        assert main(["init", str(root), "--out", str(tmp_path / "my.yaml")]) == 3

    def test_no_training_images(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no train split among val"):
            look(write_coco(tmp_path / "cells", MIXED, images={"val": 5}))

    def test_twelve_images_of_one_class_and_one_size(self, tmp_path: Path) -> None:
        folder, chosen = planned(write_coco(tmp_path / "cells", ((30, 30, 40, 40),), images={"train": 12}))
        assert (chosen.train_images, chosen.val_images) == (10, 2)
        found = yaml.safe_load(document(folder, chosen))
        assert found["teacher"]["train"]["batch_size"] == 4
        assert chosen.num_steps > 500

    def test_sizes_that_the_annotations_lack_are_read_from_some_images(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = write_coco(tmp_path / "cells", MIXED, images={"train": 30, "val": 5}, side=96)
        path = root / "annotations" / "instances_train.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content["images"] = [{"id": row["id"], "file_name": row["file_name"]} for row in content["images"]]
        path.write_text(json.dumps(content), encoding="utf-8")
        monkeypatch.setattr("pipeline.init.folder.MOST_HEADERS", 5)
        assert look(root).sizes.tolist() == [[96.0, 96.0]] * 30


class TestOwnFigure:
    def test_it_replaces_only_the_number_of_its_own_line(self, tmp_path: Path) -> None:
        path = tmp_path / "p.yaml"
        before = "gates:\r\n  - {name: mine, metric: map, min: 0.0}\r\n" + own_figure.placeholder().replace("\n", "\r\n") + "# \u00e9nd"
        path.write_bytes(before.encode())
        path.chmod(0o640)
        assert "min: 0.412" in (own_figure.fill_in(path, 0.412) or "")
        assert path.read_bytes() == before.replace("min: 0.000}", "min: 0.412}").encode()
        assert path.stat().st_mode & 0o777 == 0o640

    def test_a_second_run_writes_its_own(self, tmp_path: Path) -> None:
        path = tmp_path / "p.yaml"
        path.write_text(own_figure.placeholder(0.3), encoding="utf-8")
        own_figure.fill_in(path, 0.35)
        assert path.read_text(encoding="utf-8") == own_figure.placeholder(0.35)

    @pytest.mark.parametrize(
        "line", ["  - {name: accuracy, metric: map, min: 0.000}", "  # - {name: accuracy, metric: map, min: 0.000}  # my own", ""]
    )
    def test_a_line_that_was_changed_is_left_alone(self, tmp_path: Path, line: str) -> None:
        path = tmp_path / "p.yaml"
        path.write_text(line, encoding="utf-8")
        assert own_figure.fill_in(path, 0.4) is None
        assert path.read_text(encoding="utf-8") == line

    def test_it_is_rounded_down_over_the_measured_targets(self) -> None:
        assert own_figure.reached({"targets": {"a": {"map": 0.4129}, "b": {"map": 0.4117}, "c": {"map": None}}}) == 0.411
        assert own_figure.reached({"targets": {"c": {"map": None}}}) is None

    def test_a_file_that_cannot_be_replaced_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "p.yaml"
        path.write_text(own_figure.placeholder(), encoding="utf-8")

        def refused(self: Path, content: bytes) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "write_bytes", refused)
        assert "cannot be written: Permission denied" in (own_figure.fill_in(path, 0.4) or "")

    def test_a_run_fills_it_in_and_says_how_to_hold_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        flow_samples.replace_training(monkeypatch)
        Path("pipeline.yaml").write_text(f"{flow_samples.CONFIG}\n{own_figure.placeholder()}", encoding="utf-8")
        assert main(["run"]) == 0
        figure = own_figure.reached(json.loads(Path("runs/small/summary.json").read_text(encoding="utf-8")))
        assert figure is not None
        assert (
            f"to hold this accuracy from now on, add to gates: - {{name: accuracy, metric: map, min: {figure:.3f}}}"
            in capsys.readouterr().out
        )
        own = Path("pipeline.yaml").read_text(encoding="utf-8")
        assert own == f"{flow_samples.CONFIG}\n{own_figure.placeholder(figure)}"
        Path("pipeline.yaml").write_text(f"{flow_samples.CONFIG}\n{own_figure.placeholder()}", encoding="utf-8")
        assert main(["run", "--set", "seed=1"]) == 0
        assert "to hold this accuracy" not in capsys.readouterr().out
        assert Path("pipeline.yaml").read_text(encoding="utf-8") == f"{flow_samples.CONFIG}\n{own_figure.placeholder()}"


class TestSpeed:
    def test_what_is_measured_is_a_training_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(speed, "MEASURED_S", 0.0)
        network, shape, size = ON_CPU[0].student, Levels((8, 16, 32), 0.5, (1.0, 0.0, 0.0)), InputSize(64, 64, 0.0, 20.0)
        found = speed.Speed("cpu", 3).measured(network, shape, size)
        assert found.factor is not None
        assert 0 < found.seconds(network, shape, size) < 10

    def test_reading_costs_time_of_its_own_only_on_a_single_core(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network, shape, size = ON_CPU[1].teacher, Levels((8, 16, 32), 0.5, (1.0, 0.0, 0.0)), InputSize(128, 128, 0.0, 20.0)
        took = []
        for cores in (1, 2, 8):
            monkeypatch.setattr("deploy.machine.num_cores", lambda cores=cores: cores)
            took.append(speed.Speed("cpu", 3).seconds(network, shape, size))
        assert took[0] == pytest.approx(took[1] + speed.READ_S)
        assert took[2] <= took[1]

    def test_the_readers_are_those_that_training_starts(self) -> None:
        from stages.training.batches.loader import default_workers

        assert speed._workers() == default_workers()

    def test_without_torch_it_is_estimated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        network, shape, size = ON_CPU[0].student, Levels((8, 16, 32), 0.5, (1.0, 0.0, 0.0)), InputSize(64, 64, 0.0, 20.0)
        estimate = speed.Speed("cpu", 3)
        assert estimate.measured(network, shape, size) == estimate
        assert speed.device_of("auto") in ("cpu", "cuda")
        assert networks.weights_here() == {}
