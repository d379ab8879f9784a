"""Calibrate a device: measure what a bundle's engines and decoding take here, and keep it for predictions.

Memory comes first, each engine in a process of its own. Then engines are opened, run with ever larger inputs, and
closed again; what does not fit below the memory ceiling is not measured. In the end whole answers are compared with
their prediction. Read `memory.py`, `vision.py`, `language.py`, `decoding.py`, `beside.py`,
`trial.py`; what comes of it is `Rates`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

from tam_edge.runtime.admission import fitting_under
from tam_edge.runtime.budget import memory_limit, steady_heap
from tam_edge.runtime.bundle import default_bundle_path, load_bundle
from tam_edge.runtime.calibrate.beside import measure_beside
from tam_edge.runtime.calibrate.decoding import measure_decoding
from tam_edge.runtime.calibrate.language import measure_language
from tam_edge.runtime.calibrate.memory import measured_memory
from tam_edge.runtime.calibrate.stopwatch import Book
from tam_edge.runtime.calibrate.trial import tried
from tam_edge.runtime.calibrate.vision import (
    Fits,
    Opened,
    encoder_names,
    measure_encoder,
    measure_inductor,
    measure_projectors,
    measure_resizing,
)
from tam_edge.runtime.calibration import Calibrated, Place, measured_here, place_of, versions, write_rates
from tam_edge.runtime.device import probe_device, usable_cpus
from tam_edge.runtime.engines import DeviceName, check_engine_options
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.rates import Rates
from tam_edge.runtime.session import VideoQA
from tam_edge.runtime.standing import import_libraries


def calibrate(
    bundle: str | Path | None = None,
    *,
    memory: int | str | None = None,
    device: DeviceName = "auto",
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Rates:
    """Measure a bundle on this device and keep what was found; arguments as of `VideoQA.load`.

    Takes some twenty seconds for a small bundle, minutes for one of full size. `progress` is told what is measured.

    Raises: BundleError, MemoryLimitError, UsageError, EngineError; TamEdgeError if the cache cannot be written.
    """
    check_engine_options(device, threads)
    steady_heap()
    profile, checked = probe_device(), load_bundle(default_bundle_path() if bundle is None else bundle)
    limit = memory_limit(memory, profile)
    used = threads or profile.cpu_count
    place = place_of(checked, profile, used, device)

    def ask_with(known: Calibrated) -> VideoQA:
        return VideoQA(checked, Parts(known.refined(checked), threads=used, device=device), limit, known)

    import_libraries()
    with closing(Parts(checked, threads=used, device=device)) as parts:
        held = measured_memory(parts, fitting_under(parts, limit), progress)
    with closing(Parts(measured_here(checked, held), threads=used, device=device)) as parts:
        parts.load_tokenizers()
        rates = measured(parts, place, fitting_under(parts, limit), progress).model_copy(update={"memory": held})
    rates = tried(rates, ask_with, progress)
    write_rates(place, rates)
    return rates


def measured(parts: Parts, place: Place, fits: Fits, progress: Callable[[str], None]) -> Rates:
    """Measure stage by stage.

    Raises: EngineError, BundleError.
    """
    book, opened = Book(), Opened()
    progress("the Inductor")
    inductor_ms = measure_inductor(parts, opened, book)
    resizing = measure_resizing(parts, book)
    encoding = {name: measure_encoder(parts, name, opened, book, fits, progress) for name in encoder_names(parts)}
    projecting_ms = measure_projectors(parts, opened, book, progress)
    parts.close_stage("vision")
    language = measure_language(parts, opened, book, fits, progress)
    with tempfile.TemporaryDirectory(prefix="tam-edge-") as folder:
        decoding = measure_decoding(parts.threads, Path(folder), book, progress)
        beside = measure_beside(parts, min(parts.threads, usable_cpus()), Path(folder), fits, progress)
    return Rates(
        bundle=place.bundle,
        device=place.device,
        made_with=versions(),
        measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        opening_ms=opened.opening_ms,
        first_run_ms=opened.first_run_ms,
        inductor_ms=inductor_ms,
        resizing=resizing,
        encoding=encoding,
        projecting_ms=projecting_ms,
        decoding=decoding.codecs,
        converting=decoding.converting,
        file_ms=decoding.file_ms,
        packet_ms=decoding.packet_ms,
        prefill=language.prefill,
        attending=language.attending,
        token=language.token,
        beside=beside,
        spread=book.spread(),
    )
