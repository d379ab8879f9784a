"""A bundle appears whole or not at all: it is built beside its place and moved there when it is finished."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tam_edge.runtime.bundle import MANIFEST_FILE
from tam_edge.runtime.errors import UsageError


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """A new folder that becomes `out` when the block ends without an error; otherwise nothing of it is left.

    An older bundle at `out` is replaced. A process that is killed leaves a hidden folder without a manifest, which
    loads as nothing and is swept away by the next attempt.
    """
    place = out.resolve()
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if place.exists():
            shutil.rmtree(place)
        partial.replace(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_place(out: Path) -> None:
    """Refuse a place that holds something else than a bundle.

    Raises:
        UsageError: it does.
    """
    is_bundle = (out / MANIFEST_FILE).is_file()
    if out.exists() and not is_bundle and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there and is no bundle: name another folder")
