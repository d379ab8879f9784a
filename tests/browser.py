"""A real browser for tests: Debian's Chromium without a window, driven by DevTools messages over a pair of pipes."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WAIT_SECONDS = 120
CONTRAST = """
function colour(text) { return text.match(/[\\d.]+/g).slice(0, 3).map(Number) }
function light(rgb) {
  const [r, g, b] = rgb.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  return .2126 * r + .7152 * g + .0722 * b
}
function behind(node) {
  for (let n = node; n; n = n.parentElement) {
    const c = n.ownerDocument.defaultView.getComputedStyle(n).backgroundColor
    if (!/, 0\\)$/.test(c)) return colour(c)
  }
}
function contrast(node) {
  const pair = [light(colour(node.ownerDocument.defaultView.getComputedStyle(node).color)), light(behind(node))]
  return (Math.max(...pair) + .05) / (Math.min(...pair) + .05)
}
"""
"""JavaScript: `contrast(node)` is that of a text with what is behind it, as WCAG counts; `light(rgb)` a luminance."""
_KEYS = {
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "Tab": (9, ""),
    "ArrowLeft": (37, ""),
    "ArrowRight": (39, ""),
    " ": (32, " "),
}
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-pipe",
)


class Browser:
    """Speaks DevTools' protocol: messages of JSON, each ended by a zero byte."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        """What it told unasked."""

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Ask it to do something and return what it says."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + WAIT_SECONDS
        while True:
            said = self._next(end)
            if said.get("id") == self._number:
                assert "error" not in said, (method, said["error"])
                return said["result"]
            self.events.append(said)

    def open(self, url: str, width_px: int = 1280, height_px: int = 900) -> Page:
        """Open a page in a new tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        page.resize(width_px, height_px)
        page.call("Page.navigate", url=url)
        return page

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser says nothing"
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


class Page:
    """A tab."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self.browser, self._session, self._target = browser, session, target

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """As `Browser.call`, about this tab."""
        return self.browser.call(method, self._session, **parameters)

    def value(self, expression: str) -> Any:
        """What an expression comes to; promises are waited for."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, expression: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.value(f"document.readyState === 'complete' && !!({expression})"):
            assert time.monotonic() < end, f"not true within {seconds:g} s: {expression}\n{self.text()}"
            time.sleep(0.1)

    def text(self) -> str:
        """All that a reader sees."""
        return self.value("document.body ? document.body.innerText : ''")

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            code, text = _KEYS[key]
            about = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
            self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
            self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text: str) -> None:
        """Write text where the focus is."""
        self.call("Input.insertText", text=text)

    def resize(self, width_px: int, height_px: int) -> None:
        """Show the page at another size; below 600 pixels as a phone does."""
        phone = width_px < 600
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width_px, height=height_px, deviceScaleFactor=1, mobile=phone
        )

    def dark(self, wanted: bool) -> None:
        """Show the page as for a user who likes it dark."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        """Write all of the page as a PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """What was written to the console, thrown or refused by a policy so far."""
        self.value("1")
        said = []
        for event in self.browser.events:
            if event.get("sessionId") == self._session:
                about = event["params"]
                if event["method"] == "Runtime.exceptionThrown":
                    said.append(json.dumps(about["exceptionDetails"]))
                if event["method"] == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
                    said.append(json.dumps(about["args"]))
                if event["method"] == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
                    said.append(about["entry"]["text"] + " " + about["entry"].get("url", ""))
        return said

    def close(self) -> None:
        """Close the tab, as its user would."""
        self.call("Page.close")


@contextmanager
def browser(program: Path, profile: Path, options: Sequence[str] = ()) -> Iterator[Browser]:
    """A browser with a profile of its own, until the block ends."""
    (read_there, write_here), (read_here, write_there) = _pipe(), _pipe()
    # The browser reads what it is told from 3 and answers on 4.
    shell = f'exec "$@" 3<&{read_there} 4>&{write_there}'
    command = ["bash", "-c", shell, "bash", str(program), *_OPTIONS, f"--user-data-dir={profile}", *options]
    child = subprocess.Popen(
        command, pass_fds=(read_there, write_there), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(read_there)
    os.close(write_there)
    try:
        running = Browser(write_here, read_here)
        running.call("Browser.getVersion")
        yield running
        running.call("Browser.close")
        child.wait(WAIT_SECONDS)
    finally:
        child.kill()
        child.wait()
        os.close(write_here)
        os.close(read_here)


def _pipe() -> tuple[int, int]:
    """A pipe whose ends have numbers far from 3 and 4."""
    ends = os.pipe()
    try:
        return fcntl.fcntl(ends[0], fcntl.F_DUPFD_CLOEXEC, 10), fcntl.fcntl(ends[1], fcntl.F_DUPFD_CLOEXEC, 10)
    finally:
        os.close(ends[0])
        os.close(ends[1])
