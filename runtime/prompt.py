"""The prompt: text, then visual tokens, then what the clip is, what to do and the question. Trained as served.

What stands before the visual tokens never changes and the visual tokens change only with the plan, so a second question
with the same plan reuses everything up to them (metadata and task instruction: paper, appendix D.2). Earlier turns of a
conversation come behind them, one after the other, so a follow-up reuses those as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tam_edge.runtime.errors import QuestionError
from tam_edge.runtime.manifest import LanguageSpec, Manifest, PromptTexts
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
    earlier: tuple[tuple[int, ...], ...] = ()
    """Token ids between the hole and `after`: earlier questions, each with the answer before it."""

    @property
    def text_tokens(self) -> int:
        """Tokens behind the hole."""
        return sum(map(len, self.earlier)) + len(self.after)

    def __len__(self) -> int:
        """Tokens in all, visual ones included."""
        return len(self.before) + self.visual_tokens + (self.images - 1) * len(self.between) + self.text_tokens


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
    return texts.system, *_around_question(texts.after_visual, metadata, instruction)


def build_prompt(
    texts: PromptTexts,
    plan: Plan,
    tokenizer: Tokenizer,
    question: str,
    between_images: str = "",
    turns: Sequence[tuple[str, str]] = (),
) -> Prompt:
    """Token ids of the whole prompt; `between_images` stands between the images of a plan that has several.

    `turns` are earlier questions with their answers, oldest first, for a bundle with `follow_up` text. Questions and
    answers are encoded by themselves and as plain text, so none can end its own turn, and none changes how the text
    around it is cut into tokens.
    """
    before, head, tail = _prompt_texts(texts, plan)
    around = [(head, tail), *[_follow_up_texts(texts, plan)] * len(turns)]
    answers, questions = ["", *(answer for _, answer in turns)], [*(asked for asked, _ in turns), question]
    *earlier, after = (
        encode_plain(tokenizer, answer)
        + encode_template(tokenizer, head)
        + encode_plain(tokenizer, asked)
        + encode_template(tokenizer, tail)
        for answer, (head, tail), asked in zip(answers, around, questions, strict=True)
    )
    between = encode_template(tokenizer, between_images) if plan.images and plan.frames > 1 else ()
    return Prompt(
        encode_template(tokenizer, before),
        plan.visual_tokens,
        after,
        between,
        plan.frames if between else 1,
        tuple(earlier),
    )


def turn_tokens(texts: PromptTexts, plan: Plan, tokenizer: Tokenizer, turn: tuple[str, str]) -> int:
    """Tokens by which an earlier question and its answer lengthen a prompt."""
    between = sum(len(encode_template(tokenizer, text)) for text in _follow_up_texts(texts, plan))
    return between + sum(len(encode_plain(tokenizer, text)) for text in turn)


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


def history_room(prompt: Prompt, manifest: Manifest, max_tokens: int) -> int:
    """Tokens of earlier turns that fit beside a prompt without any and an answer of `max_tokens`; may be negative.

    Text as a whole gets what the bundle keeps free for it, which the language model reserves with every view: so a
    growing history never costs the visual prefix.
    """
    left = manifest.language.context - (len(prompt) - prompt.text_tokens) - max_tokens
    return min(left, manifest.routing.context_reserve_tokens) - prompt.text_tokens


def _prompt_texts(texts: PromptTexts, plan: Plan) -> tuple[str, str, str]:
    return prompt_texts(
        texts,
        task_title=plan.task_title,
        phrase=plan.phrase,
        frames=plan.frames,
        duration_seconds=plan.duration_seconds,
        interval_seconds=plan.interval_seconds,
    )


def _follow_up_texts(texts: PromptTexts, plan: Plan) -> tuple[str, str]:
    """Text before and after a question that is not the first."""
    _, *around = _prompt_texts(texts.model_copy(update={"after_visual": texts.follow_up or "{question}"}), plan)
    return around[0], around[1]


def _around_question(template: str, metadata: str, instruction: str) -> tuple[str, str]:
    head, _, tail = template.partition("{question}")
    return (
        head.format(metadata=metadata, instruction=instruction),
        tail.format(metadata=metadata, instruction=instruction),
    )
