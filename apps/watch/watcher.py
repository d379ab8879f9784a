"""Checks rules about a live session in turn, again and again, and tells what comes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Literal

from tam_edge.apps.watch.firing import TWO_OF_THREE, Confirm, Standing, after_gap, decide
from tam_edge.apps.watch.pace import Pace
from tam_edge.apps.watch.verdict import Verdict, verdict_of
from tam_edge.runtime.errors import BusyError, TamEdgeError, VideoError
from tam_edge.runtime.live.answers import LiveAnswer, LiveEvidence
from tam_edge.runtime.live.events import iso
from tam_edge.runtime.live.session import Live

MOST_TOKENS = 16
"""Longest answer to a rule: its first word decides."""
_POLL_SECONDS = 0.2
Kind = Literal["fired", "unknown", "check", "lost", "back", "ended", "failed"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is watched for, and how often."""

    rules: tuple[str, ...]
    """Questions that can be answered with yes or no."""
    every_seconds: float = 5.0
    """Between two checks of a rule."""
    last_seconds: float = 10.0
    """How far back a check looks."""
    confirm: Confirm = TWO_OF_THREE
    """How many yes it takes."""
    cooldown_seconds: float = 60.0
    """How long a rule is quiet after it fired, at least."""
    all_checks: bool = False
    """Whether every check is an event."""


@dataclass(frozen=True, slots=True)
class Check:
    """A rule, checked once."""

    time_seconds: float
    """When, as `time.time()` counts."""
    verdict: Verdict
    """Yes, no or neither."""
    answer: str
    """What the model said."""
    probability: float | None
    """What probability the model gave to the first token of the answer, so to yes or no."""

    def to_json(self) -> dict[str, Any]:
        """A JSON value."""
        when = {"time": iso(self.time_seconds), "time_seconds": self.time_seconds}
        return when | {"verdict": self.verdict, "answer": self.answer, "confidence": self.probability}


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """Something to be told."""

    kind: Kind
    """A rule fired, its answer is neither yes nor no, it was checked; or what became of the source."""
    time_seconds: float
    """When, as `time.time()` counts."""
    rule: str | None = None
    """The question."""
    text: str = ""
    """About the source, in plain English."""
    checks: tuple[Check, ...] = ()
    """The checks that decided, oldest first."""
    evidence: tuple[LiveEvidence, ...] = field(default=(), repr=False)
    """The frames that the newest yes rests on."""

    def to_json(self) -> dict[str, Any]:
        """A JSON value; pictures are left out."""
        value: dict[str, Any] = {"event": self.kind, "time": iso(self.time_seconds), "time_seconds": self.time_seconds}
        if self.rule is None:
            return value | {"text": self.text}
        known = [check.probability for check in self.checks if check.verdict == "yes" and check.probability is not None]
        value |= {"rule": self.rule, "checks": [check.to_json() for check in self.checks]}
        return value | {
            "confidence": sum(known) / len(known) if known else None,
            "evidence": [frame.to_json() for frame in self.evidence],
        }


@dataclass(slots=True)
class Tally:
    """What was done so far."""

    watched_seconds: float = 0.0
    """How long, on the stream's clock."""
    checks: int = 0
    """Answers that were got."""
    unknown: int = 0
    """Those that were neither yes nor no."""
    left_out: int = 0
    """Checks that were due and not made: the source was away, or the one before took too long."""
    fired: dict[str, int] = field(default_factory=dict)
    """How often each rule fired."""

    def text(self) -> str:
        """One line."""
        fired = ", ".join(f"{count} x {rule!r}" for rule, count in self.fired.items())
        beside = "".join(
            f", {count} {what}" for count, what in ((self.unknown, "unknown"), (self.left_out, "left out")) if count
        )
        return f"watched {self.watched_seconds:.0f} s, {self.checks} checks{beside}; events: {fired}"


class _Rule:
    def __init__(self, question: str, confirm: Confirm) -> None:
        self.question = question
        self.standing = Standing()
        self.checks: deque[Check] = deque(maxlen=confirm.of)
        self.evidence: tuple[LiveEvidence, ...] = ()


class Watcher:
    """Watches one live session."""

    def __init__(
        self, live: Live, wishes: Wishes, pace: Pace, tell: Callable[[WatchEvent], None], say: Callable[[str], None]
    ) -> None:
        """`tell` gets every event, `say` what a person should know; neither may take long."""
        self.tally = Tally(fired=dict.fromkeys(wishes.rules, 0))
        """What was done so far."""
        self._live, self._wishes, self._pace, self._tell, self._say = live, wishes, pace, tell, say
        self._rules = [_Rule(question, wishes.confirm) for question in dict.fromkeys(wishes.rules)]
        self._heard = 0
        self._complained = set[str]()

    def run(self, stop: Event | None = None) -> Tally:
        """Check until the source is over or `stop` is set.

        Raises: TamEdgeError if the source or the model fails for good.
        """
        try:
            self._watch(stop or Event())
        finally:
            self.tally.watched_seconds = self._pace.now()
        return self.tally

    def _watch(self, stop: Event) -> None:
        due = self._wishes.every_seconds
        while not stop.is_set():
            came = self._pace.wait(self._live, due, _POLL_SECONDS)
            self._hear()
            if came:
                self._check_all(stop)
                due = self._next(due)
                continue
            state = self._live.status.state
            if state in ("ended", "closed"):
                return
            if state == "failed":
                raise TamEdgeError(self._live.status.problem)

    def _next(self, due: float) -> float:
        """When the next check is due: moments that have passed meanwhile are left out."""
        every, late = self._wishes.every_seconds, self._pace.now() - due
        passed = int(max(0.0, late) / every)
        if passed:
            self.tally.left_out += passed * len(self._rules)
            self._complain(
                "late", f"the checks take {late:.1f} s, longer than {every:g} s: some are left out (--every)"
            )
        return due + (1 + passed) * every

    def _hear(self) -> None:
        """Tell what became of the source meanwhile."""
        for event in self._live.events_after(self._heard):
            self._heard = event.number
            if event.kind in ("lost", "back", "ended", "failed", "memory"):
                self._say(event.text)
            if event.kind == "lost":
                for rule in self._rules:
                    rule.standing = after_gap(rule.standing)
                    rule.checks.clear()
            if event.kind in ("lost", "back", "ended", "failed"):
                at = self._pace.unix(self._live, event.time_seconds)
                self._tell(WatchEvent(event.kind, at, text=event.text))

    def _check_all(self, stop: Event) -> None:
        for rule in self._rules:
            if stop.is_set():
                return
            if self._live.status.state == "reconnecting":
                self.tally.left_out += 1
                continue
            try:
                answer = self._live.ask(rule.question, last=self._wishes.last_seconds, max_tokens=MOST_TOKENS)
            except (BusyError, VideoError) as error:
                self.tally.left_out += 1
                self._complain("left out", f"a check was left out: {error}")
                continue
            self._weigh(rule, answer)

    def _weigh(self, rule: _Rule, answer: LiveAnswer) -> None:
        """What follows from an answer."""
        now, wishes = self._pace.now(), self._wishes
        check = Check(
            self._pace.unix(self._live), verdict_of(answer.text), answer.text, answer.answer.first_token_probability
        )
        before = rule.checks[-1].verdict if rule.checks else None
        rule.checks.append(check)
        if check.verdict == "yes":
            rule.evidence = answer.evidence
        self.tally.checks += 1
        self.tally.unknown += check.verdict == "unknown"
        if wishes.all_checks:
            self._event("check", rule, (check,), answer.evidence)
        elif check.verdict == "unknown" and before != "unknown":
            self._event("unknown", rule, (check,), answer.evidence)
        rule.standing, fires = decide(rule.standing, check.verdict, now, wishes.confirm, wishes.cooldown_seconds)
        if fires:
            self.tally.fired[rule.question] += 1
            self._event("fired", rule, tuple(rule.checks), rule.evidence)

    def _event(self, kind: Kind, rule: _Rule, checks: Sequence[Check], evidence: tuple[LiveEvidence, ...]) -> None:
        self._tell(WatchEvent(kind, checks[-1].time_seconds, rule.question, "", tuple(checks), evidence))

    def _complain(self, kind: str, text: str) -> None:
        """Say the first of each kind."""
        if kind not in self._complained:
            self._complained.add(kind)
            self._say(text)
