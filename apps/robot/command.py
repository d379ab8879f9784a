"""`tam-edge robot`: a Zenoh node that answers questions about a camera topic."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any

import pycdr2  # noqa: F401  first, so that its extra is the one named where it is missing
import typer

import tam_edge.apps.options as opt
from tam_edge.apps.render import print_json, say
from tam_edge.apps.robot.node import Node, NodeOptions, Reach, opened
from tam_edge.apps.robot.topic import Topic, checked_key
from tam_edge.apps.terminate import terminated_cleanly
from tam_edge.apps.watch.command import ConfirmText, Cooldown, Every, Last, make_wishes
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.live.inside import checked_horizon

Connect = Annotated[
    list[str] | None,
    typer.Option(
        "--connect",
        metavar="ENDPOINT",
        help="Zenoh router or peer to connect to; repeatable.  [default: tcp/127.0.0.1:7447, rmw_zenoh's router]",
    ),
]
Listen = Annotated[
    list[str] | None,
    typer.Option(
        "--listen",
        metavar="ENDPOINT",
        help="Where others may connect; repeatable.  [default: tcp/127.0.0.1:0, this machine alone]",
    ),
]
Discover = Annotated[
    bool,
    typer.Option("--discover", help="Look for others: by multicast, and through those it is connected to."),
]
TopicName = Annotated[
    str | None,
    typer.Option("--topic", metavar="NAME", help="Topic with JPEG bytes, or a ROS 2 Image or CompressedImage."),
]
Source = Annotated[
    str | None, typer.Option("--source", metavar="S", help="Instead of a topic: what `tam-edge watch` takes.")
]
Name = Annotated[str, typer.Option("--name", metavar="NAME", help="Queries go to NAME/ask, events to NAME/events.")]
Rules = Annotated[
    list[str] | None,
    typer.Option("--rule", metavar="TEXT", help="Publish an event where this yes/no question is so; repeatable."),
]
Horizon = Annotated[str, typer.Option("--horizon", metavar="TIME", help="How far back can be asked.")]
Queue = Annotated[int, typer.Option("--queue", metavar="N", min=1, max=64, help="Most queries that wait.")]


def robot(
    topic: TopicName = None,
    source: Source = None,
    name: Name = "tam-edge",
    connect: Connect = None,
    listen: Listen = None,
    discover: Discover = False,
    rule: Rules = None,
    every: Every = "5s",
    last: Last = "10s",
    confirm: ConfirmText = "2/3",
    cooldown: Cooldown = "1min",
    horizon: Horizon = "10min",
    queue: Queue = 8,
    model: opt.Model = None,
    memory: opt.Memory = None,
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    as_json: opt.AsJson = False,
    verbose: opt.Verbose = False,
) -> None:
    """Answer questions about a camera topic over Zenoh, and publish what rules find.

    A query to NAME/ask has JSON such as {"question": "is the way free?", "last": "5s"} as its payload. Only this
    machine is talked to unless --connect, --listen or --discover say otherwise. ROS 2's rmw_zenoh needs its router
    on this machine: ros2 run rmw_zenoh_cpp rmw_zenohd.
    """
    opt.show_log(verbose)
    if (topic is None) == (source is None):
        raise UsageError("say either --topic or --source")
    checked_horizon(horizon, "--horizon")
    wishes = make_wishes(rule or (), every, last, confirm, cooldown)
    options = NodeOptions(checked_key(name, "--name"), wishes, horizon, queue)
    pictures = Topic(topic, say) if topic is not None else source
    assert pictures is not None
    reach = Reach(tuple(connect or ("tcp/127.0.0.1:7447",)), tuple(listen or ("tcp/127.0.0.1:0",)), discover)
    with terminated_cleanly(), ExitStack() as open_parts:
        qa = open_parts.enter_context(opt.load(model, memory, device, threads))
        session = open_parts.enter_context(opened(reach))

        def tell(event: dict[str, Any]) -> None:
            if as_json:
                print_json(event)

        node = Node(session, qa, pictures, options, tell, say)
        tell({"event": "started", "ask": node.ask_key, "events": node.events_key})
        node.run()
