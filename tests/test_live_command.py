"""`tam-edge live`: its options, https with a certificate of its own, and the conversation at a terminal."""

import json
import re
import signal
import ssl
import stat

import httpx2
import pytest
from command import CHILD_SECONDS, Terminal, call, ended, spawn, start
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pages import jpeg, served_page
from tiny_bundle import make_tiny_bundle

from tam_edge.apps.live.certificate import machine_names, self_made
from tam_edge.apps.live.serving import checked_tls
from tam_edge.models.street import make_scene
from tam_edge.models.street.video import write_video
from tam_edge.runtime.errors import UsageError

QUESTION, SECOND = "how many people?", "what does the sign say?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(make_scene(11), path, size_px=96)
    return path


# ---- options


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--terminal",), "--source"),
        (("--last", "10s"), "--terminal"),
        (("--horizon", "soon"), "--horizon"),
        (("--horizon", "0.1s"), "--horizon"),
        (("--horizon", "8000h"), "--horizon"),
        *(
            (("--terminal", "--source", "0", *option), f"{option[0]} belongs to the page")
            for option in (
                ("--host", "127.0.0.1"),
                ("--port", "8001"),
                ("--token-file", "token"),
                ("--tls-cert", "c.pem"),
                ("--tls-key", "k.pem"),
                ("--tls-self-made",),
                ("--open",),
            )
        ),
        (("--terminal", "--source", "0", "--last", "long"), "--last"),
        (("--host", "0.0.0.0"), "token"),
        (("--tls-cert", "c.pem"), "--tls-key"),
        (("--tls-cert", "no.pem", "--tls-key", "no.pem"), "no.pem"),
        (("--tls-cert", __file__, "--tls-key", __file__), "cannot be used"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(arguments, text, monkeypatch):
    monkeypatch.delenv("TAM_EDGE_TOKEN", raising=False)
    outcome = call("live", "--model", "missing", *arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert outcome.err.startswith("tam-edge live: ")
    assert text in outcome.err


def test_a_source_that_is_not_there_is_said(folder):
    outcome = call("live", "--model", folder, "--source", "/dev/video99", "--port", "0")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "/dev/video99" in outcome.err


@pytest.mark.parametrize("of_visitor", [False, True])
def test_the_page_is_announced_and_ctrl_c_ends_it(folder, clip, tmp_path, of_visitor):
    source = "visitor" if of_visitor else str(clip)
    arguments = ["--model", folder, "--threads", "1", "--source", source, "--port", "0", "--json"]
    if not of_visitor:
        (tmp_path / "token").write_text("a-long-secret-word")
        arguments += ["--host", "0.0.0.0", "--token-file", tmp_path / "token"]
    with start("live", *arguments) as child:
        told = json.loads(child.stdout.readline())
        assert told["url"].startswith("http://127.0.0.1:"), "0.0.0.0 is no address to call"
        assert (told["event"], told["source"]) == ("serving", source)
        assert "tam-edge live" in httpx2.get(told["url"]).text
        if of_visitor:  # who is in front of the camera
            seat = {"X-Seat": httpx2.post(f"{told['url']}/api/camera").json()["seat"]}
            headers = {**seat, "Content-Type": "image/jpeg"}
            url = f"{told['url']}/api/camera/frame"
            assert httpx2.post(url, content=jpeg(1), headers=headers).status_code == 204
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=CHILD_SECONDS)
    assert (child.returncode, out, err) == (130, "", "")


# ---- https


def test_https_with_a_certificate_of_its_own(folder, tmp_path):
    made = self_made("127.0.0.1", tmp_path / "tls")
    trusting = ssl.create_default_context(cafile=str(made.tls.certificate))
    with served_page(folder, tls=made.tls, verify=trusting) as page:
        assert page.url.startswith("https://127.0.0.1:")
        assert page.send("GET", "/api/about").json()["visitor"] is True
        assert page.send("GET", "/api/about", Origin=page.url).status_code == 200
        assert page.send("GET", "/api/about", Origin=page.url.replace("127.0.0.1", "evil.example")).status_code == 403
        with pytest.raises(httpx2.ConnectError, match="certificate"):
            httpx2.get(page.url)


def test_a_certificate_names_this_machine_and_is_for_its_user_alone(tmp_path):
    folder = tmp_path / "cache" / "tls"
    made = self_made("camera.lan", folder)
    assert {"localhost", "127.0.0.1", "::1", "camera.lan"} <= set(made.names)
    assert set(machine_names("camera.lan")) == set(made.names)
    assert re.fullmatch(r"([0-9A-F]{2}:){31}[0-9A-F]{2}", made.fingerprint)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert sorted(path.name for path in folder.iterdir()) == ["certificate.pem", "key.pem"]


def test_a_certificate_is_kept_as_long_as_it_is_good(tmp_path):
    made = self_made("localhost", tmp_path)
    assert self_made("localhost", tmp_path).fingerprint == made.fingerprint
    assert self_made("0.0.0.0", tmp_path).fingerprint == made.fingerprint, "any address of this machine"
    other = self_made("camera.lan", tmp_path)
    assert other.fingerprint != made.fingerprint, "a name that it lacked"
    other.tls.key.chmod(0o644)
    again = self_made("camera.lan", tmp_path)
    assert again.fingerprint != other.fingerprint, "others could read its key"
    again.tls.certificate.write_text("damaged")
    assert x509.load_pem_x509_certificate(self_made("camera.lan", tmp_path).tls.certificate.read_bytes())


def test_a_certificate_that_is_given_is_tried(tmp_path):
    tls = self_made("localhost", tmp_path).tls
    assert checked_tls(tls.certificate, tls.key) == tls
    key = serialization.load_pem_private_key(tls.key.read_bytes(), password=None)
    secret = serialization.BestAvailableEncryption(b"a password")
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    tls.key.write_bytes(key.private_bytes(pem, kind, secret))
    with pytest.raises(UsageError, match="password"):  # and is not asked for
        checked_tls(tls.certificate, tls.key)
    tls.key.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(pem, kind, serialization.NoEncryption()))
    with pytest.raises(UsageError, match="cannot be used"):
        checked_tls(tls.certificate, tls.key)


def test_a_certificate_that_cannot_be_kept_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TAM_EDGE_CACHE", str(tmp_path / "file"))
    outcome = call("live", "--model", "missing", "--tls-self-made")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "certificate" in outcome.err


# ---- a terminal


def test_lines_in_and_lines_out(folder, clip, tmp_path):
    asked = tmp_path / "asked.txt"
    asked.write_text(f"{QUESTION}\n\n{SECOND}\n")
    arguments = ("--terminal", "--model", folder, "--threads", "1", "--source", clip, "--last", "1min")
    with asked.open() as lines:
        outcome = spawn("live", *arguments, stdin=lines)
    assert outcome.code == 0
    labels = [line[:12].strip() for line in outcome.out.splitlines() if line[:12].strip()]
    assert labels == ["Question", "Task type", "Plan", "Answer", "Seen at", "Cost"] * 2
    assert QUESTION in outcome.out
    assert re.search(r"^Seen at     \d\d:\d\d:\d\d\.\d", outcome.out, re.MULTILINE)
    status = [line for line in outcome.err.splitlines() if "frames/s" in line]
    assert len(status) == 2
    assert all(str(clip) in line and " MiB of " in line for line in status)
    with asked.open() as lines:
        outcome = spawn("live", *arguments, "--json", stdin=lines)
    values = [json.loads(line) for line in outcome.out.splitlines()]
    assert [value["question"] for value in values if value["event"] == "answer"] == [QUESTION, SECOND]
    assert {value["event"] for value in values} == {"session", "plan", "text", "answer"}


def test_no_question_is_no_mistake_and_a_bad_one_ends_a_pipe(folder, clip, tmp_path):
    asked = tmp_path / "asked.txt"
    arguments = ("live", "--terminal", "--model", folder, "--threads", "1", "--source", clip)
    for text, code in (("", 0), ("x" * 5000, 2)):
        asked.write_text(text)
        with asked.open() as lines:
            outcome = spawn(*arguments, stdin=lines)
        assert (outcome.code, outcome.out) == (code, "")
        assert ("tam-edge live: the question has" in outcome.err) == bool(code)


def test_at_a_terminal_the_status_comes_before_each_question(folder, clip):
    arguments = ("live", "--terminal", "--model", folder, "--threads", "1", "--source", clip)
    with Terminal(*arguments) as terminal:
        said = terminal.wait_for()
        assert "Ask about what the camera sees" in said
        assert "frames/s" in said
        terminal.type(f"{QUESTION}\n")
        assert "frames/s" in terminal.wait_for()
        terminal.type("\x04")
        code, out, _ = ended(terminal)
    assert code == 0
    assert "Answer" in out
    for ending, expected in ((signal.SIGINT, 130), (signal.SIGTERM, 0)):
        with Terminal(*arguments) as terminal:
            terminal.wait_for()
            terminal.child.send_signal(ending)
            code, _, err = ended(terminal)
        assert code == expected
        assert "Traceback" not in err
