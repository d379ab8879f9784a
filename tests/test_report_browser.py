"""The HTML report in a real browser: every picture shows, nothing is fetched, nothing sticks out."""

import html
import json
import re
import subprocess

import pytest
from command import call
from make_clips import steady, write_clip
from tiny_bundle import make_tiny_bundle

QUESTION = "what happens after </title><script>document.body.remove()</script> the car leaves?"
PROBE = """<script>addEventListener("load", () => { document.title = JSON.stringify({
    pictures: [...document.images].map(image => image.naturalWidth),
    fetched: performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !/^data:/.test(name)),
    overflow_px: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    heading: document.querySelector("h1").textContent,
}) })</script>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The answer as JSON, and the page as text."""
    folder = tmp_path_factory.mktemp("report")
    bundle = make_tiny_bundle(folder / "tiny")
    clip = write_clip(folder / "clip.mp4", steady(80, every_ms=125))
    page = folder / "out.html"
    asked = call("run", "--model", bundle, "--video", clip, "--ask", QUESTION, "--report", page, "--json")
    assert asked.code == 0, asked.err
    return json.loads(asked.out), page.read_text(encoding="utf-8")


def seen(chromium, page, width_px, folder):
    """What the probe reports from a window of this width; the page's own policy stays, the probe alone is let in."""
    assert page.count("default-src 'none';") == 1
    page = page.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    path = folder / "page.html"
    path.write_text(page.replace("</footer>", "</footer>" + PROBE), encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder}/user",
    ]
    shown = subprocess.run(
        [chromium, *options, f"--window-size={width_px},900", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    title = re.search("<title>(.*?)</title>", shown, re.DOTALL)
    return json.loads(html.unescape(title.group(1)))


@pytest.mark.parametrize("width_px", [500, 1400])
def test_the_report_shows_in_a_browser(report, require, tmp_path, width_px):
    answer, page = report
    view = seen(require("chromium"), page, width_px, tmp_path)
    assert len(view["pictures"]) == answer["frames"] > 1
    assert all(view["pictures"])
    assert view["fetched"] == []
    assert view["overflow_px"] <= 0
    assert view["heading"] == QUESTION
