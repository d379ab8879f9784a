"""When a rule fires. Pure: verdicts and times in, decisions out.

A rule fires when k of its last n checks said yes. Then it is quiet until two things have happened: its cool-down is
over, and what it is about was over, which is so once n checks in a row have not said yes. Hence something that goes on
is told once, however long it takes and though a check in between be wrong; and what begins while the rule cools down
is told when that ends, if it still goes on. "Unknown" is no yes. When the source is lost the checks before count no
more, but what was told stays told.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from tam_edge.apps.watch.verdict import Verdict
from tam_edge.runtime.errors import UsageError

MOST_CHECKS = 100
"""Most checks that are looked back at."""


@dataclass(frozen=True, slots=True)
class Confirm:
    """How many yes it takes."""

    yes: int = 2
    """Checks that must say yes."""
    of: int = 3
    """Among so many last ones."""


TWO_OF_THREE = Confirm()


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a rule stands."""

    votes: tuple[bool, ...] = ()
    """Whether the last checks said yes, oldest first, at most `Confirm.of`."""
    armed: bool = True
    """Whether what the rule is about was over since it fired last."""
    quiet_until: float = -math.inf
    """End of the cool-down, in seconds of whatever clock `decide` is given."""


def decide(
    standing: Standing, verdict: Verdict, now: float, confirm: Confirm, cooldown_seconds: float
) -> tuple[Standing, bool]:
    """Where the rule stands after a check at time `now`, and whether it fires."""
    votes = (*standing.votes, verdict == "yes")[-confirm.of :]
    armed = standing.armed or (len(votes) == confirm.of and not any(votes))
    if armed and sum(votes) >= confirm.yes and now >= standing.quiet_until:
        return Standing(votes, armed=False, quiet_until=now + cooldown_seconds), True
    return Standing(votes, armed, standing.quiet_until), False


def after_gap(standing: Standing) -> Standing:
    """Where the rule stands when nothing was seen for a while."""
    return Standing((), standing.armed, standing.quiet_until)


def parse_confirm(text: str) -> Confirm:
    """Read "2/3".

    Raises: UsageError.
    """
    found = re.fullmatch(r"\s*(\d{1,3})\s*/\s*(\d{1,3})\s*", text, re.ASCII)
    confirm = Confirm(int(found[1]), int(found[2])) if found else Confirm(0, 0)
    if not 1 <= confirm.yes <= confirm.of <= MOST_CHECKS:
        raise UsageError(f"--confirm is {text[:40]!r}: write how many of how many checks, such as 2/3")
    return confirm
