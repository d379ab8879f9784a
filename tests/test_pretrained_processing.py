"""Pixels, token ids and chat text of an imported checkpoint are those its own files give in transformers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_checkpoint import CHAT, checkpoint_tokenizer, save_checkpoint, tiny_config, tiny_model
from tokenizers import Tokenizer
from transformers import LlavaOnevisionImageProcessor, PreTrainedTokenizerFast

from tam_edge.export.pretrained.folder import CheckpointError, open_checkpoint
from tam_edge.export.pretrained.processing import read_chat, read_preprocessing, read_tokenizer
from tam_edge.export.pretrained.sizes import read_sizes
from tam_edge.runtime.manifest import EncoderSpec
from tam_edge.runtime.tokenizer import encode_plain, encode_template
from tam_edge.runtime.vision import preprocess

PIECES = (
    *(
        "the dog ",
        "How many",
        " people",
        "wearing",
        "\n",
        "\n\n",
        "   ",
        "\t",
        "!?",
        "…",
        "—",
        "«oui»",
        "3.14",
        "1234567",
    ),
    *("汉字", "人が三人", "안녕", "здравствуй", "שלום", "مرحبا", "नमस्ते", "e\u0301", "o\u0308", "a\u030a", "ﬁ", "Å"),
    *(
        "🐕",
        "👩‍👩‍👧",
        "🇩🇪",
        "👍🏽",
        "def f(x):\n    return x",
        "{'a': [1]}",
        "</s>",
        "&amp;",
        "\u00a0",
        "\u200b",
        "'ll",
        "I'M",
    ),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", tiny_model())


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def chat_of(folder: Path) -> Any:
    opened = open_checkpoint(folder)
    return read_chat(opened, read_sizes(opened), Tokenizer.from_str(read_tokenizer(opened)))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_a_thousand_strings_have_the_checkpoints_token_ids(folder: Path) -> None:
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    ours = Tokenizer.from_str(read_tokenizer(open_checkpoint(folder)))
    draw = random.Random(5)
    seen = set()
    for _ in range(1000):
        text = "".join(draw.choices(PIECES, k=draw.randint(1, 12)))
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert list(encode_plain(ours, text)) == ids
        assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)
        seen.add(text)
    assert len(seen) > 950


def test_control_tokens_of_the_template_are_the_checkpoints(folder: Path) -> None:
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    ours = Tokenizer.from_str(read_tokenizer(open_checkpoint(folder)))
    chat = chat_of(folder)
    assert list(encode_template(ours, chat.video.system)) == theirs(chat.video.system)["input_ids"]
    assert ours.token_to_id("<|im_start|>") in encode_template(ours, chat.video.system)
    assert ours.token_to_id("<|im_end|>") not in encode_plain(ours, "<|im_end|>")


def test_padding_and_truncation_of_the_file_are_left_out(folder: Path) -> None:
    tokenizer = checkpoint_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(folder / "tokenizer.json"))
    ours = Tokenizer.from_str(read_tokenizer(open_checkpoint(folder)))
    assert len(ours.encode("how many people are there in the street?").ids) > 4
    assert len(ours.encode("a").ids) == 1


def test_a_tokenizer_of_two_files_becomes_one(folder: Path) -> None:
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").rename(folder / "kept.json")
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    edit(folder / "tokenizer_config.json", lambda said: said.update(tokenizer_class="Qwen2Tokenizer"))
    ours = Tokenizer.from_str(read_tokenizer(open_checkpoint(folder)))
    kept = Tokenizer.from_file(str(folder / "kept.json"))
    for text in ("how many people?", "人が三人 e\u0301", "12 dogs\n"):
        assert encode_plain(ours, text) == encode_plain(kept, text)
    (folder / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor vocab\.json"):
        read_tokenizer(open_checkpoint(folder))


def test_a_damaged_tokenizer_is_one_line(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="its tokenizer cannot be read"):
        read_tokenizer(open_checkpoint(folder))


def test_the_prompt_is_what_the_chat_template_writes(folder: Path) -> None:
    chat = chat_of(folder)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), chat_template=CHAT)
    turn = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "why {so}?"}]}]
    written = theirs.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    ours = (
        chat.video.system
        + "<video>"
        + chat.video.after_visual.format(question="why {so}?", metadata="", instruction="")
    )
    assert ours == written
    assert chat.between_images == "\n"
    assert chat.stop == ("<|im_end|>",)


def test_a_conversation_is_what_the_chat_template_writes(folder: Path) -> None:
    chat = chat_of(folder)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), chat_template=CHAT)
    turns: list[Any] = [
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "why?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "so"}]},
        {"role": "user", "content": [{"type": "text", "text": "and {then}?"}]},
    ]
    first = chat.video.after_visual.format(question="why?", metadata="", instruction="")
    second = chat.video.follow_up.format(question="and {then}?")
    written = theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert f"{chat.video.system}<video>{first}so{second}".split() == written.split()
    assert chat.image.follow_up == chat.video.follow_up


@pytest.mark.parametrize(
    "template",
    [
        CHAT.replace("{% for", "{% if messages|length > 1 %}{{ raise_exception('one turn') }}{% endif %}{% for", 1),
        CHAT.replace("{% for", "{% if messages|length > 1 %}{{ 'a conversation: ' }}{% endif %}{% for", 1),
    ],
)
def test_a_template_for_one_turn_gives_no_follow_up(folder: Path, template: str) -> None:
    edit(folder / "tokenizer_config.json", lambda said: said.update(chat_template=template))
    assert chat_of(folder).video.follow_up is None


@pytest.mark.parametrize("place", ["chat_template.jinja", "chat_template.json"])
def test_a_template_of_its_own_comes_first(folder: Path, place: str) -> None:
    """Some copies write a space behind the role, and no line break behind a turn."""
    other = CHAT.replace("+ '\n' }}{% for", "+ ' ' }}{% for", 1).replace("'<|im_end|>\n'", "'<|im_end|>'")
    (folder / place).write_text(other if place.endswith("jinja") else json.dumps({"chat_template": other}))
    chat = chat_of(folder)
    assert chat.video.system == "<|im_start|>user "
    assert chat.video.after_visual == "\n{question}<|im_end|><|im_start|>assistant\n"


def test_braces_in_a_template_are_text(folder: Path) -> None:
    braced = CHAT.replace("'<|im_end|>\n'", "'{x}<|im_end|>\n'")
    edit(folder / "tokenizer_config.json", lambda said: said.update(chat_template=braced))
    assert chat_of(folder).video.after_visual == "\n{question}{{x}}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ messages[0]['content'][1]['text'] }}", "does not put <video> before the question"),
        ("<video>", "does not put <video> before the question"),
        ("{% for", "cannot be rendered"),
        ("{{ raise_exception('no system turn') }}", "no system turn"),
        ("{{ ''.__class__.__mro__ }}", "cannot be rendered"),
        (None, "it has no chat template"),
        ([{"name": "default"}, "x"], "it has no chat template"),
        ("x" * 9000 + CHAT, "longer than a prompt may be"),
        (CHAT.replace("'<image>\n'", "'<image>' + 'x' * 300"), "longer than a prompt may be"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(folder: Path, template: object, said: str) -> None:
    edit(folder / "tokenizer_config.json", lambda config: config.update(chat_template=template))
    with pytest.raises(CheckpointError, match=said):
        chat_of(folder)


def test_a_template_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja cannot be read"):
        chat_of(folder)


def test_llava_next_has_its_own_conversation(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "next", tiny_model(), "A")
    chat = chat_of(folder)
    turn = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    assert chat.video.system == chat.image.system == turn
    assert chat.video.after_visual == "\n{question}<|im_end|>\n<|im_start|>assistant\n"
    assert chat.video.follow_up == "<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    edit(folder / "config.json", lambda config: config.update(add_time_instruction=True))
    said = chat_of(folder)
    assert said.video.after_visual == "\n{metadata}\n{question}<|im_end|>\n<|im_start|>assistant\n"
    assert said.video.metadata.startswith("The video lasts for {duration_seconds:.2f} seconds, and {frames} frames are")
    assert said.image == chat.image


def test_every_end_of_text_is_a_stop(folder: Path) -> None:
    ids = [checkpoint_tokenizer().token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>")]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    assert chat_of(folder).stop == ("<|im_end|>", "<|endoftext|>")


@pytest.mark.parametrize("ids", [-1, 2**40, True, "2", [None, -3, [1]]])
def test_what_is_no_token_ends_nothing(folder: Path, ids: object) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    edit(folder / "config.json", lambda config: config["text_config"].update(eos_token_id=ids))
    assert chat_of(folder).stop == ("<|im_end|>",)


def test_pixels_are_those_of_the_checkpoints_processor(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", lambda said: said.update(image_mean=[0.4, 0.5, 0.6], image_std=[0.2] * 3))
    opened = open_checkpoint(folder)
    sizes = read_sizes(opened)
    ours = read_preprocessing(opened, sizes)
    assert (ours.mean, ours.std) == ((0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
    frame = np.random.default_rng(2).integers(0, 256, (71, 133, 3), np.uint8)
    spec = EncoderSpec.model_construct(image_px=sizes.config.vision.image_px, preprocessing=ours)
    said = json.loads((folder / "preprocessor_config.json").read_text())
    processor = LlavaOnevisionImageProcessor(**said, image_grid_pinpoints=tiny_config().image_grid_pinpoints)
    theirs = processor(Image.fromarray(frame), return_tensors="np")["pixel_values"][0, 0]  # the whole image, squashed
    assert np.abs(preprocess(frame[None], spec)[0] - theirs).max() < 1e-5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda said: said.update(resample=2), "resized bicubically"),
        (lambda said: said.update(size={"height": 224, "width": 224}), "the image encoder takes 100 px"),
        (lambda said: said.pop("image_mean"), "image_mean and image_std are needed"),
        (lambda said: said.update(image_std=[0.5, 0.5, 0]), "image_mean and image_std are needed"),
        (lambda said: said.update(size=100), "size is 100, the image encoder takes 100 px"),
        (lambda said: said.update(size={"shortest_edge": 100}, do_center_crop=True), "do_center_crop cuts the picture"),
    ],
)
def test_pixels_that_the_runtime_cannot_make_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    edit(folder / "preprocessor_config.json", change)
    opened = open_checkpoint(folder)
    with pytest.raises(CheckpointError, match=said):
        read_preprocessing(opened, read_sizes(opened))


def test_frames_that_are_treated_otherwise_than_images_are_refused(folder: Path) -> None:
    said = json.loads((folder / "preprocessor_config.json").read_text())
    video = folder / "video_preprocessor_config.json"
    video.write_text(json.dumps({**said, "video_processor_type": "LlavaOnevisionVideoProcessor"}))
    opened = open_checkpoint(folder)
    assert read_preprocessing(opened, read_sizes(opened)).mean == (0.5, 0.5, 0.5)
    video.write_text(json.dumps({**said, "image_mean": [0.48, 0.46, 0.41]}))
    with pytest.raises(CheckpointError, match=r"video_preprocessor_config\.json says otherwise than"):
        read_preprocessing(opened, read_sizes(opened))


def test_without_a_processor_only_llava_next_is_known(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    opened = open_checkpoint(folder)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json is missing"):
        read_preprocessing(opened, read_sizes(opened))
