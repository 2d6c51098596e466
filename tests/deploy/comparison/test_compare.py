"""Comparisons of accuracy that must not say more than the images show."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from deploy.accuracy.conditions import Condition
from deploy.accuracy.judge import LabeledSplit
from deploy.comparison.compare import Change, Comparison, Incomparable
from deploy.comparison.interleaved import Compared
from deploy.comparison.interval import Effect
from deploy.comparison.metrics import Figures
from deploy.comparison.robustness import Findings, ImageGroup
from deploy.comparison.side import Side
from deploy.contract import MaskFrame, ModelContract, Preprocessing
from deploy.machine.load import Load
from deploy.prediction.masks import encode, rectangle

COMMON, RARE = 1, 2
LARGE, SMALL = 100, 20


def labeled(num_images: int, *extra: tuple[int, int, int]) -> dict[str, Any]:
    """A large common object in every image, and what is added: image, category and side in px."""
    objects = [*((number, COMMON, LARGE) for number in range(1, num_images + 1)), *extra]
    rows = [
        {"id": number, "image_id": image, "category_id": category, "bbox": [10, 10, side, side], "area": side * side, "iscrowd": 0}
        for number, (image, category, side) in enumerate(objects, start=1)
    ]
    images = [{"id": number, "width": 200, "height": 200, "file_name": f"{number}.png"} for number in range(1, num_images + 1)]
    return {"images": images, "annotations": rows, "categories": [{"id": COMMON, "name": "common"}, {"id": RARE, "name": "rare"}]}


def found(truth: Mapping[str, Any], *beside: tuple[int, int]) -> list[dict[str, Any]]:
    """Every object in its place, but those of these categories and sides, which are found 3 px beside it."""
    rows = []
    for one in truth["annotations"]:
        x, y, width, height = one["bbox"]
        off = 3 if (one["category_id"], width) in beside else 0
        box = {"bbox": [x + off, y + off, width, height], "segmentation": encode(np.ones((height, width), np.bool_), (200, 200), x, y)}
        rows.append({"image_id": one["image_id"], "category_id": one["category_id"], **box, "score": 0.9})
    return rows


def side(name: str, detections: Sequence[Mapping[str, Any]], mask_frame: MaskFrame | None = None, findings: Findings | None = None) -> Side:
    contract = ModelContract(
        preprocessing=Preprocessing(height=64, width=64), classes=("common", "rare"), category_ids=(COMMON, RARE), mask_frame=mask_frame
    )
    statistic = None if findings is None else findings.statistic
    return Side(name, Figures(), contract, nullcontext, lambda: detections, statistic=statistic)  # type: ignore[arg-type]


def change(truth: dict[str, Any], metric: str, *beside: tuple[int, int], relative: bool = False) -> Change:
    """Of an engine that finds some objects beside their places, from one that finds all."""
    own, reference = side("here", found(truth, *beside)), side("there", found(truth))
    return Comparison(own, reference, LabeledSplit("val", truth, ()), tuple).change(metric, 0.05, relative=relative, falls=True)


def rare(images: Iterable[int], size: int = LARGE) -> list[tuple[int, int, int]]:
    return [(number, RARE, size) for number in images]


class TestTooFew:
    @pytest.mark.parametrize("metric", ["map/rare", "map_small"])
    def test_one_object_gives_no_verdict_however_many_images_have_none(self, metric: str) -> None:
        seen = change(labeled(100, *rare([7], SMALL)), metric, (RARE, SMALL))
        assert seen.effect.high == seen.effect.low < -0.05  # the same in every draw that has it
        assert seen.how == "100 images, 1 with objects that count"
        assert seen.too_few == "1 image with objects that count is too few to tell; at least 20 are needed"

    @pytest.mark.parametrize("metric", ["map/rare", "map_small"])
    def test_twenty_images_with_objects_give_one(self, metric: str) -> None:
        seen = change(labeled(100, *rare(range(1, 21), SMALL)), metric, (RARE, SMALL))
        assert (seen.how, seen.too_few) == ("100 images, 20 with objects that count", None)
        nearly = change(labeled(100, *rare(range(1, 20), SMALL)), metric, (RARE, SMALL))
        assert nearly.too_few == "19 images with objects that count are too few to tell; at least 20 are needed"

    def test_images_without_objects_do_not_make_up_for_others(self) -> None:
        truth = labeled(100)
        truth["annotations"] = truth["annotations"][:19]
        assert change(truth, "map").too_few == "19 images with objects that count are too few to tell; at least 20 are needed"
        assert (change(labeled(20), "map").how, change(labeled(20), "map").too_few) == ("20 images", None)
        assert change(labeled(19), "map").too_few == "19 images are too few to tell; at least 20 are needed"

    @pytest.mark.parametrize(("members", "too_few"), [(20, False), (12, True)])
    def test_the_smallest_group_needs_as_many(self, members: int, too_few: bool) -> None:
        truth = labeled(60)
        parts = {"night": range(1, members + 1), "day": range(members + 1, 61), "empty": range(0)}
        groups = [ImageGroup("time", name, frozenset(part)) for name, part in parts.items()]

        def engine(name: str, detections: list[dict[str, Any]]) -> Side:
            findings = Findings("val", groups, (), lambda _: truth, lambda _: detections, lambda: detections)
            assert findings.matches(Condition("val")).num_images == 60
            return side(name, detections, findings=findings)

        own, reference = engine("here", found(truth, (COMMON, LARGE))), engine("there", found(truth))
        seen = Comparison(own, reference, None, tuple).change("map_worst_group", 0.05, relative=False, falls=True)
        assert seen.how == f"60 images, {members} with objects in the smallest group"
        assert (seen.too_few is not None) == too_few
        assert seen.too_few is None or seen.too_few.startswith("12 images with objects in the smallest group are too few")


def test_latency_without_a_verdict_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(other_cores=None, load_average=None, governor=None, frequency_mhz=None, throttled=None)
    times: dict[str, Any] = {"own_ms": 1.0, "reference_ms": 1.0, "blocks": 7, "passes": 175, "seconds": 2.0, "load": load}
    seen = Compared(effect=Effect(change=0, low=-0.1, high=0.1, num=7), enough=False, **times)
    monkeypatch.setattr("deploy.comparison.compare.SessionPredictor", lambda *_: None)
    monkeypatch.setattr("deploy.comparison.compare.take_turns", lambda *_, **__: seen)
    compared = Comparison(side("here", []), side("there", []), None, tuple)
    measured = compared.change("latency_end_to_end_p99_ms", 0.1, relative=True, falls=False)
    needed = "at least 12 blocks and 1000 passes for percentile 99 are needed; raise validation.latency.max_seconds"
    assert measured.too_few == f"175 passes per engine in 7 blocks are too few to tell; {needed}"


class TestIncomparable:
    def test_masks_need_data_with_masks(self) -> None:
        truth = labeled(24)
        own, reference = (side(name, found(truth), mask_frame="image") for name in ("here", "there"))
        with pytest.raises(Incomparable, match="mask_map cannot be compared on data without masks"):
            Comparison(own, reference, LabeledSplit("val", truth, ()), tuple).change("mask_map", 0.1, relative=False, falls=True)
        for one in truth["annotations"]:
            one["segmentation"] = rectangle(one["bbox"])
        compared = Comparison(own, reference, LabeledSplit("val", truth, ()), tuple).change("mask_map", 0.1, relative=False, falls=True)
        assert (compared.own, compared.effect.change, compared.too_few) == (1, 0, None)

    def test_a_share_of_nothing_is_undefined(self) -> None:
        truth = labeled(24)
        findings = Findings("val", (), (), lambda _: truth, lambda _: [], list)
        own, blind = side("here", found(truth), findings=findings), side("there", [], findings=findings)
        compared = Comparison(own, blind, LabeledSplit("val", truth, ()), tuple)
        for metric in ("map", "map@val"):
            with pytest.raises(Incomparable, match=f"^{metric} of there is 0, so a relative change is undefined$"):
                compared.change(metric, 0.05, relative=True, falls=True)
            assert compared.change(metric, 0.05, relative=False, falls=True).reference == 0
