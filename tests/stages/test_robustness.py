"""Other splits, groups and corruptions, through real engines of a hand-made detector."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import artifact_samples as samples
import numpy as np
import pytest
import robust_samples
from PIL import Image
from places import ROOT
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pydantic import ValidationError

from deploy import machine
from deploy.accuracy import corruptions
from deploy.accuracy.conditions import CORRUPTIONS, Condition, num_swept, sweep
from deploy.bundles.manifest import Verdict
from deploy.errors import DataError, RuntimeUnavailable
from deploy.prediction import preprocess
from deploy.prediction.detections import to_coco
from deploy.prediction.predictor import SessionPredictor
from pipeline.config import load
from stages.artifacts import Dataset, Engine, OnnxModel, Report, Robustness, Stress, read_json
from stages.assess import assess
from stages.config import GateConfig, RobustnessConfig, ValidationConfig
from stages.facts import RobustnessFacts
from stages.gate import gate
from stages.measurement.corrupted import Views
from stages.measurement.robust import refuse, swept_images
from stages.measurement.sessions import open_session
from stages.stress import stress
from stages.validate import validate

pytest.importorskip("imagecorruptions")

HOW = ValidationConfig.model_validate({"latency": {"threads": 1}})
GROUPS = {"time": {"pattern": "^(day|night)"}, "weather": {"field": "weather"}, "crowd": {"by": "crowding"}, "size": {"by": "size"}}
ASKED = RobustnessConfig.model_validate({"splits": ["shifted"], "corruptions": "quick", "groups": GROUPS, "min_images": 10})


@dataclass(frozen=True)
class Swept:
    """Two engines, the float graph and the same with a clipped range, with everything that was measured of them."""

    data: Dataset
    engines: dict[str, Engine]
    models: dict[str, OnnxModel]
    reports: dict[str, Report]
    sweep: Stress
    found: Robustness

    def verdicts(self, root: Path, *gates: dict[str, Any], asked: RobustnessConfig = ASKED) -> list[Verdict]:
        """What gates say of the clipped engine."""
        root.mkdir()
        given = tuple(GateConfig.model_validate(one) for one in gates)
        timed = samples.measurement(root / "measurement", {})
        rivals = {"float": self.engines["float"]}
        own = self.engines["here"], self.models["here"], self.reports["here"], timed
        others: Any = ({}, rivals, {"float": self.models["float"]}, {"float": self.reports["float"]}, "baseline")
        robust: Any = asked, self.reports, self.sweep, self.found
        return list(gate(root, given, HOW, self.data, *own, *others, *robust).facts.verdicts)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    root = tmp_path_factory.mktemp("robust")
    data = robust_samples.dataset(root / "data")
    made = {name: robust_samples.engine(folder(root / name), data, name, clipped=name == "here") for name in ("float", "here")}
    engines, models = ({name: one[index] for name, one in made.items()} for index in (0, 1))
    reports = {}
    for name, engine in made.items():
        for split in ("val", "shifted"):
            out = folder(root / f"report-{name}-{split}")
            there = HOW.model_copy(update={"split": split})
            reports[name if split == "val" else f"{name}@{split}"] = validate(out, there, engine[0], data)
    swept = stress(folder(root / "sweep"), ASKED, "val", 1, engines, data)  # type: ignore[arg-type]
    found = assess(folder(root / "found"), ASKED, "val", data, reports, swept)
    return Swept(data, engines, models, reports, swept, found)  # type: ignore[arg-type]


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def by_hand(truth: dict[str, Any], found: Sequence[Any]) -> float:
    """mAP by pycocotools."""
    annotated = COCO()
    annotated.dataset = json.loads(json.dumps(truth))
    annotated.createIndex()
    judge = COCOeval(annotated, annotated.loadRes([dict(one) for one in found]), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return float(judge.stats[0])


@pytest.fixture(scope="module")
def remade(judged: Swept) -> dict[str, float]:
    """mAP of the float graph on images that the library corrupts here, by corruption."""
    import imagecorruptions

    truth = read_json(judged.data.annotations("val"))
    maps: dict[str, float] = {}
    with open_session(judged.engines["float"], 1) as session:
        predictor = SessionPredictor(session, robust_samples.contract())
        for corruption in CORRUPTIONS:
            found = []
            for row in truth["images"]:
                seed = corruptions.seed_of(row["id"], corruption, 3)
                np.random.seed(seed)  # noqa: NPY002
                pixels = np.asarray(Image.open(judged.data.images("val") / row["file_name"]))
                options = {"seed": seed} if corruption in {"glass_blur", "impulse_noise"} else {}
                made = imagecorruptions.corrupt(pixels, severity=3, corruption_name=corruption, **options)
                found += to_coco(predictor.detect(made), row["id"], predictor.contract)
            maps[corruption] = by_hand(truth, found) if found else 0.0  # pycocotools does not load an empty list
    return maps


class TestFigures:
    def test_other_splits_have_the_map_of_their_reports(self, judged: Swept) -> None:
        for name, figures in judged.found.facts.engines.items():
            accuracy = judged.reports[f"{name}@shifted"].facts.accuracy
            assert accuracy is not None
            assert figures.splits["shifted"].map == accuracy.map
            assert figures.values()["map@shifted"] == accuracy.map

    def test_groups_have_the_map_of_their_images_alone(self, judged: Swept) -> None:
        truth = read_json(judged.data.annotations("val"))
        found = read_json(judged.reports["float"].root / "detections.json")
        day = {image["id"] for image in truth["images"] if image["file_name"].startswith("day")}
        part = {**truth, "images": [one for one in truth["images"] if one["id"] in day]}
        part["annotations"] = [one for one in truth["annotations"] if one["image_id"] in day]
        groups = judged.found.facts.engines["float"].groups
        assert groups["time"]["day"].map == pytest.approx(by_hand(part, [one for one in found if one["image_id"] in day]), abs=1e-9)
        assert (groups["time"]["day"].num_images, groups["time"]["night"].num_images) == (12, 12)
        assert {name: one.counts for name, one in groups["weather"].items()} == {"dry": True, "rain": False}
        assert list(groups["crowd"]) == ["1 object", "2 to 5 objects"]
        assert list(groups["size"]) == ["small"]

    @pytest.mark.parametrize("corruption", ["gaussian_noise", "glass_blur", "brightness"])
    def test_a_sweep_is_what_the_library_and_pycocotools_give(self, judged: Swept, remade: dict[str, float], corruption: str) -> None:
        swept = judged.found.facts.engines["float"].sweep
        assert swept is not None
        assert swept.maps[corruption][3] == pytest.approx(remade[corruption], abs=1e-9)

    def test_mpc_and_rpc_are_what_the_library_and_pycocotools_give(self, judged: Swept, remade: dict[str, float]) -> None:
        swept = judged.found.facts.engines["float"].sweep
        assert swept is not None
        assert len(remade) == 15
        mpc = sum(remade.values()) / 15
        plain = by_hand(read_json(judged.data.annotations("val")), read_json(judged.reports["float"].root / "detections.json"))
        assert 0 < mpc < plain
        assert swept.mpc == pytest.approx(mpc, abs=1e-9)
        assert swept.rpc == pytest.approx(mpc / plain, abs=1e-9)

    def test_mpc_is_the_mean_over_all_and_rpc_its_ratio_to_clean(self, judged: Swept) -> None:
        swept = judged.found.facts.engines["float"].sweep
        assert swept is not None
        every = [value for row in swept.maps.values() for value in row.values() if value is not None]
        assert len(every) == len(CORRUPTIONS) == 15
        assert swept.mpc == pytest.approx(sum(every) / 15, abs=1e-12)
        assert swept.clean == pytest.approx(1)
        assert swept.rpc == pytest.approx(sum(every) / 15, abs=1e-9)

    def test_an_image_is_corrupted_the_same_way_each_time_and_the_generator_is_left_alone(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
        for corruption in CORRUPTIONS:
            np.random.seed(5)  # noqa: NPY002
            once = corruptions.corrupt(pixels, corruption, 2, corruptions.seed_of(7, corruption, 2))
            drawn = np.random.random()  # noqa: NPY002
            again = corruptions.corrupt(pixels, corruption, 2, corruptions.seed_of(7, corruption, 2))
            assert (once == again).all(), corruption
            assert once.shape == pixels.shape
            assert (once != pixels).any()
            np.random.seed(5)  # noqa: NPY002
            assert np.random.random() == drawn  # noqa: NPY002

    def test_the_worst_images_are_those_with_the_lowest_map(self, judged: Swept) -> None:
        worst = judged.found.facts.worst_images
        assert [one.split for one in worst] == ["shifted"] * 6
        maps = [one.maps["student"] for one in worst]
        assert maps == sorted(maps, key=lambda value: -1.0 if value is None else value)


@pytest.mark.parametrize(("with_objects", "is_told"), [(20, True), (19, False)])
def test_a_lead_takes_enough_images_with_objects(judged: Swept, tmp_path: Path, with_objects: int, is_told: bool) -> None:
    data = robust_samples.dataset(tmp_path / "data")
    truth = read_json(data.annotations("shifted"))
    truth["annotations"] = [one for one in truth["annotations"] if one["image_id"] <= with_objects]
    data.annotations("shifted").write_text(json.dumps(truth))
    names = {"float": "float", "baseline": "here"}
    reports = {f"{name}{at}": judged.reports[f"{own}{at}"] for name, own in names.items() for at in ("", "@shifted")}
    (lead,) = assess(folder(tmp_path / "found"), RobustnessConfig(splits=("shifted",)), "val", data, reports).facts.leads
    assert (lead.num_images, lead.gain is not None, lead.low is not None) == (24, True, is_told)


@pytest.fixture
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.comparison.compare.SWEEP_RESAMPLES", 40)


@pytest.mark.usefixtures("fewer_resamples")
class TestGates:
    def test_a_clipped_range_is_seen_by_corruptions_and_not_by_clean_map(self, judged: Swept, tmp_path: Path) -> None:
        """The planted damage: an engine with 8-bit activations whose range ends at the brightest pixel of clean images."""
        clean, robust, relative, low = judged.verdicts(
            tmp_path / "gate",
            {"metric": "map", "max_drop": 0.001, "versus": "float"},
            {"metric": "mpc", "max_drop": 0.02, "versus": "float"},
            {"metric": "rpc", "max_drop": "2%", "versus": "float"},
            {"metric": "mpc", "min": 0.0},
        )
        assert (clean.verdict, robust.verdict, relative.verdict, low.verdict) == ("pass", "fail", "fail", "pass")
        assert robust.effect is not None
        assert robust.effect.low > 0.02
        assert robust.how == "24 images"
        swept = {name: one.sweep for name, one in judged.found.facts.engines.items()}
        assert swept["here"] is not None
        assert swept["float"] is not None
        assert (swept["here"].maps["brightness"][3] or 0) < 0.5 < (swept["float"].maps["brightness"][3] or 0)
        assert robust.measured == pytest.approx(swept["here"].mpc, abs=1e-9)
        assert robust.reference == pytest.approx(swept["float"].mpc, abs=1e-9)

    def test_splits_and_groups_have_three_verdicts_too(self, judged: Swept, tmp_path: Path) -> None:
        found = judged.verdicts(
            tmp_path / "gate",
            {"metric": "map@shifted", "max_drop": 0.001, "versus": "float"},
            {"metric": "map_worst_group", "max_drop": 0.001, "versus": "float"},
            {"metric": "map@shifted", "min": 1.01},
            {"metric": "map_worst_group", "max_drop": 0.01, "versus": "teacher"},
            asked=ASKED.model_copy(update={"min_images": 24}),  # all have small cells; no other group has as many
        )
        assert [one.verdict for one in found] == ["pass", "pass", "fail", "incomparable"]

    def test_a_group_of_few_images_may_be_the_worst_and_gives_no_verdict(self, judged: Swept, tmp_path: Path) -> None:
        (found,) = judged.verdicts(tmp_path / "gate", {"metric": "map_worst_group", "max_drop": 0.001, "versus": "float"})
        assert found.verdict == "inconclusive"
        assert found.why == "12 images with objects in the smallest group are too few to tell; at least 20 are needed"


def test_a_killed_sweep_goes_on_where_it_stopped(judged: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, answer, calls = folder(tmp_path / "sweep"), SessionPredictor.answer, []

    def killed(self: SessionPredictor, pixels: Any, placement: Any) -> Any:
        calls.append(1)
        if len(calls) > 2 * 24 * 3 + 5:
            raise KeyboardInterrupt
        return answer(self, pixels, placement)

    with monkeypatch.context() as patch:
        patch.setattr(SessionPredictor, "answer", killed)
        patch.setattr(machine, "num_cores", lambda: 1)
        with pytest.raises(KeyboardInterrupt):
            stress(out, ASKED, "val", 1, judged.engines, judged.data)
    kept = {path: path.stat().st_mtime_ns for path in (out / "float").iterdir()}
    assert sorted(path.name for path in kept) == sorted(f"{name}-3.json" for name in CORRUPTIONS[:3])
    monkeypatch.setattr(machine, "num_cores", lambda: 2)
    again = stress(out, ASKED, "val", 1, judged.engines, judged.data)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for name in judged.engines:
        for condition in sweep("val", "quick"):
            assert again.detections(name, condition) == judged.sweep.detections(name, condition)


def data_with(root: Path, **changes: Any) -> Dataset:
    return robust_samples.dataset(root, **changes)


def csv(text: str) -> dict[str, Any]:
    return {"groups": {"site": {"csv": "sites.csv"}}, "csv_text": text}


EVERY_DAY = "".join(f"{'day' if number % 2 == 0 else 'night'}-{number:02}.png,a\n" for number in range(24))
REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"splits": ["shiftet"]},
        r"no split 'shiftet' \(did you mean shifted\?\): the data has shifted, train, val; to go without, write splits: \[\]$",
    ),
    ({"splits": ["night", "shifted", "fog"]}, r"no split 'night': the data has shifted, train, val; .* write splits: \[shifted\]$"),
    (
        {"groups": {"all": {"pattern": "(.*)"}}},
        r"the largest group, all: day-00\.png, has 1 image of split val, and robustness\.min_images is 20; lower it",
    ),
    (
        {"groups": {"site": {"pattern": "camera-([0-9])"}}},
        r"pattern 'camera-\(\[0-9\]\)' matches no file name of split val, such as day-00",
    ),
    (
        {"groups": {"site": {"field": "wether"}}},
        r"no image of split val has a field 'wether'; they have weather \(did you mean weather\?\)",
    ),
    ({"groups": {"site": {"csv": "nowhere.csv"}}}, r"nowhere\.csv is not a file; write a CSV file with the columns file,group"),
    (csv("file,group\nday-00.png,a\n"), r"sites\.csv has no row for night-01\.png and 22 more of split val; name every image"),
    (csv("file,group\nday-00.png,a,b\n"), r"sites\.csv:2: more values than columns; write a name that contains a comma in quotation marks"),
    (csv(f'file,group\nday-00.png,"{"a" * 140_000}\n'), r"sites\.csv:2: field larger than .*; is a quotation mark missing\?"),
    (csv("name,place\nday-00.png,a\n"), r"sites\.csv:1: the columns are name,place; write file,group"),
    (csv("file,group\nday-00.png,\n"), r"sites\.csv:2: no group; every row needs both"),
    (csv(f"file,group\n{EVERY_DAY}day-00.png,b\n"), r"sites\.csv:26: day-00\.png is in group b here and in a above; keep one"),
    (csv(f"file,group\n{EVERY_DAY}day-99.png,b\n"), r"names day-99\.png, which is not an image of any split; mend or remove it"),
    (csv(""), r"sites\.csv:1: the columns are nothing; write file,group"),
]


@pytest.mark.parametrize(("asked", "words"), REFUSED, ids=range(len(REFUSED)))
def test_bad_input_is_refused_in_one_line(
    asked: dict[str, Any], words: str, judged: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "csv_text" in asked:
        Path("sites.csv").write_text(asked["csv_text"], encoding="utf-8")
    config = RobustnessConfig.model_validate({key: value for key, value in asked.items() if key != "csv_text"})
    with pytest.raises(DataError, match=words) as refused:
        refuse(config, "val", judged.data)
    assert "\n" not in str(refused.value)


def test_a_csv_file_may_name_images_that_were_left_out(judged: Swept, tmp_path: Path) -> None:
    data = data_with(tmp_path / "data")
    sites = tmp_path / "sites.csv"
    sites.write_text(f"file,group\n{EVERY_DAY}damaged.png,b\n", encoding="utf-8")
    config = RobustnessConfig.model_validate({"groups": {"site": {"csv": str(sites)}}})
    with pytest.raises(DataError, match=r"names damaged\.png, which is not an image of any split"):
        refuse(config, "val", data)
    (data.images("val") / "damaged.png").write_bytes(b"not an image")
    refuse(config, "val", data)


def test_images_below_32_px_cannot_be_corrupted(tmp_path: Path) -> None:
    small = data_with(tmp_path / "data", size=16, num_images=3)
    with pytest.raises(DataError, match=r"day-00\.png, and 2 more images: 16 x 16 px, and corruptions need 32 px per side; leave out"):
        refuse(RobustnessConfig(corruptions="quick"), "val", small)


def test_a_missing_extra_is_one_line_with_the_command(judged: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.machine.packages.version", lambda _: None)
    with pytest.raises(RuntimeUnavailable, match=r'imagecorruptions-imaug is not installed: pip install "edgedistill\[robustness\]"'):
        refuse(RobustnessConfig(corruptions="quick"), "val", judged.data)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"corruptions": "quik"}, "'quick' or 'full'"),
        ({"splits": ["a", "a"]}, "a is listed 2 times; list each split once"),
        ({"splits": ["train"]}, "the networks are trained on split train"),
        ({"groups": {"x": {}}}, "set exactly one of field, pattern, csv, by; given: none"),
        ({"groups": {"x": {"field": "a", "by": "size"}}}, "given: field, by"),
        ({"groups": {"x": {"pattern": "("}}}, r"'\(' is not a regular expression"),
        ({"groups": {"x": {"pattern": "day"}}}, "'day' has 0 groups in parentheses; put exactly one"),
        ({"groups": {"x": {"by": "colour"}}}, "'size' or 'crowding'"),
        ({"min_images": 1}, "greater than or equal to 2"),
    ],
)
def test_a_bad_section_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RobustnessConfig.model_validate(asked)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("map@night", "robustness.splits to list night, and it lists shifted; did you mean map@shifted?"),
        ("map@", "robustness.splits to list a split"),
        ("mpc", "mpc needs robustness.corruptions; set it to quick or full"),
        ("rpc", "rpc needs robustness.corruptions"),
        ("map_worst_group", "map_worst_group needs robustness.groups; add one"),
        ("map", None),
        ("map@shifted", None),
    ],
)
def test_a_gate_needs_what_it_limits(metric: str, words: str | None) -> None:
    why = RobustnessConfig.model_validate({"splits": ["shifted"]}).why_not_measured(metric)
    assert (why is None) == (words is None)
    assert words is None or words in str(why)


def test_the_built_in_pipeline_shows_another_split_and_sweeps_nothing() -> None:
    assert load(ROOT / "pipeline.yaml").robustness == RobustnessConfig(splits=("shifted",))


def test_facts_survive_a_file(judged: Swept) -> None:
    facts = judged.found.facts
    assert RobustnessFacts.model_validate_json(facts.model_dump_json()) == facts
    assert judged.sweep.facts.num_images == 24


@pytest.mark.parametrize(("images", "swept"), [(1, 1), (99, 99), (100, 100), (150, 100), (201, 101), (300, 150), (400, 200), (5000, 200)])
def test_a_quick_sweep_has_half_of_the_images_but_not_too_few(images: int, swept: int) -> None:
    assert num_swept("quick", images) == swept
    assert num_swept("full", images) == images
    assert images < 200 or len(CORRUPTIONS) * swept < 8 * images  # of ten validations, some time is left for the corruptions


def test_a_large_photograph_is_shrunk_before_it_is_corrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.measurement.corrupted.MOST_PIXELS", 1)  # nor smaller than the network sees it, 64 x 64 px
    images = swept_images(ASKED, "val", robust_samples.dataset(tmp_path / "data", size=128, num_images=2))
    preprocessing = robust_samples.contract().preprocessing
    (first, _) = Views(images, preprocessing).under([Condition("val", "contrast", 1)])
    small = corruptions.at_most(np.asarray(Image.open(images.images[0])), 64 * 64)
    assert small.shape == (64, 64, 3)
    assert np.array_equal(first.pixels, corruptions.corrupt(small, "contrast", 1, 0))
    assert first.placement == preprocess.place(128, 128, preprocessing)  # boxes are in px of the photograph
