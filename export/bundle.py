"""A finished training run becomes a bundle: every file written, measured and compared with PyTorch.

What a run holds: config.json, {vision,projectors,language}.safetensors (models/checkpoint.py), tokenizer.json,
inductor/ (export/inductor.py), and, if known, training.json with facts about the training.

A bundle appears whole or not at all: it is built beside its place and moved there when every comparison has passed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from tam_edge.export.answers import FIRST_SEED, See, compare_answers, evaluation_frames
from tam_edge.export.facts import BundleFacts
from tam_edge.export.inductor import export_inductor
from tam_edge.export.language import write_gguf
from tam_edge.export.manifest import LANGUAGE_FILES, TOKENIZER_FILE, VISION_FILE, draft_manifest, projector_file
from tam_edge.export.nano import NANO_FACTS
from tam_edge.export.parity import compare_projector, compare_vision
from tam_edge.export.projector import projector_graph
from tam_edge.export.vision import vision_graph
from tam_edge.models.checkpoint import CONFIG_FILE, PARTS, load_checkpoint
from tam_edge.models.language import LanguageModel
from tam_edge.models.tallva import TallVA
from tam_edge.quant.place import building, check_place
from tam_edge.runtime.budget import default_limit
from tam_edge.runtime.bundle import MANIFEST_FILE, Bundle, load_bundle
from tam_edge.runtime.consistency import problems
from tam_edge.runtime.device import probe_device
from tam_edge.runtime.engines.llamacpp import LlamaCppEngine
from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.errors import BundleError, UsageError
from tam_edge.runtime.manifest import EncoderSpec, Manifest
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.session import VideoQA
from tam_edge.runtime.vision import CHUNK_FRAMES, preprocess

INDUCTOR_FOLDER, TRAINING_FILE = "inductor", "training.json"
COMPARED_FRAMES = 64
"""Frames on which patch features are compared."""
THREADS = 1
"""Threads of the engines that are compared; more would wait for each other while something else trains."""

Figures = dict[str, float | int | str]
"""Named figures for the manifest."""
Progress = Callable[[str], None]
"""Told what is done next, in a few words."""


def export_bundle(
    run: Path,
    out: Path,
    facts: BundleFacts = NANO_FACTS,
    *,
    questions: int = 100,
    first_seed: int = FIRST_SEED,
    progress: Progress = lambda _: None,
) -> Bundle:
    """Write the bundle of a training run.

    Args:
        run: folder of the run.
        out: folder of the bundle; an older bundle there is replaced, anything else is left alone.
        facts: name, words and rules.
        questions: evaluation questions on which greedy answers must be identical.
        first_seed: first street scene of the comparison.
        progress: told what is done next.

    Raises:
        UsageError: the run is not finished, or `out` holds something else.
        ParityError: a file does not compute what its PyTorch module computes.
    """
    check_folders(run, out)
    with building(out, [run]) as partial:
        _build(run, partial, facts, questions, first_seed, progress)
    return load_bundle(out, verify=True)


def _build(run: Path, folder: Path, facts: BundleFacts, questions: int, first_seed: int, progress: Progress) -> None:
    model = load_checkpoint(run)
    progress("writing the graphs and the language model")
    _write_files(run, folder, model, facts)
    progress(f"comparing patch features and visual tokens of {COMPARED_FRAMES} frames")
    parity = _compare_graphs(folder, model, facts, first_seed)
    progress("exporting the Inductor and comparing it")
    inductor = export_inductor(run / INDUCTOR_FOLDER, folder)
    parity |= {f"inductor_{key}": value for key, value in inductor.parity.items()}
    progress("measuring the memory of every engine")
    manifest = draft_manifest(folder, facts, model.config, inductor, dict(_training_facts(run)))
    for field, message in problems(manifest):
        raise BundleError(folder, field, message)
    progress(f"comparing the answers to {questions} questions")
    parity |= answers_compared(folder, model.language, model.visual_tokens, manifest, questions, first_seed)
    finished = manifest.model_copy(update={"parity": parity})
    (folder / MANIFEST_FILE).write_text(finished.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _write_files(run: Path, folder: Path, model: TallVA, facts: BundleFacts) -> None:
    onnx.save(vision_graph(model.vision), folder / VISION_FILE)
    for grid in model.config.projector.grids:
        graph = projector_graph(model.projectors, grid, model.config.vision.grid_side)
        onnx.save(graph, folder / projector_file(grid))
    tokenizer = Path(shutil.copyfile(run / TOKENIZER_FILE, folder / TOKENIZER_FILE))
    for precision, file in LANGUAGE_FILES.items():
        write_gguf(model.language, tokenizer, folder / file, precision=precision, name=facts.name, stop=facts.stop)


def _compare_graphs(folder: Path, model: TallVA, facts: BundleFacts, first_seed: int) -> Figures:
    spec = EncoderSpec.model_construct(image_px=model.config.vision.image_px, preprocessing=facts.preprocessing)
    pixels = preprocess(evaluation_frames(COMPARED_FRAMES, first_seed), spec)
    seen = compare_vision(model.vision, OnnxEngine(folder / VISION_FILE, threads=THREADS, device="cpu"), pixels)
    figures: Figures = {
        "vision_frames": COMPARED_FRAMES,
        "vision_max_abs_error": seen.max_abs_error,
        "vision_near_tie_share": seen.near_tie_share,
        "vision_frames_apart": seen.frames_apart,
        "vision_tokens_apart_share": seen.tokens_apart_share,
    }
    with torch.inference_mode():
        features = model.vision(torch.from_numpy(pixels[:CHUNK_FRAMES])).features.numpy()
    times = np.linspace(0, 1, len(features), dtype=np.float32)
    for grid in model.config.projector.grids:
        engine = OnnxEngine(folder / projector_file(grid), threads=THREADS, device="cpu")
        error = compare_projector(model.projectors, grid, engine, features, times)
        figures[f"projector_{grid}_max_abs_error"] = error
    return figures


def answers_compared(
    folder: Path, language: LanguageModel, see: See, manifest: Manifest, questions: int, first_seed: int = FIRST_SEED
) -> Figures:
    """`compare_answers` for the bundle of `manifest`, whose files lie in `folder`."""
    bundle = Bundle(folder, manifest)
    engine = LlamaCppEngine(bundle.file(manifest.language.engines[0]), threads=THREADS, device="cpu")
    try:
        parts = Parts(bundle, threads=THREADS, device="cpu")
        with VideoQA(bundle, parts, default_limit(probe_device())) as qa:
            return compare_answers(language, see, qa, engine, questions, first_seed)
    finally:
        engine.close()


def check_folders(run: Path, out: Path) -> None:
    """Refuse a run that is not finished, and a place that holds something else than a bundle.

    Raises:
        UsageError: it is so.
    """
    needed = [CONFIG_FILE, *(f"{part}.safetensors" for part in PARTS), TOKENIZER_FILE, INDUCTOR_FOLDER]
    missing = [name for name in needed if not (run / name).exists()]
    if missing:
        raise UsageError(f"{run} lacks {', '.join(missing)}: finish the training first, or name another run")
    check_place(out, [run])


def _training_facts(run: Path) -> Iterator[tuple[str, float | int | str]]:
    """RUN/training.json, one level deep: {"minutes": {"eye": 30}} is minutes_eye."""
    path = run / TRAINING_FILE
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from ((f"{key}_{name}", inner) for name, inner in value.items())
        else:
            yield key, value
