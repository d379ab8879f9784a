"""The nano model's own tokenizer: byte-level BPE over the street camera's questions, cut the way Qwen2's is.

Capital letters stay single tokens, so that the language model spells what is on a sign instead of recalling words.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tam_edge.models.recipe.nano import PROMPT, ROUTING, STOP
from tam_edge.models.street import phrases
from tam_edge.models.street.labels import GROUPS
from tam_edge.models.street.questions import questions
from tam_edge.models.street.world import make_scene

VOCABULARY = 1200
CORPUS_SCENES = 2000
SPECIAL = ("<|endoftext|>", "<|im_start|>", STOP)
# Qwen2's cut: contractions, words with their leading space, single digits, punctuation, blanks.
QWEN2_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer() -> Tokenizer:
    """The tokenizer, the same every time."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_CUT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def _corpus() -> Iterator[str]:
    for seed in range(CORPUS_SCENES):
        for question in questions(make_scene(seed)):
            yield question.text
            if question.task != 8:  # what is written is spelled, not learned by heart
                yield f" {question.answer}"
    for _ in range(50):
        yield from (f" {word}" for words in GROUPS.values() for word in words if word.islower())
        yield from (f" {rule.title}" for rule in ROUTING.tasks)
        yield PROMPT.metadata.format(frames=9, duration_seconds=36.0, interval_seconds=1.0)
        yield from (phrase for family in phrases.PHRASES.values() for phrase in family)
