"""The report as a reader and a browser get it."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import run_samples
from PIL import Image

from deploy.contract import Ratio
from deploy.engines.choice import Choice, Measured
from deploy.prediction.masks import rectangle
from pipeline.baselines import Baselines
from pipeline.report import plots
from pipeline.report.data_notes import noted_kinds
from pipeline.report.page import MOST_CLASSES, ClassRow, most_changed, write_report
from pipeline.report.words import change, count, drifted, duration, fastest, headline, percent, points
from pipeline.results.gain_lines import figures_lines
from pipeline.results.summary import summarize
from pipeline.run_result import RunResult
from stages.artifacts import Checkpoint, Dataset, Engine
from stages.config import UnlabelledConfig
from stages.facts import CheckpointFacts, write_facts
from stages.notes import Action, Note

SECTIONS = ("results", "tradeoff", "latency", "training", "classes", "curves", "data", "pictures", "attention", "stages", "reproduce")
VOID = {"meta", "link", "img", "br", "line", "path", "rect", "circle", "use", "image"}
FETCHING = {"src", "href", "srcset", "xlink:href", "action", "data", "poster"}
ALONE = "the baseline (the same network trained {} without the teacher)"
HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Tags, attributes and text of a page; the nesting checked on the way."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def attributes(self, name: str) -> Iterator[str]:
        return (value for _, attributes in self.tags if (value := attributes.get(name)) is not None)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    root = tmp_path_factory.mktemp("run")
    return run_samples.run(root / "run", run_samples.dataset(root / "data"))


def written(run: RunResult, folder: Path) -> str:
    file = folder / "report.html"
    write_report(run, file)
    assert [path.name for path in folder.iterdir() if "report" in path.name] == ["report.html"]
    return file.read_text(encoding="utf-8")


def test_the_largest_value_of_every_half_tensor_is_listed_the_largest_first(sample: RunResult, tmp_path: Path) -> None:
    page = Page(written(sample, tmp_path))
    assert "the largest half-precision value is 6.1e+04, in tensor add_3 ; the format's limit is 65,504 (show all 2 tensors)" in page.text
    assert "Tensor Largest value add_3 6.1e+04 mul_1 12.5" in page.text


def with_accuracy(network: Checkpoint, root: Path, **changes: Any) -> Checkpoint:
    """A copy of a checkpoint's facts alone, its accuracy changed."""
    root.mkdir(parents=True)
    facts = network.facts
    accuracy = facts.accuracy.model_copy(update=changes)
    write_facts(root, CheckpointFacts.model_validate({**facts.model_dump(), "accuracy": accuracy.model_dump()}))
    return Checkpoint(root)


def without_baselines(run: RunResult, root: Path) -> RunResult:
    """The same run if nothing had been trained without the teacher."""
    gains = run_samples.compared(root / "no-gains", run.dataset, run.teacher, run.student, Baselines(None))
    references = {name: report for name, report in run.references.items() if name != "baseline"}
    return replace(run, baselines=Baselines(None), gains=gains, references=references)


def class_row(name: str, gain: float | None) -> ClassRow:
    return ClassRow(name, 0.9, 0.5, 0.5 + (gain or 0), gain)


class TestPage:
    def test_opens_offline_and_is_small(self, sample: RunResult, tmp_path: Path) -> None:
        text = written(sample, tmp_path)
        page = Page(text)
        fetched = [value for name in FETCHING for value in page.attributes(name)]
        assert fetched
        assert all(value.startswith(("#", "data:")) for value in fetched)
        assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[^\"]*", "", text))
        assert "url(" not in text
        assert "@import" not in text
        assert {"script", "iframe", "object", "embed"}.isdisjoint(tag for tag, _ in page.tags)
        assert len(text.encode()) < 3_000_000

    def test_has_every_section_and_no_dead_link(self, sample: RunResult, tmp_path: Path) -> None:
        page = Page(written(sample, tmp_path))
        ids = list(page.attributes("id"))
        assert set(SECTIONS) <= set(ids)
        assert len(ids) == len(set(ids))
        assert {value[1:] for value in page.attributes("href") if value.startswith("#")} <= set(ids)
        assert list(page.attributes("class")).count("empty") == 1
        assert "Not measured. The section robustness of the configuration asks for" in page.text

    def test_masks_have_a_column_where_any_network_has_them(self, sample: RunResult, tmp_path: Path) -> None:
        assert "Mask mAP" not in Page(written(sample, tmp_path)).text
        found = sample.student.facts.accuracy.model_copy(update={"map": 0.4321})
        student = with_accuracy(sample.student, tmp_path / "student", segmentation=found)
        text = Page(written(replace(sample, student=student), tmp_path)).text
        assert text.count("Mask mAP") == 2
        assert "0.432" in text

    def test_masks_are_drawn_side_by_side(self, sample: RunResult, tmp_path: Path) -> None:
        assert 'class="masks"' not in written(sample, tmp_path)
        networks = {}
        for name in ("teacher", "student"):
            network = getattr(sample, name)
            root = tmp_path / name
            shutil.copytree(network.root, root)
            contract = network.facts.contract.model_copy(update={"mask_frame": "box"})
            write_facts(root, network.facts.model_copy(update={"contract": contract}))
            rows = json.loads((root / "detections.json").read_text(encoding="utf-8"))
            shaped = [{**row, "segmentation": rectangle(row["bbox"]), "score": 0.9} for row in rows]
            (root / "detections.json").write_text(json.dumps(shaped), encoding="utf-8")
            networks[name] = Checkpoint(root)
        text = written(replace(sample, teacher=networks["teacher"], student=networks["student"]), tmp_path)
        assert text.count('class="masks"') >= 2 * 4
        assert "Masks have the colors of their boxes." in text

    def test_every_picture_and_chart_is_described(self, sample: RunResult, tmp_path: Path) -> None:
        page = Page(written(sample, tmp_path))
        assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
        pictures = [attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("aria-hidden") != "true"]
        assert len(pictures) > 30
        assert all(attributes.get("role") == "img" and attributes.get("aria-label") for attributes in pictures)

    def test_shows_the_summary_s_figures(self, sample: RunResult, tmp_path: Path) -> None:
        summary = summarize(sample)
        text = Page(written(sample, tmp_path)).text
        assert "Baseline: the student's network trained without the teacher, for as many steps and, at equal cost, for as long" in text
        for name in ("teacher", "baseline", "baseline_equal_cost", "student"):
            for figure in ("map", "map_50", "map_75"):
                assert f"{summary[name][figure]:.3f}" in text
        assert f"{summary['gain_map_equal_cost'] * 100:+.1f} points of mAP at equal cost" in text
        assert f"; {summary['gain_map'] * 100:+.1f} at equal steps" in text
        assert f"{summary['gap_closed_equal_cost'] * 100:.0f}% of the teacher's lead" in text
        for name, target in summary["targets"].items():
            assert name in text
            if target["why"] is None:
                assert f"{target['map']:.3f}" in text
                assert f"{target['latency_ms']['end_to_end']['p99']:.2f}" in text
            else:
                assert target["why"] in text
        for gate in summary["gates"]:
            assert gate["limit"].replace(">=", "≥").replace("<=", "≤") in text
        for stage in summary["stages"]:
            assert stage["instance"] in text

    def test_says_what_baselines_and_student_have_in_common(self, sample: RunResult, tmp_path: Path) -> None:
        said = "and student start from the same initialization"
        assert f"). Baselines {said} and see the same images in the same order." in self.text_of(sample, tmp_path)
        one = replace(sample, baselines=Baselines(sample.baselines.equal_steps))
        gains = run_samples.compared(tmp_path / "gains", one.dataset, one.teacher, one.student, one.baselines)
        assert f"Baseline {said}" in self.text_of(replace(one, gains=gains), tmp_path)
        assert said not in self.text_of(without_baselines(sample, tmp_path), tmp_path)
        only = UnlabelledConfig.model_validate({"only": True})
        config = sample.config.model_copy(update={"distill": sample.config.distill.model_copy(update={"unlabelled": only})})
        assert f"Baselines {said}." in self.text_of(replace(sample, config=config), tmp_path)

    @staticmethod
    def text_of(run: RunResult, folder: Path) -> str:
        return Page(written(run, folder)).text

    def test_is_the_same_twice_but_for_its_date(self, sample: RunResult, tmp_path: Path) -> None:
        one, other = written(sample, tmp_path), written(sample, tmp_path)
        stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
        assert re.sub(stamp, "", one) == re.sub(stamp, "", other)

    def test_escapes_names_that_are_markup(self, tmp_path: Path) -> None:
        data = run_samples.dataset(tmp_path / "data", (HOSTILE, '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}"))
        text = written(run_samples.run(tmp_path / "run", data), tmp_path)
        page = Page(text)
        assert "<script" not in text
        assert not list(page.attributes("onerror"))
        assert HOSTILE in page.text
        assert "{{ 7 * 7 }}" in page.text


class TestNotes:
    def test_are_a_table_and_the_first_images_with_all_their_boxes(self, sample: RunResult, tmp_path: Path) -> None:
        text = written(sample, tmp_path)
        section = Page(text[text.index('<section id="data">') : text.index('<section id="pictures">')])
        assert "degenerate box left out val 1 of 22 boxes annotation 20 of 3.png, bbox [4, 4, 0, 9]" in section.text
        assert "3.png 3 objects" in section.text
        assert sum(tag == "rect" and attributes.get("class") != "tag" for tag, attributes in section.tags) == 3

    def test_show_images_that_were_left_out_without_boxes_and_none_that_cannot_be_read(self, tmp_path: Path) -> None:
        note = sample_note(action="left out", images=("gone.png", "spare.png"), split="val")
        run = run_samples.run(tmp_path / "run", noted(tmp_path / "data", note, sample_note(split="absent", images=("1.png",))))
        Image.new("RGB", (40, 30)).save(run.dataset.images("val") / "spare.png")
        text = Page(written(run, tmp_path)).text
        assert "spare.png 0 objects" in text
        assert "gone.png" not in text
        assert "odd <b> assumed absent 2 of 9 images one & all" in text

    def test_come_in_the_order_of_their_weight(self, tmp_path: Path) -> None:
        actions: tuple[Action, ...] = ("divided", "repaired", "assumed", "left out")
        run = run_samples.run(tmp_path / "run", noted(tmp_path / "data", *(sample_note(action=one) for one in actions)))
        assert [one.note.action for one in noted_kinds(run.dataset)] == ["left out", "assumed", "repaired", "divided"]

    def test_none_are_one_line(self, tmp_path: Path) -> None:
        run = run_samples.run(tmp_path / "run", noted(tmp_path / "data"))
        assert "Nothing was repaired, assumed or left out" in Page(written(run, tmp_path)).text


def sample_note(*, action: Action = "assumed", split: str = "val", images: tuple[str, ...] = ()) -> Note:
    return Note(kind="odd <b>", action=action, unit="images", split=split, count=2, total=9, examples=("one & all",), images=images)


def noted(root: Path, *notes: Note) -> Dataset:
    """The sample data with these notes."""
    dataset = run_samples.dataset(root)
    write_facts(root, dataset.facts.model_copy(update={"notes": notes}))
    return dataset


def test_a_choice_is_a_table_of_all_candidates(sample: RunResult, tmp_path: Path) -> None:
    first, *others = sample.targets
    offers = (
        Measured(runtime="ort", precision="fp32", map=0.61, drop=0.0, p50_ms=6.5, ratio=Ratio(ratio=1.5, low=1.4, high=1.6)),
        Measured(runtime="ort", precision="int8", map=0.55, drop=0.06, p50_ms=3.0, ratio=Ratio(ratio=0.7, low=0.6, high=0.8), why="bad"),
        Measured(runtime="openvino", precision="int8", map=0.605, drop=0.005, p50_ms=4.4),
        Measured(runtime="openvino", precision="fp16", why="not built"),
    )
    chosen = {"runtime": "openvino", "precision": "int8", "limit": 0.01, "left_out": {"trt": "no GPU"}, "warning": "a storm raged"}
    facts = first.engine.facts.model_copy(update={"choice": Choice.model_validate({**chosen, "offers": offers})})
    (tmp_path / "engine").mkdir()
    write_facts(tmp_path / "engine", facts)
    text = Page(written(replace(sample, targets=(replace(first, engine=Engine(tmp_path / "engine")), *others)), tmp_path)).text
    assert "openvino int8 was chosen . It is the fastest of the engines that stay within 0.01 of the float graph's mAP." in text
    assert "During the measurement, a storm raged. trt was left out: no GPU." in text
    assert "ort fp32 0.610 0.00 6.50 1.40 to 1.60 slower" in text
    assert "ort int8 0.550 −6.00 3.00 0.60 to 0.80 left out: bad" in text
    assert "openvino int8 0.605 −0.50 4.40 – chosen" in text
    assert "openvino fp16 – – – – left out: not built" in text


class TestMissingParts:
    def test_nothing_measured(self, tmp_path: Path) -> None:
        run = run_samples.run(tmp_path / "run", run_samples.dataset(tmp_path / "data"), gates=())
        page = Page(written(run_samples.without_measurements(run), tmp_path))
        assert "No engine could be measured on this machine." in page.text
        assert page.text.count(run_samples.WHY) == 3
        assert "No gate is configured" in page.text

    def test_undefined_accuracy_and_no_detections(self, sample: RunResult, tmp_path: Path) -> None:
        undefined = dict.fromkeys(("map", "map_50", "map_75"))
        nothing = {"per_class": dict.fromkeys(sample.dataset.facts.contract.classes)}
        teacher, baseline, longer, student = (
            with_accuracy(network, tmp_path / f"{number}", **undefined, **nothing)
            for number, network in enumerate(sample.networks.values())
        )
        (student.root / "detections.json").write_text("[]")
        baselines = replace(sample.baselines, equal_steps=baseline, equal_cost=longer)
        gains = run_samples.compared(tmp_path / "gains", sample.dataset, teacher, student, baselines)
        blank = replace(sample, teacher=teacher, baselines=baselines, student=student, gains=gains)
        text = Page(written(blank, tmp_path)).text
        assert "Accuracy is undefined" in text
        assert "No network was trained" in text
        assert "No attention map was kept" in text
        assert "0 found, 3 missed" in text

    def test_one_epoch_and_blank_cells(self, tmp_path: Path) -> None:
        run = run_samples.run(tmp_path / "run", run_samples.dataset(tmp_path / "data"), epochs=1)
        (run.teacher.root / "curves.csv").write_text("epoch,loss,grad_norm\n1,,nan\n2,0.5,inf\n")
        assert plots.read_curves(run.teacher.root / "curves.csv") == {"loss": [(2.0, 0.5)]}
        assert "attention/feature" in Page(written(run, tmp_path)).text

    def test_images_that_are_gone(self, tmp_path: Path) -> None:
        run = run_samples.run(tmp_path / "run", run_samples.dataset(tmp_path / "data"))
        (run.dataset.images("val") / "1.png").unlink()
        (run.dataset.images("val") / "3.png").write_bytes(b"no image")
        assert "2 of 6 images can no longer be read." in Page(written(run, tmp_path)).text

    @pytest.mark.parametrize(
        ("gains", "shown"),
        [
            (range(1, 101), range(100, 20, -1)),
            (range(-100, 0), range(-21, -101, -1)),
            (range(-30, 70), [*range(69, 19, -1), *range(19, 10, -1), *range(-10, -31, -1)]),
        ],
        ids=["all gained", "all lost", "mixed"],
    )
    def test_of_many_classes_those_that_changed_most(self, gains: Sequence[int], shown: Sequence[int]) -> None:
        rows = [class_row(f"{gain}", gain / 500) for gain in gains]
        found = most_changed([class_row("absent", None), *rows])
        assert [row.name for row in found] == [str(gain) for gain in shown]
        assert most_changed(rows[:MOST_CLASSES]) == rows[:MOST_CLASSES]

    def test_of_many_classes_without_gains_the_first(self, tmp_path: Path) -> None:
        rows = [class_row(f"{number}", None) for number in range(100)]
        assert most_changed(rows) == rows[:MOST_CLASSES]
        data = run_samples.dataset(tmp_path / "data", [f"thing {i}" for i in range(100)])
        text = Page(written(without_baselines(run_samples.run(tmp_path / "run", data), tmp_path), tmp_path)).text
        assert "Average precision over IoU 0.5 to 0.95. Of 100 classes, these are the first 80." in text
        listed = text[text.index("these are the first 80") :].partition("Precision and recall")[0]
        assert "thing 79" in listed
        assert "thing 80" not in listed

    def test_more_classes_than_curves(self, tmp_path: Path) -> None:
        data = run_samples.dataset(tmp_path / "data", [f"thing {i}" for i in range(25)], num_images=12)
        text = Page(written(run_samples.run(tmp_path / "run", data), tmp_path)).text
        assert "The 12 weakest classes" in text


class TestHeadline:
    @staticmethod
    def summary(sample: RunResult, **changes: Any) -> dict[str, Any]:
        return {**json.loads(json.dumps(summarize(sample))), **changes}

    @pytest.mark.parametrize(
        ("code", "tone", "words"),
        [(0, "pass", "All 3 gates passed"), (5, "fail", "required"), (10, "fail", "0 of 3 gates failed"), (11, "open", "inconclusive")],
    )
    def test_verdict(self, sample: RunResult, code: int, tone: str, words: str) -> None:
        said = headline(self.summary(sample, exit_code=code))
        assert said.tone == tone
        assert words in said.verdict

    @pytest.mark.parametrize(
        ("cost", "steps", "words"),
        [
            (0.01, 0.05, f"1.0 points above {ALONE.format('for as long')}, closing 17% of the gap to the teacher"),
            (0.01, 0.05, "(0.060), and 5.0 points above the one trained for as many steps."),
            (0.05, 0.01, f"1.0 points above {ALONE.format('for as many steps')}, closing 17% of the gap to the teacher"),
            (0.05, 0.01, "(0.060), and 5.0 points above the one trained for as long."),
            (0.07, 0.08, f"7.0 points above {ALONE.format('for as long')}, and even above the teacher (0.060), and 8.0"),
            (-0.02, 0.0001, f"2.0 points below {ALONE.format('for as long')}, and the same as the one trained for as many steps."),
            (None, 0.01, f"1.0 points above {ALONE.format('for as many steps')}, closing 17% of the gap to the teacher (0.060)."),
            (0.01, None, f"1.0 points above {ALONE.format('for as long')}, closing 17% of the gap to the teacher (0.060)."),
        ],
    )
    def test_gains_in_words_the_smaller_first(self, sample: RunResult, cost: float | None, steps: float | None, words: str) -> None:
        said = headline(self.gained(sample, {"equal_cost": cost, "equal_steps": steps}))
        assert words in said.sentences[0]
        (tile,) = (tile for tile in said.tiles if tile.title == "Gain from distillation")
        assert tile.figure == points(min(gain for gain in (cost, steps) if gain is not None))

    @pytest.mark.parametrize(
        ("cost", "steps", "interval", "told"),
        [
            (0.01, 0.05, 0.02, True),
            (0.04, 0.05, 0.02, False),
            (0.06, 0.05, 0.02, False),
            (0.01, 0.05, None, False),
            (None, 0.05, 0.02, False),
        ],
    )
    def test_a_baseline_that_had_not_finished_learning_is_reported(
        self, sample: RunResult, cost: float | None, steps: float, interval: float | None, *, told: bool
    ) -> None:
        summary = self.gained(sample, {"equal_cost": cost, "equal_steps": steps}, interval)
        sentence = (
            "At equal steps the baseline had not finished learning: in 12 instead of 8 epochs it gains 4.0 points without any teacher."
        )
        assert (sentence in headline(summary).sentences) == told

    def test_one_network_as_both_baselines_is_quoted_once(self, sample: RunResult) -> None:
        summary = self.gained(sample, {"equal_cost": 0.01, "equal_steps": 0.01})
        summary["gain"]["equal_cost"]["epochs"] = 8
        said = headline(summary)
        assert f"1.0 points above {ALONE.format('for as many steps, which took as long,')}, closing" in said.sentences[0]
        assert said.tiles[0].detail.startswith("points of mAP at equal steps and cost, from")

    def gained(self, sample: RunResult, gains: dict[str, float | None], interval: float | None = None) -> dict[str, Any]:
        """A summary with these gains of a student at mAP 0.5, and a teacher 6 points above the baseline at 0."""
        changes: dict[str, Any] = {"teacher": {**summarize(sample)["teacher"], "map": 0.06}}
        over: dict[str, Any] = {}
        for (equal, gain), epochs, key in zip(gains.items(), (12, 8), ("gap_closed_equal_cost", "gap_closed"), strict=True):
            ends = {} if interval is None or gain is None else {"low": gain - interval, "high": gain + interval}
            over[equal] = None if gain is None else {"epochs": epochs, "map": 0.5 - gain, "gain": gain, **ends}
            changes[key] = None if gain is None else gain / 0.06
        return self.summary(sample, gain={**summarize(sample)["gain"], **over}, **changes)

    def test_the_fastest_engine_is_one_that_passed(self, sample: RunResult) -> None:
        summary = self.summary(sample)
        assert fastest(summary) == "cpu-int8"
        for gate in summary["gates"]:
            gate["verdict"] = "fail" if gate["target"] == "cpu-int8" else gate["verdict"]
        assert fastest(summary) == "cpu-fp32"

    @pytest.mark.parametrize(
        ("value", "words"), [(0.5, "0.5 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (251, "4 min 11 s"), (7325, "2 h 02 min"), (None, "–")]
    )
    def test_duration(self, value: float | None, words: str) -> None:
        assert duration(value) == words

    def test_minus_is_a_minus(self) -> None:
        assert points(-0.0123) == "−1.2"
        assert percent(-0.1) == "−10%"

    def test_what_is_rounded_to_zero_has_no_sign(self, sample: RunResult) -> None:
        assert [points(value) for value in (-0.0004, 0.0, 0.0004, 0.0006)] == ["0.0", "0.0", "0.0", "+0.1"]
        assert [change(value) for value in (-0.00004, 0.00004, -0.00006)] == ["0.00", "0.00", "−0.01"]
        assert [percent(value) for value in (-0.004, -0.006)] == ["0%", "−1%"]
        gained = self.gained(sample, {"equal_cost": -0.0002, "equal_steps": None})
        assert figures_lines(gained)[1].startswith("0% of the gap to the teacher at equal cost")

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (999, "999"),
            (1000, "1 k"),
            (12_345, "12.3 k"),
            (999_499, "999 k"),
            (999_600, "1 M"),
            (999_999_999, "1 G"),
            (1_234_000_000_000, "1230 G"),
        ],
    )
    def test_counts_are_never_written_with_an_exponent(self, value: int, words: str) -> None:
        assert count(value) == words

    @pytest.mark.parametrize(
        ("value", "words"),
        [(0.0, "0"), (0.00003, "3e-05"), (0.0123, "0.012"), (9.96, "10"), (99.7, "100"), (150.0, "150"), (1234.0, "1200")],
    )
    def test_distances_have_two_digits(self, value: float, words: str) -> None:
        assert drifted(value) == words

    def test_names_keep_their_capitals_at_the_beginning_of_a_sentence(self, sample: RunResult) -> None:
        found = summarize(sample)["gain"]
        agreement = {"map": 0.5, "map_50": 0.75, "num_boxes": 3}
        unjudged = {**found, "equal_cost": None, "equal_steps": None, "agreement": agreement, "split": "ValNight"}
        said = headline(self.summary(sample, gain=unjudged)).sentences[0]
        assert said.startswith("Agreement with the teacher's boxes: map 0.5000, map_50 0.7500, with the 3 boxes")
        assert "images of split ValNight" in said

    @pytest.mark.parametrize(
        ("low", "high", "title", "figure"),
        [
            (0.82, 0.85, "Speed next to the teacher", "0.82–0.85×"),
            (0.98, 1.04, "Speed next to the teacher", "0.98–1.04×"),
            (1.02, 1.04, "Faster than the teacher", "1.02–1.04×"),
        ],
    )
    def test_only_what_is_faster_is_called_so(self, sample: RunResult, low: float, high: float, title: str, figure: str) -> None:
        summary = self.summary(sample)
        for target in summary["targets"].values():
            target["speedups"] = {"teacher": {"ratio": (low + high) / 2, "low": low, "high": high}}
        tile = headline(summary).tiles[-1]
        assert (tile.title, tile.figure) == (title, figure)

    def test_gates_without_an_engine_had_something_to_compare(self, sample: RunResult) -> None:
        summary = self.summary(sample, exit_code=12)
        assert {gate["verdict"] for gate in summary["gates"]} == {"pass", "unmeasured"}
        assert headline(summary).verdict == "An engine could not be measured"
        summary["gates"][0]["verdict"] = "incomparable"
        assert headline(summary).verdict == "A gate found nothing to compare"

    @pytest.mark.parametrize(
        ("teacher", "gain", "detail"),
        [
            (None, 0.01, "mAP is undefined"),
            (0.06, None, "mAP is undefined"),
            (0.001, 0.01, "the teacher is less than a point ahead of the baseline"),
        ],
    )
    def test_why_there_is_no_share_of_the_gap(self, sample: RunResult, teacher: float | None, gain: float | None, detail: str) -> None:
        summary = self.gained(sample, {"equal_cost": None, "equal_steps": 0.01})
        summary["gain"]["equal_steps"] |= {"map": 0.0, "gain": gain}
        summary |= {"teacher": {**summary["teacher"], "map": teacher}, "gap_closed": None}
        (tile,) = (tile for tile in headline(summary).tiles if tile.title == "Gap closed")
        assert (tile.figure, tile.detail) == ("–", detail)
