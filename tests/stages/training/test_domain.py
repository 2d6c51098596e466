"""Images of another world are recognized as such."""

from typing import Any

import numpy as np

from stages.label import warnings
from stages.training.unlabeled.domain import share_beyond
from stages.unlabeled_facts import PseudoClass, PseudoFacts


def test_images_of_the_same_kind_are_as_far_away_as_the_judged_ones() -> None:
    draw = np.random.default_rng(0)
    known, usual, new = (draw.normal(size=(100, 12)) for _ in range(3))
    assert share_beyond(known, usual, new) < 0.15
    assert share_beyond(known, usual, new + 6) == 1.0
    half = np.concatenate((new[:50], new[50:] + 6))
    assert 0.5 <= share_beyond(known, usual, half) < 0.65


def test_features_that_never_vary_do_not_count() -> None:
    draw = np.random.default_rng(0)
    known, usual, new = (np.concatenate((draw.normal(size=(50, 3)), np.full((50, 1), 2.0)), axis=1) for _ in range(3))
    assert np.isfinite(share_beyond(known, usual, new))
    assert share_beyond(known, usual, new) < 0.3


def test_another_domain_is_warned_of() -> None:
    facts = PseudoFacts(split="val", num_images=10, empty=2, classes={}, unlike=0.97)
    (line,) = warnings(facts)
    assert line.startswith("97% of the unlabeled images are unlike the labeled ones (5% would be by chance)")
    assert not warnings(facts.model_copy(update={"unlike": 0.1}))


def test_classes_whose_targets_are_wrong_or_that_have_none_are_named_in_a_line_each() -> None:
    own: dict[str, Any] = {"num_objects": 20, "recall": 0.5, "accepted": 3, "low": 0.1, "sure": None}
    wrong = {f"wrong{number}": PseudoClass(accept=0.5, precision=0.25, **own) for number in range(7)}
    never = PseudoClass(accept=None, precision=None, **own)
    facts = PseudoFacts(split="val", num_images=10, empty=2, classes={**wrong, "never": never})
    first, second = warnings(facts)
    assert first == "no detection of never is sure enough to be a target, by its precision on val"
    assert second.startswith("less than half of the accepted detections on val are objects: wrong0 (25%), wrong1 (25%), ")
    assert second.endswith("wrong4 (25%) and 2 more")
