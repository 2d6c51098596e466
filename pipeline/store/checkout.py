"""What hosts that train together must have in common: the code, and the libraries that decide what a step computes."""

import hashlib
import json
import platform
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from deploy.machine.packages import version

PACKAGES = ("edgedistill", "pipeline", "stages", "deploy")
LIBRARIES = ("torch", "torchvision", "accelerate", "numpy", "pillow")


@cache
def sources() -> dict[str, str]:
    """Every file of our code with the start of its sha256."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            continue
        folder = Path(spec.origin).parent
        for path in sorted(folder.rglob("*.py")):
            found[str(Path(package) / path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return found


def facts() -> dict[str, str]:
    """What is compared: one hash for all of our code, and versions."""
    code = hashlib.sha256(json.dumps(sources()).encode()).hexdigest()[:16]
    return {"code": code, "Python": platform.python_version(), **{name: version(name) or "none" for name in LIBRARIES}}


def different(first: dict[str, str], other: dict[str, str]) -> str:
    """The first file that is not the same in both."""
    return next((name for name in sorted(first.keys() | other.keys()) if first.get(name) != other.get(name)), "its files")
