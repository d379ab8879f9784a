"""Messages -> what is looked at, the question, and the conversation before it. Pure.

Everything that the conversation shows is looked at together, in the order it was shown: so a follow-up, which repeats
the messages before it, is about the same pictures, and finds what they left in the caches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from tam_edge.apps.serve.schema import (
    AssistantMessage,
    ImagePart,
    InputVideoPart,
    Message,
    SystemMessage,
    TextPart,
    UserMessage,
    VideoPart,
)
from tam_edge.apps.web.problem import ServeError
from tam_edge.runtime.plan import Rejection


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture or video of a message."""

    place: str
    """Where it stands, such as `messages.0.content.1`."""
    url: str = ""
    """Where it is; empty where `data` holds it."""
    data: str = ""
    """Its bytes in base64."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a conversation asks."""

    shown: tuple[Shown, ...]
    """What is looked at, in order."""
    question: str
    """What is asked about it."""
    history: tuple[tuple[str, str], ...]
    """Earlier questions with their answers, oldest first."""
    left_out: tuple[Rejection, ...]
    """What of the messages has no place in the prompt."""


def read_messages(messages: Sequence[Message]) -> Reading:
    """Read a conversation.

    Raises: ServeError 400 if nobody asks, or nothing is shown.
    """
    if not isinstance(messages[-1], UserMessage):
        raise ServeError(400, "the last message must be the user's: it asks", param="messages")
    shown = tuple(chain.from_iterable(_shown(at, message) for at, message in enumerate(messages)))
    if not shown:
        text = "no picture or video is shown: add an image_url or video_url part"
        raise ServeError(400, text, param="messages", code="nothing_shown")
    asked, history, left_out = list[str](), list[tuple[str, str]](), list[Rejection]()
    answered = False
    for message in messages:
        text = _text(message)
        if isinstance(message, SystemMessage):
            left_out.append(Rejection("system message", "the bundle's prompt is fixed, as it was trained"))
        elif isinstance(message, AssistantMessage):
            _answer(text, asked, history, left_out, again=answered)
            asked = []
        elif text:
            asked.append(text)
        answered = isinstance(message, AssistantMessage) or (answered and isinstance(message, SystemMessage))
    question = "\n".join(asked)
    if not question:
        raise ServeError(400, "the last message has no text: ask something", param=f"messages.{len(messages) - 1}")
    return Reading(shown, question, tuple(history), tuple(dict.fromkeys(left_out)))


def _answer(
    text: str, asked: list[str], history: list[tuple[str, str]], left_out: list[Rejection], *, again: bool
) -> None:
    if asked:
        history.append(("\n".join(asked), text))
    elif again and history:
        question, earlier = history[-1]
        history[-1] = (question, f"{earlier}\n{text}")
    else:
        left_out.append(Rejection("an earlier answer", "nothing was asked before it"))


def _text(message: Message) -> str:
    if message.content is None or isinstance(message.content, str):
        return (message.content or "").strip()
    parts: Iterable[object] = message.content
    return "\n".join(part.text for part in parts if isinstance(part, TextPart)).strip()


def _shown(at: int, message: Message) -> Iterable[Shown]:
    if not isinstance(message, UserMessage) or isinstance(message.content, str):
        return
    for index, part in enumerate(message.content):
        place = f"messages.{at}.content.{index}"
        if isinstance(part, ImagePart):
            yield Shown(place, url=part.image_url.url)
        elif isinstance(part, VideoPart):
            yield Shown(place, url=part.video_url.url)
        elif isinstance(part, InputVideoPart):
            yield Shown(place, data=part.input_video.data)
