"""What is read off the machine, and where this user's cache lies."""

import os
import sys
from pathlib import Path

import pytest

from tam_edge.runtime.device import cache_folder, container_free_bytes, driver_gpus, has_vnni, probe_device


def test_this_machine_has_processors_and_memory():
    device = probe_device()
    assert 1 <= device.cpu_count <= os.cpu_count()
    assert 0 < device.memory_free_bytes <= device.memory_total_bytes
    assert device.machine.isprintable()
    assert device.machine


@pytest.mark.skipif(sys.platform != "linux", reason="needs sched_setaffinity")
def test_only_processors_this_process_may_use_are_counted():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert probe_device().cpu_count == 1
    finally:
        os.sched_setaffinity(0, allowed)


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        ({"memory__max": "max\n", "memory__current": "5\n"}, None),
        ({"memory__max": "1000\n", "memory__current": "300\n"}, 700),
        ({"memory__max": "1000", "memory__current": "300", "memory__stat": "anon 9\ninactive_file 50\n"}, 750),
        ({"memory__max": "1000", "memory__current": "1300"}, 0),
    ],
)
def test_a_containers_limit_counts_and_its_page_cache_does_not(tmp_path, files, free):
    assert container_free_bytes(write(tmp_path / "v2", **files)) == free


def test_the_older_layout_of_control_groups_is_read_too(tmp_path):
    write(tmp_path / "memory", memory__limit_in_bytes="1000\n", memory__usage_in_bytes="400\n")
    assert container_free_bytes(tmp_path) == 600


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\n", True),
        ("flags : avx2 avx_vnni", True),
        ("flags : avx2 avx512f", False),
        ("Features : fp asimd", False),
        ("", False),
    ],
)
def test_which_processors_add_up_8_bit_products_without_overflow(tmp_path, text, has):
    (tmp_path / "cpuinfo").write_text(text)
    assert has_vnni(tmp_path / "cpuinfo") == has
    assert not has_vnni(tmp_path / "missing")


def test_gpus_are_named_by_the_driver(tmp_path):
    assert driver_gpus(tmp_path) == ()
    for place, name in (("0000:01:00.0", "NVIDIA GeForce RTX 4090"), ("0000:02:00.0", "NVIDIA T4")):
        write(tmp_path / place, information=f"Model: \t\t {name}\nIRQ:   \t\t 128\n")
    assert driver_gpus(tmp_path) == ("NVIDIA GeForce RTX 4090", "NVIDIA T4")


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {"TAM_EDGE_CACHE": "/chosen", "XDG_CACHE_HOME": "/xdg"}, "/chosen"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/tam-edge"),
        ("linux", {"XDG_CACHE_HOME": ""}, "/home/me/.cache/tam-edge"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "/home/me/Library/Caches/tam-edge"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/tam-edge"),
        ("win32", {}, "/home/me/AppData/Local/tam-edge"),
    ],
)
def test_the_cache_lies_where_the_platform_wants_it(monkeypatch, platform, variables, folder):
    for name in ("TAM_EDGE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    assert cache_folder() == Path(folder)
