"""The live page's server: who may look and ask, what a visitor may send, and what is left of one who goes."""

import base64
import gc
import io
import json
import threading
import time
import weakref
from contextlib import contextmanager
from functools import partial

import httpx2
import numpy as np
import pytest
from live_servers import wait_for
from pages import WAIT_SECONDS, jpeg, served_page
from PIL import Image
from serving import png
from tiny_bundle import make_babbling_bundle, make_tiny_bundle

from tam_edge.apps.live.assets import assets
from tam_edge.apps.live.limits import LiveLimits
from tam_edge.apps.live.sight import Sitting
from tam_edge.models.street import make_scene
from tam_edge.models.street.video import write_video

TOKEN = "a-long-secret-word"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def visited(folder):
    """A page that asks for the visitor's webcam."""
    with served_page(folder) as page:
        yield page


@pytest.fixture(scope="module")
def watching(folder, tmp_path_factory):
    """A page about a source of the device, with a token, as for other machines."""
    clip = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(make_scene(11), clip, size_px=128)
    with served_page(folder, source=str(clip), host="0.0.0.0", token=TOKEN) as page:
        yield page


@pytest.fixture(scope="module")
def seated(folder):
    """A page with a visitor who stays for all the tests that do not end that, and the seat."""
    with served_page(folder, limits=LiveLimits(silent_seconds=WAIT_SECONDS)) as page, visitor(page) as seat:
        yield page, seat


@contextmanager
def visitor(page, first=0):
    """A visitor whose session runs; gives the seat."""
    seat = taken(page)
    number = first

    def running():
        nonlocal number
        number += 1
        assert page.frame(seat, jpeg(number)).status_code == 204
        return page.send("GET", "/api/status", seat).json()["state"] == "live"

    try:
        wait_for(running)
        yield seat
    finally:
        if page.send("DELETE", "/api/camera", seat).status_code == 204:
            wait_for(lambda: free(page))


def taken(page):
    """The seat, once it is free."""
    end = time.monotonic() + WAIT_SECONDS
    while (reply := page.send("POST", "/api/camera")).status_code == 409:
        assert time.monotonic() < end
        time.sleep(0.02)
    return reply.json()["seat"]


def free(page):
    """Whether the seat can be taken; it is given up again."""
    reply = page.send("POST", "/api/camera")
    if reply.status_code == 200:
        page.send("DELETE", "/api/camera", reply.json()["seat"])
    return reply.status_code == 200


def refusal(reply):
    """The status and the line of a refusal, which is one printable line and shows nothing of ours."""
    text = reply.json()["error"]["message"]
    assert text.isprintable()
    assert "Traceback" not in reply.text
    return reply.status_code, text


def ask(page, seat="", question="how many people?", **more):
    body = json.dumps({"question": question, **more}).encode()
    return page.send("POST", "/api/ask", seat, body, Content_Type="application/json")


def events(reply):
    return [json.loads(part.removeprefix("data: ")) for part in reply.text.split("\n\n") if part]


# ---- who may look


@pytest.mark.parametrize("path", ["/", "/page.js", "/api/about", "/nothing", "/api/status"])
def test_every_reply_carries_the_policy(visited, path):
    headers = visited.send("GET", path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_the_page_loads_nothing_from_elsewhere_and_makes_no_html_of_text():
    files = assets()
    assert {"/", "/index.html", "/page.js", "/style.css"} <= set(files)
    for path, asset in files.items():
        text = asset.content.decode()
        comments = [line for line in text.splitlines() if line.startswith("//")]
        text = "".join(set(text.splitlines()) - set(comments))
        elsewhere = ("http:", "https:", "innerHTML", "insertAdjacentHTML", "document.write", "eval(", "@import", "url(")
        allowed = text.replace('xmlns="http:', "").replace("or https only:", "")
        assert [word for word in elsewhere if word in allowed] == [], path
    page = files["/"].content.decode()
    assert not any(word in page for word in (" style=", " onclick=", "<script>", "<style"))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
    ],
)
def test_other_names_and_origins_are_refused(visited, headers, status):
    for path in ("/", "/api/about"):
        assert visited.send("GET", path, **headers).status_code == status
    if status == 403:
        for method, path in (("POST", "/api/camera"), ("POST", "/api/ask"), ("POST", "/api/camera/frame")):
            assert refusal(visited.send(method, path, **headers))[0] == 403
        wait_for(lambda: free(visited), 5)  # a test before may be giving it up; one that was taken stays so for 10 s


def test_the_page_itself_is_open_and_nothing_else_without_the_token(watching):
    for path in assets():
        assert watching.send("GET", path, Authorization="Bearer wrong-word").status_code == 200
    for path in ("/api/about", "/api/status", "/api/picture", "/nothing"):
        assert refusal(watching.send("GET", path, Authorization="Bearer wrong-word"))[0] == 401
        assert httpx2.get(f"{watching.url}{path}").status_code == 401
    assert watching.send("GET", "/api/about").json()["visitor"] is False


# ---- the device's source


def test_everybody_sees_the_source_and_asks_about_it(watching):
    wait_for(lambda: watching.send("GET", "/api/status").json()["frames_seen"] > 1)
    status = watching.send("GET", "/api/status").json()
    assert (status["events"][0]["number"], status["events"][0]["kind"]) == (1, "connected")
    later = watching.send("GET", "/api/status?after=1").json()["events"]
    assert all(event["number"] > 1 for event in later)
    reply = watching.send("GET", "/api/picture")
    assert Image.open(io.BytesIO(reply.content)).size == (128, 128)
    seconds = float(reply.headers["x-time-seconds"])
    assert abs(seconds - time.time()) < WAIT_SECONDS
    assert watching.send("GET", f"/api/picture?after={seconds + 1000}").status_code == 204
    assert refusal(watching.send("GET", "/api/picture?after=nan"))[0] == 400
    told = events(ask(watching, last="1min", history=[["is it day?", "yes"]]))
    assert [event["event"] for event in (told[0], told[-1])] == ["plan", "answer"]
    assert "".join(event["text"] for event in told if event["event"] == "text").strip() == told[-1]["answer"]
    assert told[-1]["plan"]["reasons"] == told[0]["plan"]["reasons"] != []
    assert told[-1]["timings_ms"]["first_token"] > 0
    assert refusal(watching.send("POST", "/api/camera"))[0] == 404


# ---- a visitor


def test_a_visitor_is_answered_from_the_own_frames(visited):
    with visitor(visited, first=50) as seat:
        number = 200
        while (about := visited.send("GET", "/api/status", seat).json())["frames_seen"] < 3:
            visited.frame(seat, jpeg(number := number + 1))
            time.sleep(0.1)
        told = events(ask(visited, seat))
    assert about["source"] == "your camera"
    assert about["frames_seen"] >= 3
    assert 0 < about["resident_bytes"] < about["memory_limit_bytes"]
    answer = told[-1]
    times = [frame["time_seconds"] for frame in answer["evidence"]]
    assert times == sorted(times)
    assert len(times) == answer["frames"] > 1
    assert all(about["started_seconds"] - 1 <= seconds <= time.time() for seconds in times)
    for frame in answer["evidence"]:
        assert Image.open(io.BytesIO(base64.b64decode(frame["jpeg"]))).size == (64, 48)


def test_a_second_visitor_is_told_and_sees_nothing(visited):
    with visitor(visited) as seat:
        assert refusal(visited.send("POST", "/api/camera")) == (
            409,
            "another visitor's camera is being looked at: wait until it is free",
        )
        for path in ("/api/status", "/api/picture"):
            assert refusal(visited.send("GET", path))[0] in (404, 409)
        assert refusal(ask(visited, "another-seat"))[0] == 409
        assert refusal(visited.frame("another-seat", jpeg(1)))[0] == 409
        assert refusal(visited.send("DELETE", "/api/camera", "another-seat"))[0] == 409
        assert visited.frame(seat, jpeg(7)).status_code == 204, "the first one notices nothing"
    assert refusal(visited.frame(seat, jpeg(8)))[0] == 409
    assert refusal(ask(visited, seat))[0] == 409


def test_nothing_of_a_visitor_is_left_for_the_next_one(visited):
    with visitor(visited, first=300) as seat:
        ask(visited, seat)
        gone = weakref.ref(visited.qa._lives[-1]._window)
        first = visited.send("GET", "/api/status", seat).json()
    assert visited.qa._kept.view is None
    with visitor(visited, first=400) as seat:
        gc.collect()
        assert gone() is None, "its window was let go of before the next one was taken"
        again = visited.send("GET", "/api/status", seat).json()
    assert again["started_seconds"] > first["newest_seconds"]
    assert again["kept_from_seconds"] >= again["started_seconds"]
    assert again["questions_answered"] == 0


def test_a_visitor_who_falls_silent_has_gone(folder):
    with served_page(folder, limits=LiveLimits(silent_seconds=0.5)) as page:
        page.take()  # and never sends a frame
        wait_for(lambda: free(page))
        with visitor(page) as seat:
            wait_for(lambda: page.send("GET", "/api/status", seat).status_code == 409)
            assert refusal(page.frame(seat, jpeg(1)))[0] == 409
        wait_for(lambda: free(page))


def test_a_session_that_cannot_start_is_said_and_frees_the_seat(tmp_path):
    """The encoder's file is away for a while; then forgetting fails."""

    def failing():
        raise RuntimeError("nothing is forgotten")

    bundle = make_tiny_bundle(tmp_path)
    encoder, away = bundle / "encoder.onnx", bundle / "away"
    with served_page(bundle) as page:
        encoder.rename(away)
        seat = taken(page)
        wait_for(lambda: page.frame(seat, jpeg(1)).status_code != 204)
        for number in range(3):
            reply = page.frame(seat, jpeg(number))
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_seat")
            assert "encoder" in refusal(reply)[1]
        sittings = [found for found in gc.get_objects() if type(found) is Sitting and found.seat == seat]
        assert [sitting.problem.__traceback__ for sitting in sittings] == [None], "which would hold every frame"
        away.rename(encoder)
        with visitor(page), pytest.MonkeyPatch.context() as patch:
            patch.setattr(page.qa, "forget", failing)
            page.qa._lives[-1]._reader.source.interrupt()
            wait_for(lambda: free(page))


def test_an_answer_stops_when_nobody_waits_for_it(tmp_path):
    """The model babbles for minutes; first the page closes the connection, then the visitor goes."""
    with served_page(make_babbling_bundle(tmp_path)) as page, visitor(page) as seat:
        headers = {"X-Seat": seat, "Content-Type": "application/json"}
        body = json.dumps({"question": "how many people?"})

        def answering():
            page.frame(seat, jpeg(int(time.monotonic() * 10)))
            return page.qa._lives[-1]._line.busy

        with page.client.stream("POST", f"{page.url}/api/ask", content=body, headers=headers) as reply:
            lines = reply.iter_lines()
            assert '"plan"' in next(lines)
            assert answering()
        wait_for(lambda: not answering())
        with page.client.stream("POST", f"{page.url}/api/ask", content=body, headers=headers) as reply:
            lines = reply.iter_lines()
            assert '"plan"' in next(lines)
            page.send("DELETE", "/api/camera", seat)
            last = [line for line in lines if line][-1]
        assert "the answer was stopped" in last


def test_questions_wait_within_a_bound(folder):
    with served_page(folder, limits=LiveLimits(waiting=1)) as page, visitor(page) as seat:
        replies = []
        with page.qa._turns:  # nothing is answered meanwhile
            threads = [threading.Thread(target=lambda: replies.append(ask(page, seat))) for _ in range(4)]
            threads[0].start()
            # Once the first one is out of the queue, the second one fills it.
            wait_for(lambda: page.send("GET", "/api/status", seat).json()["answering"])
            for thread in threads[1:]:
                thread.start()
            wait_for(lambda: len(replies) >= 2)
        for thread in threads:
            thread.join()
    assert sorted(reply.status_code for reply in replies) == [200, 200, 503, 503]
    assert all(int(reply.headers["retry-after"]) > 0 for reply in replies if reply.status_code == 503)


# ---- bad input


def header(width_px, height_px):
    """A JPEG that says it is this large, and is a few hundred bytes."""
    data = bytearray(jpeg(1, 16, 16))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = height_px.to_bytes(2, "big") + width_px.to_bytes(2, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"", "image/jpeg", 422),
        (b"no picture at all", "image/jpeg", 422),
        (png(1), "image/jpeg", 422),
        (jpeg(1)[:600], "image/jpeg", 422),
        (header(65_000, 65_000), "image/jpeg", 413),
        (header(65_500, 40), "image/jpeg", 413),
        (jpeg(1, 2000, 1100), "image/jpeg", 413),
        (jpeg(1) + bytes(3 * 1024 * 1024), "image/jpeg", 413),
        (jpeg(1), "image/png", 415),
    ],
)
def test_what_is_no_frame_is_refused_and_breaks_nothing(seated, data, kind, status):
    page, seat = seated
    assert refusal(page.frame(seat, data, kind))[0] == status
    assert page.frame(seat, jpeg(5)).status_code == 204
    assert page.send("GET", "/api/status", seat).json()["state"] == "live"


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"{", 400, "JSON"),
        (b"[]", 400, "object"),
        (b'{"question": 3}', 400, "question"),
        (b'{"question": "how many?", "frames": 3}', 400, "frames"),
        (b'{"question": " "}', 400, "empty"),
        (b'{"question": "%s"}' % (b"x" * 5000), 400, "5,000"),
        (b'{"question": "how many?", "last": "soon"}', 400, "last"),
        (b'{"question": "a", "history": %s}' % json.dumps([["a", "b"]] * 65).encode(), 413, "65"),
        (b'{"question": "a\\ud800"}', 400, ""),
    ],
)
def test_what_is_no_question_is_refused(seated, body, status, word):
    page, seat = seated
    told, text = refusal(page.send("POST", "/api/ask", seat, body, Content_Type="application/json"))
    assert told == status
    assert word in text
    assert page.send("POST", "/api/ask", seat, body, Content_Type="text/plain").status_code == 415


def test_a_visitor_may_change_the_size_of_the_frames(seated):
    """A phone that is turned."""
    page, seat = seated

    def seen():
        return page.send("GET", "/api/status", seat).json()["frames_seen"]

    def looked_at(size, before):
        assert page.frame(seat, jpeg(1, *size)).status_code == 204
        return seen() > before  # it looks once a second

    for size in ((48, 64), (64, 48)):
        wait_for(partial(looked_at, size, seen()))
    answer = events(ask(page, seat))[-1]
    assert answer["event"] == "answer"
    sizes = {np.asarray(Image.open(io.BytesIO(base64.b64decode(one["jpeg"])))).shape for one in answer["evidence"]}
    assert sizes <= {(48, 64, 3), (64, 48, 3)}
