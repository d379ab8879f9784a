"""Whatever is wrong with a source: one clear line, nothing from a native library on stderr, nothing left behind."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from make_clips import paint, steady, write_clip
from PIL import Image

from tam_edge.runtime.errors import TamEdgeError, UsageError, VideoError
from tam_edge.runtime.video import open_video


def missing(folder: Path) -> Path:
    return folder / "missing.mp4"


def empty(folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def text(folder: Path) -> Path:
    (folder / "text.mp4").write_text("how many people?\n" * 1000)
    return folder / "text.mp4"


def plain_text(folder: Path) -> Path:
    (folder / "notes.txt").write_text("how many people?\n" * 1000)  # FFmpeg would draw it
    return folder / "notes.txt"


def noise(folder: Path) -> Path:
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(100_000))
    return folder / "noise.mp4"


def without_moov(folder: Path) -> Path:
    path = write_clip(folder / "clip.mp4", steady(50))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def a_folder(folder: Path) -> Path:
    return folder


def no_frames(folder: Path) -> Path:
    path = write_clip(folder / "none.mp4", steady(5), container_options={"movflags": "frag_keyframe+empty_moov"})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moof") - 4])
    return path


def no_frames_in_matroska(folder: Path) -> Path:
    path = write_clip(folder / "none.mkv", steady(5))
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])  # the first cluster
    return path


def only_sound(folder: Path) -> Path:
    path = folder / "sound.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        for at in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, at * 1024
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def encrypted(folder: Path) -> Path:
    path = write_clip(folder / "clip.mp4", steady(5))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"encv"))
    return path


def undecodable(folder: Path) -> Path:
    path = write_clip(folder / "clip.mp4", steady(20), container_options={"movflags": "faststart"})
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    path.write_bytes(data[:start] + bytes(len(data) - start))
    return path


def huge_frames(folder: Path) -> Path:
    (folder / "huge.y4m").write_bytes(b"YUV4MPEG2 W15000 H15000 F25:1 C420jpeg\nFRAME\n" + bytes(1000))
    return folder / "huge.y4m"


def absurd_frames(folder: Path) -> Path:
    (folder / "absurd.y4m").write_bytes(b"YUV4MPEG2 W2000000000 H2000000000 F25:1 C420jpeg\nFRAME\n" + bytes(1000))
    return folder / "absurd.y4m"


def huge_image(folder: Path) -> Path:
    Image.new("1", (9000, 9000)).save(folder / "huge.png")
    return folder / "huge.png"


def bomb(folder: Path) -> Path:
    Image.new("1", (16000, 16000)).save(folder / "bomb.png")
    return folder / "bomb.png"


def animated_webp(folder: Path) -> Path:
    frames = [Image.fromarray(paint(i)) for i in range(3)]
    frames[0].save(folder / "a.webp", save_all=True, append_images=frames[1:], duration=100)
    return folder / "a.webp"


def playlist(folder: Path) -> Path:
    write_clip(folder / "clip.ts", steady(50))
    (folder / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nclip.ts\n#EXT-X-ENDLIST\n")
    return folder / "list.m3u8"


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.mp4")
    return folder / "pipe.mp4"


def a_socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "s"))
    return folder / "s"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (missing, "no such file"),
        (empty, "is empty"),
        (text, "no video or image"),
        (plain_text, "no video or image"),
        (noise, "no video or image"),
        (without_moov, "has no index (moov)"),
        (a_folder, "is a folder"),
        (no_frames, "no frame"),
        (no_frames_in_matroska, "before its first frame"),
        (huge_frames, "15000x15000 pixels are too large"),
        (absurd_frames, "cannot be opened as a video"),
        (only_sound, "no video stream"),
        (encrypted, "encrypted"),
        (undecodable, "no frame"),
        (huge_image, "9000x9000 pixels is too large"),
        (bomb, "too large"),
        (animated_webp, "animated WebP"),
        (playlist, "no video or image"),
        (a_pipe, "is a pipe"),
        (a_socket, "is a socket"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_one_line_says_what_and_what_to_do(
    make: Callable[[Path], Path], says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path)
    capfd.readouterr()  # what encoders said while the file was made
    gc.collect()  # a video that another test did not close keeps its file open
    before = sorted(tmp_path.rglob("*")), sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises(VideoError) as caught:
        open_video(path)
    error = caught.value
    assert (error.source, error.exit_code) == (str(path), 1)
    assert says in str(error)
    assert str(error).isprintable()
    assert "Traceback" not in str(error)
    assert error.__suppress_context__ or error.__context__ is None
    assert capfd.readouterr() == ("", "")
    assert (sorted(tmp_path.rglob("*")), sorted(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    "source",
    ["rtsp://192.0.2.1/live", "http://192.0.2.1/v.mp4", "https://x.invalid/v", "/dev/video0", "0", "/dev/zero"],
)
def test_live_sources_are_for_live_sessions(source: str) -> None:
    with pytest.raises(VideoError, match=r"VideoQA\.live"):
        open_video(source)


@pytest.mark.parametrize("source", ["", "  ", [], 0, None, b"clip.mp4", np.zeros((2, 8, 8, 3), np.uint8), [3]])
def test_what_is_no_source_at_all(source: object) -> None:
    with pytest.raises(UsageError):
        open_video(source)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a\0b.mp4", "x" * 5000, "loop"])
def test_paths_that_no_system_opens(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(VideoError) as caught:
        open_video(str(tmp_path / name))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["a:b %03d.mp4", "\u4e2d\u6587 é.mp4", os.fsdecode(b"\xff\xfe.mp4"), "-v.mp4", "0"])
def test_odd_names_are_just_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "clip.mp4", steady(3)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert open_video(name).info.frame_count == 3


PERMISSION_PROGRAM = textwrap.dedent(
    """
    import os, sys
    import av, PIL.PngImagePlugin
    from tam_edge.runtime.errors import VideoError
    from tam_edge.runtime.video import open_video
    if os.getuid() == 0:
        os.setuid(65534)
    try:
        open_video(sys.argv[1])
    except VideoError as error:
        print(error)
    """
)


def test_a_file_this_user_may_not_read(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", steady(3))
    path.chmod(0)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", PERMISSION_PROGRAM, str(path)], capture_output=True, text=True)
    assert done.stdout == f"{path}: may not be read by this user: change its permissions\n"
    assert (done.stderr, done.returncode) == ("", 0)


def test_errors_name_the_bad_part_of_a_sequence(tmp_path: Path) -> None:
    good = write_clip(tmp_path / "good.mp4", steady(3))
    with pytest.raises(VideoError, match=r"missing\.mp4: no such file"):
        open_video([good, tmp_path / "missing.mp4"])


def test_a_damaged_image_is_noticed_when_it_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:4000])
    video = open_video(path)
    with pytest.raises(VideoError, match="cannot be decoded"):
        list(video.frames([0.0], 1))


def test_a_file_that_vanishes_before_it_is_decoded(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", steady(3))
    video = open_video(path)
    path.unlink()
    assert len(list(video.frames([0.0], 1))) == 1  # it was still open
    with pytest.raises(VideoError, match="cannot be read"):
        list(video.frames([0.0], 1))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "gif", "png", "jpg"])
def test_damage_anywhere_is_an_error_or_fewer_frames(
    suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Flip bytes and cut at random: an own error or frames, never another exception and never a native log line."""
    path = tmp_path / f"x.{suffix}"
    if suffix in ("png", "jpg"):
        Image.fromarray(paint(77)).save(path)
    else:
        write_clip(
            path, steady(20), "gif" if suffix == "gif" else "mpeg4", pix_fmt="gray" if suffix == "gif" else "yuv420p"
        )
    whole = path.read_bytes()
    random = np.random.default_rng(7)
    capfd.readouterr()
    for _ in range(60):
        data = bytearray(whole[: random.integers(1, len(whole) + 1)] if random.random() < 0.5 else whole)
        for at in random.integers(0, len(data), random.integers(0, 12)):
            data[at] = random.integers(0, 256)
        path.write_bytes(data)
        try:
            for batch in open_video(path).frames([0.0, 0.3, 0.6], 2):
                assert batch.pixels.dtype == np.uint8
        except TamEdgeError as error:
            assert str(error).startswith(str(path))
    assert capfd.readouterr() == ("", "")
