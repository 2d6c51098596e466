"""Bundles of LiteRT and ncnn on an edge box without torch: predict, gate, serve and build."""

import json
from pathlib import Path

import artifact_samples
import onnx_samples
import pytest
from PIL import Image
from wheel_samples import install, run, served

from deploy import plugins
from deploy.bundles.bundle import Bundle
from deploy.runtimes import why_not_build

CELLS = {(0, 1): 0, (2, 3): 2}


@pytest.fixture(scope="module", params=["litert", "ncnn"])
def runtime(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    why = plugins.load("deploy.runtimes", name).why_not() or why_not_build(name, {})
    if why is not None:
        pytest.skip(why)
    return name


@pytest.fixture(scope="module")
def bundle(runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    root = tmp_path_factory.mktemp("bundle")
    return artifact_samples.bundle(root, built=artifact_samples.engine(root, artifact_samples.target(runtime=runtime)))


@pytest.fixture(scope="module", params=["linked", pytest.param("installed", marks=pytest.mark.slow)])
def program(request: pytest.FixtureRequest, runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp(str(request.param)), request.param, f"serve,build,{runtime}")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(onnx_samples.picture(CELLS)).save(path)
    return path


def test_there_is_no_torch(program: Path, tmp_path: Path) -> None:
    for name in ("torch", "pnnx", "openvino"):
        assert f"No module named '{name}'" in run(program.with_name("python"), "-c", f"import {name}", cwd=tmp_path).stderr


def test_predict_finds_the_objects_and_says_nothing_else(program: Path, bundle: Bundle, picture: Path, tmp_path: Path) -> None:
    done = run(program, "predict", bundle.root, picture, "--out", "out", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)["annotations"]
    assert sorted(one["category_id"] for one in found) == sorted(onnx_samples.CATEGORY_IDS[label] for label in CELLS.values())
    assert (tmp_path / "out" / "picture.png").exists()


def test_gate(program: Path, bundle: Bundle, tmp_path: Path) -> None:
    done = run(program, "gate", bundle.root, cwd=tmp_path)
    assert (done.returncode, "pass" in done.stdout, done.stderr) == (0, True, "")


def test_serve(program: Path, bundle: Bundle, picture: Path) -> None:
    assert served(program, bundle.root, picture) == 2


def test_litert_is_built_there_and_ncnns_own_engine_is_judged(program: Path, runtime: str, bundle: Bundle, tmp_path: Path) -> None:
    artifact_samples.dataset(tmp_path / "cells")
    done = run(program, "build", bundle.root, "--data", "cells", "--out", "out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["map"] == 1.0
    line = (
        "target here: pnnx, which converts graphs to ncnn, is not installed: build where networks are trained, "
        'pip install "edgedistill[ncnn-build]"; the bundle\'s own engine, which runs here, is judged'
    )
    assert (line in done.stderr.splitlines()) == (runtime == "ncnn")
    assert run(program, "gate", "out", cwd=tmp_path).returncode == 0
