"""What Prometheus reads: who asked, how it ended, how long it took, and how much memory there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from tam_edge.apps.serve.work import Event, Finished, Job
from tam_edge.apps.web.problem import ServeError
from tam_edge.runtime.budget import peak_resident_bytes, resident_bytes

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

disable_created_metrics()  # a second series beside every counter, which nobody asks for
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


@dataclass(frozen=True)
class Counted:
    """An ASGI application whose requests are counted."""

    app: ASGIApp
    """What is counted."""
    metrics: Metrics
    """Where."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note its status."""

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.request(getattr(scope.get("route"), "path", "other"), message["status"])
            await send(message)

        await self.app(scope, receive, noting)


class Metrics:
    """Counters of one server."""

    def __init__(self, limit_bytes: int) -> None:
        """`limit_bytes` is the ceiling on the process's memory."""
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests by path and HTTP status.", "path", "status")
        self._ended = self._counter("questions", "Questions by how they ended.", "outcome")
        self._tokens = self._counter("tokens", "Tokens by kind.", "kind")
        self._reused = self._counter("reused_prompt_tokens", "Tokens that an earlier question had left.")
        self._queue = self._histogram("queue_seconds", "Waiting before a question is taken up.")
        self._first = self._histogram("first_token_seconds", "From then to the first word.")
        self._total = self._histogram("answer_seconds", "From then to the last word.")
        self.watch("memory_limit_bytes", "Ceiling on the peak resident set.", lambda: limit_bytes)
        self.watch("memory_peak_bytes", "Peak resident set.", peak_resident_bytes)
        self.watch("memory_resident_bytes", "Resident set.", resident_bytes)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a value as it is whenever somebody looks."""
        Gauge(name, text, namespace="tam_edge", registry=self._registry).set_function(value)

    def request(self, path: str, status: int) -> None:
        """Count a request by the route it took."""
        self._requests.labels(path, str(status)).inc()

    def ended(self, job: Job, event: Event | None) -> None:
        """Count a question; None where whoever asked it had gone."""
        if isinstance(event, Finished):
            answer, timings = event.answer, event.answer.timings
            self._ended.labels("answered").inc()
            self._tokens.labels("visual").inc(answer.plan.visual_tokens)
            self._tokens.labels("prompt").inc(answer.prompt_tokens)
            self._tokens.labels("answer").inc(answer.answer_tokens)
            self._reused.inc(answer.cache["prefix_tokens_reused"])
            self._queue.observe(event.waited_ms / 1000)
            self._first.observe(timings.first_token / 1000)
            self._total.observe(timings.total / 1000)
        else:
            self._ended.labels("failed" if isinstance(event, ServeError) else "abandoned").inc()

    def text(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace="tam_edge", registry=self._registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, namespace="tam_edge", registry=self._registry, buckets=_SECONDS)
