"""`edgedistill package --web`: what it writes and refuses, and the page in a real browser."""

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import artifact_samples as samples
import numpy as np
import onnx_samples
import pytest
import web_page
from PIL import Image, PngImagePlugin

from deploy.bundles.bundle import Bundle, sha256
from deploy.contract import ModelContract
from deploy.errors import ArtifactError
from deploy.prediction.image_files import load_image
from deploy.prediction.predictor import SessionPredictor
from deploy.shipping import web
from pipeline import cli


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


def test_it_writes_the_page_the_graph_and_the_runtime_and_nothing_from_elsewhere(
    bundle: Bundle, ort_web: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page"
    assert package(bundle, out, "--web", "--ort-web", str(ort_web)) == 0
    own = {path.name for path in web.PAGE.iterdir()}
    assert {path.name for path in out.iterdir()} == own | set(web.ORT_FILES) | {"model.onnx", "contract.json"}
    assert sha256(out / "model.onnx") == bundle.manifest.graph.sha256
    contract = json.loads((out / "contract.json").read_text())
    assert contract["classes"] == list(onnx_samples.CLASSES)
    assert contract["model"] == {"bytes": (out / "model.onnx").stat().st_size, "sha256": bundle.manifest.graph.sha256}
    assert f"sha256 of {bundle.root}/manifest.json: {bundle.digest}" in capsys.readouterr().out
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


SIZES = ((200, 120), (64, 64), (63, 65), (31, 47), (640, 480), (128, 96), (300, 301), (1000, 60), (90, 400), (65, 64))


def cells(size: tuple[int, int]) -> Image.Image:
    """The sample's image with two objects."""
    return Image.fromarray(onnx_samples.picture({(0, 1): 0, (2, 3): 2})).resize(size)


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The content of an image file."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def pngs() -> Iterator[bytes]:
    """Ten sizes, enlarged and reduced, wide and high; then other kinds of PNGs."""
    yield from (written(cells(size), "png") for size in SIZES)
    plain, gamma = cells((200, 120)), PngImagePlugin.PngInfo()
    gamma.add(b"gAMA", (100000).to_bytes(4, "big"))
    yield written(plain, "png", pnginfo=gamma)
    for mode in ("L", "P", "1", "RGBA", "LA"):
        yield written(plain.convert(mode), "png")
    seen = plain.convert("RGBA")
    seen.putalpha(Image.linear_gradient("L").resize(plain.size))
    yield written(seen, "png")


def jpegs() -> Iterator[bytes]:
    """The same sizes; then a gray one, a progressive one, and those that a camera has turned."""
    yield from (written(cells(size), "jpeg", quality=95) for size in SIZES)
    plain = cells((200, 120))
    yield written(plain.convert("L"), "jpeg", quality=95)
    yield written(plain, "jpeg", quality=95, progressive=True)
    for turned in (3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = turned
        yield written(plain, "jpeg", quality=95, exif=exif)


@pytest.fixture(scope="module")
def page(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("served") / "page"
    assert package(bundle, out, "--web", "--ort-web", str(web_page.ORT_WEB)) == 0
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with web_page.browsing() as found:
        yield found


def cut(file: Path, share: float = 0.5) -> None:
    """Keep the beginning of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def changed(file: Path) -> None:
    """Flip a bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def edited(file: Path, **values: object) -> None:
    """Change keys of a JSON file; those that are None are removed."""
    known = {**json.loads(file.read_text(encoding="utf-8")), **values}
    file.write_text(json.dumps({key: value for key, value in known.items() if value is not None}), encoding="utf-8")


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "graph missing": (lambda page: (page / "model.onnx").unlink(), "model.onnx is missing"),
    "graph empty": (lambda page: (page / "model.onnx").write_bytes(b""), "model.onnx is damaged"),
    "graph cut": (lambda page: cut(page / "model.onnx"), "model.onnx is damaged"),
    "one bit": (lambda page: changed(page / "model.onnx"), "model.onnx is damaged"),
    "graph of others": (
        lambda page: (page / "model.onnx").write_bytes(onnx_samples.raw_detector().SerializeToString()),
        "a different network's",
    ),
    "contract missing": (lambda page: (page / "contract.json").unlink(), "contract.json is missing"),
    "contract cut": (lambda page: cut(page / "contract.json"), "contract.json is damaged"),
    "contract of a later version": (lambda page: edited(page / "contract.json", format=2), "a different version"),
    "not a contract": (lambda page: (page / "contract.json").write_text("[]"), "contract.json is damaged"),
    "no classes": (lambda page: edited(page / "contract.json", classes=[]), "contract.json is damaged"),
    "code missing": (lambda page: (page / "ort.wasm.min.mjs").unlink(), "ort.wasm.min.mjs is missing or damaged"),
    "code cut": (lambda page: cut(page / "ort.wasm.min.mjs"), "ort.wasm.min.mjs is missing or damaged"),
    "wasm missing": (lambda page: (page / "ort-wasm-simd-threaded.wasm").unlink(), "cannot start or open"),
    "wasm cut": (lambda page: cut(page / "ort-wasm-simd-threaded.wasm"), "cannot start or open"),
}
NO_IMAGES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"no image",
    "cut jpeg": lambda: written(cells((640, 480)), "jpeg")[:2000],
    "cut png": lambda: written(cells((640, 480)), "png")[:600],
    "graph": lambda: onnx_samples.raw_detector().SerializeToString(),
}


_RESIZED = """async ([text, ...how]) => {
  const { resized } = await import("./detector.mjs");
  return Array.from(resized(Uint8ClampedArray.from(atob(text), (one) => one.charCodeAt(0)), ...how));
}"""


_KEEP_TRACKS = """() => {
  globalThis.tracks = [];
  const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (how) => {
    const stream = await ask(how);
    tracks.push(...stream.getTracks());
    return stream;
  };
}"""
"""Remember what the page's cameras record."""


@pytest.mark.skipif(web_page.why_not() is not None, reason=str(web_page.why_not()))
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
class TestInABrowser:
    @pytest.mark.parametrize("images", [pngs, jpegs])
    def test_it_finds_what_predict_finds_and_asks_nobody_else(
        self, images: Callable[[], Iterator[bytes]], bundle: Bundle, page: Path, browser: Any
    ) -> None:
        contract = bundle.manifest.contract
        with web_page.opened(browser, page, with_policy=False) as shown, bundle.open(threads=1) as session:
            assert shown.status == "Ready"
            for number, content in enumerate(images()):
                found = shown.answer(content)["objects"]
                wanted = SessionPredictor(session, contract).detect(load_image(content, contract.preprocessing))
                assert len(found) == len(wanted), number
                for one, box, score, label in zip(found, wanted.boxes, wanted.scores, wanted.labels, strict=True):
                    assert one["label"] == label
                    assert one["score"] == pytest.approx(score, abs=0.01), number
                    np.testing.assert_allclose(one["box"], box, atol=1)
        own = shown.asked[0].rpartition("/")[0]
        assert all(url.startswith((own, "data:", "blob:")) for url in shown.asked)

    @pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
    def test_it_resamples_as_pillow_does_to_the_last_bit(self, interpolation: str, page: Path, browser: Any) -> None:
        rng = np.random.default_rng(0)
        with web_page.opened(browser, page, with_policy=False) as shown:
            for size, wanted in (((301, 200), (128, 85)), ((200, 301), (85, 128)), ((640, 480), (96, 72)), ((37, 23), (96, 60))):
                pixels = rng.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
                pixels[..., 3] = 255
                given = [base64.b64encode(pixels.tobytes()).decode(), *size, *wanted, interpolation]
                answer = np.array(shown.page.evaluate(_RESIZED, given), np.uint8).reshape(wanted[1], wanted[0], 4)
                expected = Image.fromarray(pixels[..., :3]).resize(wanted, getattr(Image.Resampling, interpolation.upper()))
                np.testing.assert_array_equal(answer[..., :3], np.asarray(expected))

    def test_its_policy_lets_it_run_and_an_image_is_drawn(self, page: Path, browser: Any, tmp_path: Path) -> None:
        (tmp_path / "photo.png").write_bytes(next(pngs()))
        with web_page.opened(browser, page) as shown:
            assert shown.status == "Ready"
            assert shown.choose(tmp_path / "photo.png").startswith("2 objects,")
            assert shown.page.locator("#found li").count() == 2
            assert not shown.errors

    @pytest.mark.parametrize("kind", DAMAGED)
    def test_a_damaged_page_says_in_one_line_what_is_wrong(self, kind: str, page: Path, browser: Any, tmp_path: Path) -> None:
        shutil.copytree(page, tmp_path / "page")
        damage, words = DAMAGED[kind]
        damage(tmp_path / "page")
        with web_page.opened(browser, tmp_path / "page") as shown:
            assert shown.status.startswith("Failed: ")
            assert words in shown.status
            assert shown.status.endswith("edgedistill package --web")
            assert "\n" not in shown.status

    @pytest.mark.parametrize("kind", NO_IMAGES)
    def test_a_file_that_is_no_image_is_refused_and_the_next_one_is_read(self, kind: str, page: Path, browser: Any, tmp_path: Path) -> None:
        (tmp_path / "chosen.jpg").write_bytes(NO_IMAGES[kind]())
        (tmp_path / "photo.png").write_bytes(next(pngs()))
        with web_page.opened(browser, page) as shown:
            assert shown.choose(tmp_path / "chosen.jpg") == (
                "Failed: chosen.jpg is damaged, or not an image that this browser can show; choose a JPEG or PNG"
            )
            assert shown.choose(tmp_path / "photo.png").startswith("2 objects,")

    def test_the_camera_stops_and_a_chosen_picture_stays(self, page: Path, browser: Any, tmp_path: Path) -> None:
        (tmp_path / "photo.png").write_bytes(next(pngs()))
        with web_page.opened(browser, page) as shown:
            shown.page.evaluate(_KEEP_TRACKS)

            def film(words: str) -> int:
                """Click, wait until the button says so, and count the cameras that run."""
                shown.page.click("#camera")
                shown.page.wait_for_function("(words) => document.getElementById('camera').textContent === words", arg=words)
                shown.page.wait_for_timeout(300)
                return int(shown.page.evaluate("tracks.filter((one) => one.readyState === 'live').length"))

            assert [film(words) for words in ("Stop the camera", "Camera") * 2] == [1, 0, 1, 0]
            assert film("Stop the camera") == 1
            shown.page.wait_for_function("() => document.getElementById('canvas').width === 640")
            assert shown.page.get_attribute("#camera", "aria-pressed") == "true"
            assert shown.choose(tmp_path / "photo.png").startswith("2 objects,")
            shown.page.wait_for_timeout(300)
            assert shown.page.evaluate("[canvas.width, tracks.some((one) => one.readyState === 'live'), file.value]") == [200, False, ""]
            assert shown.page.text_content("#camera") == "Camera"
            assert not shown.errors

    def test_a_camera_that_fails_is_said_and_released(self, page: Path, browser: Any) -> None:
        with web_page.opened(browser, page) as shown:
            shown.page.evaluate(_KEEP_TRACKS)
            shown.page.evaluate("() => { OffscreenCanvas.prototype.getContext = () => { throw new Error('no memory'); }; }")
            shown.page.click("#camera")
            shown.page.wait_for_function("() => document.getElementById('status').textContent === 'Failed: no memory'")
            assert shown.page.evaluate("tracks.map((one) => one.readyState)") == ["ended"]
            assert shown.page.text_content("#camera") == "Camera"

    def test_an_image_with_too_many_pixels_is_refused(self, page: Path, browser: Any, tmp_path: Path) -> None:
        shutil.copytree(page, tmp_path / "page")
        known = json.loads((tmp_path / "page" / "contract.json").read_text(encoding="utf-8"))
        edited(tmp_path / "page" / "contract.json", preprocessing={**known["preprocessing"], "max_pixels": 100})
        (tmp_path / "photo.png").write_bytes(next(pngs()))
        with web_page.opened(browser, tmp_path / "page") as shown:
            assert re.fullmatch("Failed: the image has 200 x 120 px, allowed: 100 px; .*", shown.choose(tmp_path / "photo.png"))
