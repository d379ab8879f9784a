"""Vision: frames -> patch features, the same for every grid and so the thing worth keeping.

`preprocess` is also what training uses, so a model sees the very pixels it was trained on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from tam_edge.runtime.bars import without_bars
from tam_edge.runtime.bundle import Bundle
from tam_edge.runtime.engines import Engine
from tam_edge.runtime.errors import BundleError
from tam_edge.runtime.frames import FrameBatch, VideoInfo
from tam_edge.runtime.manifest import EncoderSpec

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK_FRAMES = 8
"""Most frames decoded and encoded at once; engines are measured with as many, and with fewer."""
CHUNK_BYTES = 24 * 1024**2
"""Most bytes of decoded frames at once, unless a single frame is larger."""


@dataclass(frozen=True, slots=True, eq=False)
class PatchFeatures:
    """What an encoder made of some frames."""

    values: NDArray[np.float32]
    """[N, S * S, D]: side S and width D are the encoder's."""
    timestamps_seconds: NDArray[np.float64]
    """[N] when each frame appears."""
    sources: tuple[str, ...]
    """[N] the source each frame came from."""
    encoder: str
    """Name of the encoder."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """An opened encoder of a bundle."""

    bundle: Bundle
    """The bundle it belongs to."""
    name: str
    """Its name in the manifest."""
    engine: Engine
    """What runs it."""

    @property
    def spec(self) -> EncoderSpec:
        """What the manifest says about it."""
        return self.bundle.manifest.encoders[self.name]


class Features(Protocol):
    """Patch features of single frames that are there already."""

    hits: int
    """Frames that were asked for and held."""

    def get(self, identity: str, time_seconds: float, encoder: str) -> PatchFeatures | None:
        """Features [1, S * S, D] of the frame that a video (`identity`) shows at a time, if they are held."""
        ...

    def lacking(self, identity: str, times: Sequence[float], encoder: str) -> tuple[float, ...]:
        """Those of a video's `times` whose frames are not held."""
        ...

    def put(self, identity: str, time_seconds: float, frame: PatchFeatures, keep: Container[float] = ()) -> None:
        """Offer the features of one frame, which may be held for later."""
        ...

    def forget(self, identity: str) -> None:
        """Drop everything about a video."""
        ...


class FeatureCache:
    """Patch features of single frames, the least recently used dropped first; one cache belongs to one bundle.

    What is held never exceeds the capacity, those frames included that a plan is using while it looks at others.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.hits = 0
        """Frames that were asked for and held."""
        self.held_bytes = 0
        """Bytes of the features that are held."""
        self.most_bytes = capacity_bytes
        """The capacity where there is memory enough for it; see `resize`."""
        self._capacity_bytes = capacity_bytes
        self._frames: OrderedDict[tuple[str, float, str], PatchFeatures] = OrderedDict()

    def get(self, identity: str, time_seconds: float, encoder: str) -> PatchFeatures | None:
        """Features [1, S * S, D] of the frame that a video (`identity`) shows at a time, if they are held."""
        key = (identity, time_seconds, encoder)
        if key in self._frames:
            self.hits += 1
            self._frames.move_to_end(key)
        return self._frames.get(key)

    def lacking(self, identity: str, times: Sequence[float], encoder: str) -> tuple[float, ...]:
        """Those of a video's `times` whose frames are not held; looking does not count as using them."""
        return tuple(time for time in times if (identity, time, encoder) not in self._frames)

    def put(self, identity: str, time_seconds: float, frame: PatchFeatures, keep: Container[float] = ()) -> None:
        """Hold the features [1, S * S, D] of one frame, if there is room or some can be made.

        No frame of the same video at the times to `keep` is dropped for it: of a plan that is larger than the cache
        the first frames stay, and what the plan took from the cache is not in memory beside it.
        """
        key = (identity, time_seconds, frame.encoder)
        if frame.values.nbytes > self._capacity_bytes or key in self._frames:
            return
        while self.held_bytes + frame.values.nbytes > self._capacity_bytes:
            oldest = next(iter(self._frames))
            if oldest[::2] == key[::2] and oldest[1] in keep:
                return
            self.held_bytes -= self._frames.pop(oldest).values.nbytes
        self._frames[key] = frame
        self.held_bytes += frame.values.nbytes

    def resize(self, capacity_bytes: int) -> None:
        """Hold no more than so many bytes from now on."""
        self._capacity_bytes = capacity_bytes
        while self.held_bytes > capacity_bytes:
            self.held_bytes -= self._frames.popitem(last=False)[1].values.nbytes

    def forget(self, identity: str) -> None:
        """Drop everything about a video."""
        for key in [key for key in self._frames if key[0] == identity]:
            self.held_bytes -= self._frames.pop(key).values.nbytes


def preprocess(pixels: NDArray[np.uint8], spec: EncoderSpec) -> NDArray[np.float32]:
    """Resize, rescale and normalise frames the way the encoder was trained.

    pixels: [N, H, W, 3] uint8 RGB. Returns [N, 3, image_px, image_px] float32. The frame is squeezed to
    the square without keeping its aspect, as SigLIP's own processor does; PIL's bicubic is the reference,
    OpenCV's differs by up to 13/255.
    """
    from PIL.Image import Resampling

    side = spec.image_px
    images = np.empty((len(pixels), 3, side, side), np.float32)
    crop = spec.preprocessing.bars == "crop"
    for image, frame in zip(images, pixels, strict=True):
        resized = _as_image(without_bars(frame) if crop else frame).resize((side, side), Resampling.BICUBIC)
        image[:] = np.asarray(resized).transpose(2, 0, 1)  # [H, W, 3] -> [3, H, W]
    images *= np.float32(spec.preprocessing.rescale)
    images -= np.asarray(spec.preprocessing.mean, np.float32).reshape(1, 3, 1, 1)
    images /= np.asarray(spec.preprocessing.std, np.float32).reshape(1, 3, 1, 1)
    return images


def _as_image(picture: NDArray[np.uint8]) -> Image:
    """A picture [H, W, 3] for Pillow, read from where it lies, also where it is a part of a wider one."""
    from PIL.Image import frombuffer

    if picture.strides[0] < 0 or picture.strides[1:] != (3, 1):
        picture = np.ascontiguousarray(picture)
    height, width, row_bytes = *picture.shape[:2], picture.strides[0]
    rows = as_strided(picture, ((height - 1) * row_bytes + 3 * width,), (1,), writeable=False)
    return frombuffer("RGB", (width, height), rows, "raw", "RGB", row_bytes, 1)


def chunk_frames(info: VideoInfo) -> int:
    """How many of this video's frames are decoded and encoded at once."""
    return max(1, min(CHUNK_FRAMES, CHUNK_BYTES // (3 * info.width_px * info.height_px)))


def encode(batch: FrameBatch, encoder: Encoder) -> PatchFeatures:
    """Patch features of a batch of frames, which runs through the encoder at once.

    Raises: BundleError if the encoder's input or output is not what the manifest says; EngineError if it fails.
    """
    spec, field = encoder.spec, f"encoders.{encoder.name}"
    if len(encoder.engine.input_names) != 1:
        message = f"takes {', '.join(encoder.engine.input_names)}; an encoder takes one input, the pixels"
        raise BundleError(encoder.bundle.path, field, message)
    [pixels] = encoder.engine.input_names
    values = encoder.engine.run({pixels: preprocess(batch.pixels, spec)})[0]  # [N, prefix + S * S, D]
    expected = (len(batch.pixels), spec.prefix_tokens + spec.grid_side**2, spec.width)
    if values.shape != expected:
        wrong = "width" if values.shape[:-1] == expected[:-1] else "grid_side"
        raise BundleError(encoder.bundle.path, f"{field}.{wrong}", f"gives {values.shape}, not {expected}")
    return PatchFeatures(values[:, spec.prefix_tokens :], batch.timestamps_seconds, batch.sources, encoder.name)


def encode_all(batches: Generator[FrameBatch, None, None], encoder: Encoder) -> Generator[PatchFeatures, None, None]:
    """Patch features of one batch of frames after the other; leaving early closes `batches`."""
    with closing(batches):
        for batch in batches:
            features = encode(batch, encoder)
            del batch  # or it would stay in memory while the next one is decoded
            yield features
            del features


def encode_at(
    times: Sequence[float],
    identity: str,
    encoder: str,
    encode_missing: Callable[[Sequence[float]], Generator[PatchFeatures, None, None]],
    cache: Features,
) -> Generator[PatchFeatures, None, None]:
    """Patch features of a video's frames at `times`, one frame at a time, by the encoder of this name.

    `encode_missing` decodes and encodes, chunk by chunk, the frames that `cache` lacks, and is not called where it
    lacks none. A chunk is made when its first frame is asked for, so no more than one is in memory. Fewer features than
    times mean that the clip ended early.
    """
    held = {time: frame for time in times if (frame := cache.get(identity, time, encoder)) is not None}
    keep = frozenset(times)
    with closing(_fresh_frames([time for time in times if time not in held], encode_missing)) as fresh:
        for time in times:
            frame = held.pop(time, None) or next(fresh, None)
            if frame is None:
                cache.forget(identity)  # which times are missing is not known, so none may be remembered
                continue
            cache.put(identity, time, frame, keep)
            yield frame


def _fresh_frames(
    missing: Sequence[float], encode_missing: Callable[[Sequence[float]], Generator[PatchFeatures, None, None]]
) -> Generator[PatchFeatures, None, None]:
    if not missing:
        return
    with closing(encode_missing(missing)) as chunks:
        for chunk in chunks:
            for i, source in enumerate(chunk.sources):
                # copied, so that a frame kept in the cache does not keep its whole chunk
                yield PatchFeatures(
                    chunk.values[i : i + 1].copy(), chunk.timestamps_seconds[i : i + 1], (source,), chunk.encoder
                )
            del chunk
