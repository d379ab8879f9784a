"""`tam-edge doctor`: what this device is, whether the bundle is whole, how fast it runs here and what it holds."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer

import tam_edge.apps.options as opt
from tam_edge.apps.render import print_json, print_notes, print_row, progress_lines
from tam_edge.apps.units import milliseconds_text
from tam_edge.runtime.budget import size_text
from tam_edge.runtime.bundle import Bundle, default_bundle_path, load_bundle
from tam_edge.runtime.calibration import COMMAND, Calibrated, place_of, read_rates
from tam_edge.runtime.device import DeviceProfile, probe_device, processor_name
from tam_edge.runtime.engines import DeviceName, check_engine_options
from tam_edge.runtime.rates import Rates
from tam_edge.runtime.schedule import worthwhile

Calibrate = Annotated[
    bool,
    typer.Option(
        "--calibrate",
        help="Measure how fast the bundle runs here and what it holds; --deadline and --memory go by that.",
    ),
]
Verify = Annotated[bool, typer.Option("--verify", help="Hash every file of the bundle again.")]


def doctor(
    calibrate: Calibrate = False,
    verify: Verify = False,
    model: opt.Model = None,
    memory: opt.Memory = None,
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    as_json: opt.AsJson = False,
    verbose: opt.Verbose = False,
) -> None:
    """Look at this device and a bundle; measure how fast it runs here, and what its engines hold in memory.

    What is measured is kept in the user's cache folder, for this bundle, device and number of threads.
    """
    opt.show_log(verbose)
    check_engine_options(device, threads)
    profile = probe_device()
    bundle = load_bundle(default_bundle_path() if model is None else model, verify=verify)
    on, used = cast(DeviceName, device), threads or profile.cpu_count
    place = place_of(bundle, profile, used, on)
    if calibrate:
        from tam_edge.runtime.calibrate import calibrate as measure

        with progress_lines() as doing:
            measure(bundle.path, memory=memory, device=on, threads=threads, progress=doing)
    known = read_rates(place)
    if as_json:
        print_json(_as_json(profile, bundle, place.path, known))
        return
    _print(profile, bundle, used)
    print_row("Speed", _speed(known.rates))
    print_row("Engines", _engines(known))
    if known.rates is not None:
        print_row("Overlap", _overlap(known.rates, min(used, profile.cpu_count)))
        print_row("Kept in", str(place.path))
    if known.problem is not None:
        print_notes([known.problem])
    sys.stdout.flush()


def _print(profile: DeviceProfile, bundle: Bundle, threads: int) -> None:
    manifest = bundle.manifest
    print_row("Device", ", ".join(filter(None, (profile.machine, processor_name(), *profile.gpus))))
    print_row("Processors", f"{profile.cpu_count}, {threads} used")
    memory = f"{size_text(profile.memory_total_bytes)}, {size_text(profile.memory_free_bytes)} free"
    print_row("Memory", memory)
    print_row("Bundle", f"{manifest.name} {manifest.version}, {bundle.path}")


def _speed(rates: Rates | None) -> str:
    if rates is None:
        return f"not calibrated: run {COMMAND}"
    runs = [curve[-1] for curve in rates.encoding.values()]
    vision = ", ".join(f"{milliseconds_text(run.ms / run.frames)} a frame" for run in runs)
    prefill = milliseconds_text(rates.prefill.at(1000, 0))
    answer = milliseconds_text(rates.token.at(1000))
    return f"vision {vision}, 1,000 tokens read in {prefill}, {answer} a token of the answer"


def _engines(known: Calibrated) -> str:
    if known.rates is None or known.memory_from == "bundle":
        return "memory is predicted by what they held where the bundle was made"
    held = size_text(sum(memory.open_bytes for memory in known.rates.memory.values()))
    return f"memory is predicted by what they hold here: {len(known.rates.memory)} measured, {held} while open"


def _overlap(rates: Rates, threads: int) -> str:
    overlap = worthwhile(rates.beside, threads=threads, decoded=True)
    ways = {"decoding": overlap.decode_ahead, "opening the language model": overlap.language_beside}
    gaining = " and ".join(way for way, gains in ways.items() if gains)
    return f"{gaining} beside vision" if gaining else "none: nothing is gained by it here"


def _as_json(profile: DeviceProfile, bundle: Bundle, path: Path, known: Calibrated) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "device": asdict(profile),
        "bundle": {"name": bundle.manifest.name, "path": str(bundle.path), "fingerprint": bundle.fingerprint},
        "calibration": None if known.rates is None else known.rates.model_dump(mode="json"),
        "calibration_file": str(path),
        "memory_predicted_from": known.memory_from,
        "problem": known.problem,
    }
