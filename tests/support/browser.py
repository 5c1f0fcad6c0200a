"""Debian's Chromium, driven by Playwright, with everything noted that a page must not do."""

from __future__ import annotations

import contextlib
import http.server
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",  # a camera
)  # fmt: skip
DONE = "body[data-state=ready], body[data-state=failed]"


@contextlib.contextmanager
def chromium() -> Iterator:
    """A browser; skips, with the reason, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra [browser]")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@contextlib.contextmanager
def serving_folder(folder: Path) -> Iterator[int]:
    """The port of 127.0.0.1 on which the files of a folder are served, as by any plain host."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class Visit:
    """The page in a fresh window, ready; `problems` are what the console and the network complained of."""

    def __init__(self, browser, port: int, **window):
        self.address, self.problems, self.foreign = f"http://127.0.0.1:{port}/", [], []
        settings = {"reduced_motion": "reduce", "viewport": {"width": 1200, "height": 1000}} | window
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.page.add_init_script("Math.random = () => 0.5")  # the same scenes at every visit
        self.page.on("console", lambda line: self.problems.append(line.text) if line.type != "log" else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", self._note)
        self.page.goto(self.address)
        self.page.wait_for_selector(DONE, timeout=60_000)

    def _note(self, request) -> None:
        if not request.url.startswith((self.address, "blob:", "data:")):
            self.foreign.append(request.url)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *problem) -> None:
        self.context.close()

    def settle(self) -> str:
        """Wait until what was asked for is shown; the state then."""
        self.page.wait_for_timeout(60)
        self.page.wait_for_selector(DONE, timeout=60_000)
        return self.page.get_attribute("body", "data-state")

    def set(self, name: str, value: int) -> None:
        """Move a slider, as a hand would."""
        self.page.eval_on_selector(
            f"#{name}",
            "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }",
            value,
        )
        assert self.settle() == "ready"

    def pixels(self, selector: str) -> str:
        """All that the first canvas that fits shows, to be compared."""
        return self.page.eval_on_selector(selector, "canvas => canvas.toDataURL()")

    def count_colours(self, selector: str) -> int:
        """Different colours on the first canvas that fits."""
        return self.page.eval_on_selector(
            selector,
            """canvas => {
              const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
              return new Set(new Uint32Array(data.buffer)).size;
            }""",
        )
