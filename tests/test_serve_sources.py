"""What the server looks at for strangers: files below its folders, and URLs whose every address was checked."""

import asyncio
import ipaddress
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import asking, body, data_url, png, served
from tiny_bundle import make_tiny_bundle

from tam_edge.apps.addresses import is_public
from tam_edge.apps.serve.limits import ServeLimits

SECONDS, FILE_BYTES = 3, 200_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A served folder with a picture, and what lies outside of it."""
    root = tmp_path_factory.mktemp("files")
    served_folder, other = root / "served", root / "served-not"
    (served_folder / "in").mkdir(parents=True)
    other.mkdir()
    (served_folder / "a b.png").write_bytes(png(1))
    (served_folder / "in" / "c.png").write_bytes(png(2))
    (other / "secret.png").write_bytes(png(3))
    (served_folder / "out").symlink_to(other)
    (served_folder / "link.png").symlink_to(other / "secret.png")
    (served_folder / "within.png").symlink_to(served_folder / "in" / "c.png")
    return root


@pytest.fixture(scope="module")
def server(folder, files):
    """Files of one folder; URLs, of private hosts those called localhost alone."""
    limits = ServeLimits(download_seconds=SECONDS, stored_bytes=2 * FILE_BYTES)
    with served(
        folder,
        directories=[files / "served"],
        allow_http=True,
        allowed_hosts=["localhost", "twice.test"],
        limits=limits,
    ) as server:
        yield server


@pytest.fixture(scope="module")
def closed(folder, files):
    with served(folder, directories=[files / "served"]) as server:
        yield server


def look(server, url):
    """Ask about a URL; the status and the error's code."""
    reply = server.post(body(asking("how many?", {"type": "image_url", "image_url": {"url": url}})))
    error = reply.json().get("error", {})
    if error:
        assert error["param"] in ("messages.0.content.0", None)
    return reply.status_code, error.get("code")


# ---- files


@pytest.mark.parametrize("name", ["a b.png", "in/c.png", "within.png", "in/../a b.png"])
def test_files_below_a_served_folder_are_looked_at(closed, files, name):
    assert look(closed, name) == (200, None)
    assert look(closed, str(files / "served" / name)) == (200, None)
    assert look(closed, (files / "served" / name).as_uri().replace("in/../", "")) == (200, None)


@pytest.mark.parametrize(
    "name",
    [
        "../served-not/secret.png",
        "../served-not/nothing.png",
        "in/../../served-not/secret.png",
        "out/secret.png",
        "out/nothing.png",
        "link.png",
        "/etc/passwd",
        "/nothing/at/all",
        "file:///etc/passwd",
        "file:///etc/../etc/passwd",
        "file://elsewhere/etc/passwd",
        "file:///proc/self/environ",
        "/dev/zero",
    ],
)
def test_files_outside_are_refused_whether_they_exist_or_not(closed, name):
    assert look(closed, name) == (403, "not_allowed")


def test_escapes_written_as_percent_are_refused(closed, files):
    assert look(closed, f"file://{files}/served/%2e%2e/served-not/secret.png") == (403, "not_allowed")
    assert look(closed, f"file://{files}/served/%00") == (400, None)


def test_a_missing_file_inside_is_said(closed):
    assert look(closed, "nothing.png") == (422, "not_found")
    assert look(closed, "in") == (422, "video")  # a folder


def test_nothing_is_served_unasked(folder):
    with served(folder) as server:
        assert look(server, "/etc/hostname") == (403, "not_allowed")
        assert look(server, "http://localhost/") == (403, "not_allowed")


@pytest.mark.parametrize(
    "url",
    ["data:image/png;base64,AA=A", "data:image/png;base64,", "data:image/png,abc", "data:text/html;base64,AAAA",
     "data:", "ftp://host/x", "gopher://x", "", "http://", "http://user:word@host/", "http://a b/"],
)  # fmt: skip
def test_urls_that_cannot_be_are_refused(server, url):
    status, _ = look(server, url)
    assert status in (400, 403)


def test_the_same_content_twice_is_stored_once(closed):
    before = closed.service.store.size_bytes
    for _ in range(2):
        assert look(closed, data_url(png(77))) == (200, None)
    assert closed.service.store.size_bytes == before + len(png(77))


# ---- addresses


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", 
     "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::",
     "fe80::1%eth0", "nonsense", "ff0e::1", "224.0.1.1", "fec0::1", "64:ff9b:1::1"],
)  # fmt: skip
def test_addresses_that_are_not_of_the_open_internet(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_addresses_of_the_open_internet(address):
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_a_wrapped_address_is_no_better_than_itself(address):
    for wrapped in (f"::ffff:{address}", str(ipaddress.IPv6Address((0x64FF9B << 96) | int(address)))):
        assert is_public(wrapped) == is_public(str(address))


# ---- downloads


class Site:
    """A site on this machine: what it sends by path, and how many connections it saw."""

    def __init__(self):
        site = self
        self.connections = 0
        self.pages = {}

        class Answer(BaseHTTPRequestHandler):
            def setup(self):
                site.connections += 1
                super().setup()

            def do_GET(self):
                status, headers, content = site.pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    for chunk in content if not isinstance(content, bytes) else [content]:
                        self.wfile.write(chunk)
                except OSError:
                    pass  # the other side had enough

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]

    def leads(self, path, to, status=302):
        self.pages[path] = (status, {"Location": to}, b"")


@contextmanager
def running():
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield site
    finally:
        site.server.shutdown()
        thread.join()
        site.server.server_close()


@pytest.fixture
def site():
    with running() as site:
        site.pages["/a.png"] = (200, {}, png(5))
        yield site


@pytest.fixture
def other():
    with running() as site:
        site.pages["/a.png"] = (200, {}, png(6))
        yield site


def test_a_url_of_an_allowed_host_is_fetched(server, site):
    assert look(server, f"http://localhost:{site.port}/a.png") == (200, None)
    site.leads("/b", "/a.png")
    assert look(server, f"http://LOCALHOST:{site.port}/b") == (200, None)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0", "localhost.", "[::1]"]
)
def test_private_addresses_are_refused_before_a_connection(server, site, host):
    status, code = look(server, f"http://{host}:{site.port}/a.png")
    assert (status, code) in {(403, "address_refused"), (422, "not_fetched")}  # the latter: no such name here
    assert site.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_private_address_is_not_followed(server, site, other, status):
    site.leads("/out", f"http://127.0.0.1:{other.port}/a.png", status)
    assert look(server, f"http://localhost:{site.port}/out") == (403, "address_refused")
    assert (site.connections, other.connections) == (1, 0)


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://localhost/a", "//user@localhost/a", "data:image/png;base64,AA=="]
)
def test_a_redirect_to_something_else_is_not_followed(server, site, to):
    site.leads("/out", to)
    status, _ = look(server, f"http://localhost:{site.port}/out")
    assert status == 400


def test_redirects_end(server, site):
    site.leads("/round", "/round")
    assert look(server, f"http://localhost:{site.port}/round") == (422, "not_fetched")
    assert site.connections == 6


def test_the_address_that_was_checked_is_the_one_connected_to(server, site, other, monkeypatch):
    """A name server that gives another answer the second time: there is no second time."""
    asked = []
    real = asyncio.BaseEventLoop.getaddrinfo

    async def changing(loop, host, port, **options):
        if host != "twice.test":
            return await real(loop, host, port, **options)
        asked.append(host)
        to = site.port if len(asked) == 1 else other.port
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", to))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", changing)
    assert look(server, f"http://twice.test:{site.port}/a.png") == (200, None)
    assert (len(asked), site.connections, other.connections) == (1, 1, 0)


def test_one_private_address_among_public_ones_is_enough_to_refuse(server, site, monkeypatch):
    async def both(loop, host, port, **options):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("8.8.8.8", "127.0.0.1")]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", both)
    assert look(server, f"http://both.test:{site.port}/a.png") == (403, "address_refused")
    assert site.connections == 0


def test_downloads_are_bounded(server, site):
    site.pages["/stated"] = (200, {"Content-Length": str(10**12)}, b"x")
    site.pages["/endless"] = (200, {}, (bytes(65536) for _ in range(1000)))
    site.pages["/packed"] = (200, {"Content-Encoding": "gzip"}, b"x")
    assert look(server, f"http://localhost:{site.port}/stated") == (413, "too_large")
    assert look(server, f"http://localhost:{site.port}/endless") == (413, "too_large")
    assert look(server, f"http://localhost:{site.port}/packed") == (422, "not_fetched")
    assert look(server, f"http://localhost:{site.port}/nothing") == (422, "not_fetched")
    assert server.service.store.size_bytes <= 2 * FILE_BYTES


def test_a_site_that_says_nothing_is_left(server):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert look(server, f"http://localhost:{silent.getsockname()[1]}/a.png") == (422, "not_fetched")


def test_a_site_that_is_not_there_or_speaks_no_http(server, site):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert look(server, f"http://localhost:{port}/a.png") == (422, "not_fetched")
    assert look(server, f"https://localhost:{site.port}/a.png") == (422, "not_fetched")
