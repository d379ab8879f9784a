"""Asks a bundle every question about a film, under several plans at once, through the whole runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tam_edge.models.evaluate.arms import Arm
from tam_edge.models.evaluate.films import Film
from tam_edge.models.street import Question, score
from tam_edge.runtime import VideoQA
from tam_edge.runtime.manifest import Manifest
from tam_edge.runtime.plan import Plan, make_plan


@dataclass(frozen=True, slots=True)
class Reply:
    """One question, what was said, and what was looked at for it."""

    arm: str
    """Who was asked, and how."""
    video: int
    """Which of the evaluation's videos, from 0."""
    question: Question
    said: str
    task: str
    """Task type the Inductor named."""
    frames: int
    visual_tokens: int

    @property
    def right(self) -> bool:
        """Whether what was said is the answer."""
        return score(self.said, self.question.answer)

    def line(self) -> dict[str, Any]:
        """The reply as one JSON object."""
        asked = self.question
        return {
            "arm": self.arm, "video": self.video, "task": self.task, "family": asked.family, "question": asked.text,
            "answer": asked.answer, "said": self.said, "right": self.right, "frames": self.frames,
            "visual_tokens": self.visual_tokens,
        }  # fmt: skip


def ask(qa: VideoQA, film: Film, arms: Sequence[Arm], *, path: Path | None = None) -> Iterator[Reply]:
    """Every question about `film`, under the rules and limits of every arm; `path` is another file of the same film.

    Answers are greedy, so a question whose plans are equal for two arms is asked once; and questions that look at the
    same are asked in a row, so that each prefills only itself.
    """
    estimates = qa.classify([question.text for question in film.questions])
    with closing(qa.open(film.path if path is None else path)) as video:
        plans = {
            (arm.name, number): make_plan(estimate, video.info, manifest, arm.limits)
            for arm in arms
            if (manifest := _ruled(qa.bundle.manifest, arm))
            for number, estimate in enumerate(estimates)
        }
        said: dict[tuple[int, Any], str] = {}
        for (arm, number), plan in sorted(plans.items(), key=lambda pair: (_shown(pair[1]), pair[0][1])):
            question, key = film.questions[number], (number, _shown(plan))
            if key not in said:
                said[key] = qa.ask(video, question.text, plan=plan).text
            yield Reply(arm, film.number, question, said[key], plan.task, plan.frames, plan.visual_tokens)


def _ruled(manifest: Manifest, arm: Arm) -> Manifest:
    return manifest if arm.routing is None else manifest.model_copy(update={"routing": arm.routing})


def _shown(plan: Plan) -> tuple[str, int, tuple[float, ...], str]:
    """What a plan shows and says to the language model: all that an answer depends on beside question and task."""
    return plan.strategy, plan.grid or 0, plan.timestamps_seconds, plan.phrase
