"""The nano Inductor's tokenizer: a byte-level BPE learned from the training questions themselves.

No token is in the "added" vocabulary, so nothing a person types, `<|end|>` included, can become the pad or end token.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

PAD, END = "<|pad|>", "<|end|>"
PAD_ID, END_ID = 0, 1

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # batches are short: threads cost more than they give


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Learn a tokenizer that folds case and compatibility forms and ends each question with `END`."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = _normalizer()
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    return _without_added_tokens(learner)


def encode(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Questions -> input_ids, attention_mask, both int64 [B, L], padded on the right to the longest.

    Of a question with more than `max_tokens` tokens the middle is left out, as when the bundle runs.
    """
    rows = [_without_middle(encoding.ids, max_tokens) for encoding in tokenizer.encode_batch(list(texts))]
    ids = np.full((len(rows), max(map(len, rows))), PAD_ID, np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return ids, mask


def _without_middle(ids: list[int], most: int) -> list[int]:
    tail = most // 2
    return ids if len(ids) <= most else ids[: most - tail] + ids[-tail:]


def _normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])


def _without_added_tokens(learner: Tokenizer) -> Tokenizer:
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=learned["vocab"], merges=merges))
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, END_ID)])
    return tokenizer
