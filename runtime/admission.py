"""From a question to a plan that fits under the ceiling: look at the process, classify, and let the arithmetic decide.

Nothing is decoded here, and no engine is opened but the Inductor's, once it is clear that the smallest plan fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from tam_edge.runtime.answer import StageClock
from tam_edge.runtime.budget import MIB, MemoryLimit, resident_bytes, size_text
from tam_edge.runtime.calibration import Calibrated
from tam_edge.runtime.ceiling import SETTLED_BYTES, Admission, Setting, admit, check_least
from tam_edge.runtime.costs import State, predict
from tam_edge.runtime.deadline import Option, best_in_time, smaller_plans
from tam_edge.runtime.device import usable_cpus
from tam_edge.runtime.errors import MemoryLimitError
from tam_edge.runtime.footprint import Case, Thrift, stage_bytes
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.inductor import TaskEstimate
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.plan import Limits, Plan, Rejection, check_plan, make_plan
from tam_edge.runtime.prompt import Prompt
from tam_edge.runtime.schedule import worthwhile
from tam_edge.runtime.standing import LIBRARY_BYTES, held_now, import_libraries
from tam_edge.runtime.vision import chunk_frames

OPENING_BYTES = LIBRARY_BYTES["av"] + 16 * MIB
"""What importing the decoders and looking at a video's first frame takes."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question, with what only a session knows about it."""

    info: VideoInfo
    """The video."""
    question: str
    """The question, checked."""
    max_tokens: int
    """Longest answer."""
    given: Plan | None
    """A plan to repeat; None: one is made."""
    wishes: Limits
    """What a plan must stay within."""
    decide: Callable[[TaskEstimate, Limits], Plan]
    """The plan for a question of this kind, within limits: by the rules, or one looked at before that is as good."""
    prompt_of: Callable[[Plan], Prompt]
    """The prompt for a plan, without earlier turns."""
    history_tokens: Callable[[Plan], int]
    """Most tokens of earlier turns beside a plan."""
    seen: Callable[[Plan], bool]
    """Whether the language model holds a plan's frames already, with room for the question and its history."""
    kept_features_bytes: int
    """Patch features that may be kept for later questions."""
    fresh: Callable[[Plan], tuple[float, ...]]
    """Times of a plan whose frames have to be decoded and encoded."""
    calibrated: Calibrated
    """What is known about this device."""
    stays_open: bool
    """Whether the engines are needed between questions too: a live session is open."""
    deadline_seconds: float | None
    """Most time from the question to the first token; None: as long as it takes."""
    let_go: Callable[[], None]
    """Closes the engines that earlier questions have left open, vision's and the language model."""


def check_start(parts: Parts, limit: MemoryLimit) -> None:
    """Refuse a ceiling under which not even a video can be opened; with more, the video's needs are known first.

    Raises: MemoryLimitError naming what the smallest plan needs.
    """
    if resident_bytes() + OPENING_BYTES > limit.limit_bytes:
        check_least(setting_of(parts, 0, 0, limit, None), _least_case(parts), Thrift())


def admitted(
    request: Request, parts: Parts, features_bytes: int, video_bytes: int, limit: MemoryLimit, clock: StageClock
) -> Admission:
    """The plan for a question, and the savings with which it fits.

    `features_bytes` are held from earlier questions, `video_bytes` by a video that was opened and not looked at yet.

    Raises: MemoryLimitError, DeadlineError, UsageError, QuestionError, EngineError.
    """
    manifest = parts.bundle.manifest
    least = manifest.least_visual_tokens

    def setting() -> Setting:
        return setting_of(parts, features_bytes, video_bytes, limit, request.info)

    def case_of(plan: Plan) -> Case:
        prompt = request.prompt_of(plan)
        return Case(
            visual_tokens=plan.visual_tokens,
            frames=plan.frames,
            grid=plan.grid,
            images=plan.images,
            before_tokens=len(prompt.before) + (prompt.images - 1) * len(prompt.between),
            room_tokens=prompt.text_tokens + request.history_tokens(plan) + request.max_tokens,
            seen=request.seen(plan),
        )

    def plan_for(estimate: TaskEstimate, tokens: int | None) -> Plan:
        limits = replace(request.wishes, visual_tokens=tokens)
        plan = request.decide(estimate, limits)
        if tokens is None or plan.visual_tokens <= tokens or request.seen(plan):
            return plan
        return make_plan(estimate, request.info, manifest, limits)  # what was preferred has to be looked at again

    given = request.given
    if given is not None:
        check_plan(given, request.info, manifest)
    start = _start(request, parts)
    with clock.stage("load"):
        _import(setting, parts, start)
        if given is not None:
            now = setting()
            found = admit(now, lambda _: given, case_of, given.visual_tokens, start)
            return _in_time(request, parts, now, found, case_of, start, clock, lambda _: [])
        unknown = TaskEstimate(request.question, manifest.routing.tasks[0].name, 0.0, {})
        smallest = case_of(plan_for(unknown, least))  # before the process is looked at: it loads a tokenizer
        now = setting()
        if made_way := _make_way(request, now, smallest):  # what was closed holds nothing any more, no frames either
            now, smallest = setting(), case_of(plan_for(unknown, least))
        check_least(now, smallest, start)
        inductor = parts.inductor()
    with clock.stage("inductor"):
        [estimate] = inductor.classify([request.question])
    clock.note_bytes("inductor")
    now = setting()
    found = admit(now, lambda tokens: plan_for(estimate, tokens), case_of, least, start, SETTLED_BYTES)
    found = replace(found, plan=replace(found.plan, rejections=(*made_way, *found.plan.rejections)))
    return _in_time(
        request, parts, now, found, case_of, start, clock, lambda wanted: _smaller(request, manifest, estimate, wanted)
    )


def fitting_under(parts: Parts, limit: MemoryLimit) -> Callable[[Case, Thrift], bool]:
    """Whether a case without a video stays below the ceiling, as the process stands when that is asked.

    Raises: MemoryLimitError if not even the smallest does.
    """
    check_least(setting_of(parts, 0, 0, limit, None), _least_case(parts), Thrift())
    return lambda case, thrift: setting_of(parts, 0, 0, limit, None).peak(case, thrift) <= limit.limit_bytes


def _start(request: Request, parts: Parts) -> Thrift:
    """What there is to give up."""
    rates, info = request.calibrated.rates, request.info
    slowdowns, threads = None if rates is None else rates.beside, min(parts.threads, usable_cpus())
    overlap = worthwhile(slowdowns, threads=threads, decoded=info.decoder is not None)
    return Thrift(
        decode_ahead=overlap.decode_ahead,
        language_beside=overlap.language_beside and "language.engines" not in parts.open_roles,
        chunk_frames=1 if request.stays_open else chunk_frames(info),  # a live session was reckoned with so
        stays_open=request.stays_open,
        features_bytes=request.kept_features_bytes,
    )


def _smaller(request: Request, manifest: Manifest, estimate: TaskEstimate, wanted: Plan) -> list[Plan]:
    """What there is instead of a plan that takes too long."""
    wishes = request.wishes

    def plans_within(tokens: int | None, frames: int | None) -> tuple[Plan, Plan]:
        limits = replace(wishes, visual_tokens=tokens, most_frames=frames)
        return request.decide(estimate, limits), make_plan(estimate, request.info, manifest, limits)

    by_hand = wishes.frames is not None or wishes.grid is not None
    return smaller_plans(wanted, plans_within, manifest.least_visual_tokens, by_hand=by_hand)


def _in_time(
    request: Request,
    parts: Parts,
    now: Setting,
    found: Admission,
    case_of: Callable[[Plan], Case],
    start: Thrift,
    clock: StageClock,
    smaller: Callable[[Plan], list[Plan]],
) -> Admission:
    """What was found, or what meets the deadline, with the time it is predicted to take."""
    rates, info, manifest = request.calibrated.rates, request.info, parts.bundle.manifest
    if rates is None:
        problem = request.calibrated.problem
        said = () if problem is None else (Rejection("figures of this device", problem),)
        rejections = (*found.plan.rejections, *said)
        return replace(found, plan=replace(found.plan, rejections=rejections, predicted_bytes_from="bundle"))

    def option(admission: Admission) -> Option:
        plan, case = admission.plan, case_of(admission.plan)
        state = State(parts.open_roles, request.fresh(plan), case.room_tokens - request.max_tokens)
        return Option(admission, predict(rates, manifest, info, plan, case, admission.thrift, state))

    def options(wanted: Plan) -> Iterator[Option]:
        for plan in smaller(wanted):
            with suppress(MemoryLimitError):
                yield option(admit(now, lambda _, plan=plan: plan, case_of, plan.visual_tokens, start))  # type: ignore[misc]

    best = option(found)
    if request.deadline_seconds is not None:
        best = best_in_time(request.deadline_seconds, lambda: clock.timings().total, best, options(found.plan))
    spent = clock.timings()
    inductor_ms = 0.0 if request.given else rates.inductor_ms
    stages = {"load": 0.0, "inductor": inductor_ms, **best.prediction.stages_ms}
    stages["load"] += spent.load
    told = replace(best.plan, predicted_ms=spent.total + best.prediction.first_token_ms, predicted_stages_ms=stages)
    return replace(best.admission, plan=replace(told, predicted_bytes_from=request.calibrated.memory_from))


def _make_way(request: Request, now: Setting, smallest: Case) -> tuple[Rejection, ...]:
    """Close what earlier questions have left open where the Inductor has to open again and there is no room beside."""
    needed = stage_bytes(now.needs(smallest, Thrift()))["inductor"]
    left = set(now.standing.open_bytes)
    if "inductor" in left or not left or needed <= now.limit.limit_bytes:
        return ()
    request.let_go()
    why = f"need {size_text(needed)} beside the Inductor, {size_text(now.limit.limit_bytes)} are allowed: opened again"
    return (Rejection("engines open from the question before", why, needed),)


def _import(setting: Callable[[], Setting], parts: Parts, start: Thrift) -> None:
    """Import what answering needs, if the ceiling has room for that; what it takes is known from then on."""
    now = setting()
    if now.standing.imported_bytes > now.limit.limit_bytes:
        check_least(now, _least_case(parts), start)
    import_libraries()
    parts.load_tokenizers()


def _least_case(parts: Parts) -> Case:
    """The smallest plan about anything, before its text is known."""
    manifest = parts.bundle.manifest
    return Case(visual_tokens=manifest.least_visual_tokens, room_tokens=manifest.language.max_output_tokens)


def setting_of(
    parts: Parts, features_bytes: int, video_bytes: int, limit: MemoryLimit, info: VideoInfo | None
) -> Setting:
    """What a question is fitted into, as the process stands now."""
    standing = held_now(
        parts.open_bytes(),
        parts.code_bytes(),
        features_bytes,
        video_bytes,
        parts.tokenizers_bytes(),
        parts.threads,
        parts.may_use_gpu,
    )
    return Setting(parts.bundle.manifest, standing, info, limit)
