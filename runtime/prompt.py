"""The prompt: text, then visual tokens, then what the clip is, what to do and the question. Trained as served.

What stands before the visual tokens never changes and the visual tokens change only with the plan, so a second question
with the same plan reuses everything up to them (metadata and task instruction: paper, appendix D.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tam_edge.runtime.errors import QuestionError
from tam_edge.runtime.manifest import LanguageSpec, PromptTexts
from tam_edge.runtime.plan import Plan
from tam_edge.runtime.tokenizer import encode_plain, encode_template

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids around a hole for visual tokens."""

    before: tuple[int, ...]
    """Token ids before the visual tokens."""
    visual_tokens: int
    """Length of the hole."""
    after: tuple[int, ...]
    """Token ids after it, up to where the answer starts."""
    between: tuple[int, ...] = ()
    """Token ids between two images."""
    images: int = 1
    """Images that the hole holds, where there is text between them."""

    def __len__(self) -> int:
        """Tokens in all, visual ones included."""
        return len(self.before) + self.visual_tokens + (self.images - 1) * len(self.between) + len(self.after)


def prompt_texts(
    texts: PromptTexts,
    *,
    task_title: str,
    phrase: str,
    frames: int,
    duration_seconds: float,
    interval_seconds: float,
) -> tuple[str, str, str]:
    """Fill the templates: text before the visual tokens, from them to the question, and after the question."""
    metadata = texts.metadata.format(
        frames=frames, duration_seconds=duration_seconds, interval_seconds=interval_seconds
    )
    instruction = texts.instruction.format(task_name=task_title, phrase=phrase)
    head, _, tail = texts.after_visual.partition("{question}")
    return (
        texts.system,
        head.format(metadata=metadata, instruction=instruction),
        tail.format(metadata=metadata, instruction=instruction),
    )


def build_prompt(
    texts: PromptTexts, plan: Plan, tokenizer: Tokenizer, question: str, between_images: str = ""
) -> Prompt:
    """Token ids of the whole prompt; `between_images` stands between the images of a plan that has several.

    The question is encoded by itself and as plain text, so none can end its own turn, and none changes how the text
    around it is cut into tokens.
    """
    before, head, tail = prompt_texts(
        texts,
        task_title=plan.task_title,
        phrase=plan.phrase,
        frames=plan.frames,
        duration_seconds=plan.duration_seconds,
        interval_seconds=plan.interval_seconds,
    )
    after = encode_template(tokenizer, head) + encode_plain(tokenizer, question) + encode_template(tokenizer, tail)
    between = encode_template(tokenizer, between_images) if plan.images and plan.frames > 1 else ()
    return Prompt(encode_template(tokenizer, before), plan.visual_tokens, after, between, plan.frames if between else 1)


def check_room(prompt: Prompt, language: LanguageSpec, max_tokens: int) -> None:
    """Refuse a prompt that leaves no room for an answer of `max_tokens`.

    Raises:
        QuestionError: says how many tokens too long the question is.
    """
    excess = len(prompt) + max_tokens - language.context
    if excess > 0:
        raise QuestionError(
            f"the question is too long by {excess} tokens: the context holds {language.context}, of which the video "
            f"takes {prompt.visual_tokens} and the answer {max_tokens}; ask shorter or lower --max-tokens"
        )
