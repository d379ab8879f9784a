"""Greedy answers of a whole bundle against PyTorch's, on street scenes that training never saw.

The bundle answers through the runtime, as on a device; PyTorch is given the same frames, ids and plan.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from tam_edge.export.parity import ParityError, compare_logits, with_f16_matrices
from tam_edge.models.language import LanguageModel
from tam_edge.models.street import Question, Scene, make_scene, questions, render
from tam_edge.models.street.render import FRAME_PX
from tam_edge.models.street.video import VIDEO_FPS, frame_count
from tam_edge.runtime.bundle import Bundle
from tam_edge.runtime.engines import LanguageEngine
from tam_edge.runtime.frames import OpenedVideo, Picture, VideoInfo
from tam_edge.runtime.language import REPLACEMENT
from tam_edge.runtime.plan import Plan
from tam_edge.runtime.prompt import build_prompt
from tam_edge.runtime.session import VideoQA
from tam_edge.runtime.tokenizer import load_tokenizer
from tam_edge.runtime.vision import preprocess

See = Callable[[Tensor, int, Tensor], Tensor]
"""Visual tokens [T, d] of pixels [N, 3, px, px] at a grid and times t/T [N]."""
FIRST_SEED = 990_001
"""First scene of the comparison; scenes from 900000 up are never trained on."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What PyTorch makes of a question."""

    prompt: Tensor
    """Embeddings [L, d] of the whole prompt."""
    ids: list[int]
    """Greedy answer, without the stop token."""
    text: str
    """The answer as text."""
    lead: float
    """Smallest distance of the best from the second best logit over the answer's tokens."""


class SceneVideo(OpenedVideo):
    """A street scene that is drawn when its frames are asked for, with the length its file would have."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        frames = frame_count(scene)
        super().__init__(
            VideoInfo(
                source=f"street scene {scene.seed}",
                kind="frames",
                duration_seconds=frames / VIDEO_FPS,
                frame_count=frames,
                width_px=FRAME_PX,
                height_px=FRAME_PX,
                average_fps=float(VIDEO_FPS),
                codec=None,
                identity=f"street-{scene.seed}",
            )
        )

    def pictures(self, times: Sequence[float]) -> Generator[Picture, None, None]:
        """Draw the scene at each time, in seconds."""
        for seconds in times:
            yield Picture(render(self._scene, seconds), seconds, self.info.source)


def evaluation_questions(count: int, first_seed: int = FIRST_SEED) -> Iterator[tuple[Scene, Question]]:
    """One question of each of `count` scenes, another one from scene to scene."""
    for index in range(count):
        scene = make_scene(first_seed + index)
        asked = questions(scene)
        yield scene, asked[(7 * index) % len(asked)]


def evaluation_frames(count: int, first_seed: int = FIRST_SEED) -> NDArray[np.uint8]:
    """[count, H, W, 3] uint8 RGB: the middle of each of `count` scenes."""
    scenes = [make_scene(first_seed + index) for index in range(count)]
    return np.stack([render(scene, scene.duration_seconds / 2) for scene in scenes])


def compare_answers(
    language: LanguageModel, see: See, qa: VideoQA, engine: LanguageEngine, count: int, first_seed: int = FIRST_SEED
) -> dict[str, float | int | str]:
    """Ask `count` questions on both sides; `engine` is the bundle's f16 language model, opened once more.

    PyTorch's side is `language`, shown what `see` makes of the frames.

    Returns:
        Figures for the manifest: questions asked, and the largest absolute error of a logit.

    Raises:
        ParityError: an answer differs, or a logit by more than its tolerance.
    """
    tokenizer = load_tokenizer(qa.bundle, qa.bundle.manifest.language.tokenizer, "language.tokenizer")
    rounded = with_f16_matrices(language)
    worst = 0.0
    for scene, question in evaluation_questions(count, first_seed):
        answer = qa.ask(SceneVideo(scene), question.text)
        expected = reference(language, see, qa.bundle, tokenizer, answer.plan, scene, question.text)
        if answer.text != expected.text:
            raise ParityError(
                f"scene {scene.seed}, {question.text!r}: the bundle answers {answer.text!r}, "
                f"PyTorch {expected.text!r}, whose closest choice was {expected.lead:.2g} ahead"
            )
        worst = max(worst, compare_logits(rounded, engine, expected.prompt.numpy(), expected.ids or [0]))
    return {"language_questions": count, "language_answers_differ": 0, "language_max_abs_error": worst}


def reference(
    language: LanguageModel,
    see: See,
    bundle: Bundle,
    tokenizer: Tokenizer,
    plan: Plan,
    scene: Scene,
    question: str,
) -> Reference:
    """PyTorch's answer to a question about the frames of `plan`."""
    manifest = bundle.manifest
    encoder = next(iter(manifest.encoders.values()))
    frames = np.stack([render(scene, seconds) for seconds in plan.timestamps_seconds])
    times = torch.tensor(plan.timestamps_seconds, dtype=torch.float32) / plan.duration_seconds
    prompt = build_prompt(manifest.prompt, plan, tokenizer, question)
    [stop] = (tokenizer.token_to_id(text) for text in manifest.language.stop)
    with torch.inference_mode():
        visual = see(torch.from_numpy(preprocess(frames, encoder)), plan.grid or 0, times)
        embeddings = language.prompt_embeddings(torch.tensor(prompt.before), visual, torch.tensor(prompt.after))
        ids = language.greedy_generate(embeddings, manifest.language.max_output_tokens, stop)
        words = language.embed_tokens(torch.tensor(ids, dtype=torch.long)).unsqueeze(0)
        choices = language(torch.cat((embeddings, words), 1))[0, len(prompt) - 1 :]
    best = choices.topk(2, -1).values
    lead = float((best[:, 0] - best[:, 1]).min())
    return Reference(embeddings[0], ids, tokenizer.decode(ids).rstrip(REPLACEMENT).strip(), lead)
