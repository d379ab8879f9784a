"""What every test file shares: a cache folder of its own and the skip that CI forbids."""

import glob
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Threads that spin while they wait make two suites on one machine take ten times as long; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell that puts the suite in the background ignores SIGINT for it, and what a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Timings on a busy two-core machine say nothing about the code; CI draws the same examples every time.
settings.register_profile("tam-edge", deadline=None, derandomize=bool(os.environ.get("TAM_EDGE_REQUIRE")))
settings.load_profile("tam-edge")

PROGRAM_OF_PACKAGE = {
    "chromium": "chromium",
    "gstreamer1.0-tools": "gst-launch-1.0",
    "gstreamer1.0-plugins-good": "/usr/lib/*/gstreamer-1.0/libgstjpeg.so",
    "gir1.2-gst-rtsp-server-1.0": "/usr/lib/*/girepository-1.0/GstRtspServer-1.0.typelib",
    "python3-gi": "/usr/lib/python3/dist-packages/gi/__init__.py",
}
"""Debian package a test may need -> the program or file it brings; .ci/run installs the packages."""


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep records of checked bundles out of the user's cache folder."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAM_EDGE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def require() -> Callable[[str], Path]:
    """Give ``require("chromium")``: the program's path, else a skip by name, or a failure under TAM_EDGE_REQUIRE."""

    def program_of(package: str) -> Path:
        wanted = PROGRAM_OF_PACKAGE[package]
        found = next(iter(glob.glob(wanted)), None) if wanted.startswith("/") else shutil.which(wanted)  # noqa: PTH207
        if found:
            return Path(found)
        if os.environ.get("TAM_EDGE_REQUIRE"):
            pytest.fail(f"TAM_EDGE_REQUIRE is set and the Debian package {package} is missing")
        pytest.skip(f"needs the Debian package {package}")

    return program_of
