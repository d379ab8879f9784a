"""The HTML report: complete, harmless, self-contained, and readable in a real browser, on a phone and in the dark."""

import base64
import html
import io
import json
import re
import stat
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import CONTRAST
from command import call
from make_clips import read, steady, write_clip
from PIL import Image
from tiny_bundle import TASKS, make_tiny_bundle

from tam_edge.apps.report import Entry, report_html
from tam_edge.apps.writing import write_whole
from tam_edge.runtime import VideoQA

QUESTION = "what happens <b>after</b> \"the\" car & 'dog' </style><script>alert(1)</script>?"
FILE_NAME = "<img src=x onerror=alert(1)>.mp4"


class Page(HTMLParser):
    """Tags with their attributes, and the text a reader sees."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._inside = [], [], []
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        assert self._inside.pop() == tag, "tags must nest"

    def handle_data(self, data):
        if self._inside[-1:] != ["style"]:
            self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def bundle(folder):
    return make_tiny_bundle(folder / "tiny")


@pytest.fixture(scope="module")
def clip(folder):
    """Twenty seconds whose frames carry their number, under a name that is an attack."""
    path = write_clip(folder / "clip.mp4", steady(160, every_ms=125))
    return path.rename(folder / FILE_NAME)


@pytest.fixture(scope="module")
def written(folder, bundle, clip):
    """The report of a hostile question about a hostile file name, and the answer it belongs to."""
    arguments = ("--model", bundle, "--video", clip, "--ask", QUESTION, "--start", "5", "--frames", "500", "--json")
    outcome = call("run", *arguments, "--report", folder / "report.html")
    assert (outcome.code, outcome.err) == (0, "")
    return (folder / "report.html").read_text(encoding="utf-8"), json.loads(outcome.out)


@pytest.fixture(scope="module")
def page(written):
    return Page(written[0])


def test_question_answer_and_every_task_type_are_there(page, written):
    answer = written[1]
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in answer["answer"])
    assert QUESTION in page.text
    assert " ".join(shown.split()) in page.text
    assert all(task in page.text for task in TASKS)
    assert f"{answer['confidence']:.1%}" in page.text
    assert FILE_NAME in page.text


def test_costs_are_there(page, written):
    answer = written[1]
    bars = [attributes for attributes in page.all("div") if attributes.get("class", "").startswith("row")]
    stages = set(answer["timings_ms"]) - {"first_token"} | {"first token"}
    assert all(stage in page.text for stage in stages)
    assert f"{answer['visual_tokens']:,}" in page.text
    assert "peak, measured" in page.text
    assert "500 frames: " in page.text
    assert (
        len(bars) == len(TASKS) + len(stages) + 3 + 5
    )  # tokens: frame, all, budget; memory: three stages, peak, limit
    widths = [float(re.fullmatch(r"width:([\d.]+)%", a["style"])[1]) for a in page.all("span") if "style" in a]
    assert len(widths) == len(bars)
    assert all(0 <= width <= 100 for width in widths)


def test_the_frames_looked_at_are_there_with_their_times(page, written):
    answer = written[1]
    images = page.all("img")
    assert len(images) == answer["frames"] > 5
    for attributes, seconds in zip(images, answer["timestamps_seconds"], strict=True):
        kind, _, data = attributes["src"].partition(",")
        assert kind == "data:image/jpeg;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (str(picture.width), str(picture.height)) == (attributes["width"], attributes["height"])
        number = read(_array(picture))
        assert number == int(seconds * 8 + 1e-6), "the frame on screen at that time"
        assert attributes["alt"] == f"frame at 0:{number / 8:05.2f}"
    assert page.text.count("frame at") == 0
    marks = [float(a["style"].removeprefix("left:").rstrip("%")) for a in page.all("i")]
    assert marks == pytest.approx([100 * (t - 5) / 15 for t in answer["timestamps_seconds"]], abs=0.01)


def test_the_page_loads_nothing_and_runs_nothing(page, written):
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "a", "base", "form", "svg"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "srcset")]
        assert attributes.get("src", "data:image/jpeg;").startswith("data:image/jpeg;")
    [policy] = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not re.search(r"url\(|@import|https?:", re.search(r"<style>(.*?)</style>", written[0], re.DOTALL)[1])


def test_several_questions_and_files_are_one_page(folder, bundle, clip):
    second = write_clip(folder / "second.mp4", steady(20, every_ms=125))
    arguments = ("--model", bundle, "--video", clip, "--video", second, "--ask", "why?", "--ask", "where?", "--explain")
    assert call("run", *arguments, "--report", folder / "two.html").code == 0
    page = Page((folder / "two.html").read_text(encoding="utf-8"))
    assert len(page.all("article")) == 2
    assert {"why?", "where?", "2 questions"} <= set(page.texts)
    captions = [text for text in page.texts if text.endswith("second.mp4")]
    assert len(captions) > 2, "frames say which file they are from"


def test_an_image_has_no_strip_of_time(folder, bundle):
    Image.new("RGB", (64, 48), "teal").save(folder / "photo.png")
    arguments = ("--model", bundle, "--video", folder / "photo.png", "--ask", "what does the sign say?")
    assert call("run", *arguments, "--report", folder / "photo.html").code == 0
    page = Page((folder / "photo.html").read_text(encoding="utf-8"))
    assert len(page.all("img")) == 1
    assert not page.all("i")


def test_text_that_is_no_text_is_still_a_page(bundle, clip):
    with VideoQA.load(bundle, threads=1) as qa:
        answer = qa.ask(qa.open(clip), "why?")
    text = report_html([Entry("a\x1b[31m\ud800 \u202e?", answer, ())], ["x\x00y"])
    assert not re.search(r"[\x00-\x08\x0b-\x1f\ud800]", text)
    text.encode("utf-8")


# ---- writing


def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def interrupted(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", interrupted)
        write_whole(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.html", "old")]
    write_whole(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.html", "new")]


def test_a_report_keeps_links_and_has_the_usual_mode(tmp_path):
    (tmp_path / "usual").touch()
    (tmp_path / "far").mkdir()
    (tmp_path / "link.html").symlink_to(tmp_path / "far" / "report.html")
    write_whole(tmp_path / "link.html", "x")
    target = tmp_path / "far" / "report.html"
    assert (tmp_path / "link.html").is_symlink()
    assert target.read_text() == "x"
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


# ---- a real browser

FRAMES = {"phone": (390, "light"), "desk": (1280, "light"), "phone, dark": (390, "dark"), "desk, dark": (1280, "dark")}
MEASURE = """
function measured(frame) {
  const page = frame.contentDocument, root = page.documentElement
  const texts = [...page.querySelectorAll('h1, h2, p, dt, dd, b, .name, figcaption, summary, header, footer')]
  return {
    overflow: root.scrollWidth - root.clientWidth,
    pictures: [...page.images].map(i => i.complete && i.naturalWidth > 0 && i.getBoundingClientRect().width > 50),
    background: light(behind(page.body)),
    contrast: Math.min(...texts.map(contrast)),
    smallest: Math.min(...texts.map(t => parseFloat(frame.contentWindow.getComputedStyle(t).fontSize))),
    bars: [...page.querySelectorAll('.track')].map(t => t.getBoundingClientRect().width),
  }
}
addEventListener('load', () => {
  const all = Object.fromEntries([...document.querySelectorAll('iframe')].map(f => [f.title, measured(f)]))
  document.body.innerHTML = '<pre id="result"></pre>'
  document.getElementById('result').textContent = JSON.stringify(all)
})
"""


@pytest.fixture(scope="module")
def in_a_browser(written, folder, require):
    """What a browser makes of the page at two widths, light and dark; and what it complained about."""
    frames = "".join(
        f'<iframe title="{title}" style="width:{width}px;height:900px;border:0;color-scheme:{scheme}" '
        f'srcdoc="{html.escape(written[0])}"></iframe>'
        for title, (width, scheme) in FRAMES.items()
    )
    harness = folder / "harness.html"
    harness.write_text(
        f"<!doctype html><meta charset=utf-8><body>{frames}<script>{CONTRAST}{MEASURE}</script>", encoding="utf-8"
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command = [require("chromium"), *options, f"--user-data-dir={folder / 'profile'}", harness.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result, "the measuring script did not run to its end"
    return json.loads(html.unescape(result[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("title", FRAMES)
def test_a_browser_shows_all_of_it(in_a_browser, written, title):
    found = in_a_browser[0][title]
    assert found["overflow"] <= 0, "nothing to scroll sideways"
    assert len(found["pictures"]) == written[1]["frames"]
    assert all(found["pictures"])
    assert found["contrast"] >= 4.5, "WCAG AA"
    assert found["smallest"] >= 12
    assert min(found["bars"]) >= 60
    assert (found["background"] < 0.05) == title.endswith("dark")


def test_a_browser_has_nothing_to_complain_about(in_a_browser):
    assert in_a_browser[1] == []


def _array(picture):
    import numpy as np

    return np.asarray(picture.convert("RGB"))
