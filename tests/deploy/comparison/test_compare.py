"""Changes and their uncertainty: COCO's matches drawn again, the bootstrap's coverage, engines that take turns on a clock of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_samples
import pytest
from clock import Clock
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deploy.accuracy.matches import match
from deploy.comparison.bootstrap import blocks, drop
from deploy.comparison.interleaved import Compared, InterleavedProtocol, take_turns
from deploy.comparison.interval import ERROR_RATE, Effect
from deploy.precision import Batch
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import Raw, Session

AREAS = {"all": 0, "small": 1, "medium": 2, "large": 3}


def scene(seed: int, num_images: int = 30, *, crowd: bool = True) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of three classes and all sizes, some of them crowds; detections that are near, double, of another class, or of nothing."""
    rng = np.random.default_rng(seed)
    images = [{"id": 3 * i + 1, "width": 300, "height": 300, "file_name": f"{i}.png"} for i in range(num_images)]
    categories = [{"id": 2 * c + 1, "name": f"class {c}"} for c in range(3)]
    objects: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image in images:
        for _ in range(rng.integers(0, 6)):
            (x, y), (w, h) = rng.uniform(0, 200, 2), rng.choice([10, 30, 60, 110]) * rng.uniform(0.7, 1.3, 2)
            category = int(rng.choice(3)) * 2 + 1
            identity = {"id": len(objects) + 1, "image_id": image["id"], "category_id": category}
            objects.append({**identity, "bbox": [x, y, w, h], "area": w * h, "iscrowd": int(crowd and rng.random() < 0.1)})
            for _ in range(rng.integers(0, 3)):
                dx, dy, dw, dh = rng.normal(0, 0.1, 4)
                box = [x + dx * w, y + dy * h, w * (1 + dw), h * (1 + dh)]
                other = category if rng.random() < 0.9 else int(rng.choice(3)) * 2 + 1
                found.append({"image_id": image["id"], "category_id": other, "bbox": box, "score": round(float(rng.random()), 2)})
        box = [*rng.uniform(0, 200, 2), *rng.uniform(10, 100, 2)]
        found.append({"image_id": image["id"], "category_id": 1, "bbox": box, "score": round(float(rng.random()), 2)})
    return {"images": images, "annotations": objects, "categories": categories}, found


def reference(truth: dict[str, Any], found: list[dict[str, Any]]) -> Any:
    """pycocotools' precision [IoU, recall, class, area, limit]."""
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    judge = COCOeval(coco, coco.loadRes(found), "bbox")
    judge.evaluate()
    judge.accumulate()
    return judge.eval["precision"]


@pytest.mark.parametrize("seed", range(5))
def test_matches_give_cocos_precision(seed: int) -> None:
    truth, found = scene(seed)
    precision = reference(truth, found)
    for area, column in AREAS.items():
        made = match(truth, found, area=area)
        for thresholds in (slice(None), slice(0, 1), slice(5, 6)):
            table = precision[thresholds, :, :, column, 2]
            assert made.mean_precision(None, thresholds) == pytest.approx(table[table > -1].mean(), abs=1e-9)
    one = match(truth, found, classes=["class 1"]).mean_precision()
    assert one == pytest.approx(precision[:, :, 1, 0, 2].mean(), abs=1e-9)


def test_an_image_of_weight_three_is_three_images() -> None:
    truth, found = scene(7, 12, crowd=False)
    weights = np.array([0, 1, 3, 0, 2, 1, 1, 0, 1, 2, 1, 0], np.float64)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for index, count in enumerate(weights.astype(int)):
        old = truth["images"][index]["id"]
        for _ in range(count):
            new = len(images) + 1
            images.append({**truth["images"][index], "id": new})
            objects += [{**one, "image_id": new, "id": len(objects) + 1 + i} for i, one in enumerate(_of(truth["annotations"], old))]
            detections += [{**one, "image_id": new} for one in _of(found, old)]
    copied = match({**truth, "images": images, "annotations": objects}, detections).mean_precision()
    assert match(truth, found).mean_precision(weights) == pytest.approx(copied, abs=1e-9)


def _of(rows: list[dict[str, Any]], image: int) -> list[dict[str, Any]]:
    return [one for one in rows if one["image_id"] == image]


def test_without_objects_there_is_no_map_and_without_detections_it_is_zero() -> None:
    truth, found = scene(1)
    assert match({**truth, "annotations": []}, found).mean_precision() is None
    assert match(truth, []).mean_precision() == 0
    assert drop(match({**truth, "annotations": []}, found), match({**truth, "annotations": []}, []), slice(None), relative=False) is None


def test_the_same_detections_have_no_uncertainty_and_fewer_have_some() -> None:
    truth, found = scene(2, 80)
    whole, less = match(truth, found), match(truth, [one for one in found if one["score"] > 0.3])
    assert drop(whole, whole, slice(None), relative=False) == Effect(change=0, low=0, high=0, num=80)
    seen = drop(less, whole, slice(None), relative=False)
    share = drop(less, whole, slice(None), relative=True)
    assert seen is not None
    assert share is not None
    assert 0 < seen.low < seen.change < seen.high
    assert share.change == pytest.approx(seen.change / (whole.mean_precision() or 0))
    assert drop(whole, less, slice(None), relative=False) != seen.reversed()  # other draws are not made: only the sign and the order
    back = drop(whole, less, slice(None), relative=False)
    assert back is not None
    assert back.change == -seen.change


def test_the_interval_of_blocks_covers_what_it_says() -> None:
    """20 % more in the mean, at an error rate of 1 % on either side; 200 experiments, of which some 4 may miss."""
    rng = np.random.default_rng(0)
    missed = 0
    for seed in range(200):
        moment = rng.normal(0, 0.1, (30, 1))  # what both have in common
        own, other = (level * np.exp(moment + rng.normal(0, 0.05, (30, 5))) for level in (1.2, 1.0))
        seen = blocks(own, other, lambda values: np.asarray(np.percentile(values, 50, axis=-1)), relative=True, seed=seed)
        missed += not seen.low <= 0.2 <= seen.high
    assert missed <= 200 * 2 * ERROR_RATE * 4


@pytest.mark.parametrize(
    ("low", "high", "limit", "verdict"), [(0, 1, 1, "pass"), (0, 1, 0.99, "inconclusive"), (0, 1, 0, "inconclusive"), (0, 1, -0.1, "fail")]
)
def test_a_verdict_takes_the_whole_interval(low: float, high: float, limit: float, verdict: str) -> None:
    assert Effect(change=(low + high) / 2, low=low, high=high, num=9).verdict(limit) == verdict


def test_how_many_would_suffice() -> None:
    seen = Effect(change=0.02, low=0.0, high=0.04, num=100)
    assert seen.needed(0.01) == 400  # half the width takes four times as many
    assert seen.needed(0.03) == 400
    assert seen.needed(0.02) is None


@dataclass
class Sleeper(Session):
    """Answers after so many milliseconds of the clock, nothing found."""

    clock: Clock
    milliseconds: Callable[[], float]

    def infer(self, images: Batch) -> Raw:
        self.clock.seconds += self.milliseconds() / 1e3
        zeros = np.zeros((len(images), 8), np.float32)
        return Raw(np.zeros((len(images), 8, 4), np.float32), zeros, zeros.astype(np.int64), np.ones(len(images), np.bool_))

    def close(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of everything that measures engines here: nothing else takes time."""
    made = Clock()
    made.replace(monkeypatch, "deploy.comparison.interleaved.perf_counter", "deploy.prediction.predictor.perf_counter_ns")
    return made


IMAGE = [onnx_samples.picture({})]
SHORT = InterleavedProtocol(block_ms=4, min_blocks=12, max_seconds=3, warmup_seconds=0.1)


@dataclass
class Engines:
    """Pairs of engines that take turns on the clock."""

    clock: Clock

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def noisy(self, milliseconds: float) -> Callable[[], float]:
        """About so many, each time a little otherwise."""
        return lambda: float(milliseconds * np.exp(self.rng.normal(0, 0.05)))

    def turns(self, own: Callable[[], float], other: Callable[[], float], limit: float, **options: Any) -> Compared:
        """Compare the median share of the engine's own time, unless the options say otherwise."""
        given = {"percentile": 50, "relative": True, "protocol": SHORT, **options}
        first, second = (SessionPredictor(Sleeper(self.clock, taken), onnx_samples.contract()) for taken in (own, other))
        return take_turns(first, second, IMAGE, value=lambda timings: timings.infer_ms, limit=limit, **given)


@pytest.fixture
def engines(clock: Clock) -> Engines:
    return Engines(clock)


def test_engines_that_take_turns(engines: Engines) -> None:
    seen = engines.turns(engines.noisy(1.5), engines.noisy(1.0), 0.1)
    assert seen.effect.verdict(0.1) == "fail"
    assert seen.effect.change == pytest.approx(0.5, abs=0.05)
    assert 0 < seen.effect.low < seen.effect.change < seen.effect.high
    assert seen.own_ms == pytest.approx(1.5, rel=0.05)
    assert seen.enough
    assert seen.blocks == 12  # clear at the first look
    assert engines.turns(engines.noisy(1.0), engines.noisy(1.0), 0.5).effect.verdict(0.5) == "pass"
    assert engines.turns(engines.noisy(1.5), engines.noisy(1.0), 0.8, relative=False).effect.change == pytest.approx(0.5, abs=0.05)


def test_the_budget_ends_what_does_not_become_clear(engines: Engines) -> None:
    def either() -> float:
        return float(engines.rng.choice([0.5, 2.0]))

    seen = engines.turns(either, either, 0.0, protocol=SHORT.model_copy(update={"max_seconds": 0.3}))
    assert seen.effect.verdict(0.0) == "inconclusive"
    assert 0.3 <= seen.seconds < 0.3 + 2 * seen.passes / seen.blocks * 2.0 / 1e3  # at most one pair of blocks late


def test_a_verdict_at_the_limit_itself_errs_as_seldom_as_it_says() -> None:
    """Looks at doubling numbers of blocks, each at its share of the error rate; 400 engines exactly at the limit."""
    protocol, rng, wrong = InterleavedProtocol(), np.random.default_rng(1), 0
    for seed in range(400):
        own, other = (level * np.exp(rng.normal(0, 0.1, (192, 2))) for level in (1.1, 1.0))
        for count in (24, 48, 96, 192):
            seen = blocks(
                *(own[:count], other[:count], lambda values: np.asarray(np.percentile(values, 50, axis=-1))),
                relative=True,
                error_rate=ERROR_RATE / protocol.looks,
                seed=seed,
            )
            if seen.verdict(0.1) != "inconclusive":
                wrong += 1
                break
    assert wrong <= 400 * 2 * ERROR_RATE * 2.5


def test_the_looks_are_those_that_fit_the_budget() -> None:
    assert InterleavedProtocol().looks == 6  # at 24, 48, 96, 192 and 384 blocks, and when the time is up
    assert InterleavedProtocol(max_seconds=1).looks == 2
    assert InterleavedProtocol(max_seconds=120).looks == 8


def test_few_passes_say_nothing_of_a_tail(engines: Engines) -> None:
    def tailed() -> float:
        return 3.0 if engines.rng.random() < 0.02 else 0.3

    brief = SHORT.model_copy(update={"max_seconds": 0.4})
    seen = engines.turns(tailed, lambda: 0.3, 0.1, percentile=99, protocol=brief)
    assert seen.passes < 1000
    assert not seen.enough
    assert engines.turns(engines.noisy(0.5), engines.noisy(0.5), 9.0).enough
