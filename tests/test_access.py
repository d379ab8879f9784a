"""How much decoding frames take is known from the index, and is what the decoder then really does."""

from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_clips import steady, write_clip

from tam_edge.runtime.access import SEEK_PACKETS, FrameAccess, Reach, reach
from tam_edge.runtime.seeking import Seeking
from tam_edge.runtime.video import open_video

SECONDS, FPS = 24, 25
STEADY = {"sc_threshold": "0", "bf": "0", "preset": "ultrafast"}
times_of_clips = st.lists(st.floats(0, 3600, allow_nan=False), min_size=1, max_size=20).map(sorted)


def access(**changes):
    facts = {"fps": 25.0, "frame_bytes": 1000.0, "key_seconds": 2.0, "seekable": True, "indexed": True}
    return FrameAccess(**{**facts, **changes})


def test_without_seeking_everything_before_a_frame_is_decoded():
    assert reach([10.0], access(seekable=False)) == Reach(251.0, 0.0)
    assert reach([10.0, 20.0], access(seekable=False)) == Reach(502.0, 0.0)


def test_seeking_decodes_from_the_key_frame_on_and_costs_a_few_packets():
    assert reach([11.0], access()) == Reach(26.0, SEEK_PACKETS)
    assert reach([10.0], access()) == Reach(1.0, SEEK_PACKETS)  # the key frame itself


def test_without_an_index_packets_are_read_on_unless_it_is_far():
    near, far = reach([9.0], access(indexed=False)), reach([19.0], access(indexed=False))
    assert (near, far) == (Reach(26.0, 200.0), Reach(26.0, SEEK_PACKETS))


def test_a_key_frame_hardly_nearer_is_not_worth_it():
    assert reach([2.0, 2.1], access()).decoded_frames == pytest.approx(1 + 2.5 + 1)


@given(times_of_clips, st.booleans(), st.booleans(), st.floats(0.04, 30))
def test_more_frames_never_take_less_and_seeking_never_decodes_more(times, seekable, indexed, key):
    some = access(seekable=seekable, indexed=indexed, key_seconds=key)
    whole, part = reach(times, some), reach(times[: len(times) // 2 + 1], some)
    assert whole.decoded_frames >= part.decoded_frames and whole.packets >= part.packets
    assert whole.decoded_frames <= reach(times, access(seekable=False)).decoded_frames


@pytest.mark.parametrize(
    ("name", "gop", "times"),
    [
        ("clip.mp4", 25, [1.5, 7.5, 13.5, 23.5]),
        ("clip.mkv", 50, [0.0, 3.0, 9.5, 17.0]),
        ("clip.mp4", 1000, [2.0, 12.0, 22.0]),
        ("clip.mkv", 250, [5.0, 11.0, 21.5]),
    ],
)
def test_as_many_frames_are_decoded_as_was_said(tmp_path, monkeypatch, name, gop, times):
    options = {**STEADY, "g": str(gop), "keyint_min": str(gop)}
    path = write_clip(tmp_path / name, steady(SECONDS * FPS), options=options)
    given_to_decoder, decoded = [], Seeking._decoded

    def counted(self, packet):
        given_to_decoder.append(packet is not None)
        return decoded(self, packet)

    monkeypatch.setattr(Seeking, "_decoded", counted)
    with closing(open_video(str(path), threads=1)) as video:
        found = reach(times, video.info.access)
        assert sum(len(batch.pixels) for batch in video.frames(times, 4)) == len(times)
    assert abs(sum(given_to_decoder) - found.decoded_frames) <= 0.1 * found.decoded_frames + 2 * len(times)


def test_what_nothing_tells_about_is_said_to_be_unknown(tmp_path):
    path = write_clip(tmp_path / "clip.ts", steady(60), options=STEADY)
    with closing(open_video(str(path))) as video:
        assert (video.info.access.key_seconds, video.info.access.indexed) == (None, False)
        assert video.info.access.fps == pytest.approx(25, rel=0.05)
