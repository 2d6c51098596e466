"""The wheel in a virtual environment of its own, with the packages of an extra and no others."""

import json
import signal
import subprocess
import sys
import urllib.request
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from places import ROOT
from serving_samples import Server
from waiting import PATIENCE


def needed(requirements: list[str], extra: str) -> dict[str, Distribution]:
    """The distributions that requirements ask for on this machine, and those that these ask for."""
    found: dict[str, Distribution] = {}
    queue = [(Requirement(line), extra) for line in requirements]
    while queue:
        requirement, wanted = queue.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": wanted}):
            continue
        one = distribution(requirement.name)
        name = one.metadata["Name"].lower()
        if name not in found or requirement.extras:
            found[name] = one
            queue += [(Requirement(line), inner) for line in one.requires or [] for inner in ("", *requirement.extras)]
    return found


def borrow(one: Distribution, site: Path) -> None:
    """Link what a distribution installed here into another environment."""
    for top in {file.parts[0] for file in one.files or [] if ".." not in file.parts}:
        link = site / top
        if top != "__pycache__" and not link.exists():
            link.symlink_to(Path(str(one.locate_file(top))).resolve())


def install(folder: Path, how: str, extra: str) -> Path:
    """`edgedistill` from the wheel with an extra, or several with commas between.

    Its dependencies are linked from here, or installed by pip, which downloads them.
    """
    build = [sys.executable, "-P", "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    wheel = next(folder.glob("*.whl"))
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    if not python.exists():
        pytest.skip("virtual environments are laid out otherwise on this system")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    if how == "installed":
        subprocess.run([*pip, f"{wheel}[{extra}]"], check=True)
    else:
        subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
        site = next((folder / "venv" / "lib").glob("python*/site-packages"))
        declared = next(iter(Distribution.discover(name="edgedistill", path=[str(site)]))).requires
        for own in extra.split(","):
            for one in needed(declared or [], own).values():
                borrow(one, site)
    return python.with_name("edgedistill")


def run(program: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)


def served(program: Path, bundle: Path, picture: Path) -> int:
    """The number of objects that an installed program answers for an image over HTTP; Ctrl-C then ends it in order."""
    with Server(bundle, program=[program]) as server:
        request = urllib.request.Request(f"http://127.0.0.1:{server.port}/v1/detect", data=picture.read_bytes(), method="POST")
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            count = len(json.load(response)["annotations"])
        server.send(signal.SIGINT)
        assert server.end() == 130
    assert server.last_words == ["edgedistill: interrupted; accepted requests were answered\n"]
    return count
