"""compare.html, for one method and for fourteen, on small screens and on paper."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from arena_samples import contest
from waiting import PATIENCE

from pipeline.report.ablation_page import narrow_chart
from pipeline.report.contest_page import against_rival, write_page
from pipeline.results.contest import Tried

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def page(tmp_path: Path, **options: Any) -> str:
    write_page(contest(**options), tmp_path / "compare.html")
    return (tmp_path / "compare.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "options",
    [
        {"num_methods": 1},
        {"num_methods": 14},
        {"seeds": 2},
        {"equal_cost": None},
        {"tuning": None},
        {"control": None},
    ],
    ids=str,
)
def test_it_is_whole_and_downloads_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    text = page(tmp_path, **options)
    assert text.rstrip().endswith("</html>")
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert not re.search(r"\d %", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    text = page(tmp_path, name="<b>x</b>", left_out={"<i>hint</i>": "<u>nan</u>"})
    assert not any(tag in text for tag in ("<b>x", "<i>hint", "<u>nan"))


def test_the_method_of_the_random_teacher_is_named_if_there_is_one(tmp_path: Path) -> None:
    assert "The random teacher uses the losses of pearson." in page(tmp_path, control_method="pearson")
    assert "The random teacher" not in page(tmp_path, control=None, control_method=None)


def test_the_better_baseline_is_named(tmp_path: Path) -> None:
    found = contest()
    assert found.equal_cost is not None
    overfitted = replace(found.equal_cost, maps=tuple(one - 0.02 for one in found.baseline.maps))
    assert "<h2>Gain over the baseline that trained for as long</h2>" in page(tmp_path)
    text = page(tmp_path, equal_cost=overfitted)
    assert "<h2>Gain over the baseline of as many epochs</h2>" in text
    assert "higher mean mAP than the one that trained for 470 epochs" in text


def test_of_equal_trials_the_first_is_bold_because_it_was_used(tmp_path: Path) -> None:
    trials = Tried(0.7, None), Tried(0.5, 0.4), Tried(0.875, 0.25), Tried(0.9, 0.4)
    found = contest(1)
    text = page(tmp_path, num_methods=1, methods=(replace(found.methods[0], trials=trials),))
    assert "<td>diverged</td><td><b>0.400</b></td><td>0.250</td><td>0.400</td>" in text


def test_every_row_of_the_narrow_plot_is_inside_and_named() -> None:
    found = against_rival(contest(14))
    chart = narrow_chart(found)
    assert [label.text for label in chart.labels] == [*found.gains]
    assert len(found.gains) == 15
    left, top, right, bottom = chart.frame
    assert all(left <= mark.x <= right and top <= mark.y <= bottom for mark in chart.marks)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt install chromium")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # playwright's own
def test_nothing_sticks_out_of_a_phone_or_of_paper(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    page(tmp_path, num_methods=14)
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"], timeout=1000 * PATIENCE)
        shown = browser.new_page(viewport={"width": 390, "height": 844})
        shown.goto((tmp_path / "compare.html").as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") <= 390
        assert shown.locator("svg.narrow").is_visible()
        assert not shown.locator("svg.broad").is_visible()
        shown.set_viewport_size({"width": 1000, "height": 844})
        shown.emulate_media(media="print")
        wide = "Array.from(document.querySelectorAll('table')).map(one => one.getBoundingClientRect().right)"
        assert max(shown.evaluate(wide)) <= 1000
        browser.close()
