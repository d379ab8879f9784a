"""Who may ask the server, and how much: hosts, origins, tokens, bodies and bombs."""

import socket
import struct
import zlib

import httpx2
import pytest
from serving import asking, body, data_url, picture, png, served
from tiny_bundle import make_tiny_bundle

from tam_edge.apps.serve.limits import ServeLimits
from tam_edge.apps.web.token import is_local
from tam_edge.runtime.budget import resident_bytes

TOKEN = "a-long-secret-word"
BODY_BYTES = 1024 * 1024
GIGABYTE = 1024**3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def server(folder):
    with served(folder, limits=ServeLimits(body_bytes=BODY_BYTES, body_seconds=2, sources=3)) as server:
        yield server


@pytest.fixture(scope="module")
def closed(folder):
    """As it is for other machines: a token is asked for, names do not matter."""
    with served(folder, host="0.0.0.0", token=TOKEN) as server:
        yield server


def status_of(reply):
    """The status, once the reply is OpenAI's error object and shows nothing of ours."""
    if reply.status_code != 200:
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        assert "Traceback" not in reply.text
        assert "/tam-edge-serve-" not in reply.text
    return reply.status_code


@pytest.mark.parametrize(
    ("path", "header", "status"),
    [
        ("/v1/models", None, 401),
        ("/v1/models", "Bearer wrong", 401),
        ("/v1/models", f"Bearer {TOKEN}x", 401),
        ("/v1/models", f"Basic {TOKEN}", 401),
        ("/v1/models", f"Bearer {TOKEN}", 200),
        ("/metrics", None, 401),
        ("/openapi.json", None, 401),
        ("/nothing", None, 401),
        ("/health", None, 200),
    ],
)
def test_a_token_is_asked_for_everywhere(closed, path, header, status):
    reply = httpx2.get(f"{closed.url}{path}", headers={} if header is None else {"Authorization": header})
    assert status_of(reply) == status
    assert reply.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


def test_openai_sends_the_token(closed):
    with closed.client(TOKEN) as client:
        assert client.chat.completions.create(model="tiny", messages=asking("how many?", picture(1))).choices
    assert status_of(closed.post(body(asking("how many?", picture(1))))) == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:80", 200), ("[::1]", 200), ("evil.example", 403), ("127.0.0.1.evil.example", 403)],
)
def test_a_name_that_was_pointed_at_this_machine_is_refused(server, host, status):
    assert status_of(httpx2.get(f"{server.url}/v1/models", headers={"Host": host})) == status


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://["])
def test_pages_of_other_origins_are_refused(server, origin):
    assert status_of(httpx2.get(f"{server.url}/v1/models", headers={"Origin": origin})) == 403
    assert status_of(httpx2.get(f"{server.url}/v1/models", headers={"Origin": server.url})) == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_which_addresses_others_reach(host, local):
    assert is_local(host) is local


def test_a_body_of_a_gigabyte_is_refused_before_it_is_read(server):
    before = resident_bytes()
    sent = 0

    def chunks():
        nonlocal sent
        for _ in range(GIGABYTE // BODY_BYTES):
            sent += BODY_BYTES
            yield b" " * BODY_BYTES

    headers = {"content-type": "application/json"}  # and no length: it comes in chunks
    reply = httpx2.post(f"{server.url}/v1/chat/completions", content=chunks(), headers=headers, timeout=120)
    assert status_of(reply) == 413
    assert sent == GIGABYTE  # the client was heard out, so that it reads the reply, and nothing was kept
    assert resident_bytes() - before < 16 * BODY_BYTES


def test_a_stated_length_is_enough_to_refuse(server):
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {GIGABYTE}\r\n"
    assert raw(server, f"{head}Content-Type: application/json\r\n\r\n").startswith("HTTP/1.1 413")


def test_a_body_that_does_not_come_is_not_waited_for(server):
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
    assert raw(server, f"{head}Content-Type: application/json\r\n\r\n{{").startswith("HTTP/1.1 408")


def raw(server, text):
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(text.encode())
        return connection.recv(65536).decode()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"model": "tiny"}'])
def test_what_is_no_request_is_refused(server, content):
    headers = {"content-type": "application/json"}
    reply = httpx2.post(f"{server.url}/v1/chat/completions", content=content, headers=headers)
    assert status_of(reply) == 400


def test_a_form_of_a_web_page_is_refused(server):
    headers = {"content-type": "text/plain"}
    assert status_of(httpx2.post(f"{server.url}/v1/chat/completions", content=b"{}", headers=headers)) == 415


@pytest.mark.parametrize(("path", "status"), [("/", 404), ("/docs", 404), ("/v1/embeddings", 404), ("/metrics", 405)])
def test_what_is_not_there_is_said_as_openai_does(server, path, status):
    assert status_of(httpx2.post(f"{server.url}{path}", json={})) == status


def bomb(width_px, height_px):
    """A PNG whose header promises far more than its few bytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(3 * 1_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size_px", [(30_000, 30_000), (10_000, 10_000)])
def test_a_decompression_bomb_is_refused_by_its_header(server, size_px):
    before = resident_bytes()
    shown = {"type": "image_url", "image_url": {"url": data_url(bomb(*size_px))}}
    assert status_of(server.post(body(asking("how many?", shown)))) == 413
    assert resident_bytes() - before < 16 * BODY_BYTES


def test_too_many_pictures_are_refused(server):
    shown = [picture(number) for number in range(4)]
    assert status_of(server.post(body(asking("how many?", *shown)))) == 413
    assert status_of(server.post(body(asking("how many?", *shown[:3])))) == 200


def test_what_is_no_picture_is_the_clients_mistake(server):
    shown = {"type": "image_url", "image_url": {"url": data_url(b"no picture at all")}}
    reply = server.post(body(asking("how many?", shown)))
    assert status_of(reply) == 422
    assert reply.json()["error"]["message"].startswith("messages.0.content.0: ")


def test_a_long_video_is_refused(folder, tmp_path):
    from make_clips import steady, write_clip

    write_clip(tmp_path / "clip.mp4", steady(20, every_ms=500))
    with served(folder, directories=[tmp_path], limits=ServeLimits(duration_seconds=5)) as server:
        shown = {"type": "video_url", "video_url": {"url": "clip.mp4"}}
        assert status_of(server.post(body(asking("how many?", shown)))) == 413


def test_the_disk_is_bounded_and_what_was_used_last_stays(folder):
    size = len(png(0))
    with served(folder, limits=ServeLimits(stored_bytes=int(3.5 * size))) as server:
        for number in (0, 1, 0, 2, 3, 0):
            assert status_of(server.post(body(asking("how many?", picture(number))))) == 200
        assert server.service.store.size_bytes <= 3.5 * size
        large = {"type": "image_url", "image_url": {"url": data_url(png(9, side_px=200))}}
        assert status_of(server.post(body(asking("how many?", large)))) == 413
        many = asking("how many?", *(picture(number) for number in range(10, 15)))
        reply = server.post(body(many))
        assert (status_of(reply), reply.headers["retry-after"].isdecimal()) == (503, True)
