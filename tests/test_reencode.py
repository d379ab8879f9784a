"""Re-encoded films are real files with what they promise, and show the same at the same time."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest
from make_clips import SIZE_PX, read, steady, write_clip

from tam_edge.models.evaluate.reencode import ENCODINGS, MOST_LEFT_OUT, reencode
from tam_edge.models.street import make_scene
from tam_edge.models.street.video import write_video
from tam_edge.models.street.world import FIRST_UNSEEN_SEED
from tam_edge.runtime.video import open_video

FPS, FRAMES, SIZE = 4, 41, (192, 96)  # width, height; the pattern that numbers a frame is SIZE_PX square
TIMES = (0.0, 1.0, 3.0, 7.0, 10.0)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("film") / "film.mp4", steady(FRAMES, every_ms=1000 // FPS), size_px=SIZE)


def shown(path: Path, times: tuple[float, ...] = TIMES) -> np.ndarray:
    """Frames [N, H, W, 3] as the runtime sees them."""
    with closing(open_video(path)) as video:
        return np.concatenate([batch.pixels for batch in video.frames(times, 4)])


def stamps(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", ENCODINGS)
def test_length_and_pictures_stay(name: str, film: Path, tmp_path: Path) -> None:
    reencode(film, tmp_path / "again.mp4", ENCODINGS[name])
    with closing(open_video(film)) as old, closing(open_video(tmp_path / "again.mp4")) as new:
        assert abs(new.info.duration_seconds - old.info.duration_seconds) < 0.1
    frames = shown(tmp_path / "again.mp4")
    if name == "half":
        frames = np.repeat(np.repeat(frames, 2, 1), 2, 2)
    above, left = (frames.shape[1] - SIZE[1]) // 2, (frames.shape[2] - SIZE[0]) // 2
    numbers = [read(frame[above : above + SIZE_PX, left : left + SIZE_PX]) for frame in frames]
    wanted = [round(seconds * FPS) for seconds in TIMES]
    if name == "vfr":
        assert all(0 <= want - found <= MOST_LEFT_OUT for want, found in zip(wanted, numbers, strict=True))
    else:
        assert numbers == wanted


def test_quality_falls_with_crf(film: Path, tmp_path: Path) -> None:
    scene = make_scene(FIRST_UNSEEN_SEED + 219_000_000)
    plain, again = tmp_path / "plain.mp4", tmp_path / "again.mp4"
    write_video(scene, plain)
    reencode(plain, again, ENCODINGS["crf35"])
    assert again.stat().st_size < plain.stat().st_size / 5


def test_sizes_are_what_the_names_say(film: Path, tmp_path: Path) -> None:
    found = {}
    for name, encoding in ENCODINGS.items():
        reencode(film, tmp_path / f"{name}.mp4", encoding)
        with closing(open_video(tmp_path / f"{name}.mp4")) as video:
            found[name] = (video.info.width_px, video.info.height_px)
    assert found == {
        **dict.fromkeys(("crf35", "5fps", "rotated", "vfr"), SIZE),
        "half": (96, 48),
        "letterbox": (192, 256),
        "pillarbox": (192, 108),
    }


def test_bars_are_black(film: Path, tmp_path: Path) -> None:
    reencode(film, tmp_path / "tall.mp4", ENCODINGS["letterbox"])
    frames = shown(tmp_path / "tall.mp4").astype(int)
    assert frames[:, :78].max() < 20 and frames[:, -78:].max() < 20
    assert frames[:, 82:-82].mean() > 60


def test_a_rotated_file_stores_its_pixels_lying(film: Path, tmp_path: Path) -> None:
    reencode(film, tmp_path / "turned.mp4", ENCODINGS["rotated"])
    with av.open(str(tmp_path / "turned.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == SIZE[::-1]


def test_frame_rates(film: Path, tmp_path: Path) -> None:
    reencode(film, tmp_path / "5.mp4", ENCODINGS["5fps"])
    np.testing.assert_allclose(np.diff(stamps(tmp_path / "5.mp4")), 0.2, atol=1e-3)
    reencode(film, tmp_path / "v.mp4", ENCODINGS["vfr"])
    gaps = np.diff(stamps(tmp_path / "v.mp4"))
    assert len(set(np.round(gaps, 3))) > 2
    assert gaps.max() <= (MOST_LEFT_OUT + 1) / FPS + 1e-3


def test_the_same_film_gives_the_same_file(film: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        reencode(film, tmp_path / f"{name}.mp4", ENCODINGS["vfr"])
    assert stamps(tmp_path / "a.mp4") == stamps(tmp_path / "b.mp4")
