"""Changes, their intervals and verdicts."""

import tracemalloc

import numpy as np
import pytest
from scene_samples import scene

from deploy.accuracy.matches import match
from deploy.comparison import bootstrap
from deploy.comparison.bootstrap import BLOCK_RESAMPLES, Floats, blocks, drop, lead
from deploy.comparison.interleaved import InterleavedProtocol
from deploy.comparison.interval import ERROR_RATE, MIN_IMAGES, Effect


def median(values: Floats) -> Floats:
    return np.asarray(np.percentile(values, 50, axis=-1))


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


def test_the_interval_of_a_lead_covers_95_percent_of_the_draws() -> None:
    truth, found = scene(2, 80)
    whole, less = match(truth, found), match(truth, [one for one in found if one["score"] > 0.3])
    generator, even = np.random.default_rng(0), np.full(80, 1 / 80)
    draws = [generator.multinomial(80, even).astype(np.float64) for _ in range(bootstrap.RESAMPLES)]
    rises = [(whole.mean_precision(weights) or 0) - (less.mean_precision(weights) or 0) for weights in draws]
    seen = lead(whole, less)
    assert seen is not None
    assert (seen.low, seen.high) == pytest.approx(np.quantile(rises, (0.025, 0.975)), abs=1e-12)


@pytest.mark.parametrize(("with_objects", "is_told"), [(MIN_IMAGES, True), (MIN_IMAGES - 1, False)])
def test_a_lead_takes_enough_images_with_objects(with_objects: int, is_told: bool) -> None:
    images = [{"id": number, "width": 50, "height": 50, "file_name": f"{number}.png"} for number in range(60)]
    box = {"category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
    truth = {"images": images, "annotations": [{**box, "image_id": number} for number in range(with_objects)]}
    truth["categories"] = [{"id": 1, "name": "thing"}]
    found = [{"image_id": number, "category_id": 1, "bbox": [5, 5, 20, 20], "score": 0.9} for number in range(with_objects)]
    assert (lead(match(truth, found), match(truth, [])) is not None) == is_told


def test_the_interval_of_blocks_covers_what_it_says() -> None:
    """20% more in the mean, at an error rate of 1% on either side; 200 experiments, of which some 4 may miss."""
    rng = np.random.default_rng(0)
    missed = 0
    for seed in range(200):
        moment = rng.normal(0, 0.1, (30, 1))  # what both have in common
        own, other = (level * np.exp(moment + rng.normal(0, 0.05, (30, 5))) for level in (1.2, 1.0))
        seen = blocks(own, other, median, relative=True, seed=seed)
        missed += not seen.low <= 0.2 <= seen.high
    assert missed <= 200 * 2 * ERROR_RATE * 4


def test_the_interval_of_blocks_is_that_of_all_draws_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    own, other = (level * np.exp(rng.normal(0, 0.1, (31, 7))) for level in (1.2, 1.0))
    rows = np.random.default_rng(3).integers(0, 31, (BLOCK_RESAMPLES, 31))
    after, before = (median(side[rows].reshape(BLOCK_RESAMPLES, -1)) for side in (own, other))
    low, high = np.quantile(after / before - 1, (0.01, 0.99))
    for size in (1, 10_000, 2**40):  # one draw at a time, some, all
        monkeypatch.setattr(bootstrap, "DRAWN_BYTES", size)
        seen = blocks(own, other, median, relative=True, error_rate=0.01, seed=3)
        assert (seen.low, seen.high) == (low, high)


@pytest.mark.parametrize(("count", "passes"), [(100, 100), (10_000, 1)])
def test_many_passes_take_little_memory(count: int, passes: int) -> None:
    own = np.random.default_rng(0).uniform(1, 2, (count, passes))
    tracemalloc.start()
    try:
        blocks(own, own, median, relative=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * 2**20  # all draws at once took 305 MiB or more


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


def test_without_objects_there_is_no_change() -> None:
    truth, found = scene(1)
    nothing = {**truth, "annotations": []}
    assert drop(match(nothing, found), match(nothing, []), slice(None), relative=False) is None


def test_a_verdict_at_the_limit_itself_errs_as_seldom_as_it_says() -> None:
    """Looks at doubling numbers of blocks, each at its share of the error rate; 160 engines exactly at the limit."""
    protocol, rng, wrong = InterleavedProtocol(), np.random.default_rng(1), 0
    for seed in range(160):
        own, other = (level * np.exp(rng.normal(0, 0.1, (192, 2))) for level in (1.1, 1.0))
        for count in (24, 48, 96, 192):
            seen = blocks(
                *(own[:count], other[:count], median),
                relative=True,
                error_rate=ERROR_RATE / protocol.looks,
                seed=seed,
            )
            if seen.verdict(0.1) != "inconclusive":
                wrong += 1
                break
    assert wrong <= 160 * 2 * ERROR_RATE * 2.5
