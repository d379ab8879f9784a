"""A real server for tests: the runtime, our routes and uvicorn in a thread, on a socket of this machine."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
from openai import OpenAI
from PIL import Image

from tam_edge.apps.serve.limits import ServeLimits
from tam_edge.apps.serve.metrics import Counted
from tam_edge.apps.serve.routes import OPEN_PATHS, make_app
from tam_edge.apps.serve.service import Reach, Service, make_service
from tam_edge.apps.web.guard import Guard
from tam_edge.apps.web.listening import Server, bound_socket, url_of
from tam_edge.runtime import VideoQA

WAIT_SECONDS = 120


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    url: str
    """Without a path."""
    service: Service
    """What it consists of."""

    def client(self, token: str = "none", retries: int = 0) -> OpenAI:
        """OpenAI's own client."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=token, max_retries=retries, timeout=WAIT_SECONDS)

    def post(self, body: object, **headers: str) -> httpx2.Response:
        """A chat request as it is."""
        return httpx2.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=WAIT_SECONDS)


@contextmanager
def served(
    bundle: Path | None = None,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    directories: Sequence[Path] = (),
    allow_http: bool = False,
    allowed_hosts: Sequence[str] = (),
    limits: ServeLimits | None = None,
) -> Iterator[Served]:
    """Serve a bundle, by default the installed one, until the block ends."""
    folders = tuple(folder.resolve() for folder in directories)
    limits = limits or ServeLimits()
    reach = Reach(host, token, folders, allow_http, frozenset(allowed_hosts))
    with ExitStack() as needed:
        bound = needed.enter_context(bound_socket("127.0.0.1", 0))
        qa = needed.enter_context(VideoQA.load(bundle, threads=1))
        service = make_service(qa, limits, reach, needed)
        started = threading.Event()
        app = Counted(Guard(make_app(service), host, token, OPEN_PATHS), service.metrics)
        server = Server(app, service.worker.close, started.set)
        thread = threading.Thread(target=server.run, args=([bound],))
        url = url_of(bound)
        thread.start()
        try:
            assert started.wait(WAIT_SECONDS)
            yield Served(url, service)
        finally:
            server.should_exit = True
            thread.join()


def png(number: int, side_px: int = 64) -> bytes:
    """A picture that differs from every other number's."""
    pixels = np.random.default_rng(number).integers(0, 255, (side_px, side_px, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    """The content as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(number: int) -> dict[str, object]:
    """A message part that shows a picture."""
    return {"type": "image_url", "image_url": {"url": data_url(png(number))}}


def asking(text: str, *shown: dict[str, object]) -> list[dict[str, object]]:
    """The messages of a first question."""
    return [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]


def body(messages: list[dict[str, object]], model: str = "tiny", **options: object) -> dict[str, object]:
    """A request's body."""
    return {"model": model, "messages": messages, **options}
