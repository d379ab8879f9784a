"""`tam-edge robot`: two Zenoh sessions on loopback, frames in, questions in, answers out; restarts; events."""

import io
import json
import signal
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import psutil
import pytest
import zenoh
from command import call, start
from live_servers import free_port, wait_for
from PIL import Image
from ros_messages import COMPRESSED_KEY, IMAGE_KEY, compressed_message, image_message
from street_hour import Happening, scene_at
from tiny_bundle import make_tiny_bundle

from tam_edge.apps.robot.asking import QUERY_BYTES
from tam_edge.apps.robot.node import Node, NodeOptions, Reach, opened
from tam_edge.apps.robot.topic import HEAD_BYTES, PIXEL_BYTES, Topic
from tam_edge.apps.watch.firing import Confirm
from tam_edge.apps.watch.watcher import Wishes
from tam_edge.models.street import render
from tam_edge.runtime import TamEdgeError, VideoQA

TOPIC = "camera/front"
ASKED = {"question": "is there anybody?", "last": "5s"}
NO_RULES = Wishes(())
SOMEBODY = render(scene_at(0, Happening(-100.0, 9e9, "hips"), "red", "park", "cloudy"), 50.0)


def jpeg(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


JPEG = jpeg(SOMEBODY)
SMALL = jpeg(SOMEBODY[:64, :64])


@pytest.fixture(scope="module")
def endpoint():
    return f"tcp/127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def outside(endpoint):
    """A session that nodes connect to: the camera, and who asks."""
    with opened(Reach((), (endpoint,))) as session:
        yield session


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def nano():
    with VideoQA.load(threads=1) as qa:
        yield qa


@contextmanager
def camera(session, key, message):
    """Publishes one message again and again."""
    ended = threading.Event()

    def publish():
        while not ended.wait(0.05):
            session.put(key, message)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def node(qa, endpoint, wishes=NO_RULES, waiting=8, name="robot", topic=TOPIC):
    """A node in a session and a thread of its own; yields what it says."""
    said, told, stop, problems = [], [], threading.Event(), []
    with opened(Reach((endpoint,), ("tcp/127.0.0.1:0",))) as session:
        options = NodeOptions(name, wishes, "1min", waiting)
        running = Node(session, qa, Topic(topic, said.append), options, told.append, said.append)

        def run():
            try:
                running.run(stop)
            except TamEdgeError as error:
                problems.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield said
        finally:
            stop.set()
            thread.join(30)
            assert not thread.is_alive()
            assert problems == []


def replies(session, payload, name="robot"):
    """What comes back, as (answer, error)."""
    found = session.get(f"{name}/ask", payload=payload, timeout=30.0)
    return [
        (json.loads(one.ok.payload.to_bytes()), None) if one.ok else (None, one.err.payload.to_string())
        for one in found
    ]


def ask(session, question, name="robot", **more):
    """The answer, once there is one: a node may not be connected, or have a picture, yet."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for answer, error in replies(session, json.dumps(question | more), name):
            if answer is not None:
                return answer
            assert "no picture" in error or "nothing" in error, error
        time.sleep(0.05)
    raise AssertionError("no answer")


def test_frames_in_question_in_answer_out_and_again_after_a_restart(nano, outside, endpoint):
    """The second and third node see ROS 2 messages."""
    with camera(outside, TOPIC, JPEG), node(nano, endpoint):
        answer = ask(outside, ASKED, pictures=True)
        assert answer["answer"] == "yes"
        assert 0.5 < answer["confidence"] <= 1
        assert answer["times"]["since"] < answer["times"]["until"] <= answer["times"]["asked"][:-5] + "9.999Z"
        assert answer["evidence"][0]["jpeg"].startswith("/9j/")
    compressed = compressed_message(JPEG, "rgb8; jpeg compressed bgr8")
    with camera(outside, COMPRESSED_KEY.format(TOPIC), compressed), node(nano, endpoint):
        answer = ask(outside, ASKED)
        assert answer["answer"] == "yes"
        assert "jpeg" not in answer["evidence"][0]
    raw = image_message(SOMEBODY[..., ::-1], "bgr8", big=True)
    with camera(outside, IMAGE_KEY.format(TOPIC), raw), node(nano, endpoint):
        assert ask(outside, ASKED)["answer"] == "yes"
        assert ask(outside, {"question": "is there a dog?"})["answer"] == "yes"


def test_a_first_message_that_cannot_be_read_is_passed_over(tiny, outside, endpoint):
    with VideoQA.load(tiny, threads=1) as qa, node(qa, endpoint, name="first", topic="camera/first") as said:
        with camera(outside, "camera/first", b"nonsense"):
            wait_for(lambda: any("neither" in line for line in said))
        assert not any("looking at" in line for line in said)
        with camera(outside, "camera/first", JPEG):
            assert ask(outside, {"question": "how many?", "last": "5s"}, "first")["evidence"]


def test_pictures_larger_than_the_first_are_left_out_and_that_is_said_once():
    said = []
    topic = Topic("camera/front", said.append)
    frames = topic.frames()

    def put(message):
        topic.put(SimpleNamespace(payload=zenoh.ZBytes(message)))

    put(b"nonsense")
    assert not topic.wait_first(0.0)
    small = image_message(SOMEBODY[:40, :60], "rgb8")
    put(small)
    assert topic.wait_first(0.0)
    for larger in (image_message(SOMEBODY[:41, :60], "rgb8"), JPEG, bytes(HEAD_BYTES + PIXEL_BYTES * 2400 + 1)):
        put(larger)
        assert not topic.wait_first(0.0)
    assert said[1:] == [
        "camera/front: a message is left out: it is larger than the first picture, 60x40: for larger ones start again"
    ]
    put(small)
    assert next(frames).pixels.shape == (40, 60, 3)


def test_whom_a_router_knows_is_not_connected_to_but_may_connect():
    """As rmw_zenoh has it: of two sessions the one with the greater id connects to the other."""
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    with (
        zenoh.open(configured("router", listen=[endpoint])),
        zenoh.open(configured("peer", [endpoint], gossip={"autoconnect": {"router": [], "peer": []}})) as stranger,
        zenoh.open(
            configured(
                "peer",
                [endpoint],
                gossip={"autoconnect_strategy": {"peer": {"to_peer": "greater-zid"}}},
                own_id="f" * 32,
            )
        ) as greater,
        opened(Reach((endpoint,), ("tcp/127.0.0.1:0",))) as ours,
    ):
        wait_for(lambda: greater.info.zid() in ours.info.peers_zid())
        wait_for(
            lambda: stranger.info.zid() in greater.info.peers_zid() or greater.info.zid() in stranger.info.peers_zid()
        )
        assert stranger.info.zid() not in ours.info.peers_zid()


def configured(mode, connect=(), listen=("tcp/127.0.0.1:0",), gossip=None, own_id=None):
    """A session's configuration; `own_id` is its id where the order of ids matters."""
    config = zenoh.Config()
    if own_id is not None:
        config.insert_json5("id", json.dumps(own_id))
    parts = {"mode": mode, "connect/endpoints": connect, "listen/endpoints": listen}
    for name, value in (parts | {"scouting/multicast/enabled": False}).items():
        config.insert_json5(name, json.dumps(value))
    for name, value in (gossip or {}).items():
        config.insert_json5(f"scouting/gossip/{name}", json.dumps(value))
    return config


def test_rules_publish_events(nano, outside, endpoint):
    got = []
    wishes = Wishes((ASKED["question"],), 0.3, 5.0, Confirm(2, 3), 0.0)

    def take(sample):
        got.append(json.loads(sample.payload.to_bytes()))

    events = outside.declare_subscriber("robot/events", take)
    with events, camera(outside, TOPIC, JPEG), node(nano, endpoint, wishes):
        wait_for(lambda: got, 60)
    assert got[0]["event"] == "fired"
    assert (got[0]["node"], got[0]["rule"]) == ("robot", ASKED["question"])
    assert [check["verdict"] for check in got[0]["checks"]][-2:] == ["yes", "yes"]
    assert len(got) == 1


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "no payload"),
        (b"is it?", "cannot be read"),
        (b"[]", "cannot be read"),
        (b'{"last": "5s"}', "question"),
        (b'{"question": 5}', "question"),
        (b'{"question": "is it?", "lst": "5s"}', "lst"),
        (b'{"question": " "}', "question"),
        (b'{"question": "is it?", "last": "soon"}', "last"),
        (b'{"question": "is it?", "last": -1}', "last"),
        (json.dumps({"question": "x" * QUERY_BYTES}).encode(), "bytes"),
        (b'{"question": "\xff"}', "cannot be read"),
    ],
)
def test_bad_queries_get_an_error(asked_node, outside, payload, why):
    ((answer, error),) = replies(outside, payload)
    assert answer is None
    assert why in json.loads(error)["error"]


@pytest.fixture(scope="module")
def asked_node(tiny, outside, endpoint):
    shown = camera(outside, TOPIC, SMALL)
    with VideoQA.load(tiny, threads=1) as qa, shown, node(qa, endpoint, waiting=1) as said:
        ask(outside, {"question": "how many?", "last": "5s"})
        yield said


def test_queries_wait_in_a_bounded_line_and_each_gets_a_reply(asked_node, outside):
    found = []

    def one():
        found.extend(replies(outside, json.dumps({"question": "what is the story of the video?"})))

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    answers = [answer for answer, _ in found if answer is not None]
    errors = [json.loads(error)["error"] for _, error in found if error is not None]
    assert len(answers) + len(errors) == 12
    assert len(answers) >= 2
    assert all("waiting already" in error for error in errors)


def test_messages_that_are_no_pictures_are_said_and_passed_over(asked_node, outside):
    messages = {"neither": b"nonsense", "yuv422": image_message(SOMEBODY[:4, :4], "yuv422"), "damaged": SMALL[:-200]}

    def said(why, message):
        outside.put(TOPIC, message)  # the newest wins, and the camera goes on meanwhile
        return any(why in line for line in asked_node)

    for why, message in messages.items():
        wait_for(lambda why=why, message=message: said(why, message))
    assert ask(outside, {"question": "how many?", "last": "5s"})["evidence"]


def test_a_node_that_is_killed_and_started_again_answers_on_this_machine_alone(tiny, outside, endpoint):
    arguments = ("--connect", endpoint, "--topic", "camera/back", "--name", "killed", "--model", tiny, "--json")
    with camera(outside, "camera/back", JPEG):
        for ending, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)):  # the first as a power cut
            with start("robot", *arguments, "--threads", "1") as child:
                try:
                    assert json.loads(child.stdout.readline())["ask"] == "killed/ask"
                    assert json.loads(child.stdout.readline())["event"] == "live"
                    assert ask(outside, {"question": "how many?", "last": "5s"}, "killed")["evidence"]
                    used = psutil.Process(child.pid).net_connections("inet")
                    assert {one.laddr.ip for one in used} == {"127.0.0.1"}  # and no multicast
                    child.send_signal(ending)
                    assert child.wait(60) == code
                finally:
                    child.kill()


def test_a_camera_that_is_silent_is_lost_and_comes_back(tiny, outside, endpoint, monkeypatch):
    monkeypatch.setattr("tam_edge.apps.robot.topic.SILENT_SECONDS", 0.5)
    with VideoQA.load(tiny, threads=1) as qa, node(qa, endpoint, name="silent", topic="camera/side") as said:
        with camera(outside, "camera/side", JPEG):
            ask(outside, {"question": "how many?", "last": "5s"}, "silent")
        wait_for(lambda: any("no picture for" in line for line in said))
        with camera(outside, "camera/side", JPEG):
            wait_for(lambda: any("is back" in line for line in said))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("--topic", "a", "--source", "0"), 2),
        (("--topic", "a/**"), 2),
        (("--topic", "a", "--name", "*"), 2),
        (("--topic", "a", "--rule", "how many?"), 2),
        (("--topic", "a", "--model", "missing", "--horizon", "0.1s"), 2),
        (("--topic", "a", "--listen", "nonsense"), 1),
    ],
)
def test_what_makes_no_sense_is_one_line(arguments, code):
    ended = call("robot", *arguments)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.count("\n") == 1
