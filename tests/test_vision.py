"""Vision: pixels become exactly what the encoder was trained on, and no frame is encoded twice."""

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_bundle import IMAGE_PX, SIDE, WIDTH, make_tiny_bundle

from tam_edge.runtime.bundle import load_bundle
from tam_edge.runtime.engines import open_engine
from tam_edge.runtime.errors import BundleError
from tam_edge.runtime.frames import FrameBatch, VideoInfo
from tam_edge.runtime.manifest import EncoderSpec
from tam_edge.runtime.vision import (
    CHUNK_FRAMES,
    Encoder,
    FeatureCache,
    PatchFeatures,
    chunk_frames,
    encode,
    encode_all,
    encode_at,
    preprocess,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def encoder(folder):
    with opened(folder) as encoder:
        yield encoder


@contextmanager
def opened(folder):
    bundle = load_bundle(folder)
    spec = bundle.manifest.encoders["eye"].engines[0]
    engine = open_engine(bundle.file(spec), spec, threads=1)
    yield Encoder(bundle, "eye", engine)
    engine.close()


def frames(count, height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def batch(pixels, first=0.0):
    times = first + np.arange(len(pixels), dtype=np.float64)
    return FrameBatch(pixels, times, ("clip",) * len(pixels))


def spec_with(**preprocessing):
    values = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2], **preprocessing}
    engines = [{"file": "e", "sha256": "0" * 64, "size_bytes": 1, "backend": "onnx", "precision": "f", "peak_bytes": 0}]
    return EncoderSpec.model_validate(
        {
            "image_px": 28,
            "patch_px": 7,
            "grid_side": 4,
            "width": 8,
            "preprocessing": values,
            "engines": engines,
        }
    )


# ---- preprocess


def test_preprocess_is_pil_bicubic_then_rescale_then_mean_and_std():
    pixels = frames(3)
    found = preprocess(pixels, spec_with())
    assert (found.dtype, found.shape) == (np.float32, (3, 3, 28, 28))
    for image, frame in zip(found, pixels, strict=True):
        resized = np.asarray(Image.fromarray(frame).resize((28, 28), Image.Resampling.BICUBIC), np.float64)
        expected = (resized / 255 - [0.5, 0.4, 0.3]) / [0.5, 0.25, 0.2]
        np.testing.assert_allclose(image, expected.transpose(2, 0, 1), atol=1e-6)


def test_preprocess_squashes_the_whole_frame():
    """No crop, no border: the left half of a wide frame is the left half of the square."""
    pixels = np.zeros((1, 20, 200, 3), np.uint8)
    pixels[:, :, :100] = 255
    [[red, _, _]] = preprocess(pixels, spec_with())
    assert (red[:, :12] > red.mean()).all()
    assert (red[:, 16:] < red.mean()).all()


@given(st.tuples(*[st.integers(0, 255)] * 3), st.integers(1, 60), st.integers(1, 60))
def test_preprocess_keeps_a_colour(colour, height, width):
    pixels = np.full((1, height, width, 3), colour, np.uint8)
    expected = (np.array(colour) / 255 - [0.5, 0.4, 0.3]) / [0.5, 0.25, 0.2]
    found = preprocess(pixels, spec_with())[0]
    np.testing.assert_allclose(found, np.broadcast_to(expected[:, None, None], found.shape), atol=1e-6)


# ---- encode


def test_encode_gives_patch_features_with_times_and_sources(encoder):
    pixels = frames(2)
    found = encode(FrameBatch(pixels, np.array([0.5, 1.25]), ("a", "b")), encoder)
    [expected] = encoder.engine.run({"pixels": preprocess(pixels, encoder.spec)})
    np.testing.assert_array_equal(found.values, expected)
    assert found.values.shape == (2, SIDE * SIDE, WIDTH)
    assert (found.timestamps_seconds.tolist(), found.sources, found.encoder) == ([0.5, 1.25], ("a", "b"), "eye")


def test_leading_tokens_are_dropped(tmp_path):
    """A bundle whose encoder says that its first 7 of 16 tokens are no patches: 3 x 3 are left."""

    def change(manifest):
        manifest["encoders"]["eye"] |= {"prefix_tokens": 7, "grid_side": 3, "patch_px": 9}
        manifest["routing"]["ladder"] = manifest["routing"]["ladder"][1:]
        manifest["routing"]["high_grid_short"] = 3

    pixels = batch(frames(1))
    with opened(make_tiny_bundle(tmp_path / "tiny", change=change)) as encoder:
        found = encode(pixels, encoder)
    with opened(make_tiny_bundle(tmp_path / "plain")) as plain:
        np.testing.assert_array_equal(found.values, encode(pixels, plain).values[:, 7:])


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"encoder_width": WIDTH + 8}, "encoders.eye.width"),
        ({"change": lambda m: m["encoders"]["eye"].update(prefix_tokens=1)}, "encoders.eye.grid_side"),
    ],
)
def test_an_encoder_that_gives_something_else_is_named(tmp_path, options, field):
    with opened(make_tiny_bundle(tmp_path / "tiny", **options)) as encoder, pytest.raises(BundleError) as caught:
        encode(batch(frames(1)), encoder)
    assert caught.value.field == field
    assert str(WIDTH) in str(caught.value)


def test_an_encoder_with_two_inputs_is_refused(tmp_path):
    def change(manifest):
        manifest["encoders"]["eye"]["engines"] = manifest["projectors"]["4"]["engines"]

    folder = make_tiny_bundle(tmp_path / "tiny", change=change)
    with opened(folder) as encoder, pytest.raises(BundleError, match="features, time_fraction"):
        encode(batch(frames(1)), encoder)


# ---- chunks


@pytest.mark.parametrize(
    ("width", "height", "expected"), [(336, 336, CHUNK_FRAMES), (1920, 1080, 4), (3840, 2160, 1), (20000, 20000, 1)]
)
def test_large_frames_come_in_small_chunks(width, height, expected):
    info = VideoInfo("v", "video", 1.0, 1, width, height, 25.0, "h264", "id")
    assert chunk_frames(info) == expected


# ---- cache


def feature(value, tokens=4):
    return PatchFeatures(np.full((1, tokens, 2), value, np.float32), np.zeros(1), ("clip",), "eye")


def test_the_least_recently_used_frame_goes_first():
    cache = FeatureCache(capacity_bytes=3 * feature(0).values.nbytes)
    for time in (0.0, 1.0, 2.0):
        cache.put("v", time, feature(time))
    assert cache.get("v", 0.0, "eye") is not None
    cache.put("v", 3.0, feature(3))
    assert [cache.get("v", t, "eye") is not None for t in (0.0, 1.0, 2.0, 3.0)] == [True, False, True, True]
    assert cache.hits == 4
    assert cache.get("other", 0.0, "eye") is None
    assert cache.get("v", 0.0, "other") is None


def test_forgetting_one_video_keeps_the_others_and_frees_room():
    cache = FeatureCache(capacity_bytes=2 * feature(0).values.nbytes)
    cache.put("a", 0.0, feature(1))
    cache.put("b", 0.0, feature(2))
    cache.forget("a")
    cache.put("c", 0.0, feature(3))
    assert [cache.get(name, 0.0, "eye") is not None for name in "abc"] == [False, True, True]


def test_a_frame_in_use_makes_no_room_for_another():
    cache = FeatureCache(capacity_bytes=3 * feature(0).values.nbytes)
    for name, time in (("w", 0.0), ("v", 1.0), ("v", 2.0)):
        cache.put(name, time, feature(time))
    cache.put("v", 3.0, feature(3), keep={1.0, 2.0, 3.0, 4.0})
    cache.put("v", 4.0, feature(4), keep={1.0, 2.0, 3.0, 4.0})
    assert cache.get("w", 0.0, "eye") is None
    assert [cache.get("v", t, "eye") is not None for t in (1.0, 2.0, 3.0, 4.0)] == [True, True, True, False]
    cache.put("w", 1.0, feature(5), keep={1.0, 2.0, 3.0})
    assert cache.get("v", 1.0, "eye") is None, "another video's frames at the same times are not in use"


def test_a_cache_that_shrinks_keeps_the_newest_and_may_grow_again():
    one = feature(0).values.nbytes
    cache = FeatureCache(3 * one)
    for time in (0.0, 1.0, 2.0):
        cache.put("v", time, feature(time))
    cache.resize(one)
    cache.put("v", 3.0, feature(3), keep={2.0, 3.0})
    assert [cache.get("v", t, "eye") is not None for t in (0.0, 1.0, 2.0, 3.0)] == [False, False, True, False]
    assert (cache.held_bytes, cache.most_bytes) == (one, 3 * one)
    cache.resize(cache.most_bytes)
    cache.put("v", 3.0, feature(3), keep={2.0, 3.0})
    assert cache.held_bytes == 2 * one


@given(st.integers(-1, 300), st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6))))
def test_the_cache_never_holds_more_than_it_may(capacity_bytes, puts):
    cache = FeatureCache(capacity_bytes)
    for time, tokens in puts:
        cache.put("v", float(time), feature(time, tokens))
        held = [cache.get("v", float(t), "eye") for t in range(6)]
        assert sum(frame.values.nbytes for frame in held if frame is not None) <= max(0, capacity_bytes)
    if puts and feature(0, puts[-1][1]).values.nbytes <= capacity_bytes:
        assert cache.get("v", float(puts[-1][0]), "eye") is not None


class Source:
    """Frames 0, 1, 2.. at seconds 0, 1, 2..; remembers what was decoded, and stops early if told to."""

    def __init__(self, pixels, chunk=2):
        self.pixels, self.chunk = pixels, chunk
        self.asked, self.given, self.closed = [], 0, 0

    def decode(self, times):
        self.asked.append(list(times))
        try:
            for start in range(0, len(times), self.chunk):
                wanted = [t for t in times[start : start + self.chunk] if t < len(self.pixels)]
                if wanted:
                    self.given += len(wanted)
                    yield FrameBatch(self.pixels[[int(t) for t in wanted]], np.array(wanted), ("clip",) * len(wanted))
        finally:
            self.closed += 1

    def through(self, encoder):
        return lambda times: encode_all(self.decode(times), encoder)


def test_only_frames_that_are_not_held_are_decoded(encoder):
    source, cache = Source(frames(6)), FeatureCache(1 << 20)
    first = list(encode_at([0.0, 2.0, 4.0], "v", encoder.name, source.through(encoder), cache))
    second = list(encode_at([0.0, 1.0, 2.0, 4.0, 5.0], "v", encoder.name, source.through(encoder), cache))
    fresh = list(encode_at([0.0, 1.0, 2.0, 4.0, 5.0], "v", encoder.name, source.through(encoder), FeatureCache(0)))
    assert source.asked == [[0.0, 2.0, 4.0], [1.0, 5.0], [0.0, 1.0, 2.0, 4.0, 5.0]]
    assert cache.hits == 3
    assert [f.timestamps_seconds.tolist() for f in second] == [[0.0], [1.0], [2.0], [4.0], [5.0]]
    assert len(first) == 3
    for ours, theirs in zip(second, fresh, strict=True):
        np.testing.assert_allclose(ours.values, theirs.values, atol=1e-6)


def test_neither_decoder_nor_encoder_is_asked_for_where_every_frame_is_held(encoder):
    source, cache = Source(frames(6)), FeatureCache(1 << 20)
    first = list(encode_at([0.0, 2.0, 3.0, 4.0], "v", encoder.name, source.through(encoder), cache))

    def must_not_run(times):
        raise AssertionError("every frame is held")

    again = list(encode_at([0.0, 3.0], "v", encoder.name, must_not_run, cache))
    assert [a.values is b.values for a, b in zip(again, (first[0], first[2]), strict=True)] == [True, True]


@given(st.integers(0, 6), st.sets(st.integers(0, 5), min_size=1), st.sets(st.integers(0, 5), min_size=1))
def test_what_a_plan_takes_from_the_cache_is_never_held_beside_it(room, before, now):
    """Frames that are used or kept, counted once each while a plan is looked at: no more than the cache's and one."""
    one = feature(0).values.nbytes
    cache = FeatureCache(room * one)

    def made(times):
        for time in times:
            values = np.full((1, 4, 2), time, np.float32)
            yield PatchFeatures(values, np.array([time]), ("clip",), "eye")

    list(encode_at(sorted(map(float, before)), "v", "eye", made, cache))
    for seen in encode_at(sorted(map(float, now)), "v", "eye", made, cache):
        assert cache.held_bytes <= room * one
        assert seen.values[0, 0, 0] == seen.timestamps_seconds[0]
    held = [time for time in range(6) if cache.get("v", float(time), "eye") is not None]
    assert len(set(held) & now) == min(room, len(now)), "a plan leaves as many of its frames as there is room for"


def test_one_chunk_is_decoded_at_a_time_and_leaving_early_closes_the_decoder(encoder):
    source = Source(frames(6))
    features = encode_at([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "v", encoder.name, source.through(encoder), FeatureCache(0))
    next(features)
    next(features)
    assert (source.given, source.closed) == (2, 0)
    next(features)
    assert source.given == 4
    features.close()
    assert (source.given, source.closed) == (4, 1)


def test_a_clip_that_ends_early_leaves_nothing_in_the_cache(encoder):
    """Which frame belongs to which time is not certain then."""
    source, cache = Source(frames(3)), FeatureCache(1 << 20)
    assert len(list(encode_at([0.0, 1.0, 2.0, 3.0, 4.0], "v", encoder.name, source.through(encoder), cache))) == 3
    assert all(cache.get("v", t, "eye") is None for t in (0.0, 1.0, 2.0))


def test_a_frame_in_the_cache_does_not_keep_its_chunk(encoder):
    source, cache = Source(frames(4), chunk=4), FeatureCache(1 << 20)
    list(encode_at([0.0, 1.0, 2.0, 3.0], "v", encoder.name, source.through(encoder), cache))
    held = cache.get("v", 1.0, "eye").values
    assert held.base is None
    assert held.shape == (1, SIDE * SIDE, WIDTH)
    assert encoder.spec.image_px == IMAGE_PX


@pytest.mark.parametrize("turned", [np.s_[:], np.s_[:, ::-1], np.s_[..., ::-1], np.s_[::-1]])
def test_pictures_are_read_from_where_they_lie(turned):
    """Inside bars, mirrored, with its channels the other way round: the pixels are those of a copy."""
    framed = np.zeros((120, 200, 3), np.uint8)
    framed[15:105, 20:180] = np.random.default_rng(0).integers(40, 255, (90, 160, 3), np.uint8)
    picture = framed[turned]
    inside = np.ascontiguousarray(picture[15:105, 20:180])
    spec = spec_with(bars="crop")
    np.testing.assert_array_equal(preprocess(picture[None], spec), preprocess(inside[None], spec))
