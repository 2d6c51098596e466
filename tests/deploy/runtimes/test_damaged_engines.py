"""Engines of ncnn and LiteRT that are damaged, or something else: one line and exit code 4, and nothing reaches the native library."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import artifact_samples as samples
import numpy as np
import onnx
import onnx_samples
import pytest
from PIL import Image

from deploy import plugins
from deploy.bundles.manifest import MANIFEST
from deploy.errors import ArtifactError
from deploy.runtimes import litert
from deploy.runtimes.ncnn_files import archive
from pipeline import cli

RUNTIMES = ("litert", "ncnn")


class TwoEngines(NamedTuple):
    """The content of an engine, and of one for larger images that has the same weights."""

    own: bytes
    other: bytes


Damage = Callable[[TwoEngines], bytes]


def flipped(content: bytes, share: float) -> bytes:
    """One bit is different."""
    place = int(len(content) * share)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def parts(content: bytes) -> dict[str, bytes]:
    """The parts of an archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def archived(content: dict[str, bytes]) -> bytes:
    """An archive of these parts."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as made:
        for name, part in content.items():
            made.writestr(name, part)
    return written.getvalue()


FOREIGN: dict[str, bytes] = {
    "empty": b"",
    "a text": b"404 not found\n",
    "random": np.random.default_rng(0).bytes(5000),
    "an ONNX graph": onnx_samples.raw_detector().SerializeToString(),
}
EVERY: dict[str, Damage] = {
    "cut in half": lambda pair: pair.own[: len(pair.own) // 2],
    "cut by a byte": lambda pair: pair.own[:-1],
    "a bit near the start": lambda pair: flipped(pair.own, 0.05),
    "a bit in the middle": lambda pair: flipped(pair.own, 0.5),
    "a bit near the end": lambda pair: flipped(pair.own, 0.95),
    "another middle": lambda pair: pair.own[: len(pair.own) // 3] + b"\xff" * (len(pair.own) // 3) + pair.own[2 * (len(pair.own) // 3) :],
    "two in one": lambda pair: pair.own + pair.other,
    "for larger images": lambda pair: pair.other,
}
OWN: dict[str, dict[str, Damage]] = {
    "litert": {
        "an older format": lambda pair: pair.own.replace(b"TFL3", b"TFL2", 1),
        "built elsewhere": lambda pair: pair.own.replace(b"edgedistill sha256:", b"somewhere else....."),
        "not sealed": lambda pair: pair.own.replace(pair.own[pair.own.index(b"sha256:") + 7 :][:64], b"0" * 64),
    },
    "ncnn": {
        "weights that are cut": lambda pair: archived({**parts(pair.own), archive.BIN: parts(pair.own)[archive.BIN][:-4]}),
        "another network": lambda pair: archived({**parts(pair.own), archive.PARAM: parts(pair.other)[archive.PARAM]}),
        "another network's facts": lambda pair: archived({**parts(pair.other), archive.ABOUT: parts(pair.own)[archive.ABOUT]}),
        "an older format": lambda pair: archived({**parts(pair.own), archive.PARAM: b"7767516\n1 1\nInput in0 0 1 in0\n"}),
        "without weights": lambda pair: archived({key: part for key, part in parts(pair.own).items() if key != archive.BIN}),
    },
}
CASES = [(runtime, kind) for runtime in RUNTIMES for kind in (*FOREIGN, *EVERY, *OWN[runtime])]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, bytes]]:
    """Of a runtime, a bundle and the content of an engine for larger images, built once."""
    known: dict[str, tuple[Path, bytes]] = {}

    def found(runtime: str) -> tuple[Path, bytes]:
        if runtime not in known:
            root = tmp_path_factory.mktemp(runtime)
            bundle = samples.bundle(root, built=samples.engine(root, samples.target(runtime=runtime)))
            onnx.save(onnx_samples.raw_detector(128), root / "larger.onnx")
            (root / "larger").mkdir()
            larger = plugins.load("deploy.runtimes", runtime).compile(root / "larger.onnx", onnx_samples.HEADS, root / "larger").file
            known[runtime] = bundle.root, larger.read_bytes()
        return known[runtime]

    return found


def why_not(runtime: str) -> str | None:
    """Why no engine can be built and opened here; None if one can."""
    own = plugins.load("deploy.runtimes", runtime)
    return own.why_not() or (own.why_not_build({}) if hasattr(own, "why_not_build") else None)


@pytest.mark.parametrize("known", [False, True], ids=["by its digest", "by itself"])
@pytest.mark.parametrize(("runtime", "kind"), CASES)
def test_a_damaged_engine_is_refused_with_one_line(
    runtime: str, kind: str, known: bool, built: Callable[[str], tuple[Path, bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if (reason := why_not(runtime)) is not None:
        pytest.skip(reason)
    source, larger = built(runtime)
    folder = tmp_path / "bundle"
    shutil.copytree(source, folder)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    engine = folder / manifest["engine"]
    pair = TwoEngines(engine.read_bytes(), larger)
    engine.write_bytes(FOREIGN[kind] if kind in FOREIGN else {**EVERY, **OWN[runtime]}[kind](pair))
    if known:
        samples.resign(folder, manifest)
    Image.fromarray(onnx_samples.picture({(0, 1): 0})).save(tmp_path / "photo.png")
    assert cli.main(["predict", str(folder), str(tmp_path / "photo.png"), "--out", str(tmp_path / "out")]) == 4
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("edgedistill: ")
    assert ("build it again" in error) == known


def test_a_file_of_litert_that_was_not_built_here_is_refused_before_litert_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litert, "why_not", lambda: None)
    monkeypatch.setattr(litert, "LiteRtSession", None)
    (tmp_path / "engine.tflite").write_bytes(b"\x20\0\0\0TFL3" + bytes(500))
    with pytest.raises(ArtifactError, match="was not built by edgedistill"):
        litert.open(tmp_path / "engine.tflite")
