"""`tam-edge watch`: standing yes/no rules about a camera, events as JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

import tam_edge.apps.options as opt
from tam_edge.apps.render import print_json, say
from tam_edge.apps.terminate import terminated_cleanly
from tam_edge.apps.watch.evidence import EvidenceFolder
from tam_edge.apps.watch.firing import parse_confirm
from tam_edge.apps.watch.pace import Pace, Paced, WallClock
from tam_edge.apps.watch.recorded import recorded
from tam_edge.apps.watch.verdict import check_rule
from tam_edge.apps.watch.watcher import Watcher, WatchEvent, Wishes
from tam_edge.apps.watch.webhook import Webhook
from tam_edge.runtime.duration import duration_seconds
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.live.session import Live
from tam_edge.runtime.live.sources.drawn import Drawn
from tam_edge.runtime.session import VideoQA

SHORTEST_SECONDS, LONGEST_SECONDS = 0.2, 3600.0
"""What --every and --last may be."""
SPARE = 3.0
"""The window reaches so many times as far back as checks look."""

Source = Annotated[
    str, typer.Option("--source", metavar="S", help="Camera number, address, GStreamer pipeline or file.")
]
Rules = Annotated[
    list[str],
    typer.Option("--rule", metavar="TEXT", help="Question that yes or no can answer; several are checked in turn."),
]
Every = Annotated[str, typer.Option("--every", metavar="TIME", help="How often each rule is checked.")]
Last = Annotated[str, typer.Option("--last", metavar="TIME", help="How far back a check looks.")]
ConfirmText = Annotated[
    str, typer.Option("--confirm", metavar="K/N", help="A rule fires when K of its last N checks said yes.")
]
Cooldown = Annotated[
    str,
    typer.Option(
        "--cooldown",
        metavar="TIME",
        help="After it fired a rule is quiet for so long, and until N checks in a row have not said yes.",
    ),
]
Evidence = Annotated[
    Path | None, typer.Option("--evidence", metavar="DIR", help="Save the frames of each event `fired` there, as JPEG.")
]
Keep = Annotated[int, typer.Option("--keep", metavar="N", min=1, help="Most pictures in DIR; the oldest are deleted.")]
WebhookUrl = Annotated[
    str | None, typer.Option("--webhook", metavar="URL", help="POST every event there, as JSON, beside printing it.")
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host", metavar="NAME", help="Host of the webhook that may be a private one, as localhost is."
    ),
]
AllChecks = Annotated[bool, typer.Option("--all-checks", help="Print every check, not only events.")]
Fast = Annotated[bool, typer.Option("--fast", help="Read a file as fast as checks allow, on its own clock.")]
AsJson = Annotated[bool, typer.Option("--json", help="Changes nothing: events are JSON lines.")]


def watch(
    source: Source,
    rule: Rules,
    every: Every = "5s",
    last: Last = "10s",
    confirm: ConfirmText = "2/3",
    cooldown: Cooldown = "1min",
    evidence: Evidence = None,
    keep: Keep = 1000,
    webhook: WebhookUrl = None,
    allow_host: AllowHost = None,
    all_checks: AllChecks = False,
    fast: Fast = False,
    model: opt.Model = None,
    memory: opt.Memory = None,
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    as_json: AsJson = False,
    verbose: opt.Verbose = False,
) -> None:
    """Watch a camera for what yes/no rules ask, and print events as JSON lines.

    A rule fires when --confirm of its last checks said yes; an answer that is neither yes nor no is no yes, and told as
    "unknown". A lost camera is connected to again. Ends with a file, or with Ctrl-C.
    """
    opt.show_log(verbose)
    wishes = make_wishes(rule, every, last, confirm, cooldown, all_checks)
    with terminated_cleanly(), ExitStack() as open_parts:
        folder = EvidenceFolder(evidence, keep) if evidence else None
        hook = Webhook(webhook, say, {name.lower() for name in allow_host or ()}) if webhook else None
        if hook:
            open_parts.callback(hook.close)
        qa = open_parts.enter_context(opt.load(model, memory, device, threads))
        live, pace = _started(qa, source, wishes, fast, open_parts)
        status = live.status
        count = f"{len(wishes.rules)} rule{'s' * (len(wishes.rules) > 1)}"
        say(f"watching {status.source}: {count} every {wishes.every_seconds:g} s. Ctrl-C ends it.")
        _run(Watcher(live, wishes, pace, _teller(folder, hook), say), hook)


def make_wishes(
    rules: Sequence[str], every: str, last: str, confirm: str, cooldown: str, all_checks: bool = False
) -> Wishes:
    """Read what was asked for.

    Raises: UsageError.
    """
    seconds = {name: duration_seconds(text, f"--{name}") for name, text in (("every", every), ("last", last))}
    for name, value in seconds.items():
        if not SHORTEST_SECONDS <= value <= LONGEST_SECONDS:
            raise UsageError(f"--{name} is {value:g} s: take {SHORTEST_SECONDS:g} s to 1 h")
    quiet = 0.0 if cooldown.strip() in ("0", "0s") else duration_seconds(cooldown, "--cooldown")
    questions = tuple(dict.fromkeys(check_rule(question) for question in rules))
    return Wishes(questions, seconds["every"], seconds["last"], parse_confirm(confirm), quiet, all_checks)


def horizon_of(wishes: Wishes) -> float:
    """How far back the window has to reach, in seconds."""
    return max(10.0, SPARE * wishes.last_seconds)


def _started(qa: VideoQA, source: str, wishes: Wishes, fast: bool, open_parts: ExitStack) -> tuple[Live, Pace]:
    horizon = horizon_of(wishes)
    if not fast:
        return open_parts.enter_context(qa.live(source, horizon=horizon, keep_ready=False)), WallClock()
    paced = Paced(recorded(source, qa.bundle.manifest.routing.frames_per_second))
    played = Drawn(paced, source)
    live = open_parts.enter_context(qa.live(played, horizon=horizon, keep_ready=False, every_frame=True))
    open_parts.callback(paced.stop)  # first: closing the session waits for its reader
    return live, paced


def _run(watcher: Watcher, hook: Webhook | None) -> None:
    """Watch to the end, whichever it is; what waits for the webhook is delivered or said, and what was done told."""
    hurry = False
    try:
        watcher.run()
    except (KeyboardInterrupt, SystemExit):
        hurry = True
        raise
    finally:
        if hook:
            hook.finish(hurry=hurry)
        say(watcher.tally.text())


def _teller(folder: EvidenceFolder | None, hook: Webhook | None) -> Callable[[WatchEvent], None]:
    def tell(event: WatchEvent) -> None:
        value = event.to_json() | _saved(folder, event)
        print_json(value)
        if hook:
            hook.post(value)

    return tell


def _saved(folder: EvidenceFolder | None, event: WatchEvent) -> dict[str, Any]:
    """The names of the pictures of an event that fired."""
    if folder is None or event.kind != "fired":
        return {}
    try:
        return {"files": [str(path) for path in folder.save(event)]}
    except OSError as error:
        say(f"the evidence of an event is not saved: {error.strerror}")
        return {"files": []}
