"""VideoQA: a bundle that is ready to answer. Its `stream` and `_pieces` are the data path on one screen."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

from tam_edge.runtime.admission import Request, admitted, check_start
from tam_edge.runtime.answer import Answer, StageClock
from tam_edge.runtime.budget import MemoryLimit, give_back, memory_limit, peak_resident_bytes, steady_heap
from tam_edge.runtime.bundle import Bundle, default_bundle_path, load_bundle
from tam_edge.runtime.calibration import Calibrated, place_of, read_rates
from tam_edge.runtime.ceiling import Admission
from tam_edge.runtime.deadline import checked_deadline
from tam_edge.runtime.device import probe_device
from tam_edge.runtime.engines import DeviceName, check_engine_options
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.history import Asked, Turn, check_history
from tam_edge.runtime.inductor import TaskEstimate, check_question
from tam_edge.runtime.kept import Kept
from tam_edge.runtime.language import GenerationOptions
from tam_edge.runtime.live.inside import LiveOptions, start
from tam_edge.runtime.live.session import Live
from tam_edge.runtime.live.sources import LiveInput
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.plan import Limits, Plan
from tam_edge.runtime.prompt import check_room
from tam_edge.runtime.prompting import Prompts
from tam_edge.runtime.stream import AnswerStream
from tam_edge.runtime.turns import Turns
from tam_edge.runtime.video import Source, Video, open_video
from tam_edge.runtime.view import fresh_times, look


class VideoQA:
    """Answers questions about videos with one bundle, below one memory ceiling. A context manager."""

    def __init__(self, bundle: Bundle, parts: Parts, limit: MemoryLimit, known: Calibrated | None = None) -> None:
        """Use `VideoQA.load`."""
        self.bundle = bundle
        """The bundle."""
        self.limit = limit
        """The ceiling on the process's peak resident set."""
        self.calibrated = known or Calibrated(None)
        """What is known about this device."""
        self._parts = parts
        self._prompts = Prompts(parts)
        self._prompt = self._prompts.prompt
        self._kept = Kept(parts, self._prompts)
        self._turns = Turns()  # at the engines; a live session looks on between the pieces of an answer
        self._lives: list[Live] = []
        self._stream: AnswerStream | None = None  # the one whose question stands in the language model
        check_start(parts, limit)

    @classmethod
    def load(
        cls,
        bundle: str | Path | None = None,
        *,
        memory: int | str | None = None,
        device: DeviceName = "auto",
        threads: int | None = None,
    ) -> VideoQA:
        """Check a bundle folder, by default the one that is installed; its engines open when they are first needed.

        `memory` is the ceiling in bytes, or as text such as "2GiB"; by default 80% of what is free now.

        Raises: BundleError, MemoryLimitError, UsageError.
        """
        check_engine_options(device, threads)
        steady_heap()
        profile, checked = probe_device(), load_bundle(default_bundle_path() if bundle is None else bundle)
        used = threads or profile.cpu_count
        known = read_rates(place_of(checked, profile, used, device))
        parts = Parts(known.refined(checked), threads=used, device=device)
        return cls(checked, parts, memory_limit(memory, profile), known)

    def open(self, source: Source, *, start: float | None = None, end: float | None = None) -> Video:
        """Open a video, an image, frames in memory, or a sequence of them; `start` and `end` in seconds cut it.

        Raises: VideoError, UsageError.
        """
        return open_video(source, start=start, end=end, threads=self._parts.threads)

    def live(
        self,
        source: LiveInput,
        *,
        horizon: float | str = "10min",
        rate: float | None = None,
        queue: int = 8,
        every_frame: bool = False,
        keep_ready: bool = True,
    ) -> Live:
        """Look at a live source from now on, to be asked about any moment as far back as `horizon`.

        A `source` is a camera's number or /dev/video0, csi://0, a GStreamer pipeline, an rtsp:// or http:// address, a
        file, which plays at its own speed, or an iterable of frames or (frame, seconds). The newest frame wins, unless
        `every_frame` of an iterable is to wait to be looked at. The other options: `LiveOptions`.

        Raises: VideoError if no frame comes; MemoryLimitError, UsageError, EngineError.
        """
        options = LiveOptions(horizon, rate, queue, every_frame, keep_ready)
        self._lives = [live for live in self._lives if not live.closed]  # their windows go before another one comes
        inside = start(source, options, self._parts, self.limit, self._turns)
        self._lives.append(Live(self, self._kept, self._turns, inside))
        return self._lives[-1]

    def classify(self, questions: Sequence[str]) -> list[TaskEstimate]:
        """Task type of each question, in order.

        Raises: QuestionError, EngineError.
        """
        with self._turns:
            return self._parts.inductor().classify(questions)

    def plan(
        self,
        video: Video,
        question: str,
        *,
        deadline: float | str | None = None,
        strategy: str | None = None,
        frames: int | None = None,
        grid: int | None = None,
    ) -> Plan:
        """Decide what will be looked at; only the Inductor runs. `frames` and `grid` override its rules.

        What earlier questions have looked at is preferred where it is at least as good. `deadline` as in `stream`.

        Raises: QuestionError, UsageError, EngineError, MemoryLimitError, DeadlineError.
        """
        clock, seconds = StageClock(), checked_deadline(deadline, self.calibrated)
        options = GenerationOptions(self.bundle.manifest.language.max_output_tokens)
        wishes = Limits(None, frames, grid, strategy)
        with self._turns:
            return self._admitted(video, check_question(question), (), options, None, wishes, seconds, clock).plan

    def stream(
        self,
        video: Video,
        question: str,
        *,
        history: Sequence[tuple[str, str]] = (),
        plan: Plan | None = None,
        deadline: float | str | None = None,
        strategy: str | None = None,
        frames: int | None = None,
        grid: int | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> AnswerStream:
        """Answer a question piece by piece; `plan` repeats an earlier plan, `frames` and `grid` override its rules.

        `history` are earlier questions with their answers, oldest first. They stand before the question where the
        bundle's language model knows such; what does not fit into the text's part of the context is left out.
        `deadline` is the most time until the first piece, in seconds or as text such as "3s", counted from this call
        as `timings.first_token` is. Visual tokens give way to it; it needs a calibrated device.
        The answer ends where one of the texts in `stop` would begin.
        Plan and question are checked here, before a frame is decoded; the rest happens while the stream is read.
        One question is answered at a time: asking another one, or closing, ends a stream that is not read to its end.

        Raises: QuestionError, UsageError, BundleError, EngineError, MemoryLimitError, DeadlineError; VideoError while
            it is read.
        """
        clock, manifest, seconds = StageClock(), self.bundle.manifest, checked_deadline(deadline, self.calibrated)
        most = manifest.language.max_output_tokens if max_tokens is None else max_tokens
        options = GenerationOptions(most, temperature, seed, tuple(stop))
        question, turns = check_question(question), check_history(history)
        if plan is not None and (strategy, frames, grid) != (None, None, None):
            raise UsageError("a plan says what is looked at: leave out strategy, frames and grid")
        wishes = Limits(None, frames, grid, strategy)
        with self._turns:
            admission = self._admitted(video, question, turns, options, plan, wishes, seconds, clock)
            check_room(self._prompt(admission.plan, Asked(question)), manifest.language, options.max_tokens)
            asked = self._prompts.with_history(admission.plan, question, turns, options.max_tokens)
            self._stop()
            pieces = self._pieces(video, asked, admission, options, clock)
            self._stream = AnswerStream(admission.plan, pieces, self._turns)
            return self._stream

    def _pieces(
        self, video: Video, asked: Asked, admission: Admission, options: GenerationOptions, clock: StageClock
    ) -> Generator[str, None, Answer]:
        """The stages after the plan, in order; what an earlier question left is not done again."""
        plan, thrift = admission.plan, admission.thrift
        view = self._kept.held_view(video, plan, asked, options)
        kept = 0 if view is None else self._parts.language().prefix_tokens
        if view is None:
            self._kept.make_room(video, thrift)
            with self._parts.language_beside(clock, wanted=thrift.language_beside):
                view, tokens = look(video, plan, self._parts, self._kept.features_of(video), clock, thrift)
            if thrift.in_turn:
                self._parts.close_stage("vision")
            clock.note_bytes("vision")
            give_back()  # what decoding and vision have freed
            with clock.stage("load"):
                language = self._parts.language()
            prompt = self._prompt(view.seen_of(plan), asked)
            with clock.stage("prefill"):
                self._kept.view = None  # an interrupted prefill leaves nothing that could be taken for a whole view
                language.see(
                    prompt.before,
                    tokens.embeddings,
                    prompt.text_tokens + options.max_tokens,
                    between=prompt.between,
                    lengths=tokens.frame_tokens,
                    spare=not thrift.no_spare_cells,
                    way=admission.attention,
                )
                self._kept.view = view
        language, seen = self._parts.language(), view.seen_of(plan)
        if seen is plan:
            self._kept.plans.add(video.info.identity, admission.decided)
        with clock.stage("prefill"):
            prompt = self._prompt(seen, asked)
            kept += language.read(prompt.after, prompt.earlier)
        text: list[str] = []
        for piece in clock.over("generate", language.generate(options)):
            clock.first_token()
            text.append(piece)
            yield piece
        clock.note_bytes("language")
        frames_kept = len(view.evidence) if kept else view.features_reused
        return Answer(
            text="".join(text),
            plan=seen,
            timings=clock.timings(),
            peak_bytes=peak_resident_bytes(),
            peak_gpu_bytes=None if self._parts.on_gpu else 0,
            memory_limit_bytes=self.limit.limit_bytes,
            bundle=self.bundle.manifest.name,
            evidence=view.evidence,
            rejections=view.rejections + seen.rejections + self._parts.rejections + asked.left_out,
            cache={"prefix_tokens_reused": kept, "patch_features_reused": frames_kept},
            answer_tokens=language.answer_tokens,
            prompt_tokens=len(prompt),
            ended_by=language.ended_by,
            first_token_probability=language.first_probability,
            stage_bytes=clock.stage_bytes,
        )

    def ask(
        self,
        video: Video,
        question: str,
        *,
        history: Sequence[tuple[str, str]] = (),
        plan: Plan | None = None,
        deadline: float | str | None = None,
        strategy: str | None = None,
        frames: int | None = None,
        grid: int | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Answer:
        """Answer a question at once; otherwise as `stream`."""
        with self.stream(
            video,
            question,
            history=history,
            plan=plan,
            deadline=deadline,
            strategy=strategy,
            frames=frames,
            grid=grid,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            stop=stop,
        ) as stream:
            for _ in stream:
                pass
            return stream.answer

    def share_features(self, other: VideoQA) -> None:
        """Use the patch features that `other`, which may be closed by now, has kept, and keep new ones there.

        Raises: UsageError if the two bundles' encoders are not the same files, preprocessed in the same way.
        """
        if self.bundle.manifest.encoders != other.bundle.manifest.encoders:
            raise UsageError("patch features can be shared between bundles with the same encoders only")
        self._kept.features = other._kept.features

    def forget(self) -> None:
        """Let go of what earlier questions have left, but for the engines; the next answer is as the first."""
        self._stop()
        self._kept.forget()

    def close(self) -> None:
        """Free every engine, and end live sessions; closing twice is fine."""
        for live in self._lives:
            live.close()
        self._let_go()
        self._parts.close()

    def __enter__(self) -> VideoQA:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _admitted(
        self,
        video: Video,
        question: str,
        turns: Sequence[Turn],
        options: GenerationOptions,
        given: Plan | None,
        wishes: Limits,
        seconds: float | None,
        clock: StageClock,
    ) -> Admission:
        request = Request(
            info=video.info,
            question=question,
            max_tokens=options.max_tokens,
            given=given,
            wishes=wishes,
            decide=lambda estimate, limits: self._kept.decide(estimate, video, limits, follow_up=bool(turns)),
            prompt_of=lambda plan: self._prompt(plan, Asked(question)),
            history_tokens=lambda plan: self._prompts.history_tokens(plan, question, turns, options.max_tokens),
            seen=lambda plan: self._kept.is_seen(video, plan, question, turns, options),
            kept_features_bytes=self._kept.keeps_bytes(video),
            fresh=lambda plan: fresh_times(video, plan, self._parts, self._kept.features_of(video)),
            calibrated=self.calibrated,
            stays_open=any(not live.closed for live in self._lives),
            deadline_seconds=seconds,
            let_go=self._let_go,
        )
        return admitted(request, self._parts, self._kept.features.held_bytes, video.held_bytes, self.limit, clock)

    def _let_go(self) -> None:
        """Close the engines that earlier questions have left open, but for the Inductor."""
        self._stop()
        self._kept.view = None
        self._parts.close_stage("vision", "language")

    def _stop(self) -> None:
        if self._stream is not None:
            self._stream.close()
