"""What a processor is called, from what Linux says of it."""

import pytest

from deploy import machine

X86 = "processor\t: 0\nmodel name\t: AMD EPYC 7003\nflags\t\t: fpu\n\nprocessor\t: 1\nmodel name\t: AMD EPYC 7003\n"
ARM = "processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd0b\n"


def test_the_marketing_name_where_there_is_one() -> None:
    assert machine.cpu_of(X86, "") == "AMD EPYC 7003"


def test_boards_and_servers_of_one_architecture_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert machine.cpu_of(ARM, "Raspberry Pi 5 Model B Rev 1.0\0") == (
        "Raspberry Pi 5 Model B Rev 1.0, CPU implementer 0x41, CPU part 0xd0b, aarch64"
    )
    assert machine.cpu_of(ARM, "") == "CPU implementer 0x41, CPU part 0xd0b, aarch64"
    assert machine.cpu_of("", "") == "aarch64"
