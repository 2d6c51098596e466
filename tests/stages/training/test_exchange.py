"""What processes exchange in a step, worked out by hand, and the time that it takes."""

import re

import pytest
from places import ROOT
from torch import nn

from deploy import plugins
from stages.config import DetectorConfig
from stages.training.checkpoint import build_detector
from stages.training.costs.exchange import BUCKET, FIRST_BUCKET, Exchange, exchange_of, step_seconds

ROW = re.compile(r"\| `(\w+)` \| ([\d.]+) MB \| ([\d.]+) MB \| (none|\d+)")


def rows() -> dict[str, tuple[float, float, int]]:
    """Of docs/scaling.md: MB of gradients and of buffers, and the number of norms."""
    found = ROW.findall((ROOT / "docs" / "scaling.md").read_text(encoding="utf-8"))
    return {name: (float(gradients), float(buffers), 0 if norms == "none" else int(norms)) for name, gradients, buffers, norms in found}


def test_gradients_norms_and_buffers_of_a_network() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))
    network[2].weight.requires_grad_(False)
    found = exchange_of(network)
    assert found.gradients == 4 * (3 * 4 * 9 + 4 + 4 + 4)  # the last layer is frozen
    assert found.norms == (2 * 4 * 4,)
    assert found.buffers == 4 * 4 + 4 * 4 + 8  # running means and variances, and a count of 8 bytes
    assert found.total == found.gradients + 32 + 40


def test_frozen_norms_exchange_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).requires_grad_(False))
    assert exchange_of(network).norms == ()


def test_gradients_are_exchanged_in_buckets_the_last_layer_first() -> None:
    def layer(size: int) -> nn.Module:
        return nn.Linear(size // 4, 1, bias=False)

    network = nn.Sequential(layer(BUCKET), layer(BUCKET // 2), layer(BUCKET // 2), layer(FIRST_BUCKET))
    assert exchange_of(network).buckets == (FIRST_BUCKET, BUCKET, BUCKET)


def test_what_a_host_sends_in_a_step() -> None:
    """Four hosts: sums go around a ring, 2 x 3/4 of them; buffers in two rounds; norms to three others, and back around the ring."""
    found = Exchange(buckets=(800,), norms=(80,), buffers=10)
    assert found.sent(4) == 1.5 * 800 + (84 * 3 + 1.5 * 80) + 2 * 10


@pytest.mark.parametrize(
    ("buckets", "seconds"),
    [
        ((100,), 1.0 + 1.0),  # it comes at the end of the step
        ((50, 50), 1.0 + 0.5),  # the first half is exchanged behind the second half of the backward pass, from 2/3 to 7/6
        ((10, 90), 1.0 + 0.9),
    ],
)
def test_a_step_waits_for_what_comes_last(buckets: tuple[int, ...], seconds: float) -> None:
    """Two hosts send as many bytes as there are, at 100 bytes per second, in a step of one second."""
    found = step_seconds(Exchange(buckets, (), 0), 1.0, 2, 100.0)
    expected = seconds + (1 / 6 if buckets == (50, 50) else 0)  # the network is busy until then
    assert found == pytest.approx(expected)


def test_one_host_waits_for_nobody_and_latency_counts_every_round() -> None:
    found = Exchange((100,), (8, 8), 4)
    assert step_seconds(found, 0.5, 1, 1.0, 1.0) == 0.5
    fast = step_seconds(found, 0.5, 3, 1e12, 0.001)
    assert fast == pytest.approx(0.5 + 0.001 * (4 + 2 * 3 * 2 + 2))  # a bucket, two norms forward and backward, buffers in two rounds


def test_the_page_has_every_detector() -> None:
    assert sorted(rows()) == sorted(plugins.names("stages.detectors"))


@pytest.mark.parametrize("name", ["fcos", pytest.param("all", marks=pytest.mark.slow)])
def test_the_page_s_figures_are_the_detectors_own(name: str) -> None:
    for one in rows() if name == "all" else [name]:
        found = exchange_of(build_detector(DetectorConfig.model_validate({"name": one}), 80, pretrained=False))
        gradients, buffers, norms = rows()[one]
        assert (found.gradients / 1e6, found.buffers / 1e6) == pytest.approx((gradients, buffers), abs=0.06), one
        assert len(found.norms) == norms, one
