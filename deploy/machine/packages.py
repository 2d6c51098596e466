"""Which code is here: versions of packages, read from their metadata without importing any; the commit that is checked out."""

import importlib.metadata
import re
import subprocess
from pathlib import Path

DISTRIBUTION = "edgedistill"


def version(distribution: str) -> str | None:
    """A package's version; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def first(*distributions: str) -> str:
    """Name and version of the first of these that is installed, or "not installed": packages that come under several names."""
    found = ((name, version(name)) for name in distributions)
    return next((f"{name} {installed}" for name, installed in found if installed), "not installed")


def present(**distributions: str) -> dict[str, str]:
    """The versions of those of these packages that are installed, by the names given to them."""
    return {name: installed for name, distribution in distributions.items() if (installed := version(distribution))}


def dependencies() -> dict[str, str | None]:
    """The version of each package that edgedistill depends on, extras included; None if it is not installed.

    A package without a version is left out if its build for GPUs is installed. Empty if edgedistill itself is not installed.
    """
    try:
        needed = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in needed if "extra == 'dev'" not in line.replace('"', "'")]
    found = {name: version(name) for name in dict.fromkeys(names)}
    return {name: installed for name, installed in found.items() if installed or not found.get(f"{name}-gpu")}


def installed() -> dict[str, str]:
    """The versions of edgedistill and of those of its dependencies that are installed, sorted by name."""
    found = {DISTRIBUTION: version(DISTRIBUTION), **dependencies()}
    return {name: number for name, number in sorted(found.items()) if number}


def git_commit(folder: Path) -> str | None:
    """The commit checked out in a folder, with "-dirty" if files differ from it; None outside a repository."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603 - fixed words and a folder
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
