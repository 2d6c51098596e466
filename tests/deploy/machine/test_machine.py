"""What a processor is called, from what Linux says of it, and a GPU, from what its driver says."""

import shutil
from pathlib import Path

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


def test_the_instructions_that_decide_results_are_told() -> None:
    x86 = "model name : AMD EPYC\nflags : fpu sse4_2 avx512_vnni avx2 fma avx512f\n"
    assert machine.features_of(x86) == "avx2 fma avx512f avx512_vnni"
    assert machine.features_of(x86.replace(" avx512_vnni", "")) == "avx2 fma avx512f"
    assert machine.features_of("Features : fp asimd i8mm asimddp\n") == "asimddp i8mm"
    assert machine.features_of("flags : fpu\n") == "none of note"
    assert machine.features_of("") is None


def test_a_gpu_is_read_from_the_drivers_own_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA L4, 580.65.06, 8.9'\n")
    program.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(program))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine.gpu.cache_clear()
    try:
        assert machine.gpu() == {"gpu": "NVIDIA L4", "driver": "580.65.06", "compute_capability": "8.9"}
        for hidden in ("", "-1"):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
            machine.gpu.cache_clear()
            assert machine.gpu() == {}
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        program.write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
        machine.gpu.cache_clear()
        assert machine.gpu() == {}
    finally:
        machine.gpu.cache_clear()
