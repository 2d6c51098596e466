"""`edgedistill ablate`: what is trained, what is said of it, and the page."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import artifact_samples as samples
import pytest
from places import ROOT

from deploy.engines import int8_training
from deploy.engines.int8_training import Int8Training
from deploy.errors import ConfigError
from pipeline import cli
from pipeline.arena import variants
from pipeline.arena.variants import ablated, unlabelled_variants
from pipeline.commands.ablate import _refuse_missing, from_students, int8_maps
from pipeline.config import load
from pipeline.report.ablation_page import gain_chart, write_page
from pipeline.results.ablation import Ablation, ablation_of, render
from pipeline.results.gains import paired_gain
from stages.artifacts import Checkpoint

SMALL = ROOT / "examples" / "small.yaml"
OPTIONS = ("data.train_images=8", "data.val_images=4", "teacher.train.epochs=1", "student.train.epochs=1", "device=cpu")

UNLABELLED = ["data.unlabelled=photos", "distill.unlabelled={}"]


def ablation(*, teacher: float = 0.7, seeds: int = 3) -> Ablation:
    maps = {
        "baseline": (0.50, 0.52, 0.51)[:seeds],
        "attention": (0.53, 0.54, 0.55)[:seeds],
        "non_local": (0.51, 0.50, 0.52)[:seeds],
        "all losses": (0.56, 0.55, 0.57)[:seeds],
    }
    gains = {name: paired_gain(values, maps["baseline"]) for name, values in maps.items() if name != "baseline"}
    return Ablation("digits", "val", 600, tuple(range(seeds)), teacher, maps, gains)


class TestPairedGain:
    def test_equals_the_tables_of_students_t(self) -> None:
        gain = paired_gain([1.0, 2.0, 4.0], [0.5, 1.0, 2.0])  # differences 0.5, 1, 2; t(0.975, 2) = 4.30265
        spread = math.sqrt(((0.5 - 7 / 6) ** 2 + (1 - 7 / 6) ** 2 + (2 - 7 / 6) ** 2) / 2)
        assert gain.mean == pytest.approx(7 / 6)
        assert gain.low == pytest.approx(7 / 6 - 4.30265 * spread / math.sqrt(3), rel=1e-5)
        assert gain.high == pytest.approx(7 / 6 + 4.30265 * spread / math.sqrt(3), rel=1e-5)

    def test_of_one_pair_has_no_interval(self) -> None:
        assert paired_gain([0.5], [0.25]) == paired_gain([0.25], [0.0])
        assert paired_gain([0.5], [0.25]).low is None

    @pytest.mark.parametrize(("values", "others"), [([], []), ([1.0], [1.0, 2.0])])
    def test_refuses_what_has_no_pairs(self, values: Sequence[float], others: Sequence[float]) -> None:
        with pytest.raises(ValueError, match=r"pairs|zip"):
            paired_gain(values, others)


class TestSaid:
    def test_table(self) -> None:
        text = render(ablation())
        assert "all losses" in text
        assert "+5.00" in text
        assert f"{(0.56 - 0.51) / (0.7 - 0.51):.0%}" in text
        assert "3 seeds, 600 images of split val" in text

    def test_a_share_that_is_rounded_to_zero_has_no_sign(self) -> None:
        maps = {"baseline": (0.5, 0.5), "attention": (0.4995, 0.4995)}
        assert render(ablation_of(("digits", "val", 600, (0, 1)), 0.7, maps)).splitlines()[-3].endswith("  0%")

    def test_one_seed_has_no_interval(self) -> None:
        assert render(ablation(seeds=1)).count(" to ") == 0

    def test_a_teacher_that_does_not_lead_is_said_so(self) -> None:
        assert "the teacher is not better" in render(ablation(teacher=0.4))

    def test_plot_has_each_seed_the_mean_and_the_interval(self) -> None:
        chart = gain_chart(ablation())
        assert [tick.text for tick in chart.y_ticks] == ["attention", "non_local", "all losses"]
        assert len([mark for mark in chart.marks if mark.series == "seed"]) == 9
        assert len([line for line in chart.lines if line.series == "student"]) == 3
        left, _, right, _ = chart.frame
        assert all(left <= mark.x <= right for mark in chart.marks)

    def test_plot_leaves_room_for_long_names(self) -> None:
        values = (0.5, 0.52)
        name = "a_loss_of_somebody_with_a_long_name"
        measured = Ablation("digits", "val", 600, (0, 1), 0.7, {"baseline": values, name: values}, {name: paired_gain(values, values)})
        assert gain_chart(measured).frame[0] - 7 >= len(name) * 6.5

    def test_page(self, tmp_path: Path) -> None:
        for measured in (ablation(), ablation(seeds=1), ablation(teacher=0.4)):
            write_page(measured, tmp_path / "ablation.html")
            text = (tmp_path / "ablation.html").read_text(encoding="utf-8")
            assert "+5.0" in text or len(measured.seeds) == 1
            assert "Baseline: the student&#39;s network trained without the teacher." in text
            assert text.count('<svg class="chart broad"') == text.count('<svg class="chart narrow"') == 1
            assert "<script" not in text
            assert "http" not in text.replace("http-equiv", "")

    def test_masks_have_a_table_and_a_plot_of_their_own(self, tmp_path: Path) -> None:
        masks = {"baseline": (0.30, 0.32), "attention": (0.41, 0.43)}
        boxes = {"baseline": (0.50, 0.52), "attention": (0.52, 0.54)}
        judged = "digits", "val", 600, (0, 1)
        measured = replace(ablation_of(judged, 0.7, boxes), masks=ablation_of(judged, None, masks))
        text = render(measured)
        assert "mean mask_map" in text
        assert "+11.00" in text
        write_page(measured, tmp_path / "ablation.html")
        page = (tmp_path / "ablation.html").read_text(encoding="utf-8")
        assert "Mean Mask mAP" in page
        assert "points of Mask mAP" in page
        assert page.count('<svg class="chart broad"') == page.count('<svg class="chart narrow"') == 2
        assert "Mask" not in render(ablation())


def test_masks_are_counted_where_every_student_has_them() -> None:
    numbers = {"baseline": 0.3, "attention": 0.4, "non_local": 0.45, "all losses": 0.5}

    def network(value: float, *, masks: bool) -> Any:
        own = samples.accuracy(map=value)
        found = own.model_copy(update={"segmentation": samples.accuracy(map=value / 2) if masks else None})
        return SimpleNamespace(facts=SimpleNamespace(accuracy=found))

    def measured(*, masks: bool) -> Ablation:
        students = {name: network(value, masks=masks) for name, value in numbers.items()}
        return from_students("small", (0, 1), network(0.9, masks=False), [students, students])

    found = measured(masks=True)
    assert found.masks is not None
    assert (found.teacher, found.masks.teacher) == (0.9, None)
    assert found.gains["attention"].mean == pytest.approx(0.1)
    assert found.masks.gains["attention"].mean == pytest.approx(0.05)
    assert measured(masks=False).masks is None


def test_variants_are_none_each_and_all_of_the_losses_that_weigh() -> None:
    config = load(SMALL)
    names = [loss.name for loss in config.distill.losses]
    assert list(ablated(config)) == ["baseline", *names, "all losses"]
    one = load(SMALL, [f"distill.losses.0.weight={0}"])
    assert list(ablated(one)) == ["baseline", names[1]]
    with pytest.raises(ConfigError, match="all have weight 0"):
        ablated(load(SMALL, ["distill.losses.0.weight=0", "distill.losses.1.weight=0"]))


def test_images_without_labels_add_a_variant_for_each_part() -> None:
    def names(*settings: str) -> list[str]:
        return list(unlabelled_variants(load(SMALL, ["data.unlabelled=photos", *settings])))

    both = ["unlabelled features", "unlabelled pseudo-labels", "unlabelled, both"]
    assert names("distill.unlabelled={}") == both
    assert names("distill.unlabelled={refine: 0.5}") == [*both, "unlabelled, refined"]
    assert names("distill.unlabelled={pseudo: null}") == ["unlabelled features"]
    assert names("distill.unlabelled={only: true}") == ["unlabelled pseudo-labels", "unlabelled, both"]
    reads_targets = "distill.losses=[{name: focal_global, weight: 1.0}]"
    assert names("distill.unlabelled={}", reads_targets) == ["unlabelled pseudo-labels"]
    assert not unlabelled_variants(load(SMALL))
    made = unlabelled_variants(load(SMALL, ["data.unlabelled=photos", "distill.unlabelled={refine: 0.5}"]))
    sections = [one.unlabelled for one in made.values()]
    assert [(one.features, one.pseudo is not None, one.refine) for one in sections if one is not None] == [
        (True, False, None),
        (False, True, None),
        (True, True, None),
        (True, True, 0.5),
    ]


def test_numbers_of_images_without_labels_are_variants_of_the_whole_section() -> None:
    config = load(SMALL, ["data.unlabelled=photos", "distill.unlabelled={ratio: 2}"])
    made = {one.name: one.distill.unlabelled for one in variants.ablation(config, [50, 200]) if one.distill is not None}
    assert [*made][-2:] == ["unlabelled, 50 images", "unlabelled, 200 images"]
    sections = [made[f"unlabelled, {count} images"] for count in (50, 200)]
    assert [(one.images, one.ratio, one.features) for one in sections if one is not None] == [(50, 2.0, True), (200, 2.0, True)]


@pytest.mark.parametrize(
    ("options", "settings", "line"),
    [
        (["0"], UNLABELLED, "--unlabelled is 0; pass 1 or more"),
        (["5", "5"], UNLABELLED, "--unlabelled has 5 2 times; pass each number once"),
        (["5"], [], "--unlabelled needs images without labels; set data.unlabelled and distill.unlabelled"),
        (["5", "many"], UNLABELLED, "invalid int value: 'many'"),
    ],
)
def test_bad_numbers_of_images_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], settings: list[str], line: str
) -> None:
    given = [word for setting in settings for word in ("--set", setting)]
    assert cli.main(["ablate", str(SMALL), "--runs", str(tmp_path), *given, "--unlabelled", *options]) == 2
    assert line in capsys.readouterr().err


def test_more_images_without_labels_than_there_are_is_refused() -> None:
    few = SimpleNamespace(num_unlabelled=9)
    with pytest.raises(ConfigError, match="--unlabelled is 10, but only 9 images without labels are usable; pass at most 9"):
        _refuse_missing([5, 10], few)  # type: ignore[arg-type]


def test_trains_every_variant_once_and_reuses_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [word for option in OPTIONS for word in ("--set", option)]
    arguments = ["ablate", str(SMALL), "--runs", str(tmp_path), "--seeds", "2", *settings]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count("running: never ran") == 2 + 2 * 4
    name = load(SMALL).name
    figures = json.loads((tmp_path / name / "ablation.json").read_text(encoding="utf-8"))
    assert figures["seeds"] == [0, 1]
    assert {len(values) for values in figures["maps"].values()} == {2}
    assert (tmp_path / name / "ablation.html").exists()
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count("reused") == 2 + 2 * 4
    assert "running" not in out


def test_refuses_no_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ablate", str(SMALL), "--runs", str(tmp_path), "--seeds", "0"]) == 2
    assert "--seeds is 0; pass 1 or more" in capsys.readouterr().err


def test_targets_that_train_for_int8_add_rows_for_both_kinds(tmp_path: Path) -> None:
    def network(seed: int, trained: float | None) -> Checkpoint:
        folder = tmp_path / f"{seed}-{trained}"
        folder.mkdir()
        figures = {"split": "val", "num_images": 6, "epochs": 1, "float_map": 0.5, "post_training_map": (0.4, 0.41)[seed]}
        int8_training.write(folder, Int8Training(**figures, trained_map=trained, recipe={}))
        return Checkpoint(folder)

    found = int8_maps({"cpu": [network(0, 0.45), network(1, 0.46)], "untrained": [network(0, None), network(1, None)]})
    assert found == {
        "cpu, post-training int8": [0.4, 0.41],
        "cpu, trained for int8": [0.45, 0.46],
        "untrained, post-training int8": [0.4, 0.41],
    }
    students = {name: SimpleNamespace(facts=SimpleNamespace(accuracy=samples.accuracy(map=0.3))) for name in ("baseline", "attention")}
    teacher: Any = SimpleNamespace(facts=SimpleNamespace(accuracy=samples.accuracy(map=0.9)))
    trained: Any = [students, students]
    measured = from_students("small", (0, 1), teacher, trained, found)
    assert measured.gains["cpu, trained for int8"].mean == pytest.approx(0.155)
    assert "cpu, post-training int8" in render(measured)
