"""One question at a time: the queue, clients that go away, and the server's end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest
from command import CHILD_SECONDS, call, start
from serving import asking, body, picture, served
from tiny_bundle import make_babbling_bundle

from tam_edge.apps.serve.limits import ServeLimits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_babbling_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def server(folder):
    with served(folder, limits=ServeLimits(waiting=2)) as server:
        yield server


def short(server, number=1):
    return server.post(body(asking("how many?", picture(number)), max_tokens=3))


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def streaming(server):
    """A client that reads an endless answer; killed, it takes its connection with it."""
    code = (
        "import json, sys, httpx2\n"
        "with httpx2.stream('POST', sys.argv[1], json=json.load(sys.stdin), timeout=120) as reply:\n"
        "    for line in reply.iter_lines():\n"
        "        print(line, flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, f"{server.url}/v1/chat/completions"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    json.dump(body(asking("how many?", picture(9)), stream=True), child.stdin)
    child.stdin.close()
    return child


def outcomes(server):
    text = httpx2.get(f"{server.url}/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("tam_edge_questions_total"))
    return {name.split('"')[1]: float(count) for name, count in lines.items()}


def test_a_client_killed_in_its_answer_frees_its_slot_within_a_second(server):
    with streaming(server) as child:
        for _ in range(20):  # lines: it is in the middle of its answer
            assert child.stdout.readline()
        assert server.service.worker.busy
        child.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: not server.service.worker.busy)
        assert time.monotonic() - killed < 1
    assert short(server).status_code == 200
    assert outcomes(server) == {"abandoned": 1, "answered": 1}


def test_a_client_that_waits_and_goes_gives_its_place_up(server):
    with streaming(server) as first:
        assert first.stdout.readline()
        with ThreadPoolExecutor() as pool:
            second = pool.submit(httpx2.post, f"{server.url}/v1/chat/completions", timeout=1.5,
                                 json=body(asking("how many?", picture(1)), max_tokens=3))  # fmt: skip
            until(lambda: server.service.worker.waiting == 1)
            assert isinstance(second.exception(), httpx2.TimeoutException)
            until(lambda: server.service.worker.waiting == 0)
        assert server.service.worker.busy
        first.kill()


def test_a_full_queue_says_when_to_come_back(server):
    with streaming(server) as first, ThreadPoolExecutor() as pool:
        assert first.stdout.readline()
        waiting = [pool.submit(short, server, number) for number in range(2)]
        until(lambda: server.service.worker.waiting == 2)
        refused = short(server)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "busy"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        with server.client() as client, pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="tiny", messages=asking("how many?", picture(1)))
        first.kill()
        assert [future.result().status_code for future in waiting] == [200, 200]


def test_many_clients_get_their_own_answers(server):
    """With the client's own patience nobody is left without an answer, and nobody gets somebody else's."""
    alone = [short(server, number).json()["choices"] for number in range(4)]

    def ask(number):
        with server.client(retries=30) as client:
            reply = client.chat.completions.create(
                model="tiny", messages=asking("how many?", picture(number % 4)), max_tokens=3
            )
        return reply.choices[0].message.content

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(12)))
    assert answers == [alone[number % 4][0]["message"]["content"] for number in range(12)]


def test_the_end_of_the_server_stops_the_answer(folder):
    with served(folder) as server, streaming(server) as child:
        assert child.stdout.readline()
        waits = threading.Thread(target=lambda: replies.append(short(server)))
        replies = []
        waits.start()
        until(lambda: server.service.worker.waiting == 1)
        server.service.worker.close()
        lines = child.stdout.read().split("\n\n")
        waits.join()
        assert json.loads(lines[-3].removeprefix("data: "))["error"]["code"] == "stopped"
        assert lines[-2].endswith("[DONE]")
        assert (replies[0].status_code, replies[0].json()["error"]["code"]) == (503, "shutting_down")
        assert httpx2.get(f"{server.url}/v1/models").status_code == 200
        assert short(server).status_code == 503


# ---- the command


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_cleanly_in_the_middle_of_an_answer(folder, signal_number, code):
    with start("serve", "--port", "0", "--json", "--model", folder, "--threads", "1") as child:
        about = json.loads(child.stdout.readline())
        assert about["model"] == "tiny"
        request = body(asking("how many?", picture(9)), stream=True)
        with httpx2.stream("POST", f"{about['url']}/chat/completions", json=request, timeout=60) as reply:
            lines = reply.iter_lines()
            next(lines)
            os.kill(child.pid, signal_number)
            assert '"stopped"' in "".join(lines)
        out, err = child.communicate(timeout=CHILD_SECONDS)
    assert (child.returncode, out, err) == (code, "", "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--host", "0.0.0.0"], "token"),
        (["--host", "0.0.0.0", "--token-file", "short"], "8 ASCII characters"),
        (["--token-file", "missing"], "cannot be read"),
        (["--serve-dir", "missing"], "no such folder"),
        (["--allow-host", "camera"], "--allow-http"),
        (["--max-body", "much"], "no memory size"),
        (["--host", "no.such.host.invalid", "--token-file", "long"], "no address"),
        (["--port", "99999"], "--port"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TAM_EDGE_TOKEN", raising=False)
    (tmp_path / "short").write_text("abc\n")
    (tmp_path / "long").write_text("a-long-secret-word\n")
    outcome = call("serve", *arguments)
    assert outcome.code == 2
    assert text in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_port_that_is_taken_is_said(server):
    outcome = call("serve", "--port", server.url.rpartition(":")[2])
    assert (outcome.code, len(outcome.err.splitlines())) == (1, 1)
    assert "choose another --port" in outcome.err


def test_a_ceiling_that_leaves_nothing_beside_requests_is_said(folder):
    outcome = call("serve", "--port", "0", "--model", folder, "--memory", "90MiB")
    assert (outcome.code, len(outcome.err.splitlines())) == (1, 1)
    assert "--max-body" in outcome.err
