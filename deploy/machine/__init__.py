"""Identity of the machine that measurements run on, as far as it can be determined in milliseconds."""

import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

_DECISIVE = (
    *("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8"),
    *("asimddp", "asimdhp", "i8mm", "sve"),
)
"""The instructions, of x86 and of ARM, for which runtimes choose their kernels, and so how they round."""


@cache
def identity() -> dict[str, str]:
    """Operating system, processor and its instructions, cores that this process may use and, if there is one, the NVIDIA GPU."""
    return {
        "platform": platform_name(),
        **cpu(),
        "cores": str(num_cores()),
        **gpu(),
    }


@cache
def gpu() -> dict[str, str]:
    """`gpu`, `driver` and `compute_capability` of the first NVIDIA GPU; empty without one, or if CUDA_VISIBLE_DEVICES hides all.

    nvidia-smi comes with the driver, so no CUDA library has to be loaded.
    """
    program = shutil.which("nvidia-smi")
    if program is None or os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return {}
    command = [program, "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603 - fixed arguments only
    except (OSError, subprocess.SubprocessError):
        return {}
    fields = [field.strip() for field in answer.stdout.strip().split(",")]
    return dict(zip(("gpu", "driver", "compute_capability"), fields, strict=True)) if len(fields) == 3 else {}


def platform_name() -> str:
    """Operating system and architecture."""
    return f"{platform.system()} {platform.machine()}"


def num_cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu() -> dict[str, str]:
    """The processor's model and, if they are known, the instructions that decide results: virtual machines may hide some, and the model."""
    try:
        found = features_of(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:  # not Linux
        found = None
    return {"cpu": cpu_model()} if found is None else {"cpu": cpu_model(), "cpu_features": found}


def features_of(cpuinfo: str) -> str | None:
    """The decisive instructions among those of Linux's /proc/cpuinfo; None if it lists none at all."""
    fields = _fields(cpuinfo)
    listed = fields.get("flags", fields.get("Features"))
    return None if listed is None else " ".join(sorted({*listed.split()} & {*_DECISIVE}, key=_DECISIVE.index)) or "none of note"


def cpu_model() -> str:
    """The processor's marketing name; on ARM, which has none, the board's name, implementer, part and architecture."""
    board = Path("/proc/device-tree/model")
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    return cpu_of(text, board.read_text(encoding="utf-8") if board.exists() else "")


def cpu_of(cpuinfo: str, board: str) -> str:
    """The same, from the text of Linux's /proc/cpuinfo and, on a board with a device tree, its model name."""
    fields = _fields(cpuinfo)
    if "model name" in fields:
        return fields["model name"]
    name = board.strip("\0 ")
    parts = [name] if name else []
    parts += [f"{key} {fields[key]}" for key in ("CPU implementer", "CPU part") if key in fields]
    return ", ".join([*parts, platform.machine()])


def _fields(cpuinfo: str) -> dict[str, str]:
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in cpuinfo.splitlines())}
