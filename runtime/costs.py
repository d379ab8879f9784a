"""The time of every stage of an answer until its first token, predicted: calibration, plan and state -> milliseconds.

Pure, as footprint.py is for memory. What an earlier question has left costs nothing: engines that are open, frames
whose patch features are kept, visual tokens in the language model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tam_edge.runtime.access import ASSUMED_KEY_SECONDS, FrameAccess, reach
from tam_edge.runtime.footprint import Case, Thrift, attention_of
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.plan import Plan
from tam_edge.runtime.rates import Rates
from tam_edge.runtime.schedule import Overlap, Work, saved_ms
from tam_edge.runtime.tiles import layout_of
from tam_edge.runtime.vision import chunk_frames

STAGES = ("load", "decode", "vision", "strategy", "prefill", "generate")
"""Stages that come after a plan, in order."""


@dataclass(frozen=True, slots=True)
class State:
    """What an earlier question has left, and what this one enters beside its frames."""

    open_roles: frozenset[str] = frozenset()
    """Manifest fields of engines that are open."""
    fresh_seconds: tuple[float, ...] = ()
    """Times of the plan whose patch features are not kept."""
    text_tokens: int = 0
    """Text behind the visual tokens, earlier turns among it."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Milliseconds that are still to come when a plan is made."""

    stages_ms: dict[str, float]
    """Each stage until the first token; "generate" is that token alone."""
    overhead_ms: float
    """What lies between the stages."""
    saved_ms: float
    """By how much all of it is sooner there because stages run beside each other."""
    margin_ms: float
    """By how much all of it may be exceeded, by the calibration's own spread."""

    @property
    def first_token_ms(self) -> float:
        """Until the first token, without the margin."""
        return sum(self.stages_ms.values()) + self.overhead_ms - self.saved_ms

    @property
    def safe_ms(self) -> float:
        """Until the first token, with the margin."""
        return self.first_token_ms + self.margin_ms


def predict(
    rates: Rates, manifest: Manifest, info: VideoInfo, plan: Plan, case: Case, thrift: Thrift, state: State
) -> Prediction:
    """Predict what is left to do for a plan that is made; a stage that has nothing to do has 0."""
    stages = dict.fromkeys(STAGES, 0.0)
    open_roles = state.open_roles
    if thrift.in_turn and not case.seen:
        open_roles -= {"language.engines"}  # closed before vision opens
    needed = list(_roles(manifest, plan, case, state))
    stages["load"] = sum(rates.opening_ms.get(role, 0.0) for role in needed if role not in open_roles)
    first = {role: rates.first_run_ms.get(role, 0.0) for role in needed if role not in open_roles}
    if not case.seen:
        stages["decode"], stages["vision"], stages["strategy"] = _looking(rates, manifest, info, plan, thrift, state)
    for role, ms in first.items():
        stages[_stage_of(role)] += ms
    before = case.before_tokens + case.visual_tokens
    _, way = attention_of(manifest, case, thrift)
    _, own = attention_of(manifest, case, Thrift())
    entering = rates.prefill.at(state.text_tokens, before) + (0.0 if case.seen else rates.prefill.at(before, 0))
    stages["prefill"] += entering * rates.attending_factor(way, own)
    stages["generate"] = rates.token.at(before + state.text_tokens)
    saved = 0.0 if case.seen else _saved(rates, manifest, info, plan, thrift, state, stages)
    return Prediction(stages, rates.overhead_ms, saved, rates.margin_ms(stages))


def _saved(
    rates: Rates,
    manifest: Manifest,
    info: VideoInfo,
    plan: Plan,
    thrift: Thrift,
    state: State,
    stages: Mapping[str, float],
) -> float:
    chunk = min(thrift.chunk_frames, chunk_frames(info))

    def opening(role: str) -> float:
        return 0.0 if role in state.open_roles else rates.opening_ms.get(role, 0.0)

    work = Work(
        decode_ms=stages["decode"],
        vision_ms=stages["vision"],
        chunks=0 if plan.images is not None else -(-len(state.fresh_seconds) // chunk),
        opening_ms=opening(f"encoders.{_encoder(manifest, plan)}.engines") if state.fresh_seconds else 0.0,
        language_ms=opening("language.engines"),
    )
    return saved_ms(work, Overlap(thrift.decode_ahead, thrift.language_beside), rates.beside)


def answer_ms(rates: Rates, before: int, tokens: int) -> float:
    """Milliseconds of an answer of so many tokens behind others."""
    return tokens * rates.token.at(before + tokens / 2)


def _roles(manifest: Manifest, plan: Plan, case: Case, state: State) -> Iterator[str]:
    """Engines that the plan needs, in the order they are opened."""
    if not case.seen:
        if plan.images is not None:
            yield "images.projector"
        elif plan.grid is not None:
            yield f"projectors.{plan.grid}.engines"
        if state.fresh_seconds:
            yield f"encoders.{_encoder(manifest, plan)}.engines"
    yield "language.engines"


def _stage_of(role: str) -> str:
    kind = role.partition(".")[0]
    return {"encoders": "vision", "images": "vision", "projectors": "strategy"}.get(kind, "prefill")


def _looking(
    rates: Rates, manifest: Manifest, info: VideoInfo, plan: Plan, thrift: Thrift, state: State
) -> tuple[float, float, float]:
    """Decoding, vision and strategy, without what engines take the first time."""
    encoder, pixels = _encoder(manifest, plan), info.width_px * info.height_px
    fresh = len(state.fresh_seconds)
    if plan.images is not None:  # all in one stage, image by image
        crops = sum(_crops(manifest, info, plan, at) for at in range(plan.frames))
        vision = plan.frames * _still_ms(rates, pixels) + crops * rates.projecting_ms.get("images", 0.0)
        each = crops // max(1, plan.frames)
        vision += plan.frames * rates.encoding_ms(encoder, each, thrift.chunk_frames)
        return 0.0, vision + plan.frames * rates.resizing.at(pixels / 1e6), 0.0
    decode = _decoding(rates, info, pixels, state) if fresh else 0.0
    chunk = min(thrift.chunk_frames, chunk_frames(info))
    vision = fresh * rates.resizing.at(pixels / 1e6) + rates.encoding_ms(encoder, fresh, chunk)
    return decode, vision, plan.frames * rates.projecting_ms.get(str(plan.grid), 0.0)


def _decoding(rates: Rates, info: VideoInfo, pixels: int, state: State) -> float:
    fresh = len(state.fresh_seconds)
    if info.kind == "frames":  # they are in memory
        return 0.0
    if info.still_sizes_px:
        return fresh * _still_ms(rates, pixels)
    access = info.access or _unknown(info)
    decoding = rates.decoding_ms(info.codec, access, pixels, reach(state.fresh_seconds, access))
    return rates.file_ms + decoding + fresh * rates.converting.at(pixels / 1e6)


def _unknown(info: VideoInfo) -> FrameAccess:
    """Several sources in a row, of which no one's container is known: an ordinary video's."""
    fps = info.average_fps or 25.0
    return FrameAccess(fps, info.width_px * info.height_px / 20, ASSUMED_KEY_SECONDS, seekable=True, indexed=True)


def _still_ms(rates: Rates, pixels: int) -> float:
    cost = rates.decoding.get("image")
    return 0.0 if cost is None else cost.at(pixels, 0.0)


def _crops(manifest: Manifest, info: VideoInfo, plan: Plan, at: int) -> int:
    if plan.images == "whole":
        return 1
    rows, columns = layout_of(info.still_sizes_px[at], manifest).tiles
    return 1 + rows * columns


def _encoder(manifest: Manifest, plan: Plan) -> str:
    return next(spec.encoders[0] for spec in manifest.strategies if spec.name == plan.strategy)
