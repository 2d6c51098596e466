"""The static page of a bundle in a headless Chromium, served as any server of static files would."""

import base64
import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from waiting import PATIENCE

ORT_WEB = os.environ.get("EDGEDISTILL_ORT_WEB")
"""The folder of the npm package onnxruntime-web; the browser is tried only where it is given."""
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FAKE_CAMERA = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
_DETECT = "async (text) => edgedistill.detect(new Blob([Uint8Array.from(atob(text), (one) => one.charCodeAt(0))]))"
_SETTLED = "() => document.getElementById('status').textContent !== 'Loading the network'"


def why_not() -> str | None:
    """Why no page can be opened here; None if one can."""
    return None if BROWSER and ORT_WEB else "no Chromium here, or EDGEDISTILL_ORT_WEB is not set"


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    """Serves static files and prints nothing."""

    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}  # noqa: RUF012

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the parent class names it
        """Nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder's index.html, while it is served."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietFiles, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/index.html"
        server.shutdown()


class WebPage:
    """An open page; `asked` are the addresses that it has loaded, `errors` what the browser has complained of."""

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        self.asked: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda one: self.asked.append(one.url))
        page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(address)
        page.wait_for_function(_SETTLED, timeout=1000 * PATIENCE)

    @property
    def status(self) -> str:
        """What the page says."""
        return str(self.page.text_content("#status"))

    def answer(self, content: bytes) -> dict[str, Any]:
        """What the page finds in an image file: objects and milliseconds."""
        found: dict[str, Any] = self.page.evaluate(_DETECT, base64.b64encode(content).decode())
        return found

    def choose(self, file: Path) -> str:
        """What the page says of a file that a user chooses."""
        self.page.evaluate("() => { document.getElementById('status').textContent = 'waiting'; }")
        self.page.set_input_files("#file", str(file))
        self.page.wait_for_function("() => document.getElementById('status').textContent !== 'waiting'", timeout=1000 * PATIENCE)
        return self.status


@contextmanager
def browsing() -> Iterator[Any]:
    """A headless browser, with a camera whose film is drawn."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as run:
        browser = run.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", *FAKE_CAMERA], timeout=1000 * PATIENCE)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, folder: Path, *, with_policy: bool = True) -> Iterator[WebPage]:
    """A page's folder, served and opened; `answer` needs it to be without its policy."""
    context = browser.new_context(bypass_csp=not with_policy)
    with served(folder) as address:
        yield WebPage(context.new_page(), address)
        context.close()
