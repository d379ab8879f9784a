"""A real live page for tests: the runtime, the page's routes and uvicorn in a thread, on a socket of this machine."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
from PIL import Image

from tam_edge.apps.live.limits import LiveLimits
from tam_edge.apps.live.serving import PageOptions, page_server
from tam_edge.apps.web.listening import Tls, bound_socket, url_of
from tam_edge.runtime import VideoQA

WAIT_SECONDS = 120


@dataclass(frozen=True)
class ServedPage:
    """A page that is served."""

    url: str
    qa: VideoQA
    client: httpx2.Client
    token: str | None = None

    def send(self, method: str, path: str, seat: str = "", content: bytes | None = None, **headers: str):
        """A request as it is."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {"X-Seat": seat} if seat else {}
        sent |= {"Authorization": f"Bearer {self.token}"} if self.token and "Authorization" not in sent else {}
        return self.client.request(method, f"{self.url}{path}", content=content, headers=sent)

    def take(self) -> str:
        """The seat in front of the webcam."""
        reply = self.send("POST", "/api/camera")
        assert reply.status_code == 200, reply.text
        return reply.json()["seat"]

    def frame(self, seat: str, data: bytes, kind: str = "image/jpeg"):
        """Send a frame."""
        return self.send("POST", "/api/camera/frame", seat, data, Content_Type=kind)


@contextmanager
def served_page(
    bundle: Path | None = None,
    *,
    source: str | None = None,
    host: str = "127.0.0.1",
    token: str | None = None,
    tls: Tls | None = None,
    verify: object = True,
    limits: LiveLimits | None = None,
) -> Iterator[ServedPage]:
    """Serve the page until the block ends; without a source it asks visitors for their webcam."""
    options = PageOptions(source, "10min", host, 0, token, tls, (), opens=False, as_json=False)
    with ExitStack() as needed:
        bound = needed.enter_context(bound_socket("127.0.0.1", 0))
        qa = needed.enter_context(VideoQA.load(bundle, threads=1))
        started = threading.Event()
        server = page_server(options, qa, limits or LiveLimits(), needed, started.set)
        thread = threading.Thread(target=server.run, args=([bound],))
        url = url_of(bound, "http" if tls is None else "https")
        thread.start()
        try:
            assert started.wait(WAIT_SECONDS)
            with httpx2.Client(timeout=WAIT_SECONDS, verify=verify) as client:
                yield ServedPage(url, qa, client, token)
        finally:
            server.should_exit = True
            thread.join()


def jpeg(number: int, width_px: int = 64, height_px: int = 48) -> bytes:
    """A picture that differs from every other number's."""
    pixels = np.random.default_rng(number).integers(0, 255, (height_px, width_px, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()
