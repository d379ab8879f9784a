"""The node: a Zenoh session, a camera topic (or a camera at this device), questions and rules."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event
from typing import Any

import zenoh

from tam_edge.apps.robot.asking import JSON_ENCODING, Asking, dumped
from tam_edge.apps.robot.topic import Topic
from tam_edge.apps.watch.pace import WallClock
from tam_edge.apps.watch.watcher import Tally, Watcher, WatchEvent, Wishes
from tam_edge.runtime.errors import TamEdgeError
from tam_edge.runtime.live.sources import LiveSource
from tam_edge.runtime.session import VideoQA

_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Reach:
    """Which parts of the network the node talks to."""

    connect: tuple[str, ...]
    """Zenoh endpoints to connect to, and to again after they were lost."""
    listen: tuple[str, ...]
    """Endpoints to listen on."""
    discover: bool = False
    """Whether others are looked for: by multicast, and through those it is connected to."""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What a node does."""

    name: str
    """Keys begin with it."""
    wishes: Wishes
    """Its rules; there may be none."""
    horizon: float | str = "10min"
    """How far back can be asked."""
    waiting: int = 8
    """Queries that may wait."""


def opened(reach: Reach) -> zenoh.Session:
    """A session; endpoints that cannot be reached yet are tried on.

    Raises: TamEdgeError.
    """
    try:
        config = zenoh.Config()
        config.insert_json5("mode", '"peer"')
        config.insert_json5("scouting/multicast/enabled", json.dumps(reach.discover))
        if not reach.discover:
            # Gossip names whom a router knows, on other machines too: we connect to none of them, they may to us.
            # Where two could, as in rmw_zenoh, the one with the greater id does, so ours is small however it is read.
            config.insert_json5("scouting/gossip/autoconnect", '{"router": [], "peer": []}')
            config.insert_json5("id", json.dumps(f"{(secrets.randbits(63) + 1) << 32:x}"))
        config.insert_json5("connect/endpoints", json.dumps(reach.connect))
        config.insert_json5("connect/exit_on_failure", "false")
        config.insert_json5("listen/endpoints", json.dumps(reach.listen))
        return zenoh.open(config)
    except zenoh.ZError as error:
        text = str(error).partition(" at /")[0]
        raise TamEdgeError(
            f"no Zenoh session ({text}): check --connect and --listen, such as tcp/127.0.0.1:7447"
        ) from None


class Node:
    """Answers and publishes until its source is over."""

    def __init__(
        self,
        session: zenoh.Session,
        qa: VideoQA,
        source: Topic | str,
        options: NodeOptions,
        tell: Callable[[dict[str, Any]], None],
        say: Callable[[str], None],
    ) -> None:
        """`tell` gets every event as it is published, `say` what a person should know."""
        self._session, self._qa, self._source, self._options = session, qa, source, options
        self._tell, self._say = tell, say
        self.ask_key, self.events_key = f"{options.name}/ask", f"{options.name}/events"

    def run(self, stop: Event | None = None) -> Tally:
        """Answer and publish until the source is over or `stop` is set.

        Raises: TamEdgeError.
        """
        stop, options = stop or Event(), self._options
        with ExitStack() as parts:
            asking = Asking(self.ask_key, options.waiting)
            parts.callback(asking.close)
            publisher = parts.enter_context(self._session.declare_publisher(self.events_key, encoding=JSON_ENCODING))
            if isinstance(self._source, Topic):
                for key in self._source.keys:
                    parts.enter_context(self._session.declare_subscriber(key, self._source.put))
            parts.enter_context(self._session.declare_queryable(self.ask_key, asking.take, complete=True))
            self._say(f"answers at {self.ask_key}, events at {self.events_key}")
            if not self._first_picture(stop):
                return Tally()
            source: LiveSource | str = self._source
            live = parts.enter_context(self._qa.live(source, horizon=options.horizon, queue=options.waiting))
            asking.live = live
            self._say(f"looking at {live.status.source}")
            self._tell({"event": "live", "source": live.status.source})

            def tell(event: WatchEvent) -> None:
                value = {"node": options.name, **event.to_json()}
                publisher.put(dumped(value))
                self._tell(value)

            return Watcher(live, options.wishes, WallClock(), tell, self._say).run(stop)

    def _first_picture(self, stop: Event) -> bool:
        """Wait for it, however long that takes; False once `stop` is set."""
        if isinstance(self._source, Topic):
            self._say(f"waiting for a picture on {self._source.name}")
            while not self._source.wait_first(_POLL_SECONDS):
                if stop.is_set():
                    return False
        return True
