"""The live page in a real browser with a camera: keys only, at two widths, light and dark, and a second visitor."""

import json
from dataclasses import dataclass

import cv2
import pytest
from browser import CONTRAST, browser
from live_servers import wait_for
from pages import served_page
from tiny_bundle import make_tiny_bundle

from tam_edge.models.street import make_scene, questions, render
from tam_edge.models.street.video import write_video

SCENE, SECONDS, FPS, SIDE_PX = 11, 3, 4, 320
QUESTION = "how many people?"
ODD = '<img src=x onerror="alert(1)"><b>how many people?</b>'
LOOKS = {"desk": (1280, 900), "phone": (390, 844)}
TABS = 40
TOKEN = "a-long+secret-word"
MEASURE = """
(() => {
  const kinds = 'h1, h2, h3, h4, p, span, label, button, summary, li, input, legend'
  const seen = [...document.querySelectorAll(kinds)].filter(
    (node) => node.checkVisibility() && node.getBoundingClientRect().width > 1 && !node.closest('.screen, .skip'))
  const texts = seen.filter((node) => !node.disabled && (node.value || [...node.childNodes].some(
    (child) => child.nodeType === Node.TEXT_NODE && child.textContent.trim())))
  const boxes = [...document.querySelectorAll('.card, header')].filter((node) => node.checkVisibility())
    .map((node) => node.getBoundingClientRect())
  const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1
  return {
    texts: texts.length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    cut: texts.filter((node) => node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).display !== 'inline')
      .map((node) => node.textContent),
    overlaps: boxes.filter((a, i) => boxes.some((b, j) => i < j && over(a, b))).length,
    faint: texts.map((node) => [contrast(node), node.textContent.slice(0, 40)]).filter((pair) => pair[0] < 4.5),
    small: texts.filter((node) => parseFloat(getComputedStyle(node).fontSize) < 12).length,
    buttons: Math.min(
      ...seen.filter((node) => node.matches('button')).map((node) => node.getBoundingClientRect().height)),
    unnamed: [...document.querySelectorAll('button, input, select')].filter((node) => node.checkVisibility() &&
      !(node.textContent.trim() || node.ariaLabel || node.labels?.length)).length,
    background: light(behind(document.body)),
  }
})()
"""
SLOW_CAMERA = """
(() => {
  const real = navigator.mediaDevices.getUserMedia
  navigator.mediaDevices.getUserMedia = async (wanted) => {
    navigator.mediaDevices.getUserMedia = real
    window.opened = await navigator.mediaDevices.getUserMedia(wanted)
    await new Promise((go) => { window.go = go })
    return window.opened
  }
})()
"""


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    """What the browser's camera shows: a street scene with as many people at its end as at any time."""
    scene = make_scene(SCENE)
    [count] = {one.answer for one in questions(scene) if one.family in ("count at once", "count at the end")}
    path = tmp_path_factory.mktemp("camera") / "street.y4m"
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W%d H%d F%d:1 Ip A1:1 C420jpeg\n" % (SIDE_PX, SIDE_PX, FPS))
        for index in range(SECONDS * FPS):
            pixels = render(scene, index / FPS, SIDE_PX)
            file.write(b"FRAME\n" + cv2.cvtColor(pixels, cv2.COLOR_RGB2YUV_I420).tobytes())
    return path, count


@dataclass
class Visit:
    """One visit, from the first key to the last, and what was found on the way."""

    count: str
    answer: str
    status: str
    gauges: str
    frames: int
    planned: str
    large: dict
    back: bool
    odd: dict
    stopped: str
    looks: dict
    complaints: list
    second: str
    second_sees: str
    taken_over: str
    seat_again: bool
    halted: dict
    without_server: str
    keyed: dict
    html_refused: bool


def tab_to(page, wanted):
    """Move the focus with the Tab key alone."""
    for _ in range(TABS):
        if page.value(f"document.activeElement?.matches({json.dumps(wanted)}) ?? false"):
            return
        page.press("Tab")
    raise AssertionError(f"Tab never comes to {wanted}\n{page.text()}")


def text_of(page, selector):
    return page.value(f"document.querySelector({json.dumps(selector)}).textContent")


def ask(page, question):
    tab_to(page, "#question")
    page.value("document.activeElement.select()")
    page.type(question)
    page.press("Enter")


def answered(page, number):
    page.until(f"document.querySelectorAll('.turn[aria-busy=false]').length === {number}")


def looked_large(page):
    """One frame large, by keys; whether the focus comes back."""
    tab_to(page, ".frames button")
    page.value("window.before = document.activeElement")
    page.press("Enter")
    page.until("document.getElementById('large').open && document.getElementById('large-picture').naturalWidth > 0")
    found = {
        "first": text_of(page, "#large-place"),
        "width": page.value("document.getElementById('large-picture').width"),
    }
    page.press("ArrowRight")
    found["second"] = text_of(page, "#large-place")
    page.press("Escape")
    page.until("!document.getElementById('large').open")
    return found, page.value("document.activeElement === window.before")


def lost_and_taken_again(qa, page):
    """The session ends as if no frame had come for long; whether the page starts another one by itself."""
    before = qa._lives[-1]
    before._reader.source.interrupt()
    wait_for(lambda: qa._lives not in ([], [before]))
    page.until("document.getElementById('session').textContent.startsWith('Live')")
    return before.closed and not qa._lives[-1].closed


def stopped_while_opening(page):
    """Another camera is chosen, and Stop pressed before the browser has opened it; then the camera is started again."""
    page.value(SLOW_CAMERA)
    page.value("document.getElementById('camera-which').dispatchEvent(new Event('change'))")
    page.until("window.go")
    page.value("document.getElementById('camera-stop').click()")
    waits = page.value("document.getElementById('camera-start').disabled")
    page.value("window.go()")
    page.until("!document.getElementById('camera-start').disabled")
    found = {
        "waits": waits,
        "tracks": page.value("window.opened.getTracks().map((track) => track.readyState)"),
        "shown": page.value("document.getElementById('preview').srcObject !== null"),
        "note": text_of(page, "#screen-note"),
    }
    page.value("document.getElementById('camera-start').click()")
    page.until("document.getElementById('session').textContent.startsWith('Live')")
    return found


def looks(page, folder):
    found = {}
    for name, size in LOOKS.items():
        for dark in (False, True):
            page.resize(*size)
            page.dark(dark)
            title = f"{name}{', dark' if dark else ''}"
            found[title] = page.value(f"(() => {{ {CONTRAST}; return {MEASURE.strip()} }})()")
            page.screenshot(folder / f"{title.replace(', ', '-')}.png")
    page.dark(False)
    page.resize(*LOOKS["desk"])
    return found


@pytest.fixture(scope="module")
def visit(camera, tmp_path_factory, require):
    film, count = camera
    folder = tmp_path_factory.mktemp("browser")
    options = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={film}",
    ]
    with browser(require("chromium"), folder / "profile", options) as chromium:
        found, other = talked(chromium, folder)
        other.until("document.getElementById('problem').textContent.includes('reached')")
        without_server = text_of(other, "#problem")
        keyed = opened_with_a_key(chromium, folder)
    return Visit(count=count, without_server=without_server, keyed=keyed, **found)


def opened_with_a_key(chromium, folder):
    """A page about a source of the device that wants a token."""
    clip = folder / "clip.mp4"
    write_video(make_scene(SCENE), clip, size_px=96)
    shown = "document.getElementById('view').naturalWidth === 96 && !document.getElementById('view').hidden"
    with served_page(make_tiny_bundle(folder / "tiny"), source=str(clip), host="0.0.0.0", token=TOKEN) as served:
        page = chromium.open(served.url)
        page.until("!document.getElementById('key-form').hidden")
        page.type("another-word")
        page.press("Enter")
        page.until("!document.getElementById('problem').hidden")
        wrong = text_of(page, "#problem")
        page.type("schl\u00fcssel-wort")  # no header can carry it
        page.press("Enter")
        page.until("sessionStorage.length === 0 && !document.getElementById('key').value")
        unusable = text_of(page, "#problem")
        page.type(TOKEN)
        page.press("Enter")
        page.until(shown)
        page.close()
        page = chromium.open(f"{served.url}/#key={TOKEN}")
        page.until(shown)
        page.until("document.getElementById('session').textContent")
        address = page.value("location.href.includes('key')")
        return {"wrong": wrong, "unusable": unusable, "address": address, "text": page.text()}


def talked(chromium, folder):
    """A visitor's whole visit, and the page of the one who came next, whose server has ended."""
    with served_page() as served:
        page = chromium.open(served.url)
        page.until("!document.getElementById('main').hidden")
        tab_to(page, "#camera-start")
        page.press("Enter")
        page.until("document.getElementById('session').textContent.startsWith('Live')")
        page.until("parseFloat(document.querySelector('#gauges .bar:last-child .value').textContent) >= 3")
        ask(page, QUESTION)
        answered(page, 1)
        answer = text_of(page, ".answer")
        planned, frames = text_of(page, ".reasons"), page.value("document.querySelectorAll('.frames img').length")
        look = looks(page, folder)
        large, back = looked_large(page)
        ask(page, ODD)
        answered(page, 2)
        odd = {
            "question": text_of(page, ".turn h3"),
            "made": page.value("document.querySelectorAll('.turn h3 *').length"),
            "notes": text_of(page, ".turn .notes"),
        }
        with served.qa._turns:  # nothing is answered meanwhile
            ask(page, QUESTION)
            page.until("!document.getElementById('stop').hidden")
            tab_to(page, "#stop")
            page.press("Enter")
            page.until("!document.getElementById('send').hidden")
        stopped = text_of(page, ".turn .answer")
        status, gauges = text_of(page, "#session"), text_of(page, "#gauges")
        complaints = page.complaints()
        seat_again = lost_and_taken_again(served.qa, page)

        other = chromium.open(served.url)
        other.until("!document.getElementById('main').hidden")
        tab_to(other, "#camera-start")
        other.press("Enter")
        other.until("!document.getElementById('problem').hidden")
        second = text_of(other, "#problem")
        second_sees = other.value("fetch('api/status').then((reply) => reply.status)")
        page.close()
        other.until("document.getElementById('session').textContent.startsWith('Live')")
        taken_over, halted = text_of(other, "#problem"), stopped_while_opening(other)
        sink = "(() => { try { document.createElement('p').innerHTML = '<b>x</b>' } catch { return true } })()"
        html_refused = other.value(sink)
    found = {
        "answer": answer,
        "status": status,
        "gauges": gauges,
        "frames": frames,
        "planned": planned,
        "large": large,
        "back": back,
        "odd": odd,
        "stopped": stopped,
        "looks": look,
        "complaints": complaints,
        "second": second,
        "second_sees": second_sees,
        "taken_over": taken_over,
        "html_refused": html_refused,
        "seat_again": seat_again,
        "halted": halted,
    }
    return found, other


def test_the_answer_is_right_and_rests_on_frames(visit):
    assert visit.answer == visit.count
    assert visit.frames >= 3
    assert "static attributes" in visit.planned
    assert "tokens" in visit.planned


def test_the_session_is_shown(visit):
    assert visit.status == "Live: your camera"
    assert all(word in visit.gauges for word in ("Memory", "MiB of", "frames/s", "ms a frame", "Kept"))


def test_a_frame_is_enlarged_and_left_by_keys(visit):
    assert visit.large["first"].startswith(f"1 of {visit.frames}")
    assert visit.large["second"].startswith(f"2 of {visit.frames}")
    assert visit.large["width"] > SIDE_PX
    assert visit.back, "the focus is where it was"


def test_text_is_never_html(visit):
    assert (visit.odd["question"], visit.odd["made"]) == (ODD, 0)
    assert visit.html_refused, "the browser itself refuses to make HTML of text"


def test_earlier_questions_are_sent_along(visit):
    assert "earlier questions: " in visit.odd["notes"], "the bundle says that it was not trained on them"


def test_an_answer_is_stopped_by_keys(visit):
    assert visit.stopped == "Stopped."


@pytest.mark.parametrize("look", [f"{name}{dark}" for name in LOOKS for dark in ("", ", dark")])
def test_it_looks_right(visit, look):
    found = visit.looks[look]
    assert found["texts"] > 40, "or nothing was measured"
    assert found["overflow"] <= 0, "nothing to scroll sideways"
    assert (found["cut"], found["overlaps"], found["faint"], found["small"], found["unnamed"]) == ([], 0, [], 0, 0)
    assert found["buttons"] >= 24
    assert (found["background"] < 0.05) == look.endswith("dark")


def test_the_browser_has_nothing_to_complain_about(visit):
    assert visit.complaints == []


def test_a_second_visitor_is_told_and_comes_next(visit):
    assert "another visitor's camera is being looked at" in visit.second
    assert visit.second_sees == 409
    assert visit.taken_over == ""


def test_a_camera_that_opens_after_stop_was_pressed_is_off(visit):
    assert visit.halted == {"waits": True, "tracks": ["ended"], "shown": False, "note": "Your camera is off."}


def test_a_page_that_lost_its_seat_takes_it_again(visit):
    assert visit.seat_again


def test_a_server_that_has_ended_is_said(visit):
    assert visit.without_server == "The server cannot be reached: is it still running?"


def test_a_key_is_asked_for_and_opens_the_page(visit):
    assert visit.keyed["wrong"] == visit.keyed["unusable"] == "That is not the key."
    assert visit.keyed["address"] is False, "a key in the address does not stay there"
    assert "clip.mp4" in visit.keyed["text"]
    assert "Start my camera" not in visit.keyed["text"]
