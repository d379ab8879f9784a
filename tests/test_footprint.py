"""What every stage of an answer holds is known before it is opened, and is not less than it turns out to be."""

from contextlib import closing
from dataclasses import replace

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_clips import steady, write_clip
from tiny_bundle import EMBEDDING, IMAGE_PX, LADDER, SIDE, WIDTH, make_tiny_bundle

from tam_edge.runtime.bundle import load_bundle
from tam_edge.runtime.figures import THREAD_BYTES, memory_of, running_bytes, ways_to_attend
from tam_edge.runtime.footprint import Case, Thrift, attention_of, stage_bytes, stage_needs
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.pictures import FIXED_BYTES, INDEX_BYTES, DecoderNeeds, decoder_needs, h264_references
from tam_edge.runtime.schema import EngineMemory, Sized
from tam_edge.runtime.standing import Standing
from tam_edge.runtime.video import open_video

MIB = 1 << 20
HELD = Standing(100 * MIB, threads=2)
LOOK, ALL = Case(visual_tokens=160, frames=10, grid=4), Thrift()


def curve(*points):
    return [{"size": size, "bytes": taken} for size, taken in points]


def measured(open_mib, running, library_mib=8, cell_bytes=None):
    figures = {"opening_bytes": (open_mib + 1) * MIB, "open_bytes": open_mib * MIB, "library_bytes": library_mib * MIB}
    return {**figures, "running": running, "cell_bytes": cell_bytes or {}}


def with_memory(manifest):
    """Figures such as a build would have measured: small numbers, each of them telling."""
    manifest["inductor"]["engines"][0]["memory"] = measured(6, {"run": curve((16, MIB), (128, 3 * MIB))})
    manifest["encoders"]["eye"]["engines"][0]["memory"] = measured(
        12, {"run": curve((1, 4 * MIB), (2, 8 * MIB), (4, 16 * MIB), (8, 34 * MIB))}
    )
    for grid, projector in manifest["projectors"].items():
        projector["engines"][0]["memory"] = measured(int(grid), {"run": curve((1, int(grid) * MIB))})
    ways = {
        "plain": curve((256, 7 * MIB), (1024, 22 * MIB), (4096, 82 * MIB)),
        "flash": curve((256, 6 * MIB), (1024, 8 * MIB)),
    }
    ways["q8_0"] = curve((256, 6 * MIB), (1024, 8 * MIB))
    cells = {"plain": 20_000, "flash": 20_000, "q8_0": 10_000}
    manifest["language"]["engines"][0]["memory"] = measured(10, ways, 4, cells)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return load_bundle(make_tiny_bundle(tmp_path_factory.mktemp("tiny"), change=with_memory)).manifest


@pytest.fixture(scope="module")
def unmeasured(tmp_path_factory):
    return load_bundle(make_tiny_bundle(tmp_path_factory.mktemp("old"))).manifest


def info(width=640, height=360, pictures=6):
    decoder = DecoderNeeds(width * height * 3 // 2, pictures, 0)
    return VideoInfo("v", "video", 10.0, 250, width, height, 25.0, "h264", "id", decoder=decoder)


def needs_of(manifest, case=LOOK, thrift=ALL, held=HELD, video=None):
    return stage_needs(manifest, held, video or info(), case, thrift)


def test_every_stage_is_named_and_holds_the_process(manifest):
    needs = needs_of(manifest)
    assert list(needs) == ["inductor", "vision", "language"]
    assert all(parts["process"] == 100 * MIB and parts["spare"] > 0 for parts in needs.values())
    assert stage_bytes(needs)["vision"] == sum(needs["vision"].values())


def test_a_bundle_without_figures_counts_its_peaks_while_engines_are_open(unmeasured):
    needs = needs_of(unmeasured)
    peak = unmeasured.language.engines[0].peak_bytes
    assert needs["language"]["vision"] == 2 * peak  # encoder and projector
    assert needs["language"]["language"] == peak
    smaller = needs_of(unmeasured, thrift=Thrift(chunk_frames=1))
    assert smaller["vision"]["vision"] == needs["vision"]["vision"]


def test_frames_are_the_dearer_of_decoding_and_encoding(manifest):
    pixels = 640 * 360
    needs = needs_of(manifest)["vision"]["frames"]
    assert needs == 9 * 3 * pixels + 8 * 3 * IMAGE_PX**2 * 4 + 34 * MIB
    ahead = needs_of(manifest, thrift=Thrift(decode_ahead=True))["vision"]["frames"]
    assert ahead == needs + (2 + 1) * 3 * pixels, "10 frames in all: two follow, and one more while the last is made"
    one_chunk = needs_of(manifest, case=replace(LOOK, frames=8))["vision"]
    assert one_chunk["frames"] == needs - one_chunk["decoder"], "the file is closed once its last frame is decoded"
    tall = needs_of(manifest, thrift=Thrift(chunk_frames=1), video=info(3840, 2160))["vision"]["frames"]
    assert tall == 4 * 3 * 3840 * 2160, "the chunk, the last one, the one that is converted, and its copy"
    alone = needs_of(manifest, case=replace(LOOK, frames=1), video=info(3840, 2160))["vision"]["frames"]
    assert alone == 2 * 3 * 3840 * 2160, "one frame alone, and its copy"
    four = needs_of(manifest, case=replace(LOOK, frames=4), video=info(3840, 2160))["vision"]["frames"]
    assert four == (4 + 3) * 3 * 3840 * 2160, "all in one chunk"


def test_what_is_looked_at_is_counted(manifest):
    needs = needs_of(manifest)["vision"]
    assert needs["tokens"] == 2 * 160 * EMBEDDING * 4
    assert needs["features"] == 10 * SIDE**2 * WIDTH * 4
    assert needs["decoder"] == FIXED_BYTES + (6 + 2) * 640 * 360 * 3 // 2
    assert needs["code"] == 8 * MIB


def test_cells_are_counted_to_the_byte(manifest):
    cells, way = attention_of(manifest, Case(visual_tokens=160, before_tokens=5, room_tokens=40), Thrift())
    assert (cells, way) == (768, "plain")  # 165 + 400 + 16, in steps of 256
    tight = Thrift(no_spare_cells=True, attention=2)
    assert attention_of(manifest, Case(visual_tokens=160, before_tokens=5, room_tokens=40), tight) == (256, "q8_0")
    plain, eight = (needs_of(manifest, thrift=thrift)["language"]["language"] for thrift in (Thrift(), tight))
    assert plain == 10 * MIB + 768 * 20_000 + 7 * MIB + (22 - 7) * MIB * 512 // 768
    assert eight == 10 * MIB + 256 * 10_000 + 6 * MIB


def test_what_is_open_already_counts_once(manifest):
    opened = {"inductor": 6 * MIB, "language": 30 * MIB}
    held = Standing(140 * MIB, open_bytes=opened, code_bytes={"onnx": 8 * MIB, "gguf": 4 * MIB}, threads=2)
    needs = needs_of(manifest, held=held)
    assert needs["inductor"]["process"] == 104 * MIB
    assert (needs["vision"]["inductor"], needs["vision"]["language"], needs["vision"]["code"]) == (6 * MIB, 30 * MIB, 0)
    in_turn = needs_of(manifest, thrift=Thrift(in_turn=True, close_inductor=True), held=held)
    assert "language" not in in_turn["vision"] and "inductor" not in in_turn["vision"]
    assert "vision" not in in_turn["language"]


def test_a_video_that_was_seen_needs_nothing_new(manifest):
    held = Standing(140 * MIB, open_bytes={"inductor": 6 * MIB, "language": 30 * MIB}, threads=2)
    needs = needs_of(manifest, Case(visual_tokens=160, seen=True), held=held)
    assert list(needs) == ["inductor", "language"]
    assert stage_bytes(needs)["language"] < 145 * MIB


def test_threads_hold_memory_of_their_own(manifest):
    two, nine = (needs_of(manifest, held=Standing(MIB, threads=n))["vision"] for n in (2, 9))
    assert nine["vision"] - two["vision"] == 2 * 7 * THREAD_BYTES
    assert nine["decoder"] - two["decoder"] == 7 * 2 * 640 * 360 * 3 // 2
    alone = needs_of(manifest, held=Standing(MIB, threads=9), thrift=Thrift(decoder_threads=1))["vision"]
    assert alone["decoder"] == FIXED_BYTES + 6 * 640 * 360 * 3 // 2


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_more_at_once_never_takes_less(one, other):
    memory = EngineMemory(
        opening_bytes=0,
        open_bytes=0,
        library_bytes=0,
        running={"run": tuple(Sized(size=n, bytes=b) for n, b in ((4, 10), (8, 30), (16, 31)))},
    )
    low, high = sorted((one, other))
    assert running_bytes(memory, "run", low) <= running_bytes(memory, "run", high)
    assert running_bytes(memory, "run", 6) == 20
    assert running_bytes(memory, "flash", 6) == 0


def test_plain_attention_ends_where_it_was_measured_last(manifest, unmeasured):
    memory = memory_of(manifest.language.engines[0])
    assert ways_to_attend(memory, 4096) == ("plain", "flash", "q8_0")
    assert ways_to_attend(memory, 4352) == ("flash", "q8_0")
    assert ways_to_attend(memory_of(unmeasured.language.engines[0]), 256) == ("plain",)


@pytest.mark.parametrize(
    ("codec", "level", "size", "references"),
    [
        ("h264", 40, (1920, 1080), 4),
        ("h264", 51, (1920, 1080), 16),
        ("h264", 31, (1280, 720), 5),
        ("h264", None, (640, 360), 16),
        ("h264", -99, (64, 64), 16),
        ("hevc", 120, (1920, 1080), 6),
        ("hevc", 120, (640, 360), 16),
        ("vp9", -99, (640, 360), 5),
        ("unheard-of", None, (64, 64), 16),
    ],
)
def test_a_level_says_how_many_pictures_are_held(codec, level, size, references):
    needs = decoder_needs(codec, level, None, *size, 12, 1000)
    assert needs.pictures == references + 4
    assert needs.picture_bytes == size[0] * size[1] * 3 // 2
    assert needs.index_bytes == 1000 * INDEX_BYTES < needs.opening_bytes


def test_a_long_index_counts_while_it_is_read_and_held(manifest):
    short, long = (
        replace(info(), decoder=decoder_needs("h264", 40, None, 64, 64, 12, entries, reordered=True))
        for entries in (0, 1_000_000)
    )
    less, more = (needs_of(manifest, video=video)["vision"] for video in (short, long))
    assert (more["index"], less["index"], more["decoder"]) == (50_000_000, 0, less["decoder"])
    assert more["index"] + more["decoder"] + more["frames"] >= 97_000_000


def test_an_index_that_is_held_already_counts_once(manifest):
    long = replace(info(), decoder=decoder_needs("h264", 40, None, 64, 64, 12, 1_000_000, reordered=True))
    held = Standing(150_000_000, video_bytes=50_000_000, threads=2)
    before = needs_of(manifest, held=Standing(100_000_000, threads=2), video=long)["vision"]
    needs = needs_of(manifest, held=held, video=long)
    assert (needs["vision"]["process"], needs["vision"]["index"]) == (100_000_000, 50_000_000)
    assert needs["inductor"]["process"] == 150_000_000, "nothing is closed before the frames are looked at"
    assert needs["language"]["process"] == 100_000_000
    assert needs["vision"]["frames"] < before["frames"], "it is not read again"
    anew = needs_of(manifest, held=held, video=long, thrift=Thrift(decoder_threads=1))["vision"]
    assert anew["index"] + anew["decoder"] + anew["frames"] >= 97_000_000, "other threads, so the file is opened anew"


def test_a_file_that_is_held_open_says_so(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", steady(20))
    with closing(open_video(clip, threads=2)) as video:
        assert video.held_bytes == video.info.decoder.held_bytes(2) > 0
        video.decode_with(2)
        assert video.held_bytes > 0
        video.decode_with(1)
        assert video.held_bytes == 0
        assert len(list(video.frames([0.0], 1))) == 1
    with closing(open_video(clip, start=0.1, threads=2)) as video:
        assert video.held_bytes > 0
        assert len(list(video.frames([0.2], 1))) == 1
        assert video.held_bytes == 0
    with closing(open_video([clip, clip], threads=2)) as video:
        assert video.held_bytes == 0


@pytest.mark.parametrize("references", [1, 3, 8])
def test_an_h264_stream_says_how_many_pictures_it_refers_to(tmp_path, references):
    options = {"preset": "medium", "refs": str(references), "bf": "0", "x264-params": "level=51"}
    clip = write_clip(tmp_path / "clip.mp4", steady(20), size_px=(320, 240), options=options)
    with av.open(str(clip)) as container:
        assert h264_references(container.streams.video[0].codec_context.extradata) == references
    with closing(open_video(clip)) as video:
        assert video.info.decoder.pictures == references + 4


@given(st.binary(max_size=60))
def test_a_broken_header_is_no_error(data):
    assert h264_references(data) in {None, *range(17)}
    assert h264_references(b"\1" + data) in {None, *range(17)}


def test_every_grid_of_the_ladder_may_be_the_dearest(manifest):
    unknown, known = (needs_of(manifest, Case(visual_tokens=160, grid=grid))["vision"]["vision"] for grid in (None, 2))
    assert unknown - known == (max(LADDER) - 2) * MIB


def test_a_language_model_that_opens_beside_vision_counts_there(manifest):
    alone, beside = (needs_of(manifest, thrift=Thrift(language_beside=on)) for on in (False, True))
    assert "language" not in alone["vision"]
    assert beside["vision"]["language"] == 11 * MIB, "while it is opened"
    assert beside["vision"]["code"] == alone["vision"]["code"] + 4 * MIB
    assert beside["language"] == alone["language"]
    in_turn = needs_of(manifest, thrift=Thrift(language_beside=True, in_turn=True))
    assert "language" not in in_turn["vision"]


def test_pictures_of_a_file_that_is_held_open_are_not_counted_again(manifest):
    video = info()
    held_bytes = video.decoder.held_bytes(2)
    assert held_bytes == 3 * video.decoder.picture_bytes
    for threads in (None, 1):
        fresh, held = (
            stage_bytes(needs_of(manifest, held=Standing(150 * MIB, video_bytes=size, threads=2), video=video,
                                 thrift=Thrift(decoder_threads=threads)))
            for size in (0, held_bytes)
        )  # fmt: skip
        assert held["inductor"] == fresh["inductor"]
        assert held["vision"] <= fresh["vision"] - held_bytes
        assert held["language"] <= fresh["language"] - held_bytes, "closed"
