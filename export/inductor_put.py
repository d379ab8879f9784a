"""Put a trained Inductor into a bundle: eye, projectors and language model stay byte for byte what they are.

The Inductor reads text alone, so it can be trained and replaced without the rest. What its engine holds is measured;
that of the others is left as it was made.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tam_edge.export.inductor import InductorExport, export_inductor
from tam_edge.export.manifest import inductor_spec
from tam_edge.models.inductor import load_inductor
from tam_edge.models.recipe.inductor import METRICS_FILE
from tam_edge.quant.place import building, check_outside, check_place
from tam_edge.runtime.bundle import MANIFEST_FILE, Bundle, load_bundle
from tam_edge.runtime.consistency import problems
from tam_edge.runtime.errors import BundleError, UsageError
from tam_edge.runtime.manifest import Manifest

Progress = Callable[[str], None]
"""Told what is done next, in a few words."""


def put_inductor(bundle: Path, run: Path, out: Path, *, progress: Progress = lambda _: None) -> Bundle:
    """Write a copy of `bundle` to `out` with the Inductor that a training left in `run`.

    Args:
        bundle: folder of the bundle.
        run: folder that `tam-edge inductor train` filled.
        out: folder of the new bundle; an older bundle there is replaced.
        progress: told what is done next.

    Raises:
        UsageError: the training is not finished, or `out` holds something else.
        ParityError: the graph does not compute what the trained module does.
        BundleError: `bundle` is none, or its rules lack a row for a task type of the new Inductor.
    """
    loaded = load_bundle(bundle)
    if not (run / METRICS_FILE).is_file():
        raise UsageError(f"{run} holds no finished Inductor: `tam-edge inductor train --run {run}` makes one")
    check_outside(out, loaded.path)
    check_place(out, [loaded.path, run])
    _check_rules(loaded, run)
    with building(out, [loaded.path, run]) as partial:
        shutil.copytree(loaded.path, partial, dirs_exist_ok=True)
        progress("exporting the Inductor and comparing it")
        manifest = _with(loaded.manifest, export_inductor(run, partial))
        for file in _names(loaded.manifest) - _names(manifest):
            (partial / file).unlink()
        (partial / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return load_bundle(out, verify=True)


def _check_rules(bundle: Bundle, run: Path) -> None:
    """Every task type needs its rule, and every rule its task type."""
    inductor = bundle.manifest.inductor.model_copy(update={"tasks": load_inductor(run).tasks})
    for field, message in problems(bundle.manifest.model_copy(update={"inductor": inductor})):
        raise BundleError(bundle.path, field, message)


def _names(manifest: Manifest) -> set[str]:
    return {spec.file for spec in manifest.files().values()}


def _with(manifest: Manifest, inductor: InductorExport) -> Manifest:
    """The manifest with another Inductor: its engine measured, its threshold, and how far it is from PyTorch."""
    parity = {key: value for key, value in manifest.parity.items() if not key.startswith("inductor_")}
    parity |= {f"inductor_{key}": value for key, value in inductor.parity.items()}
    routing = manifest.routing.model_copy(update={"confidence_threshold": inductor.threshold})
    return manifest.model_copy(update={"inductor": inductor_spec(inductor), "routing": routing, "parity": parity})
