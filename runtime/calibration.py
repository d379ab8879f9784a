"""The record of a calibration: one file in the user's cache folder per bundle, device and number of threads.

It says how fast the bundle's engines are on this device, and what they hold there.

A record that cannot be used is never used silently, and never passed over silently either: `Calibrated.problem` says
in one line what is wrong with it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from tam_edge.runtime.bundle import Bundle
from tam_edge.runtime.device import DeviceProfile, cache_folder, processor_name
from tam_edge.runtime.engines import DeviceName
from tam_edge.runtime.errors import TamEdgeError
from tam_edge.runtime.figures import with_memory
from tam_edge.runtime.rates import Rates
from tam_edge.runtime.schema import EngineMemory

COMMAND = "tam-edge doctor --calibrate"
"""What measures a device."""
_MOST_BYTES = 1 << 20  # a record is a few thousand bytes; anything larger is not ours
_PROGRAMS = ("tam-edge", "onnxruntime", "llama-cpp-python", "av")


@dataclass(frozen=True, slots=True)
class Place:
    """What a calibration is for, and where it is kept."""

    path: Path
    """The file, which need not exist."""
    bundle: str
    """Fingerprint of the bundle."""
    device: str
    """The machine, and what engines were given of it."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What is known about this device: how fast a bundle's engines are on it, and what they hold."""

    rates: Rates | None
    """The figures; None where there are none that can be used."""
    problem: str | None = None
    """What is wrong with the file that is there; None where it is used, or where there is none."""

    @property
    def memory_from(self) -> Literal["bundle", "device"]:
        """Where the figures that memory is predicted by were measured."""
        return "device" if self.rates is not None and self.rates.memory else "bundle"

    def refined(self, bundle: Bundle) -> Bundle:
        """The bundle with what its engines hold on this device instead of what they held where it was made."""
        return bundle if self.rates is None else measured_here(bundle, self.rates.memory)


def measured_here(bundle: Bundle, memory: Mapping[str, EngineMemory]) -> Bundle:
    """The bundle with these figures of its engines, by their files, instead of its own; for predictions only."""
    return replace(bundle, manifest=with_memory(bundle.manifest, memory))


def place_of(bundle: Bundle, profile: DeviceProfile, threads: int, device: DeviceName) -> Place:
    """Where the calibration of a bundle with so many threads on a device is kept."""
    gpus = ", ".join(profile.gpus) if device != "cpu" and profile.gpus else "no GPU"
    name = f"{profile.machine}, {processor_name() or platform.machine()}, {gpus}, {device}, {threads} threads"
    key = hashlib.sha256(name.encode()).hexdigest()[:16]
    return Place(cache_folder() / "calibration" / bundle.fingerprint / f"{key}.json", bundle.fingerprint, name[:200])


def read_rates(place: Place) -> Calibrated:
    """The figures of an earlier calibration, if there are any that can be used."""
    try:
        with place.path.open("rb") as stream:
            text = stream.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return Calibrated(None)
    except OSError as error:
        return _unusable(place, f"cannot be read ({error.strerror})")
    try:
        rates = Rates.model_validate_json(text) if len(text) <= _MOST_BYTES else None
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"])) or "JSON"
        return _unusable(place, f"is damaged or of another version ({field[:80]})")
    if rates is None or (rates.bundle, rates.device) != (place.bundle, place.device):
        return _unusable(place, "is for another bundle or device")
    if rates.made_with != versions():
        return _unusable(place, f"was made with {rates.made_with}, this is {versions()}")
    return Calibrated(rates)


def write_rates(place: Place, rates: Rates) -> None:
    """Replace the file in one step, so that a second process never reads half of it.

    Raises:
        TamEdgeError: the cache folder cannot be written.
    """
    draft: str | None = None
    try:
        place.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=place.path.parent, prefix=place.path.stem, suffix=".draft")
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(rates.model_dump_json(indent=2) + "\n")
        Path(draft).replace(place.path)
    except BaseException as error:
        if draft is not None:
            Path(draft).unlink(missing_ok=True)
        if isinstance(error, OSError):
            message = f"cannot keep the calibration in {place.path.parent}: {error.strerror}; set TAM_EDGE_CACHE"
            raise TamEdgeError(f"{message} to a folder that can be written") from error
        raise


def versions() -> str:
    """The programs whose speed is measured; another version may be faster or slower."""
    return ", ".join(f"{name} {_version(name)}" for name in _PROGRAMS)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "?"


def _unusable(place: Place, why: str) -> Calibrated:
    return Calibrated(None, f"{place.path} {why}: run {COMMAND} again")
