"""`edgedistill package --web`: what it writes and refuses, and the page in a real browser."""

import base64
import functools
import http.server
import io
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import artifact_samples as samples
import numpy as np
import onnx_samples
import pytest
from PIL import Image
from waiting import PATIENCE

from deploy.bundles.bundle import Bundle, sha256
from deploy.contract import ModelContract
from deploy.errors import ArtifactError
from deploy.prediction.image_files import load_image
from deploy.prediction.predictor import SessionPredictor
from deploy.shipping import web
from pipeline import cli

ORT_WEB = os.environ.get("EDGEDISTILL_ORT_WEB")
"""The folder of the npm package onnxruntime-web; the browser is tried only where it is given."""
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return samples.bundle(tmp_path_factory.mktemp("web"))


@pytest.fixture
def ort_web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the npm package, whose files are taken for the published ones."""
    dist = tmp_path / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    for name in web.ORT_FILES:
        (dist / name).write_text(name, encoding="utf-8")
    monkeypatch.setattr(web, "ORT_FILES", {name: sha256(dist / name) for name in web.ORT_FILES})
    return dist.parent


def package(bundle: Bundle, out: Path, *more: str) -> int:
    return cli.main(["package", str(bundle.root), "--out", str(out), *more])


def test_it_writes_the_page_the_graph_and_the_runtime_and_nothing_from_elsewhere(bundle: Bundle, ort_web: Path, tmp_path: Path) -> None:
    out = tmp_path / "page"
    assert package(bundle, out, "--web", "--ort-web", str(ort_web)) == 0
    own = {path.name for path in web.PAGE.iterdir()}
    assert {path.name for path in out.iterdir()} == own | set(web.ORT_FILES) | {"model.onnx", "contract.json"}
    assert sha256(out / "model.onnx") == bundle.manifest.graph.sha256
    contract = json.loads((out / "contract.json").read_text())
    assert contract["classes"] == list(onnx_samples.CLASSES)
    for name in own:
        assert "http:" not in (text := (out / name).read_text(encoding="utf-8")), name
        assert "https:" not in text, name


def test_without_the_npm_package_it_says_how_to_get_it(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert package(bundle, tmp_path / "page", "--web") == 2
    assert f"npm install --ignore-scripts onnxruntime-web@{web.VERSION}" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


def test_another_file_than_the_published_one_is_refused(
    bundle: Bundle, ort_web: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (ort_web / "dist" / "ort.wasm.min.mjs").write_text("fetch('https://elsewhere')", encoding="utf-8")
    assert package(bundle, tmp_path / "page", "--web", "--ort-web", str(ort_web)) == 2
    assert "ort.wasm.min.mjs is not that of onnxruntime-web" in capsys.readouterr().err
    (ort_web / "dist" / "ort.wasm.min.mjs").unlink()
    assert package(bundle, tmp_path / "page", "--web", "--ort-web", str(ort_web)) == 2
    assert "has no dist/ort.wasm.min.mjs" in capsys.readouterr().err
    assert package(bundle, tmp_path / "page", "--ort-web", str(ort_web)) == 2
    assert "pass --web, too" in capsys.readouterr().err


UNLIKE = {"reduced_decoding": True, "white": 4095, "alpha": "ignore"}


@pytest.mark.parametrize("option", [*UNLIKE, "decoding"])
def test_bundles_that_a_browser_would_compute_differently_are_refused(option: str, bundle: Bundle, ort_web: Path, tmp_path: Path) -> None:
    contract: ModelContract = onnx_samples.contract(raw=option == "decoding")
    if option in UNLIKE:
        preprocessing = contract.preprocessing.model_copy(update={option: UNLIKE[option]})
        contract = contract.model_copy(update={"preprocessing": preprocessing})
    other = Bundle(bundle.root, bundle.manifest.model_copy(update={"contract": contract}))
    with pytest.raises(ArtifactError, match="host" if option == "decoding" else option):
        web.write_page(other, ort_web, tmp_path)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves static files, as any server would."""

    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}  # noqa: RUF012

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class names it
        """Nothing."""


@pytest.fixture(scope="module")
def address(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    out = tmp_path_factory.mktemp("served") / "page"
    assert package(bundle, out, "--web", "--ort-web", str(ORT_WEB)) == 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(out))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/index.html"
        server.shutdown()


_DETECT = "async (text) => edgedistill.detect(new Blob([Uint8Array.from(atob(text), (one) => one.charCodeAt(0))]))"


@pytest.mark.skipif(BROWSER is None or ORT_WEB is None, reason="no Chromium here, or EDGEDISTILL_ORT_WEB is not set")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
class TestInABrowser:
    def test_it_finds_what_predict_finds_and_asks_nobody_else(self, bundle: Bundle, address: str) -> None:
        playwright = pytest.importorskip("playwright.sync_api")
        contract, asked = bundle.manifest.contract, list[str]()
        with playwright.sync_playwright() as run, bundle.open(threads=1) as session:
            browser = run.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"], timeout=1000 * PATIENCE)
            page = browser.new_context(bypass_csp=True).new_page()
            page.on("request", lambda one: asked.append(one.url))
            page.goto(address)
            page.get_by_text("Ready").wait_for(timeout=1000 * PATIENCE)
            for number, content in enumerate(pictures()):
                found = page.evaluate(_DETECT, base64.b64encode(content).decode())["objects"]
                wanted = SessionPredictor(session, contract).detect(load_image(content, contract.preprocessing))
                assert len(found) == len(wanted), number
                for one, box, score, label in zip(found, wanted.boxes, wanted.scores, wanted.labels, strict=True):
                    assert one["label"] == label
                    assert one["score"] == pytest.approx(score, abs=0.01)
                    np.testing.assert_allclose(one["box"], box, atol=1)
            browser.close()
        assert all(url.startswith((address.rpartition("/")[0], "data:", "blob:")) for url in asked)

    def test_its_policy_lets_it_run_and_an_image_is_drawn(self, address: str, tmp_path: Path) -> None:
        playwright = pytest.importorskip("playwright.sync_api")
        (tmp_path / "photo.png").write_bytes(next(pictures()))
        with playwright.sync_playwright() as run:
            browser = run.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"], timeout=1000 * PATIENCE)
            page, errors = browser.new_page(), list[str]()
            page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
            page.goto(address)
            page.get_by_text("Ready").wait_for(timeout=1000 * PATIENCE)
            page.set_input_files("#file", str(tmp_path / "photo.png"))
            page.get_by_text("2 objects,").wait_for(timeout=1000 * PATIENCE)
            assert page.locator("#found li").count() == 2
            browser.close()
        assert not errors


def pictures() -> Iterator[bytes]:
    """The sample's image as PNG in ten sizes, enlarged and reduced, wide and high, and each as JPEG."""
    cells = Image.fromarray(onnx_samples.picture({(0, 1): 0, (2, 3): 2}))
    for size in ((200, 120), (64, 64), (63, 65), (31, 47), (640, 480), (128, 96), (300, 301), (1000, 60), (90, 400), (65, 64)):
        for kind in ("png", "jpeg"):
            written = io.BytesIO()
            cells.resize(size).save(written, kind, quality=95)
            yield written.getvalue()
