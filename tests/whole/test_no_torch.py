"""What an edge box does: the wheel in a virtual environment of its own, with the base and `serve`, without torch."""

import json
import shutil
from pathlib import Path

import artifact_samples
import flow_samples
import onnx_samples
import pytest
from PIL import Image
from wheel_samples import install, run, served

from deploy.bundles.bundle import Bundle

SPLITS = (f"{split}_images: cells/images/{split}, {split}_annotations: cells/{split}.json" for split in ("train", "val"))
COCO_DATA = f"{{dataset: coco, {', '.join(SPLITS)}}}"
"""The section data of a pipeline whose images artifact_samples wrote into `cells`."""


HOW = ["linked", pytest.param("installed", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=HOW)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp(str(request.param)), request.param, "serve")


@pytest.fixture(scope="module", params=HOW)
def builder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp(f"build-{request.param}"), request.param, "build")


@pytest.fixture(scope="module", params=HOW)
def verifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("model_signing")
    return install(tmp_path_factory.mktemp(f"signing-{request.param}"), request.param, "signing")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return artifact_samples.bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(onnx_samples.picture({(0, 1): 0, (2, 3): 2})).save(path)
    return path


def test_there_is_no_torch(program: Path, tmp_path: Path) -> None:
    for name in ("torch", "torchvision", "onnx", "accelerate", "safetensors"):
        done = run(program.with_name("python"), "-c", f"import {name}", cwd=tmp_path)
        assert f"No module named '{name}'" in done.stderr


def test_a_folder_of_the_user_s_own_called_pipeline_is_not_imported(program: Path, tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    assert run(program, "--help", cwd=tmp_path).returncode == 0


def test_help_config_and_check(program: Path, tmp_path: Path) -> None:
    assert run(program, "--help", cwd=tmp_path).returncode == 0
    (tmp_path / "pipeline.yaml").write_text(flow_samples.CONFIG)
    done = run(program, "config", cwd=tmp_path)
    assert (done.returncode, done.stdout.startswith("name: small")) == (0, True)
    (tmp_path / "empty").mkdir()
    done = run(program, "check", "--json", cwd=tmp_path / "empty")
    assert (done.returncode, json.loads(done.stdout)["packages"]["torch"]) == (0, None)


def test_gate(program: Path, bundle: Bundle, tmp_path: Path) -> None:
    done = run(program, "gate", bundle.root, cwd=tmp_path)
    assert (done.returncode, "pass" in done.stdout, done.stderr) == (0, True, "")


def test_predict(program: Path, bundle: Bundle, picture: Path, tmp_path: Path) -> None:
    done = run(program, "predict", bundle.root, picture, "--out", "out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["annotations"]) == 2
    assert (tmp_path / "out" / "picture.png").exists()


FRONT_DOOR = """
import sys
import edgedistill

with edgedistill.Predictor(edgedistill.Bundle.load(sys.argv[1])) as predictor:
    print(sorted(predictor(sys.argv[2]).names))
print(edgedistill.gate(sys.argv[1]).passed)
try:
    edgedistill.run("pipeline.yaml")
except edgedistill.ConfigError as error:
    print(error)
"""


def test_the_front_door(program: Path, bundle: Bundle, picture: Path, tmp_path: Path) -> None:
    artifact_samples.dataset(tmp_path / "cells")
    (tmp_path / "pipeline.yaml").write_text(flow_samples.CONFIG.replace("{dataset: digits}", COCO_DATA))
    done = run(program.with_name("python"), "-c", FRONT_DOOR, bundle.root, picture, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "['blue', 'red']",
        "True",
        "this needs torch, which is not installed; run: pip install 'edgedistill[train]'",
    ], done.stderr


def test_build_makes_and_judges_engines_without_torch(builder: Path, bundle: Bundle, tmp_path: Path) -> None:
    assert "No module named 'torch'" in run(builder.with_name("python"), "-c", "import torch", cwd=tmp_path).stderr
    artifact_samples.dataset(tmp_path / "cells")
    for target, precision in (("here", "fp32"), ("int8", "int8")):
        done = run(builder, "build", bundle.root, "--target", target, "--data", "cells", "--out", target, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert (answer["map"], answer["precision"]) == (1.0, precision)
        assert run(builder, "gate", target, cwd=tmp_path).returncode == 0


def test_build_says_what_to_install(program: Path, bundle: Bundle, tmp_path: Path) -> None:
    done = run(program, "build", bundle.root, "--out", "out", cwd=tmp_path)
    line = 'edgedistill: target here: onnx is not installed: pip install "edgedistill[build]"'
    assert (done.returncode, done.stderr.splitlines()[-1]) == (5, line)
    assert not (tmp_path / "out").exists()


def test_a_signed_bundle_is_verified_without_torch(verifier: Path, bundle: Bundle, tmp_path: Path) -> None:
    from signing_samples import pair

    key = pair(tmp_path, "key")
    folder = Path(shutil.copytree(bundle.root, tmp_path / "cells"))
    assert "No module named 'torch'" in run(verifier.with_name("python"), "-c", "import torch", cwd=tmp_path).stderr
    done = run(verifier, "sign", folder, "--key", key.private, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(verifier, "gate", folder, "--trusted", key.public, cwd=tmp_path)
    assert (done.returncode, "pass" in done.stdout, done.stderr) == (0, True, "")
    (folder / "labels.txt").write_text("cat")
    done = run(verifier, "gate", folder, "--trusted", key.public, cwd=tmp_path)
    line = f"edgedistill: {folder / 'labels.txt'}: is not the file that was signed; copy the bundle again, or sign it again\n"
    assert (done.returncode, done.stdout, done.stderr) == (4, "", line)


def test_trusted_says_what_to_install(program: Path, bundle: Bundle, tmp_path: Path) -> None:
    """The base and the server are without the library that verifies signatures."""
    folder = Path(shutil.copytree(bundle.root, tmp_path / "cells"))
    (folder / "model.sig").write_text('{"dsseEnvelope": {"payload": "eyJwcmVkaWNhdGUiOiB7InJlc291cmNlcyI6IFtdfX0="}}')
    (tmp_path / "key").write_text("-----BEGIN PUBLIC KEY-----\n")
    done = run(program, "gate", folder, "--trusted", "key", cwd=tmp_path)
    line = "edgedistill: this needs model_signing, which is not installed; run: pip install 'edgedistill[signing]'\n"
    assert (done.returncode, done.stderr) == (2, line)


def test_serve(program: Path, bundle: Bundle, picture: Path) -> None:
    assert served(program, bundle.root, picture) == 2


def test_training_says_what_to_install(program: Path, tmp_path: Path) -> None:
    artifact_samples.dataset(tmp_path / "cells")
    (tmp_path / "pipeline.yaml").write_text(flow_samples.CONFIG)
    done = run(program, "run", "--set", f"data={COCO_DATA}", cwd=tmp_path)
    line = "edgedistill: this needs torch, which is not installed; run: pip install 'edgedistill[train]'\n"
    assert (done.returncode, done.stderr) == (2, line)
