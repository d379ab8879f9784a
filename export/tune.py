"""A bundle whose language model has learned on: everything else stays byte for byte what it is."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast, get_args

from tam_edge.export.bundle import answers_compared
from tam_edge.export.bundle_eye import BundleEye
from tam_edge.export.language import Precision, write_gguf
from tam_edge.export.language_reader import read_language
from tam_edge.export.manifest import language_engine
from tam_edge.export.tuning import SHARDS, TUNING, learn_on, learned
from tam_edge.models.language import LanguageModel
from tam_edge.models.recipe.minutes import note_minutes
from tam_edge.models.recipe.nano import PROMPT, ROUTING
from tam_edge.models.recipe.parallel import run_in_processes
from tam_edge.quant.place import building, check_outside, check_place
from tam_edge.runtime.bundle import MANIFEST_FILE, Bundle, load_bundle
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.manifest import Manifest

BEGUN = "begun.json"
"""What a tuning was begun with."""
Progress = Callable[[str], None]
"""Told what is done next, in a few words."""


def tune_bundle(
    source: Path,
    run: Path,
    out: Path,
    *,
    seed: int = 0,
    steps: int = TUNING.steps,
    shards: int = SHARDS,
    processes: int = 1,
    questions: int = 100,
    progress: Progress = lambda _: None,
) -> Bundle:
    """Write a copy of the bundle in `source` to `out`, its language model tuned on the street camera's questions.

    Args:
        source: folder of a bundle that `tam-edge train nano` and `tam-edge export nano` made.
        run: folder for what was filmed, checkpoints and the log; a stopped tuning goes on there.
        out: folder of the new bundle; an older bundle there is replaced.
        seed: seed of the data.
        steps: steps of the tuning.
        shards: how much is filmed, 50 scenes a shard.
        processes: processes that share the work of a step.
        questions: evaluation questions on which greedy answers must equal PyTorch's.
        progress: told what is done next.

    Raises:
        UsageError: the bundle asks in other words or is quantised, `run` was begun otherwise, or `out` holds
            something else.
        ParityError: the new file does not compute what the module does.
        BundleError: `source` is no bundle.
    """
    bundle = load_bundle(source, verify=True)
    _check(bundle)
    check_outside(out, bundle.path)
    check_place(out, [bundle.path, run])
    language = read_language(bundle.file(bundle.manifest.language.engines[0]))
    facts = {"seed": seed, "steps": steps, "shards": shards}
    _begin(run, facts | {"language": bundle.manifest.language.engines[0].sha256})
    progress("filming scenes and training")
    began = time.monotonic()
    work = partial(learn_on, bundle, run, seed=seed, stage=replace(TUNING, steps=steps), shards=shards)
    run_in_processes(work, processes)
    minutes = note_minutes(run, TUNING.name, (time.monotonic() - began) / 60, facts)[TUNING.name]
    training = {f"tuning_{name}": value for name, value in (facts | {"minutes": minutes}).items()}
    with building(out, [bundle.path, run]) as folder:
        shutil.copytree(bundle.path, folder, dirs_exist_ok=True)
        progress("writing the language model, and measuring its memory")
        manifest = _written(bundle, folder, learned(run, language), training)
        progress(f"comparing the answers to {questions} questions")
        figures = answers_compared(folder, language, BundleEye(bundle, 1), manifest, questions)
        manifest = manifest.model_copy(update={"parity": manifest.parity | figures})
        (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return load_bundle(out, verify=True)


def _check(bundle: Bundle) -> None:
    """Refuse what the street camera's questions would not be asked of as in the training."""
    manifest = bundle.manifest
    if manifest.prompt != PROMPT or manifest.routing.ladder != ROUTING.ladder:
        raise UsageError(f"{bundle.path.name} asks in other words than the recipe: only its own bundles can be tuned")
    others = {engine.precision for engine in manifest.language.engines} - set(get_args(Precision))
    if others:
        raise UsageError(f"{bundle.path.name} holds {', '.join(sorted(others))}: tune first, then quantise")


def _begin(run: Path, facts: Mapping[str, float | str]) -> None:
    path = run / BEGUN
    if path.exists() and json.loads(path.read_text()) != facts:
        raise UsageError(f"{run} was begun with another bundle, seed or length: name another folder with --run")
    run.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts) + "\n")


def _written(
    bundle: Bundle, folder: Path, language: LanguageModel, training: Mapping[str, float | int | str]
) -> Manifest:
    """Every file of the language model anew in `folder`, and the manifest that says so."""
    manifest, spec = bundle.manifest, bundle.manifest.language
    tokenizer, [stop] = bundle.file(spec.tokenizer), spec.stop
    engines = []
    for engine in spec.engines:
        path, precision = folder / engine.file, cast(Precision, engine.precision)
        path.unlink()
        write_gguf(language, tokenizer, path, precision=precision, name=manifest.name, stop=stop)
        engines.append(language_engine(path, engine.precision, spec.context))
    changed = spec.model_copy(update={"engines": tuple(engines)})
    return manifest.model_copy(update={"language": changed, "training": {**manifest.training, **training}})
