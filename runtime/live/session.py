"""A live session: a reader, an eye and a window, and the questions that are asked about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from time import perf_counter, time
from types import TracebackType
from typing import TYPE_CHECKING

from tam_edge.runtime.answer import Answer
from tam_edge.runtime.budget import resident_bytes
from tam_edge.runtime.errors import TamEdgeError, UsageError, VideoError
from tam_edge.runtime.inductor import check_question
from tam_edge.runtime.kept import Kept
from tam_edge.runtime.live.answers import LiveAnswer, LiveEvidence, LiveStream
from tam_edge.runtime.live.events import LiveEvent, LiveStatus, iso
from tam_edge.runtime.live.inside import Inside
from tam_edge.runtime.live.moments import Asked, Moment, asked_about
from tam_edge.runtime.live.pictures import LivePicture
from tam_edge.runtime.live.ready import Ready
from tam_edge.runtime.live.window import WindowVideo
from tam_edge.runtime.plan import Plan
from tam_edge.runtime.turns import Turns
from tam_edge.runtime.view import view_key

if TYPE_CHECKING:
    from tam_edge.runtime.session import VideoQA


class Live:
    """A camera that can be asked at any moment. Made by `VideoQA.live`; a context manager; any thread may ask."""

    def __init__(self, qa: VideoQA, kept: Kept, turns: Turns, inside: Inside) -> None:
        """Use `VideoQA.live`."""
        self._qa, self._kept, self._turns = qa, kept, turns
        self._reader, self._eye, self._window = inside.reader, inside.eye, inside.window
        self._log, self._line, self._ready = inside.log, inside.line, Ready(1 / inside.rate)
        self._room, self._spacing = inside.room, 1 / inside.rate
        self._answered = 0
        self._closed = False
        if inside.keep_ready:
            self._eye.idle = self._keep_ready
        try:
            self._eye.start()
        except BaseException:
            self.close()
            raise

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def events(self) -> tuple[LiveEvent, ...]:
        """The last events, oldest first."""
        return self._log.after()

    def events_after(self, number: int, timeout_seconds: float = 0.0) -> tuple[LiveEvent, ...]:
        """Events with a larger number than that; waits so long for one."""
        return self._log.after(number, timeout_seconds)

    @property
    def status(self) -> LiveStatus:
        """The session at a glance."""
        reader, eye, times = self._reader, self._eye, self._window.times()
        started = reader.started_unix
        return LiveStatus(
            source=reader.source.name,
            state="closed" if self._closed else "failed" if eye.problem is not None else reader.state,
            problem=str(eye.problem or reader.problem),
            started_seconds=started,
            newest_seconds=started + reader.newest.seconds,
            frames_read=reader.read,
            frames_seen=eye.seen,
            frames_dropped=reader.dropped,
            frames_kept=len(times),
            frames_most=self._window.most_frames,
            kept_from_seconds=started + times[0] if times else None,
            horizon_seconds=self._window.horizon_seconds,
            read_fps=reader.fps,
            seen_fps=eye.fps,
            look_ms=eye.look_ms,
            reconnects=reader.reconnects,
            questions_waiting=self._line.waiting,
            questions_answered=self._answered,
            window_bytes=self._room.window_bytes,
            resident_bytes=resident_bytes(),
            memory_limit_bytes=self._qa.limit.limit_bytes,
            given_up=self._room.given_up,
        )

    def picture(self) -> LivePicture:
        """The newest frame."""
        newest = self._reader.newest
        return LivePicture(newest.frame.pixels, self._reader.started_unix + newest.seconds)

    def stream(
        self,
        question: str,
        *,
        last: float | str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        history: Sequence[tuple[str, str]] = (),
        deadline: float | str | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> LiveStream:
        """Answer a question piece by piece, about the last seconds ("30s") or from one time of day to another.

        Left out, it is about all that the window covers. One question is answered at a time, the others wait in line;
        read a stream to its end, close it or let go of it, or they wait in vain.

        Raises: BusyError if too many wait already; QuestionError, UsageError if nothing was seen in that stretch;
            MemoryLimitError, DeadlineError, EngineError.
        """
        question, came, asked_unix = check_question(question), perf_counter(), time()
        about = self._about(last, since, until)
        place = self._line.enter()
        try:
            self._check_open()
            waited_ms = 1000 * (perf_counter() - came)
            self._eye.quiet.set()  # from here to the first piece the window stands still
            video, plan = self._looked_at(question, about, again=not history and deadline is None)
            stream = self._qa.stream(
                video,
                question,
                history=history,
                plan=plan,
                deadline=deadline,
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed,
            )
        except BaseException:
            self._eye.quiet.clear()
            place.leave()
            raise
        notes, pictures = self._notes(about, video), dict[float, bytes]()

        def first() -> None:
            if not pictures:
                pictures.update(self._pictures(stream.plan))
            self._eye.quiet.clear()

        def told(answer: Answer) -> LiveAnswer:
            first()
            return self._told(answer, question, about, video, asked_unix, waited_ms, notes, pictures)

        return LiveStream(stream, place, first, told)

    def ask(
        self,
        question: str,
        *,
        last: float | str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        history: Sequence[tuple[str, str]] = (),
        deadline: float | str | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> LiveAnswer:
        """Answer a question at once; otherwise as `stream`."""
        with self.stream(
            question,
            last=last,
            since=since,
            until=until,
            history=history,
            deadline=deadline,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
        ) as stream:
            for _ in stream:
                pass
            return stream.answer

    def close(self) -> None:
        """Stop looking and reading; questions that wait are refused. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._line.close()
            self._eye.close()
            self._reader.close()
            self._log.add("closed", "the live session is closed")

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the live session is closed: start another one")
        if self._eye.problem is not None:
            raise self._eye.problem

    def _about(self, last: float | str | None, since: Moment | None, until: Moment | None) -> Asked:
        started, now, horizon = self._reader.started_unix, self._reader.now(), self._window.horizon_seconds
        return asked_about(last, since, until, started_unix=started, now=now, horizon_seconds=horizon)

    def _looked_at(self, question: str, about: Asked, *, again: bool) -> tuple[WindowVideo, Plan | None]:
        """The stretch that is asked about; where it stands in the language model already, with the plan that saw it."""
        ready = self._ready.fitting(about.length_seconds, about.until) if again else None
        if ready is None:
            return self._stretch(about), None
        with self._turns:
            plan, view = self._qa.plan(ready, question), self._kept.view
        there = set(plan.timestamps_seconds) <= set(self._window.times())
        if view is None or view.key != view_key(ready, plan) or not there:
            return self._stretch(about), None
        end = ready.info.start_seconds + ready.info.duration_seconds
        why = f"All of it stood in the language model already; it ends {max(0.0, about.until - end):.1f} s before."
        return ready, replace(plan, reasons=(*plan.reasons, why))

    def _stretch(self, about: Asked) -> WindowVideo:
        """What the window holds of a stretch.

        Raises: VideoError if nothing was seen in it.
        """
        kept = self._window.times()
        times = self._window.times(about.since, about.until) or _nearest(kept, about)
        if not times:
            raise VideoError(self._reader.source.name, self._nothing_seen(kept))
        since = min(max(about.since, kept[0]), times[0])
        until = max(min(about.until, times[-1] + self._spacing), times[-1], since + 1e-3)
        frame = self._reader.newest.frame
        return WindowVideo(self._window, self._reader.source.name, since, until, (frame.height_px, frame.width_px))

    def _nothing_seen(self, kept: Sequence[float]) -> str:
        start = self._reader.started_unix
        held = f"kept is {iso(start + kept[0])} to {iso(start + kept[-1])}" if kept else "nothing is kept"
        away = f" ({self._reader.problem})" if self._reader.state == "reconnecting" else ""
        return f"no frame of that time was seen{away}: {held}"

    def _notes(self, about: Asked, video: WindowVideo) -> tuple[str, ...]:
        reader, info, notes = self._reader, video.info, list[str]()
        times = info.times_seconds or ()
        if reader.state == "reconnecting":
            notes.append(f"the source is away: {reader.problem}")
        if times[0] > about.until or times[-1] < about.since:
            notes.append("no frame of that very moment is kept: the nearest was taken")
        elif about.until - times[-1] > 2 * self._spacing + self._eye.look_ms / 1000:
            notes.append(f"the newest frame is {about.until - times[-1]:.1f} s older than what was asked about")
        asked = about.until - about.since
        if asked < self._window.horizon_seconds and info.start_seconds - about.since > 2 * self._spacing:
            notes.append(f"{asked:.0f} s were asked about, {about.until - info.start_seconds:.0f} s of them are kept")
        return tuple(notes)

    def _pictures(self, plan: Plan) -> dict[float, bytes]:
        pictures = dict[float, bytes]()
        for seconds in plan.timestamps_seconds:
            with suppress(KeyError):
                pictures[seconds] = self._window.picture(seconds)
        return pictures

    def _told(
        self,
        answer: Answer,
        question: str,
        about: Asked,
        video: WindowVideo,
        asked_unix: float,
        waited_ms: float,
        notes: tuple[str, ...],
        pictures: Mapping[float, bytes],
    ) -> LiveAnswer:
        """The answer with its times of day; the question is counted."""
        self._answered += 1
        if about.length_seconds is not None:
            self._note(question, about.length_seconds, video, answer.plan)
        start, info = self._reader.started_unix, video.info
        return LiveAnswer(
            text=answer.text,
            question=question,
            asked_seconds=asked_unix,
            since_seconds=start + info.start_seconds,
            until_seconds=start + info.start_seconds + info.duration_seconds,
            evidence=_evidence(answer, start, pictures),
            waited_ms=waited_ms,
            notes=notes,
            answer=answer,
        )

    def _note(self, question: str, length_seconds: float, video: WindowVideo, plan: Plan) -> None:
        self._ready.note(question, length_seconds, plan)
        if self._ready.view is None or self._ready.view.video is not video:
            self._ready.entered(video, length_seconds, plan)

    def _keep_ready(self) -> None:
        """Called by the eye between frames: enter what the next question will most likely look at."""
        now = self._reader.now()
        usual = None if self._line.busy else self._ready.wanted(now)
        if usual is None:
            return
        with self._turns:
            if self._line.busy:
                return
            start = perf_counter()
            with suppress(TamEdgeError):  # who asks is told
                video = self._stretch(Asked(now - usual.length_seconds, now, usual.length_seconds))
                with self._qa.stream(video, usual.question, max_tokens=1) as stream:
                    next(stream, None)
                self._ready.entered(video, usual.length_seconds, stream.plan)
            self._ready.made(perf_counter() - start)


def _evidence(answer: Answer, start: float, pictures: Mapping[float, bytes]) -> tuple[LiveEvidence, ...]:
    """The frames of an answer with times of day and their pictures."""
    return tuple(
        LiveEvidence(start + seen.time_seconds, seen.tokens, pictures.get(seen.time_seconds, b""))
        for seen in answer.evidence
    )


def _nearest(kept: tuple[float, ...], about: Asked) -> tuple[float, ...]:
    """The frame nearest to a stretch that falls between two of the `kept` ones; none where it lies outside."""
    if not kept or about.until < kept[0] or about.since > kept[-1]:
        return ()
    middle = (about.since + about.until) / 2
    return (min(kept, key=lambda seconds: abs(seconds - middle)),)
