"""The page at / in a real browser."""

import base64
import colorsys
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import artifact_samples as samples
import onnx_samples
import pytest
from PIL import Image
from serving_samples import Server, encoded
from waiting import PATIENCE

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("uvicorn")

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt install chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),  # playwright's own
]
CELLS = {(0, 1): 0, (2, 3): 2}
FAKE_CAMERA = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--no-sandbox"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(samples.bundle(tmp_path_factory.mktemp("page")).root, "max_batch_size=1") as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as run:
        playwright.expect.set_options(timeout=1000 * PATIENCE)
        made = run.chromium.launch(executable_path=BROWSER, args=FAKE_CAMERA, timeout=1000 * PATIENCE)
        yield made
        made.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """The page, its errors and its requests."""
    context = browser.new_context(viewport={"width": 1100, "height": 700}, permissions=["camera", "clipboard-read", "clipboard-write"])
    context.set_default_timeout(1000 * PATIENCE)
    made = context.new_page()
    made.errors, made.asked = [], []
    made.on("pageerror", lambda error: made.errors.append(str(error)))
    made.on("console", lambda line: made.errors.append(line.text) if line.type == "error" else None)
    made.on("request", lambda one: made.asked.append(one.url))
    made.goto(f"http://127.0.0.1:{server.port}/")
    yield made
    context.close()


def pixels(page: Any) -> Image.Image:
    """The canvas as it is drawn."""
    url = page.evaluate("document.getElementById('canvas').toDataURL('image/png').split(',')[1]")
    return Image.open(io.BytesIO(base64.b64decode(url))).convert("RGB")


def drop(page: Any, content: bytes) -> None:
    """Let go of a file over the page's drop zone."""
    transfer = page.evaluate_handle(
        """(bytes) => { const given = new DataTransfer();
            given.items.add(new File([new Uint8Array(bytes)], "cells.png", { type: "image/png" })); return given; }""",
        list(content),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def wait_for(page: Any, words: str) -> None:
    playwright.expect(page.locator("#status")).to_contain_text(words)


def hue(category: int) -> tuple[int, int, int]:
    """What hsl(category * 137.5, 85 %, 45 %) is, within rounding."""
    red, green, blue = colorsys.hls_to_rgb(category * 137.5 % 360 / 360, 0.45, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def test_a_dropped_image_gets_its_boxes_where_they_belong(page: Any, server: Server) -> None:
    playwright.expect(page.locator("#model")).to_have_text("Model cells-here, version 1.")
    drop(page, encoded(CELLS))
    wait_for(page, "2 found: 1 × blue, 1 × red.")
    shown = pixels(page)
    times = 10
    assert shown.size == (64 * times, 64 * times)
    for (row, column), label in CELLS.items():
        left, top = column * onnx_samples.CELL, row * onnx_samples.CELL
        expected = hue(onnx_samples.CATEGORY_IDS[label])
        for x, y in ((left, top + 14), (left + 16, top + 14), (left + 8, top + 16)):  # left, right and lower edge
            drawn: Any = shown.getpixel((min(x * times, 64 * times - 1), min(y * times, 64 * times - 1)))
            assert max(abs(a - b) for a, b in zip(drawn, expected, strict=True)) <= 3, (x, y)
    assert shown.getpixel((4 * times, 40 * times)) == (0, 0, 0)
    rows = [row.split("\t") for row in page.locator("#found tbody tr").all_inner_texts()]
    assert sorted((name, box) for name, _, box in rows) == [("blue", "48.0, 32.0, 16.0, 16.0"), ("red", "16.0, 0.0, 16.0, 16.0")]
    assert "infer" in page.inner_text("#times")
    assert page.errors == []
    assert {url.split("/")[2] for url in page.asked if not url.startswith(("blob:", "data:"))} == {f"127.0.0.1:{server.port}"}


def test_the_slider_leaves_out_lower_scores(page: Any) -> None:
    drop(page, encoded(CELLS))
    wait_for(page, "2 found")
    page.fill("#score", "0.95")
    assert page.inner_text("#shown") == "0.95"
    page.evaluate("answer.annotations.forEach((one) => { one.score = 0.5 })")
    page.fill("#score", "0.9")
    wait_for(page, "Nothing found.")


def test_a_file_that_is_not_an_image_is_reported(page: Any) -> None:
    page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"text"})
    wait_for(page, "not an image that the browser can show")
    assert page.get_attribute("#status", "class") == "error"
    assert page.get_attribute("#status", "aria-live") == "polite"


def test_it_is_usable_by_keyboard_and_screen_reader(page: Any) -> None:
    page.on("filechooser", lambda _: None)  # from here on Chromium hands choosers over; a key may come before it has got word of that
    order = []
    for _ in range(7):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id"))
    named = [one for one in order if one]  # browsers also stop at what can be scrolled
    assert named[:4] == ["file", "camera", "score", "copy"]
    page.focus("#file")
    with page.expect_file_chooser() as chosen:
        page.keyboard.press("Enter")
    chosen.value.set_files({"name": "cells.png", "mimeType": "image/png", "buffer": encoded(CELLS)})
    wait_for(page, "2 found")
    assert page.get_attribute("#canvas", "aria-label") == "Image of 64 by 64 px. 2 found: 1 × blue, 1 × red."
    names = page.locator("button, input").evaluate_all("(all) => all.map((one) => one.labels?.length || one.textContent.trim().length)")
    assert all(names)
    assert page.locator("html").get_attribute("lang") == "en"


def test_the_curl_line_is_copied_and_works(page: Any, server: Server, tmp_path: Path) -> None:
    page.click("#copy")
    wait_for(page, "clipboard")
    line = page.evaluate("navigator.clipboard.readText()")
    assert line == f"curl --data-binary @image.jpg http://127.0.0.1:{server.port}/v1/detect"
    if shutil.which("curl"):
        (tmp_path / "image.jpg").write_bytes(encoded(CELLS))
        done = subprocess.run(line.split(), cwd=tmp_path, capture_output=True, check=True, timeout=PATIENCE)
        assert len(json.loads(done.stdout)["annotations"]) == 2


def test_the_camera_is_shown_and_stopped(page: Any) -> None:
    page.click("#camera")
    playwright.expect(page.locator("#canvas")).to_have_attribute("aria-label", re.compile(r"Image of \d+ by \d+ px"))
    assert page.inner_text("#camera") == "Stop the camera"
    assert page.get_attribute("#camera", "aria-pressed") == "true"
    page.click("#camera")
    assert page.inner_text("#camera") == "Use the camera"
    assert page.errors == []


SLOWLY = """() => {
  let running = 0;
  const plain = fetch;
  globalThis.most = 0;
  globalThis.fetch = async (...given) => {
    most = Math.max(most, ++running);
    await new Promise((done) => setTimeout(done, 200));
    try { return await plain(...given); } finally { running -= 1; }
  };
}"""
"""Make every request take a while, and note how many run at the same time."""


def test_a_camera_stopped_and_started_during_a_detection_asks_once_at_a_time(page: Any) -> None:
    page.evaluate(SLOWLY)
    page.click("#camera")
    page.wait_for_function("() => most === 1")
    page.evaluate("() => { element('camera').click(); element('camera').click(); }")
    playwright.expect(page.locator("#camera")).to_have_text("Stop the camera")
    page.wait_for_timeout(600)
    page.evaluate("() => { most = 0; }")
    page.wait_for_timeout(1000)
    assert page.evaluate("most") == 1
    page.set_input_files("#file", {"name": "cells.png", "mimeType": "image/png", "buffer": encoded(CELLS)})
    wait_for(page, "2 found")
    assert page.inner_text("#camera") == "Use the camera"
    page.wait_for_timeout(600)
    wait_for(page, "2 found")
    assert page.errors == []


def test_a_guarded_server_asks_for_its_token(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef")
    with Server(samples.bundle(tmp_path / "made").root, "max_batch_size=1", f"token_file={tmp_path / 'token'}") as guarded:
        page = browser.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(f"http://127.0.0.1:{guarded.port}/")
        page.fill("#token", "0123456789abcdef")
        page.keyboard.press("Tab")
        playwright.expect(page.locator("#model")).to_have_text("Model cells-here, version 1.")
        drop(page, encoded(CELLS))
        wait_for(page, "2 found")
        assert "Authorization: Bearer $TOKEN" in page.inner_text("#curl")
        page.close()
