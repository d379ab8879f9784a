"""Black bars are found where a player put them, and nowhere else."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tam_edge.models.evaluate.reencode import ENCODINGS, reencode
from tam_edge.models.street import make_scene, render
from tam_edge.models.street.video import write_video
from tam_edge.models.street.world import FIRST_UNSEEN_SEED
from tam_edge.runtime.bars import BLACK, without_bars
from tam_edge.runtime.bundle import default_bundle_path, load_bundle
from tam_edge.runtime.video import open_video
from tam_edge.runtime.vision import preprocess


def picture(height=60, width=80, seed=0):
    return np.random.default_rng(seed).integers(BLACK + 1, 256, (height, width, 3), dtype=np.uint8)


def framed(above, below, left, right, level=0):
    return np.pad(picture(), ((above, below), (left, right), (0, 0)), constant_values=level)


@given(st.integers(0, 60), st.integers(0, 80), st.integers(0, BLACK))
def test_even_bars_are_cut_to_the_pixel(rows, columns, level):
    np.testing.assert_array_equal(without_bars(framed(rows, rows, columns, columns, level)), picture())


def test_bars_that_were_rounded_are_cut_to_the_pixel():
    np.testing.assert_array_equal(without_bars(framed(20, 22, 0, 0)), picture())
    np.testing.assert_array_equal(without_bars(framed(0, 0, 31, 30)), picture())


@pytest.mark.parametrize("sides", [(30, 0, 0, 0), (0, 30, 0, 0), (0, 0, 30, 0), (0, 0, 0, 30), (0, 30, 30, 0)])
def test_what_is_dark_on_one_side_stays(sides):
    assert without_bars(framed(*sides)).shape == framed(*sides).shape


def test_subtitles_in_a_bar_stay_whole():
    frame = framed(40, 40, 0, 0)
    frame[-15:-8, 20:60] = 255
    found = without_bars(frame)
    assert found.shape == (140 - 2 * 8, 80, 3)
    assert (found[-7:, 20:60] == 255).all()


def test_a_dark_frame_is_left_alone():
    for frame in (np.zeros((40, 40, 3), np.uint8), np.full((40, 40, 3), BLACK, np.uint8)):
        assert without_bars(frame).shape == frame.shape
    lamp = np.zeros((40, 40, 3), np.uint8)
    lamp[18:22, 18:22] = 255
    assert without_bars(lamp).shape == lamp.shape


def test_no_street_scene_has_bars():
    for seed in range(FIRST_UNSEEN_SEED, FIRST_UNSEEN_SEED + 150):
        frame = render(make_scene(seed), 1.0)
        assert without_bars(frame).shape == frame.shape


def test_a_bundle_says_whether_bars_are_cut(tmp_path):
    spec = load_bundle(default_bundle_path()).manifest.encoders["siglip"]
    assert spec.preprocessing.bars == "crop"
    kept = spec.model_copy(update={"preprocessing": spec.preprocessing.model_copy(update={"bars": "keep"})})
    pixels = framed(30, 30, 0, 0)[None]
    np.testing.assert_array_equal(preprocess(pixels, spec), preprocess(picture()[None], spec))
    assert np.abs(preprocess(pixels, kept) - preprocess(pixels, spec)).max() > 0.5
    np.testing.assert_array_equal(preprocess(picture()[None], kept), preprocess(picture()[None], spec))


@pytest.mark.parametrize("name", ["letterbox", "pillarbox"])
def test_the_eye_sees_a_framed_film_as_the_film_itself(name, tmp_path):
    scene = make_scene(FIRST_UNSEEN_SEED)
    plain, again = tmp_path / "plain.mp4", tmp_path / "again.mp4"
    write_video(scene, plain)
    reencode(plain, again, ENCODINGS[name])
    spec = load_bundle(default_bundle_path()).manifest.encoders["siglip"]
    seen = [
        np.concatenate([preprocess(batch.pixels, spec) for batch in open_video(Path(path)).frames((0.0, 2.0, 4.0), 3)])
        for path in (plain, again)
    ]
    assert seen[0].shape == seen[1].shape
    assert np.abs(seen[0] - seen[1]).mean() < 0.05
