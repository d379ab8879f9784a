"""Webhooks: delivered in order, tried again, bounded, said where given up, and never in the way."""

import json
import ssl
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import create_server

import pytest
from live_servers import wait_for

from tam_edge.apps.live.certificate import self_made
from tam_edge.apps.watch.webhook import MOST_TRIES, MOST_WAITING, Patience, Webhook
from tam_edge.runtime import TamEdgeError, UsageError

QUICK = Patience(try_seconds=2.0, first_pause_seconds=0.01, end_seconds=10.0)


class _Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers["Content-Type"], json.loads(body)))
        self.server.gate.wait(20)
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@contextmanager
def receiving(*statuses):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hook)
    server.statuses, server.got, server.gate, server.daemon_threads = list(statuses), [], threading.Event(), True
    server.gate.set()
    server.url = f"http://localhost:{server.server_address[1]}/hook?room=1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()


def delivering(url, said, events):
    hook = Webhook(url, said.append, {"localhost"}, QUICK)
    for event in events:
        hook.post(event)
    hook.finish()


def test_events_are_delivered_in_order():
    said = []
    with receiving() as server:
        delivering(server.url, said, [{"n": number} for number in range(5)])
        assert server.got == [("/hook?room=1", "application/json", {"n": number}) for number in range(5)]
    assert said == []


def test_what_fails_is_tried_again_and_not_forgotten():
    said = []
    with receiving(500, 503, 429, 200) as server:
        delivering(server.url, said, [{"n": 1}, {"n": 2}])
        assert [value["n"] for _, _, value in server.got] == [1, 1, 1, 1, 2]
    assert said == []


@pytest.mark.parametrize("status", [400, 404, 302])
def test_a_refusal_is_not_tried_again_but_said(status):
    said = []
    with receiving(status) as server:
        delivering(server.url, said, [{"n": 1}, {"n": 2}])
        assert [value["n"] for _, _, value in server.got] == [1, 2]
    assert len(said) == 1
    assert str(status) in said[0]


def test_what_cannot_be_delivered_is_given_up_and_said():
    said = []
    with receiving(*[500] * MOST_TRIES) as server:
        delivering(server.url, said, [{"n": 1}, {"n": 2}])
        assert [value["n"] for _, _, value in server.got] == [1] * MOST_TRIES + [2]
    assert said == ["webhook localhost: an event is given up: the answer is 500"]


def test_nobody_there_is_said():
    with create_server(("127.0.0.1", 0)) as free:
        url = f"http://localhost:{free.getsockname()[1]}/"
    said = []
    delivering(url, said, [{"n": 1}])
    assert len(said) == 1
    assert "given up" in said[0]


def test_a_server_that_hangs_is_in_nobodys_way_and_the_line_is_bounded():
    said = []
    with receiving() as server:
        server.gate.clear()
        hook = Webhook(server.url, said.append, {"localhost"}, QUICK)
        hook.post({"n": 0})
        wait_for(lambda: len(server.got) == 1)
        for number in range(MOST_WAITING + 3):
            hook.post({"n": number})  # returns although nothing is delivered
        assert len(said) == 3
        assert "not delivered" in said[0]
        hook.close()


def test_what_waits_at_a_hurried_end_is_said_once():
    said = []
    with receiving() as server:
        server.gate.clear()
        hook = Webhook(server.url, said.append, {"localhost"}, Patience(hurry_seconds=0.1))
        for number in range(3):
            hook.post({"n": number})
        wait_for(lambda: len(server.got) == 1)
        hook.finish(hurry=True)
        server.gate.set()
    assert said == ["webhook localhost: 3 events were not delivered before the end"]


def test_events_are_delivered_over_tls(tmp_path, monkeypatch):
    tls = self_made("localhost", tmp_path).tls
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.certificate))
    said = []
    with receiving() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        delivering(server.url.replace("http", "https"), said, [{"n": 1}, {"n": 2}])
        assert [value["n"] for _, _, value in server.got] == [1, 2]
    assert said == []


def test_a_server_that_drips_its_handshake_is_cut():
    """Each read gets its byte in time, and the handshake never ends by itself."""
    said, ended = [], threading.Event()

    def drip(listening):
        with listening, suppress(OSError):
            for _ in range(MOST_TRIES):
                connection, _address = listening.accept()
                with connection, suppress(OSError):
                    connection.sendall(b"\x16\x03\x03\x3f\xff")
                    while not ended.wait(0.02):
                        connection.sendall(b"\0")

    listening = create_server(("127.0.0.1", 0))
    url = f"https://localhost:{listening.getsockname()[1]}/"
    thread = threading.Thread(target=drip, args=(listening,), daemon=True)
    thread.start()
    try:
        hook = Webhook(url, said.append, {"localhost"}, Patience(try_seconds=0.2, first_pause_seconds=0.01))
        hook.post({"n": 1})
        hook.finish()
    finally:
        ended.set()
    assert len(said) == 1
    assert "given up" in said[0]


def test_private_addresses_need_to_be_named_and_are_not_connected_to():
    with receiving() as server:
        for url in (server.url, server.url.replace("localhost", "127.0.0.1")):
            with pytest.raises(TamEdgeError, match="--allow-host"):
                Webhook(url, print)
        assert server.got == []


@pytest.mark.parametrize("url", ["ftp://a/b", "http://", "a", "http://user:word@a/", "http://a/ b"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(UsageError, match="--webhook"):
        Webhook(url, print)
