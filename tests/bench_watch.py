"""A synthetic hour, watched faster than real time: is every event told once, in time, and nothing else?

    PYTHONPATH=tests python -m bench_watch [--minutes 60] [--place park] [--weather cloudy] [--bundle FOLDER]

Every 90 s somebody comes for about half a minute; every second one of them digs. A dog and a sign are always there.
Prints for each rule what was missed, invented and late. Exit code 1 where a rule of AIMS was not told rightly: those
that the bundled model was trained to understand. SHOWN are asked as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from street_hour import Happening, frames, happenings

from tam_edge.apps.watch.firing import Confirm
from tam_edge.apps.watch.pace import Paced
from tam_edge.apps.watch.watcher import Tally, Watcher, WatchEvent, Wishes
from tam_edge.runtime import VideoQA

PART_SECONDS = 90.0
DOINGS = ("digging", "waving", "digging", "bag", "digging", "hips")
ANYBODY, PERSON = "is there anybody?", "is there a person?"
DIGGING, WAVING = "is the person in red digging?", "is the person in red waving?"
ACTIONS = {DIGGING: "digging", WAVING: "waving"}
AIMS, SHOWN = (ANYBODY, DIGGING), (WAVING, PERSON)
EVERY_SECONDS, LAST_SECONDS, CONFIRM = 5.0, 10.0, Confirm(2, 3)
LATEST_SECONDS = (CONFIRM.of + 1) * EVERY_SECONDS
"""Aim: the last of the checks that may confirm it, and one more for where between two checks it begins."""


@dataclass(frozen=True)
class Told:
    """How one rule did."""

    rule: str
    happened: int
    told: int
    missed: int
    invented: int
    latest_seconds: float


def compared(rule: str, happened: Sequence[Happening], at: Iterable[float]) -> Told:
    """Each event may be told once, between its begin and what its last check still sees of it."""
    left, delays, invented = list(at), list[float](), 0
    told = len(left)
    for one in happened:
        inside = [moment for moment in left if one.enters <= moment <= one.leaves + LAST_SECONDS]
        if inside:
            delays.append(inside[0] - one.enters)
            left.remove(inside[0])
    invented = len(left)
    return Told(rule, len(happened), told, len(happened) - len(delays), invented, max(delays, default=0.0))


def watched(
    qa: VideoQA, happened: Sequence[Happening], seconds: float, wishes: Wishes, place: str, weather: str
) -> tuple[dict[str, list[float]], Tally, list[WatchEvent]]:
    """Seconds from the first frame at which each rule fired, the tally, and all events."""
    events = list[WatchEvent]()
    with ExitStack() as parts:
        paced = Paced(frames(happened, seconds, place=place, weather=weather))
        live = parts.enter_context(qa.live(paced, horizon="30s", keep_ready=False, every_frame=True))
        parts.callback(paced.stop)
        tally = Watcher(live, wishes, paced, events.append, lambda text: print(text, file=sys.stderr)).run()
        start = live.status.started_seconds
    fired = {rule: list[float]() for rule in wishes.rules}
    for event in events:
        if event.kind == "fired":
            fired[event.rule or ""].append(round(event.time_seconds - start, 3))
    return fired, tally, events


def told_by_rule(fired: dict[str, list[float]], happened: Sequence[Happening]) -> dict[str, Told]:
    """How each rule did; one about an action is about those who do it."""
    return {
        rule: compared(rule, [one for one in happened if ACTIONS.get(rule, one.doing) == one.doing], at)
        for rule, at in fired.items()
    }


def main() -> int:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--place", default="park")
    parser.add_argument("--weather", default="cloudy")
    parser.add_argument("--bundle")
    parser.add_argument("--threads", type=int, default=1, help="more wait for each other on a busy machine")
    asked = parser.parse_args()
    seconds = 60.0 * asked.minutes
    happened = happenings(int(seconds / PART_SECONDS), seconds, DOINGS)
    wishes = Wishes((*AIMS, *SHOWN), EVERY_SECONDS, LAST_SECONDS, CONFIRM, cooldown_seconds=30.0)
    began, used = time.monotonic(), time.process_time()
    with VideoQA.load(asked.bundle, threads=asked.threads) as qa:
        fired, tally, _ = watched(qa, happened, seconds, wishes, asked.place, asked.weather)
    told = told_by_rule(fired, happened)
    facts = {"wall_seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - used}
    print(json.dumps(facts | asdict(tally) | {"rules": [asdict(one) for one in told.values()]}, indent=2))
    aims = (told[rule] for rule in AIMS)
    return int(any(one.missed or one.invented or one.latest_seconds > LATEST_SECONDS for one in aims))


if __name__ == "__main__":
    sys.exit(main())
