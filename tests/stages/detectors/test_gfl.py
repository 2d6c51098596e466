"""What is special about GFL: its two losses, and boxes from distributions."""

import pytest
import torch
from detector_samples import TINY, images, tiny
from torch import Tensor

from stages.config import DetectorConfig
from stages.detectors.gfl import GflDetector, distribution_loss, quality_focal_loss
from stages.training.checkpoint import build_detector


def gfl(num_classes: int = 5) -> GflDetector:
    detector = build_detector(DetectorConfig.model_validate({"name": "gfl", **TINY["gfl"]}), num_classes)
    assert isinstance(detector, GflDetector)
    return detector


def certain(*bins: int) -> Tensor:
    """Distributions [1, 4, 9] with all probability on one bin of each side."""
    return torch.nn.functional.one_hot(torch.tensor([bins]), 9).float() * 100


def test_a_box_is_the_mean_of_each_sides_distribution_in_strides() -> None:
    """An anchor of 4 strides of 8 px around (40, 24), and bins 1, 2, 3 and 8; then the left side halfway between 1 and 2."""
    anchors = torch.tensor([[24.0, 8, 56, 40]])
    distributions = certain(1, 2, 3, 8)
    assert gfl().decode(distributions, anchors).tolist() == [[32, 8, 64, 88]]
    distributions[0, 0, 2] = 100
    assert gfl().decode(distributions, anchors)[0, 0].item() == pytest.approx(40 - 1.5 * 8)


def test_a_distance_between_two_bins_weighs_both_by_nearness() -> None:
    """2.25 is learned as three quarters of bin 2 and one quarter of bin 3."""
    logits = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(0))
    logs = -logits.log_softmax(dim=-1)
    own = distribution_loss(logits, torch.tensor([[2.25, 0.0, -1.0, 100.0]]))
    assert own[0, 0].item() == pytest.approx(float(0.75 * logs[0, 0, 2] + 0.25 * logs[0, 0, 3]))
    assert own[0, 1].item() == pytest.approx(float(logs[0, 1, 0]))
    assert own[0, 2].item() == pytest.approx(float(logs[0, 2, 0]))
    assert own[0, 3].item() == pytest.approx(float(0.1 * logs[0, 3, 7] + 0.9 * logs[0, 3, 8]), rel=1e-5)


def test_a_score_that_equals_the_quality_costs_no_more_than_nothing() -> None:
    logits = torch.tensor([[0.0, 0.0, -3.0]])
    costs = quality_focal_loss(logits, torch.tensor([[0.5, 1.0, 0.0]]))
    low = torch.tensor(-3.0)
    wanted = [0.0, 0.25 * torch.log(torch.tensor(2.0)).item(), float(low.sigmoid() ** 2 * torch.nn.functional.softplus(low))]
    assert costs[0].tolist() == pytest.approx(wanted)


def test_losses_may_read_the_distributions() -> None:
    head = tiny("gfl")(images("gfl")).head
    assert set(head) == {"class_logits", "box_distributions"}
    assert [level.shape for level in head["box_distributions"]] == [(2, 192, 4, 9), (2, 48, 4, 9), (2, 12, 4, 9)]
