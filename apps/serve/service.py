"""What the routes share, put together: files before this one do the work, `routes.py` lets others ask for it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tam_edge.apps.serve.download import Downloader
from tam_edge.apps.serve.limits import ServeLimits
from tam_edge.apps.serve.metrics import Metrics
from tam_edge.apps.serve.sources import Sources
from tam_edge.apps.serve.store import MediaStore
from tam_edge.apps.serve.work import Answering, Job
from tam_edge.apps.web.body import BodyRoom
from tam_edge.apps.web.worker import Worker
from tam_edge.runtime.session import VideoQA


@dataclass(frozen=True, slots=True)
class Reach:
    """Who reaches the server, and what it reaches for them."""

    host: str
    """Name or address to listen on."""
    token: str | None
    """What clients must send."""
    directories: tuple[Path, ...]
    """Folders whose files may be asked about, resolved."""
    allow_http: bool
    """Whether URLs are fetched."""
    allowed_hosts: frozenset[str]
    """Private hosts that may be fetched from."""


@dataclass(frozen=True)
class Service:
    """What the routes share."""

    model: str
    """The bundle's name."""
    most_tokens: int
    """Longest answer of the bundle."""
    sources: Sources
    """What is looked at for others."""
    store: MediaStore
    """What came with requests."""
    room: BodyRoom
    """What reads bodies."""
    worker: Worker[Job]
    """What answers."""
    metrics: Metrics
    """What is counted."""


def make_service(qa: VideoQA, limits: ServeLimits, reach: Reach, needed: ExitStack) -> Service:
    """Everything the routes use; `needed` ends it."""
    store, numbers = MediaStore(limits), Metrics(qa.limit.limit_bytes + limits.reserve_bytes)
    needed.callback(store.close)
    worker = Worker(Answering(qa, limits), limits.waiting, on_end=numbers.ended)
    needed.callback(worker.close)
    numbers.watch("waiting", "Questions in the queue.", lambda: worker.waiting)
    numbers.watch("answering", "Questions being answered.", lambda: worker.busy)
    numbers.watch("stored_bytes", "Pictures and videos kept on the disk.", lambda: store.size_bytes)
    downloader = Downloader(limits, reach.allowed_hosts) if reach.allow_http else None
    return Service(
        model=qa.bundle.manifest.name,
        most_tokens=qa.bundle.manifest.language.max_output_tokens,
        sources=Sources(limits, reach.directories, downloader),
        store=store,
        room=BodyRoom(limits),
        worker=worker,
        metrics=numbers,
    )
