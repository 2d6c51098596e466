"""`edgedistill check`: the environment, the configuration, the runtimes and the data, before anything is run."""

import argparse
import importlib.metadata
import platform
import re
from typing import Any

from deploy import plugins
from pipeline.answer import Answer

DISTRIBUTION = "edgedistill"
IMPORT_NAMES = ("pipeline", "stages", "deploy")


def check(args: argparse.Namespace) -> Answer:
    """Look at everything; the exit code is that of the worst finding."""
    clashes = name_clashes()
    found: dict[str, Any] = {"python": platform.python_version(), "packages": packages(), "clashes": clashes, "runtimes": runtimes()}
    return Answer(found, "", 2 if clashes else 0)


def packages() -> dict[str, str | None]:
    """The versions of what we depend on, extras included, read without importing any; null where not installed."""
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in importlib.metadata.requires(DISTRIBUTION) or []]
    return {name: _version(name) for name in dict.fromkeys(names)}


def name_clashes() -> dict[str, list[str]]:
    """Installed distributions other than ours that own one of our import names; they overwrite our files without a word."""
    owners = importlib.metadata.packages_distributions()
    found = {name: sorted({owner for owner in owners.get(name, []) if owner.lower() != DISTRIBUTION}) for name in IMPORT_NAMES}
    return {name: others for name, others in found.items() if others}


def runtimes() -> dict[str, str | None]:
    """Why engines of each runtime cannot run here; null where they can."""
    return {name: plugins.load("deploy.runtimes", name).why_not() for name in plugins.names("deploy.runtimes")}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
