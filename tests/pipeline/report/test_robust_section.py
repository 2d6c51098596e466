"""The report's section on robustness."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import run_samples

from deploy.accuracy.conditions import CORRUPTIONS
from pipeline.report.page import write_report
from pipeline.report.robustness import heat_maps
from pipeline.run_result import RunResult
from stages.artifacts import WORST, Robustness, read_json
from stages.facts import RobustnessFacts, write_facts
from stages.measurement.robust import Elsewhere

NAMES = ("teacher", "baseline", "float", "cpu-int8")


def figures(level: float, severities: tuple[int, ...]) -> dict[str, Any]:
    maps = {name: {number: level - 0.01 * number for number in severities} for name in CORRUPTIONS}
    sweep = {
        "mode": "quick" if severities == (3,) else "full",
        "num_images": 8,
        "clean": level,
        "mpc": level - 0.03,
        "rpc": 0.9,
        "maps": maps,
    }
    split = {"num_images": 40, "map": level / 2, "map_50": level}
    groups = {"time": {"day": {"num_images": 30, "map": level, "counts": True}, "night": {"num_images": 3, "map": 0.1, "counts": False}}}
    return {"splits": {"night": split}, "groups": groups, "sweep": sweep}


def with_robustness(run: RunResult, root: Path, severities: tuple[int, ...] = (3,)) -> RunResult:
    truth = read_json(run.dataset.annotations("val"))
    lead = {"metric": "map@night", "num_images": 40, "student": 0.35, "baseline": 0.3, "gain": 0.05, "low": 0.01, "high": 0.09}
    worst = {"split": "val", "image_id": 3, "file_name": "3.png", "maps": {"teacher": 0.5, "baseline": None, "student": 0.125}}
    engines = {name: figures(level, severities) for name, level in zip(NAMES, (0.9, 0.6, 0.7, 0.65), strict=True)}
    facts = {"split": "val", "engines": engines, "leads": [lead], "worst_images": [worst]}
    root.mkdir()
    write_facts(root, RobustnessFacts.model_validate(facts))
    seen = run_samples.detections(truth, 0.7)
    (root / WORST).write_text(json.dumps({"val": {"teacher": seen, "student": seen}}))
    return replace(run, robust=(Elsewhere(run.config.robustness, "val", run.dataset, {}), Robustness(root)))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("report")
    run = run_samples.run(root / "run", run_samples.dataset(root / "data"))
    write_report(with_robustness(run, root / "robust"), root / "report.html")
    content = (root / "report.html").read_text(encoding="utf-8")
    return content[content.index('<section id="robustness">') : content.index('<section id="data">')]


def test_every_engine_has_its_figures(page: str) -> None:
    rows = re.findall(r'<th scope="row">(?:<span[^>]*></span>)?([\w-]+)</th><td>([\d.]+)</td>', page)
    assert [name for name, _ in rows[:4]] == ["teacher", "baseline", "student", "cpu-int8"]
    assert [value for _, value in rows[:4]] == ["0.450", "0.300", "0.350", "0.325"]
    assert '+5.0<br><span class="note">+1.0 to +9.0</span>' in page


def test_it_says_what_was_judged(page: str) -> None:
    assert "mAP of the engines on other splits, in groups of the images of split val and on corrupted images of split val." in page


def test_groups_say_which_have_too_few_images(page: str) -> None:
    assert '<td>3 <span class="note">too few</span></td>' in page
    assert "<td>30</td>" in page


def test_the_heat_map_has_every_corruption_and_the_difference(page: str) -> None:
    assert page.count("gaussian noise</th>") == 2
    assert "<caption>mAP at severity 3</caption>" in page
    assert "<caption>Student minus baseline, in points</caption>" in page
    assert 'color-mix(in srgb, var(--pass) 30%, transparent)">+10.0' in page


def test_the_worst_images_are_drawn_with_their_boxes(page: str) -> None:
    assert "<b>3.png</b>, split val; mAP on this image: teacher 0.500, baseline –, student 0.125" in page
    assert page.count("<figure>") == 3


def test_a_full_sweep_has_a_map_for_each_engine_with_its_mean() -> None:
    every = (1, 2, 3, 4, 5)
    sweeps = {name: figures(level, every)["sweep"] for name, level in (("teacher", 0.9), ("baseline", 0.6), ("student", 0.7))}
    maps = heat_maps(sweeps)
    assert [one.title for one in maps] == ["mAP of teacher", "mAP of baseline", "mAP of student", "Student minus baseline, in points"]
    assert maps[0].columns == (1, 2, 3, 4, 5, "mean")
    assert maps[0].rows[0][1][-1].text == "0.870"
    assert maps[3].rows[0][1][-1].text == "+10.0"


def test_an_undefined_figure_is_a_dash_without_color() -> None:
    sweep = figures(0.5, (3,))["sweep"]
    sweep["maps"]["fog"][3] = None
    cell = dict(heat_maps({"student": sweep})[0].rows)["fog"][0]
    assert (cell.text, cell.share) == ("–", 0)


def test_without_it_the_report_says_how_to_ask(tmp_path: Path) -> None:
    run = run_samples.run(tmp_path / "run", run_samples.dataset(tmp_path / "data"))
    write_report(run, tmp_path / "report.html")
    assert "Not measured. The section <code>robustness</code>" in (tmp_path / "report.html").read_text(encoding="utf-8")
