import pytest

from deploy import machine
from deploy.machine.peak import cpu, gpu


def test_the_processors_peak_is_within_what_processors_reach() -> None:
    peak = cpu("fp32")
    assert 1e8 < peak.macs < 1e14
    assert 1e8 < peak.bytes < 1e13
    assert cpu("int8").macs > peak.macs


def test_a_gpus_peak_is_its_own_figures_times_its_architectures_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    # an RTX 4090: 128 multiprocessors at 2.52 GHz, 82.6 TFLOPS in fp32 by its data sheet
    monkeypatch.setattr(machine, "gpu", lambda: {"compute_capability": "8.9"})
    peak = gpu("fp32", 128, 2.52e9, 1.008e12)
    assert peak is not None
    assert 2 * peak.macs == pytest.approx(82.6e12, rel=0.01)
    monkeypatch.setattr(machine, "gpu", lambda: {"compute_capability": "99.0"})
    assert gpu("fp32", 1, 1, 1) is None
