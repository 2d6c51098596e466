import pytest

from deploy.contract import Cost
from deploy.latency import roofline
from deploy.machine.peak import Peak

COST = Cost(macs=2_000_000, operators={}, weight_bytes=900, peak_activation_bytes=0, input_bytes=100)


def test_the_roofline_is_the_higher_of_its_two_walls() -> None:
    assert roofline.lowest_ms(COST, Peak(macs=1e9, bytes=1e9)) == pytest.approx(2)
    assert roofline.lowest_ms(COST, Peak(macs=1e12, bytes=1e5)) == pytest.approx(10)
