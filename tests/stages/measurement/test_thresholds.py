"""The scores from which detections are targets: by hand, on few boxes."""

from typing import Any

import pytest

from deploy.errors import DataError
from stages.config import PseudoConfig
from stages.label import counted
from stages.measurement.thresholds import choose
from stages.unlabeled_facts import PseudoClass

BOX = [10.0, 10.0, 20.0, 20.0]
NEAR = [10.0, 10.0, 20.0, 27.0]
"""IoU 0.74 with BOX."""
AWAY = [60.0, 60.0, 20.0, 20.0]


def truth(count: int, categories: tuple[str, ...] = ("cell",)) -> dict[str, Any]:
    """One object per image, of each class."""
    classes: list[dict[str, Any]] = [{"id": number, "name": name} for number, name in enumerate(categories, 1)]
    images: list[dict[str, Any]] = [
        {"id": number, "width": 100, "height": 100, "file_name": f"{number}.png"} for number in range(1, count + 1)
    ]
    rows = [
        {"id": 100 * image["id"] + one["id"], "image_id": image["id"], "category_id": one["id"], "bbox": BOX, "area": 400.0, "iscrowd": 0}
        for image in images
        for one in classes
    ]
    return {"images": images, "annotations": rows, "categories": classes}


def result(image: int, score: float, box: list[float], category: int = 1) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def chosen(results: list[dict[str, Any]], count: int = 12, **options: Any) -> PseudoClass:
    return choose(truth(count), results, PseudoConfig(**options))["cell"]


def test_the_least_score_that_is_precise_enough_is_taken() -> None:
    hits = [result(number, 1 - number / 100, BOX) for number in range(1, 9)]  # 0.99 to 0.92
    misses = [result(number, 0.9 - number / 100, AWAY) for number in range(1, 5)]  # 0.89 to 0.86
    found = chosen(hits + misses, precision=0.8)
    assert found.accept == pytest.approx(0.88), "8 of 10 are objects"
    assert found.precision == pytest.approx(0.8)
    assert found.recall == pytest.approx(8 / 12)
    assert chosen(hits + misses, precision=1.0).accept == pytest.approx(0.92)


def test_detections_of_one_score_are_accepted_together_or_not_at_all() -> None:
    sure = [result(number, 0.9, BOX) for number in range(1, 6)]
    same = [result(6, 0.5, BOX), *(result(number, 0.5, AWAY) for number in range(1, 6))]
    found = chosen(sure + same, precision=0.8)
    assert (found.accept, found.precision) == (0.9, 1.0)
    assert chosen(sure + same, precision=0.5).accept == 0.5


def test_nothing_that_is_found_is_no_target() -> None:
    assert (chosen([]).accept, chosen([]).recall) == (None, 0)


def test_a_crowd_is_right_but_none_of_the_objects_that_are_counted() -> None:
    labeled = truth(12)
    for row in labeled["annotations"][:6]:
        row["iscrowd"] = 1
    found = choose(labeled, [result(number, 0.9, BOX) for number in range(1, 10)], PseudoConfig())["cell"]
    assert (found.num_objects, found.precision, found.recall) == (6, 1.0, 0.5)


def test_boxes_need_a_higher_overlap_to_be_learned() -> None:
    exact = [result(number, 0.9, BOX) for number in range(1, 7)]
    rough = [result(number, 0.6, NEAR) for number in range(7, 13)]
    found = chosen(exact + rough, precision=0.9, box_precision=0.9)
    assert found.accept == pytest.approx(0.6)
    assert found.sure == pytest.approx(0.9)


def test_without_any_label_all_of_an_accepted_detection_is_learned() -> None:
    nothing = {**truth(3), "annotations": []}
    found = choose(nothing, [result(1, 0.9, BOX)], PseudoConfig(threshold=0.6))["cell"]
    assert (found.accept, found.low, found.sure) == (0.6, 0.6, 0.6)
    assert (found.precision, found.recall) == (None, None)


def test_below_the_scores_of_objects_everything_is_background() -> None:
    hits = [result(number, score, BOX) for number, score in enumerate((0.9, 0.8, 0.7, 0.6, 0.5, 0.4), 1)]
    misses = [result(number, 0.45, AWAY) for number in range(1, 10)]
    found = chosen(hits + misses, precision=0.9)
    assert found.accept == pytest.approx(0.5)
    assert found.low == pytest.approx(0.425)


def test_a_number_overrides_the_search_and_is_judged() -> None:
    found = chosen([result(1, 0.9, BOX), result(2, 0.6, AWAY)], threshold=0.5)
    assert (found.accept, found.precision) == (0.5, 0.5)


def test_a_class_that_is_never_precise_has_no_targets() -> None:
    found = chosen([result(number, 0.9, AWAY) for number in range(1, 12)])
    assert found.accept is None
    assert found.precision is None
    assert found.recall == 0


def test_a_rare_class_has_the_thresholds_of_all_together() -> None:
    labeled = truth(12, ("cell", "rare"))
    labeled["annotations"] = [one for one in labeled["annotations"] if one["category_id"] == 1 or one["image_id"] == 1]
    results = [result(number, 0.9, BOX) for number in range(1, 13)] + [result(1, 0.7, BOX, 2)]
    found = choose(labeled, results, PseudoConfig(precision=0.9))
    assert found["rare"].num_objects == 1
    assert found["rare"].accept == pytest.approx(0.7)
    assert found["cell"].accept == pytest.approx(0.9)


def test_without_labeled_objects_a_number_is_asked_for() -> None:
    labeled = {**truth(3), "annotations": []}
    with pytest.raises(DataError, match=r"no objects to choose thresholds on; label some, or set pseudo.threshold"):
        choose(labeled, [], PseudoConfig())
    assert choose(labeled, [], PseudoConfig(threshold=0.5))["cell"].accept == 0.5


def test_targets_and_doubt_are_counted_by_class() -> None:
    limits = PseudoClass(accept=0.6, low=0.3, sure=None, num_objects=9, precision=1.0, recall=1.0)
    results = [result(1, score, BOX) for score in (0.9, 0.6, 0.5, 0.3, 0.1)]
    found = counted({"cell": limits}, results, {1: "cell"})["cell"]
    assert (found.accepted, found.ignored) == (2, 2)
