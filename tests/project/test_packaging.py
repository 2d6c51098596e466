"""Guards for import names that other distributions bear too: see docs/decisions.md."""

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from places import ROOT

PACKAGES = ("edgedistill", "pipeline", "stages", "deploy")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ABOUT = f"edgedistill-{PROJECT['version']}.dist-info"
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
PROSE = [
    path
    for pattern in ("*.md", "docs/*.md", "Makefile", "examples/*.*", "examples/*/*.*", "benchmarks/**/*.py")
    for path in sorted(ROOT.glob(pattern))
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-P", "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(out.glob("*.whl")))


def imported(path: Path, *, late: bool = True) -> set[str]:
    """The top-level names that a file imports: wherever in it, or only when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree)) if late else tree.body
    plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return {name.split(".")[0] for name in plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}}


def test_the_wheel_holds_our_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {*PACKAGES, ABOUT}
    assert not [name for name in wheel.namelist() if Path(name).name.startswith("test_")]
    beside = {name for name in wheel.namelist() if not name.endswith(".py") and "dist-info" not in name}
    served = {"page.html", "openapi.yaml", "Dockerfile", "kserve.yaml", "start.sh", "triton.sh", "README.md"}
    served |= {"index.html", "page.css", "page.mjs", "detector.mjs"}
    assert {Path(name).name for name in beside if name.startswith("deploy/s")} == served


def test_the_wheel_holds_every_file_of_our_packages(wheel: zipfile.ZipFile) -> None:
    there = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    there = {name for name in there if "__pycache__" not in name}
    assert there == {name for name in wheel.namelist() if ".dist-info" not in name}
    assert {f"{package}/py.typed" for package in PACKAGES} <= there


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    metadata = wheel.read(f"{ABOUT}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "Apache License" in wheel.read(f"{ABOUT}/licenses/LICENSE").decode()
    assert "py3-none-any" in str(wheel.filename)


def test_the_wheel_has_the_list_of_what_it_brings_along(wheel: zipfile.ZipFile) -> None:
    listed = wheel.read(f"{ABOUT}/sboms/edgedistill.cdx.json")
    assert listed == (ROOT / "locks" / "edgedistill.cdx.json").read_bytes()


def test_the_source_archive_has_it_too(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        assert f"edgedistill-{PROJECT['version']}/locks/edgedistill.cdx.json" in archive.getnames()


def test_one_console_script_of_the_distribution_s_name() -> None:
    assert PROJECT["scripts"] == {"edgedistill": "pipeline.cli:main"}
    assert PROJECT["name"] == "edgedistill"


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_no_document_starts_a_package_as_a_module(path: Path) -> None:
    assert not re.search(r"-m (edgedistill|pipeline|stages|deploy)\b", path.read_text(encoding="utf-8"))


def test_nothing_is_pickled() -> None:
    """Into a file that has a name: one process reads back what it wrote to a temporary file that only it can open."""
    pickling = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    nameless = ROOT / "stages" / "datasets" / "tables" / "rows.py"
    assert "tempfile.SpooledTemporaryFile(" in nameless.read_text(encoding="utf-8")
    named = {path for path in SOURCES if imported(path) & pickling} - {nameless}
    catching = "from pickle import UnpicklingError\n"  # the name of torch's complaint about a damaged file
    assert not [path for path in named if catching not in path.read_text(encoding="utf-8")]
    text = {path: path.read_text(encoding="utf-8") for path in SOURCES}
    assert not [path for path, source in text.items() if "weights_only=False" in source or "allow_pickle=True" in source]


def test_the_base_needs_no_torch() -> None:
    base = {re.split(r"[^a-z0-9-]", line.lower())[0] for line in PROJECT["dependencies"]}
    assert not base & {"torch", "torchvision", "onnx", "accelerate", "safetensors", "pycocotools"}


def test_what_is_deployed_imports_what_the_base_installs() -> None:
    base = {"PIL", "faster_coco_eval", "hotcoco", "numpy", "onnxruntime", "pydantic", "pydantic_core", "tqdm", "yaml", "deploy"}
    extras = {
        "ai_edge_litert",
        "flatbuffers",
        "google",
        "grpc",
        "httptools",
        "huggingface_hub",
        "model_signing",
        "imagecorruptions",
        "numba",
        "prometheus_client",
        "starlette",
        "uvicorn",
        "onnx",
        "openvino",
        "cuda",
        "cv2",
        "tensorrt",
        "tensorrt_rtx",
    }  # imported where they are used, or in deploy/serving
    found = {path: imported(path, late=path.parent != ROOT / "deploy/runtimes") for path in SOURCES if path.is_relative_to(ROOT / "deploy")}
    needed = {path: names - set(sys.stdlib_module_names) for path, names in found.items()}  # a runtime imports its own package late
    assert not {str(path): found - base - extras for path, found in needed.items() if found - base - extras}
