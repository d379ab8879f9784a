"""Look at a video as a plan says: frames -> patch features -> visual tokens, and a record of what was really seen."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from tam_edge.runtime.answer import Evidence, StageClock
from tam_edge.runtime.beside import Ahead
from tam_edge.runtime.errors import VideoError
from tam_edge.runtime.footprint import Thrift
from tam_edge.runtime.frames import FrameBatch, OpenedVideo, Video, VideoInfo
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.plan import Plan, Rejection
from tam_edge.runtime.reasons import interval_seconds
from tam_edge.runtime.stills import look_at_stills
from tam_edge.runtime.strategies import VisualTokens
from tam_edge.runtime.vision import Features, PatchFeatures, chunk_frames, encode_all, encode_at

AS_USUAL = Thrift()
"""One thing after the other, chunks of the usual size."""


@dataclass(frozen=True, slots=True)
class View:
    """A video, looked at."""

    key: Hashable
    """Equal for plans that would show the same; see `view_key`."""
    evidence: tuple[Evidence, ...]
    """The frames that were seen, in order."""
    closing_tokens: int
    """Visual tokens that end the clip and belong to no frame."""
    features_reused: int
    """Frames whose patch features an earlier question had left."""
    rejections: tuple[Rejection, ...] = ()
    """What was not possible while looking."""

    def seen_of(self, plan: Plan) -> Plan:
        """The plan itself, or what was seen of it where the clip ended early."""
        shown = len(self.evidence)
        if shown == plan.frames:
            return plan
        times = _times_seen(plan.timestamps_seconds, [frame.time_seconds for frame in self.evidence])
        early = Rejection(f"{plan.frames} frames", f"the clip ends early: {shown} of {plan.frames} frames decoded")
        return replace(
            plan,
            timestamps_seconds=times,
            visual_tokens=sum(frame.tokens for frame in self.evidence) + self.closing_tokens,
            interval_seconds=interval_seconds(times),
            rejections=(*plan.rejections, early),
        )


class SeenVideo(OpenedVideo):
    """A video whose frames went through the encoder before anybody asked: nothing of it is decoded."""

    def __init__(self, info: VideoInfo, features: Features) -> None:
        """Take what is known about it and what the encoder made of it."""
        super().__init__(info)
        self.features = features
        """Patch features of every frame there is."""


def view_key(video: Video, plan: Plan) -> Hashable:
    """What decides the visual tokens: the video, the times, how they are projected, and where they lie in the clip."""
    extent = (plan.start_seconds, plan.duration_seconds)
    return (video.info.identity, plan.strategy, plan.grid, plan.images, plan.timestamps_seconds, extent)


def fresh_times(video: Video, plan: Plan, parts: Parts, cache: Features) -> tuple[float, ...]:
    """Times of the plan whose frames have to be decoded and encoded."""
    times = plan.timestamps_seconds
    return times if plan.images is not None else cache.lacking(video.info.identity, times, parts.encoder_name(plan))


def look(
    video: Video,
    plan: Plan,
    parts: Parts,
    cache: Features,
    clock: StageClock,
    thrift: Thrift = AS_USUAL,
) -> tuple[View, VisualTokens]:
    """Decode, encode and project the plan's frames as thriftily as that says; those in `cache` are only projected.

    Raises: VideoError if less than half of the frames can be decoded; BundleError, EngineError.
    """
    if plan.images is not None:
        return _look_at_stills(video, plan, parts, clock, thrift.chunk_frames)
    with clock.stage("load"):
        strategy = parts.strategy(plan)
    hits, shown, read_through = cache.hits, list[tuple[str, float]](), dict[str, None]()

    def encode_missing(times: Sequence[float]) -> Generator[PatchFeatures, None, None]:
        frames = video.frames(times, min(thrift.chunk_frames, chunk_frames(video.info)))
        batches = Ahead(clock.beside("decode", frames)) if thrift.decode_ahead else clock.over("decode", frames)
        with closing(batches):
            with clock.stage("load"):
                encoder = parts.encoder(plan)
            taken = clock.over(None, batches) if thrift.decode_ahead else batches
            yield from clock.over("vision", encode_all(_reasons_kept(taken, read_through), encoder))

    times, identity = plan.timestamps_seconds, video.info.identity
    with (
        clock.stage("strategy"),
        closing(encode_at(times, identity, parts.encoder_name(plan), encode_missing, cache)) as features,
    ):
        tokens = strategy.project(_noted(features, shown), plan)
    if 2 * len(shown) < plan.frames:
        message = f"only {len(shown)} of {plan.frames} frames can be decoded: the file is damaged, copy it again"
        raise VideoError(video.info.source, message)
    pairs = zip(shown, tokens.frame_tokens, strict=True)
    evidence = tuple(Evidence(source, seconds, count) for (source, seconds), count in pairs)
    rejections = tuple(Rejection("seeking in the video", reason) for reason in read_through)
    return View(view_key(video, plan), evidence, tokens.closing_tokens, cache.hits - hits, rejections), tokens


def _look_at_stills(video: Video, plan: Plan, parts: Parts, clock: StageClock, most: int) -> tuple[View, VisualTokens]:
    with clock.stage("load"):
        parts.encoder(plan)
        parts.image_projector()
    with clock.stage("vision"):
        stills = look_at_stills(video, plan, parts, most)
    pairs = zip(stills.shown, stills.tokens.frame_tokens, strict=True)
    evidence = tuple(Evidence(source, seconds, count) for (source, seconds), count in pairs)
    return View(view_key(video, plan), evidence, 0, 0), stills.tokens


def _reasons_kept(batches: Iterable[FrameBatch], read_through: dict[str, None]) -> Generator[FrameBatch, None, None]:
    """Pass batches on; keep why they took longer than they should have, each reason once."""
    for batch in batches:
        read_through.update(dict.fromkeys(batch.read_through))
        yield batch
        del batch  # or it would stay in memory while the next one is decoded


def _noted(features: Iterable[PatchFeatures], shown: list[tuple[str, float]]) -> Iterator[PatchFeatures]:
    for some in features:
        shown.extend(zip(some.sources, some.timestamps_seconds.tolist(), strict=True))
        yield some


def _times_seen(planned: Sequence[float], shown: Sequence[float]) -> tuple[float, ...]:
    """The planned time of each frame shown; a time has none if the next frame comes after the next time."""
    left, seen = list(planned), list[float]()
    for seconds in shown:
        while len(left) > len(shown) - len(seen) and left[1] <= seconds:
            del left[0]
        seen.append(left.pop(0))
    return tuple(seen)
