"""`--verify`: the bundle's files against transformers, stage by stage, on the same frames and text."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from tam_edge.export.answers import SceneVideo, evaluation_frames, evaluation_questions
from tam_edge.export.parity import ParityError
from tam_edge.export.pretrained.deviation import TOLERANCE, error_of, require
from tam_edge.export.pretrained.folder import CheckpointFolder
from tam_edge.export.pretrained.reference import Reference, load_reference
from tam_edge.export.pretrained.sizes import CheckpointSizes
from tam_edge.runtime.answer import StageClock
from tam_edge.runtime.budget import default_limit
from tam_edge.runtime.bundle import Bundle
from tam_edge.runtime.device import probe_device
from tam_edge.runtime.engines import LanguageEngine
from tam_edge.runtime.engines.llamacpp import LlamaCppEngine
from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.plan import Plan
from tam_edge.runtime.prompt import build_prompt
from tam_edge.runtime.session import VideoQA
from tam_edge.runtime.tokenizer import load_tokenizer
from tam_edge.runtime.view import look
from tam_edge.runtime.vision import FeatureCache, preprocess

LOGIT_TOLERANCES = {"f32": TOLERANCE, "f16": 0.02, "bf16": 0.1, "Q8_0": 0.2}
"""Largest root mean square error of logits, in standard deviations, by the format of the weights."""
FRAMES = 2
"""Frames on which features and visual tokens are compared, and that each question looks at."""
QUESTIONS = 4
IMAGE_QUESTION = "What does the picture show?"
ANSWER_TOKENS = 32
THREADS = 1


def verify_bundle(
    folder: Path,
    checkpoint: CheckpointFolder,
    sizes: CheckpointSizes,
    manifest: Manifest,
    progress: Callable[[str], None],
) -> dict[str, float | int | str]:
    """Compare the files in `folder`, which `manifest` describes, with transformers.

    Returns:
        Figures for the manifest.

    Raises:
        ParityError: names the first stage that is too far off.
        TamEdgeError: this transformers cannot be compared with.
    """
    progress("loading the checkpoint in transformers")
    bundle, reference = Bundle(folder, manifest), load_reference(checkpoint, sizes)
    progress(f"comparing patch features and visual tokens of {FRAMES} frames")
    figures = compare_vision(bundle, sizes, reference, evaluation_frames(FRAMES))
    figures |= compare_image(bundle, reference, evaluation_frames(1)[0, ::2])
    progress(f"comparing logits and answers to {QUESTIONS} questions")
    return {"verified": f"transformers {_version()}", **figures, **compare_language(bundle, sizes, reference)}


def compare_vision(
    bundle: Bundle, sizes: CheckpointSizes, reference: Reference, frames: NDArray[np.uint8]
) -> dict[str, float | int | str]:
    """Patch features of `frames` [N, H, W, 3], and the visual tokens of every grid.

    Raises:
        ParityError: they are too far off.
    """
    [spec] = bundle.manifest.encoders.values()
    pixels = preprocess(frames, spec)
    expected = reference.features(torch.from_numpy(pixels))
    eye = OnnxEngine(bundle.file(spec.engines[0]), threads=THREADS, device="cpu")
    error = error_of(eye.run({"pixels": pixels})[0], expected.numpy())
    require("patch features", error, TOLERANCE)
    figures: dict[str, float | int | str] = {"vision_rms_error": error.rms, "vision_worst_error": error.worst}
    for grid, projector in bundle.manifest.projectors.items():
        engine = OnnxEngine(bundle.file(projector.engines[0]), threads=THREADS, device="cpu")
        tokens = reference.frame_tokens(expected, grid, sizes.newline)
        error = error_of(engine.run({"features": expected.numpy()})[0], tokens.numpy())
        require(f"visual tokens of grid {grid}", error, TOLERANCE)
        figures |= {f"projector_{grid}_rms_error": error.rms, f"projector_{grid}_worst_error": error.worst}
    return figures


def compare_image(bundle: Bundle, reference: Reference, image: NDArray[np.uint8]) -> dict[str, float | int | str]:
    """Visual tokens of one still image [H, W, 3], where the bundle tiles such.

    Raises:
        ParityError: they are too far off.
    """
    images = bundle.manifest.images
    if images is None or not images.resolutions_px:
        return {}
    parts = Parts(bundle, threads=THREADS, device="cpu")
    with VideoQA(bundle, parts, default_limit(probe_device())) as qa, tempfile.TemporaryDirectory() as folder:
        Image.fromarray(image).save(Path(folder, "image.png"))
        video = qa.open(Path(folder, "image.png"))
        plan = qa.plan(video, IMAGE_QUESTION)
        if plan.images != "tiles":
            return {}  # the context is too short for one
        _, tokens = look(video, plan, parts, FeatureCache(0), StageClock())
    expected = reference.image_tokens(image, bundle.manifest.encoders[images.encoder])
    error = error_of(tokens.embeddings, expected.numpy())
    require("visual tokens of an image", error, TOLERANCE)
    return {"image_rms_error": error.rms, "image_worst_error": error.worst}


def compare_language(
    bundle: Bundle, sizes: CheckpointSizes, reference: Reference, questions: int = QUESTIONS
) -> dict[str, float | int | str]:
    """Logits after the prompt and after each token of the answer, and the answers of the whole runtime.

    Raises:
        ParityError: logits are too far off, or an answer differs where the reference's choice was clear.
    """
    tokenizer: Tokenizer = load_tokenizer(bundle, bundle.manifest.language.tokenizer, "language.tokenizer")
    spec = bundle.manifest.language.engines[0]
    tolerance = LOGIT_TOLERANCES[spec.precision]
    engine = LlamaCppEngine(bundle.file(spec), threads=THREADS, device="cpu")
    parts = Parts(bundle, threads=THREADS, device="cpu")
    stop = stop_ids(bundle, tokenizer, engine)
    errors, same, apart = [], 0, 0
    try:
        with VideoQA(bundle, parts, default_limit(probe_device())) as qa:
            for scene, question in evaluation_questions(questions):
                video = SceneVideo(scene)
                plan = qa.plan(video, question.text, frames=FRAMES)
                answer = qa.ask(video, question.text, plan=plan, max_tokens=ANSWER_TOKENS)
                visual = reference_tokens(bundle, sizes, reference, plan, video)
                _, tokens = look(video, plan, parts, FeatureCache(0), StageClock())
                require("visual tokens of a video", error_of(tokens.embeddings, visual.numpy()), TOLERANCE)
                text = build_prompt(bundle.manifest.prompt, plan, tokenizer, question.text)
                prompt = reference.prompt(text.before, visual, text.after)
                ids = reference.greedy(prompt, ANSWER_TOKENS, stop)
                expected = reference.logits(prompt, ids)
                error = error_of(_logits(engine, prompt[0].numpy(), ids), expected.numpy())
                require("logits", error, tolerance)
                errors.append(error)
                if answer.text == said(tokenizer, ids):
                    same += 1
                elif (lead := _lead(expected)) > 4 * tolerance:
                    raise ParityError(
                        f"{question.text!r}: the bundle answers {answer.text!r}, transformers "
                        f"{said(tokenizer, ids)!r}, whose closest choice was {lead:.2g} standard deviations ahead"
                    )
                else:
                    apart += 1
    finally:
        engine.close()
    return {
        "language_rms_error": max(error.rms for error in errors),
        "language_worst_error": max(error.worst for error in errors),
        "language_questions": questions,
        "language_answers_same": same,
        "language_answers_nearly_tied": apart,
    }


def reference_tokens(
    bundle: Bundle, sizes: CheckpointSizes, reference: Reference, plan: Plan, video: SceneVideo
) -> torch.Tensor:
    """Visual tokens [T, d] as transformers makes them of the plan's frames, the closing one included."""
    [spec] = bundle.manifest.encoders.values()
    batches = list(video.frames(plan.timestamps_seconds, plan.frames))
    pixels = preprocess(np.concatenate([batch.pixels for batch in batches]), spec)
    return reference.video_tokens(reference.features(torch.from_numpy(pixels)), plan.grid or 0, sizes.newline)


def stop_ids(bundle: Bundle, tokenizer: Tokenizer, engine: LanguageEngine) -> list[int]:
    """Tokens that end an answer in the runtime: the manifest's first, then what llama.cpp knows as an end of text."""
    named = [tokenizer.token_to_id(text) for text in bundle.manifest.language.stop]
    ends = [index for index in range(tokenizer.get_vocab_size()) if engine.is_end(index)]
    return list(dict.fromkeys([*named, *ends]))


def said(tokenizer: Tokenizer, ids: list[int]) -> str:
    """An answer's text as the runtime gives it: without white space around it and without half a character."""
    text: str = tokenizer.decode(ids)
    return text.rstrip("\N{REPLACEMENT CHARACTER}").strip()


def _logits(engine: LlamaCppEngine, prompt: NDArray[np.float32], answer: list[int]) -> NDArray[np.float32]:
    """Scores after the prompt [L, d] and after each token of the answer."""
    engine.reserve(len(prompt) + len(answer))
    engine.truncate(0)
    engine.append_embeddings(prompt)
    rows = [engine.logits()]
    for token in answer:
        engine.append_tokens([token])
        rows.append(engine.logits())
    return np.stack(rows)


def _lead(logits: torch.Tensor) -> float:
    """Smallest distance of the best from the second best score over the answer, in standard deviations."""
    best = logits.topk(2, -1).values
    return float((best[:, 0] - best[:, 1]).min() / logits.std())


def _version() -> str:
    import transformers

    return str(transformers.__version__)
