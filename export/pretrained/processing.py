"""What stands around the weights: pixels, tokenizer and chat, each read from the checkpoint's own files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tam_edge.export.pretrained.folder import CheckpointError, CheckpointFolder, read_json, read_text
from tam_edge.export.pretrained.sizes import CheckpointSizes
from tam_edge.runtime.manifest import ImagePreprocessing, PromptTexts

PREPROCESSOR_FILE, TOKENIZER_FILE = "preprocessor_config.json", "tokenizer.json"
VIDEO_FILE = "video_preprocessor_config.json"
"""Where transformers since 4.52 keeps what is done to the frames of a video."""
BICUBIC = 3
"""PIL's number of the filter, as preprocessor_config.json writes it."""
SIGLIP = ImagePreprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""What LLaVA-NeXT's code does to pixels; its checkpoints have no file about it."""
IMAGE, VIDEO = "<image>", "<video>"
QUESTION = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for the question while a chat template is rendered; no template contains it."""
ANSWER = "\N{INTERLINEAR ANNOTATION ANCHOR}"
"""Stands for an earlier answer."""
QWEN_1_5 = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    f"{IMAGE}\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
)
"""LLaVA-NeXT's conversation `qwen_1_5`, which its code holds and not the checkpoint."""
MOST_BETWEEN = 200
"""Characters between two images; templates have a line break there."""
QWEN_1_5_FOLLOW_UP = f"<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
"""What stands there between an answer and the next."""
METADATA = "The video lasts for {duration_seconds:.2f} seconds, and {frames} frames are uniformly sampled from it."
"""LLaVA-Video's time instruction, without the list of times, which TAM replaces by the interval."""
INTERVAL = " The time interval between each frame is {interval_seconds:.2f} second."


@dataclass(frozen=True, slots=True)
class Chat:
    """The text around visual tokens."""

    video: PromptTexts
    """Around the frames of a video."""
    image: PromptTexts
    """Around still images."""
    between_images: str
    """What stands between two images."""
    stop: tuple[str, ...]
    """Tokens that end an answer, the turn's own end first."""


def read_preprocessing(folder: CheckpointFolder, sizes: CheckpointSizes) -> ImagePreprocessing:
    """How pixels become input: the checkpoint's preprocessor_config.json, or what LLaVA-NeXT's code does.

    Raises:
        CheckpointError: it is missing, or resizes in a way the runtime does not.
    """
    said = read_json(folder.path, PREPROCESSOR_FILE)
    if said is None:
        if sizes.layout == "llava-next":
            return SIGLIP
        raise CheckpointError(folder.path, f"{PREPROCESSOR_FILE} is missing: copy it from where the checkpoint is from")
    pixels = _pixels(folder.path, PREPROCESSOR_FILE, said, sizes.config.vision.image_px)
    frames = read_json(folder.path, VIDEO_FILE)
    if frames is not None and _pixels(folder.path, VIDEO_FILE, frames, sizes.config.vision.image_px) != pixels:
        raise CheckpointError(
            folder.path,
            f"{VIDEO_FILE} says otherwise than {PREPROCESSOR_FILE}: a bundle treats frames and images alike",
        )
    return pixels


def _pixels(path: Path, file: str, said: dict[str, Any], side: int) -> ImagePreprocessing:
    if said.get("resample", BICUBIC) != BICUBIC or not said.get("do_resize", True):
        raise CheckpointError(path, f"{file}: frames are resized bicubically (resample {BICUBIC})")
    if said.get("do_center_crop"):
        raise CheckpointError(
            path, f"{file}: do_center_crop cuts the picture, a bundle squashes all of it to the square"
        )
    size = said.get("size") or {}
    edges = ("height", "width", "shortest_edge")
    if not isinstance(size, dict) or any(size.get(edge, side) != side for edge in edges):
        raise CheckpointError(path, f"{file}: size is {size}, the image encoder takes {side} px")
    try:
        return ImagePreprocessing(
            mean=_three(said["image_mean"]) if said.get("do_normalize", True) else (0.0, 0.0, 0.0),
            std=_three(said["image_std"]) if said.get("do_normalize", True) else (1.0, 1.0, 1.0),
            rescale=float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0,
        )
    except (KeyError, TypeError, ValueError) as error:
        needed = "image_mean and image_std are needed, three each, and a positive rescale_factor"
        raise CheckpointError(path, f"{file}: {needed}") from error


def read_tokenizer(folder: CheckpointFolder) -> str:
    """The checkpoint's `tokenizers` file as text, without padding or truncation; made from vocab.json and merges.txt
    where only those are there.

    Raises:
        CheckpointError: there is no tokenizer, or it cannot be read.
    """
    try:
        if (folder.path / TOKENIZER_FILE).is_file():
            tokenizer = Tokenizer.from_file(str(folder.path / TOKENIZER_FILE))
        elif all((folder.path / name).is_file() for name in ("vocab.json", "merges.txt")):
            tokenizer = _from_vocabulary(folder.path)
        else:
            raise CheckpointError(folder.path, f"neither {TOKENIZER_FILE} nor vocab.json and merges.txt are there")
    except CheckpointError:
        raise
    except Exception as error:  # the library raises nothing more specific
        raise CheckpointError(folder.path, f"its tokenizer cannot be read ({error}): copy it again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return str(tokenizer.to_str())


def read_chat(folder: CheckpointFolder, sizes: CheckpointSizes, tokenizer: Tokenizer) -> Chat:
    """The prompt as the checkpoint was trained with it: its own chat template, or LLaVA-NeXT's conversation.

    Raises:
        CheckpointError: the template cannot be rendered, or loses the video or the question.
    """
    said = read_json(folder.path, "tokenizer_config.json") or {}
    template = _template(folder.path, said)
    video = _rendered(folder.path, template, sizes, VIDEO, 1)
    image = _rendered(folder.path, template, sizes, IMAGE, 1)
    several = _rendered(folder.path, template, sizes, IMAGE, 2)
    start, between, _ = several.split(IMAGE, 2)
    if start != image.split(IMAGE)[0]:
        raise CheckpointError(folder.path, "its chat template puts other text before two images than before one")
    stop = tuple(dict.fromkeys(_stops(folder, said, tokenizer, video.partition(QUESTION)[2])))
    if not stop:
        raise CheckpointError(folder.path, "no token ends an answer: name eos_token in tokenizer_config.json")
    head = (METADATA + INTERVAL) if sizes.says_time else ""
    try:
        if len(between) > MOST_BETWEEN:
            raise ValueError(f"{len(between)} characters between two images")
        after = [_follow_up(template, sizes, token, first) for token, first in ((VIDEO, video), (IMAGE, image))]
        return Chat(_prompt(video, VIDEO, head, after[0]), _prompt(image, IMAGE, "", after[1]), between, stop)
    except ValueError as error:
        raise CheckpointError(folder.path, f"its chat template is longer than a prompt may be ({error})") from error


def _from_vocabulary(path: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    # Told no, transformers does not ask whether it may run code that the folder brings.
    loaded = AutoTokenizer.from_pretrained(path, local_files_only=True, use_fast=True, trust_remote_code=False)
    return loaded.backend_tokenizer


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _template(path: Path, tokenizer_config: dict[str, Any]) -> str | None:
    """transformers' order: a file of its own, a JSON file with one field, the tokenizer's config."""
    if (alone := read_text(path, "chat_template.jinja")) is not None:
        return alone
    found = (read_json(path, "chat_template.json") or {}).get("chat_template", tokenizer_config.get("chat_template"))
    if isinstance(found, list):  # several by name
        named = [one for one in found if isinstance(one, dict) and one.get("name") == "default"]
        found = named[0].get("template") if named else None
    return found if isinstance(found, str) else None


def _rendered(path: Path, template: str | None, sizes: CheckpointSizes, token: str, count: int) -> str:
    """One user's turn with `count` images or videos and the question, and the start of the answer."""
    if sizes.layout == "llava-next" or template is None:
        if sizes.layout == "hugging-face":
            raise CheckpointError(path, "it has no chat template: copy chat_template.json from where it is from")
        # The conversation knows images only; several stand in front of each other, each with its line break.
        return QWEN_1_5.replace(f"{IMAGE}\n", f"{token}\n" * count)
    try:
        text = _written(template, [_turn(token, count)])
    except Exception as error:  # whatever a template does in its sandbox
        raise CheckpointError(path, f"its chat template cannot be rendered ({error})") from error
    if text.count(token) != count or text.count(QUESTION) != 1 or text.rindex(token) > text.index(QUESTION):
        raise CheckpointError(path, f"its chat template does not put {token} before the question")
    return text


def _follow_up(template: str | None, sizes: CheckpointSizes, token: str, first: str) -> str | None:
    """What the template writes from the end of an answer to the start of the next; None where it takes one turn only.

    `first` is the first turn as it is written alone, and must be written so before an answer too, white space aside:
    LLaVA-OneVision's template puts a space before an earlier answer.
    """
    if sizes.layout == "llava-next" or template is None:
        return QWEN_1_5_FOLLOW_UP
    said = {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}
    asked = {"role": "user", "content": [{"type": "text", "text": QUESTION}]}
    try:
        text = _written(template, [_turn(token, 1), said, asked])
    except Exception:  # whatever a template does in its sandbox: it was made for one turn
        return None
    before, _, after = text.partition(ANSWER)
    return after if before.split() == first.split() and after.count(QUESTION) == 1 else None


def _turn(token: str, count: int) -> dict[str, Any]:
    kind = token.strip("<>")
    return {"role": "user", "content": [*({"type": kind} for _ in range(count)), {"type": "text", "text": QUESTION}]}


def _written(template: str, turns: list[dict[str, Any]]) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    texts: Any = render_jinja_template([turns], chat_template=template, add_generation_prompt=True)
    return str(texts[0][0])


def _prompt(text: str, token: str, metadata: str, follow_up: str | None) -> PromptTexts:
    before, after = text[: text.index(token)], text[text.rindex(token) + len(token) :]
    head, tail = map(_escaped, after.split(QUESTION))
    middle = "{metadata}\n{question}" if metadata else "{question}"
    return PromptTexts(
        system=before,
        after_visual=f"{head}{middle}{tail}",
        metadata=metadata,
        instruction="",
        follow_up=None if follow_up is None else "{question}".join(map(_escaped, follow_up.split(QUESTION))),
    )


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _stops(folder: CheckpointFolder, said: dict[str, Any], tokenizer: Tokenizer, tail: str) -> Iterator[str]:
    """The control token behind the question, then the checkpoint's own ends of text."""
    specials = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    if first := re.match("|".join(map(re.escape, sorted(specials, key=len, reverse=True))) or "(?!)", tail):
        yield first[0]
    text = folder.config.get("text_config")
    text = text if isinstance(text, dict) else folder.config
    known = range(tokenizer.get_vocab_size())  # -1 stands for none in some files
    for section in (read_json(folder.path, "generation_config.json") or {}, text):
        ids = section.get("eos_token_id")
        for index in ids if isinstance(ids, list) else [ids]:
            if type(index) is int and index in known and (token := tokenizer.id_to_token(index)) is not None:
                yield token
    named = said.get("eos_token")
    named = named.get("content") if isinstance(named, dict) else named
    if isinstance(named, str) and tokenizer.token_to_id(named) is not None:
        yield named
