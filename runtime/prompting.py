"""The prompts of one bundle: which texts a plan gets, and how many earlier turns stand before its question."""

from __future__ import annotations

from collections.abc import Sequence

from tam_edge.runtime.history import Asked, Turn, fit_history, history_tokens
from tam_edge.runtime.manifest import Manifest, PromptTexts
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.plan import Plan
from tam_edge.runtime.prompt import Prompt, build_prompt, history_room


class Prompts:
    """Builds prompts with a bundle's texts and tokenizer."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def prompt(self, plan: Plan, asked: Asked) -> Prompt:
        """The prompt of a plan and a question."""
        images = self._manifest.images
        between = "" if images is None else images.between
        return build_prompt(self.texts(plan), plan, self._parts.tokenizer(), asked.question, between, asked.turns)

    def texts(self, plan: Plan) -> PromptTexts:
        """Those of a video, or of still images."""
        images = self._manifest.images
        return self._manifest.prompt if images is None or plan.images is None else images.prompt

    def with_history(self, plan: Plan, question: str, turns: Sequence[Turn], max_tokens: int) -> Asked:
        """The question with as many earlier turns as fit beside it and the plan's visual tokens."""
        room = self._history_room(plan, question, max_tokens)
        return fit_history(question, turns, self.texts(plan), plan, self._parts.tokenizer(), room)

    def history_tokens(self, plan: Plan, question: str, turns: Sequence[Turn], max_tokens: int) -> int:
        """Tokens of those turns."""
        if not turns:
            return 0
        room = self._history_room(plan, question, max_tokens)
        return history_tokens(turns, self.texts(plan), plan, self._parts.tokenizer(), room)

    @property
    def _manifest(self) -> Manifest:
        return self._parts.bundle.manifest

    def _history_room(self, plan: Plan, question: str, max_tokens: int) -> int:
        return history_room(self.prompt(plan, Asked(question)), self._manifest, max_tokens)
