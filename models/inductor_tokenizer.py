"""Questions to token ids, as when a bundle runs, and word-piece vocabularies cut down to what questions need.

What a person types is plain text: `[SEP]` or `<|im_end|>` in a question never becomes a control token.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, processors

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # batches are short: threads cost more than they give

_PAD, _UNKNOWN, _START, _END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
_PAD_ID = 0  # any id would do: the attention mask tells padding from text


def plain(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer without the padding and truncation its file may ask for, control tokens read as plain text."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Questions -> input_ids, attention_mask, both int64 [B, L], padded on the right to the longest.

    Of a question with more than `max_tokens` tokens the middle is left out, as when the bundle runs.
    """
    tokenizer.encode_special_tokens = True
    rows = [_without_middle(encoding.ids, max_tokens) for encoding in tokenizer.encode_batch(list(texts))]
    ids = np.full((len(rows), max(map(len, rows))), _PAD_ID, np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return ids, mask


def trim_wordpiece(tokenizer: Tokenizer, texts: Iterable[str], pieces: int) -> tuple[Tokenizer, NDArray[np.int64]]:
    """Keep `pieces` word pieces of a BERT tokenizer; returns the new one and the old id of each of its ids.

    Kept are the control tokens, every single character (so a word is never unknown that was known before), the pieces
    of `texts`, most frequent first, and then the lowest ids: a BERT vocabulary is ordered by how common a word is.
    """
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    by_id = sorted(vocabulary, key=lambda piece: vocabulary[piece])
    counts = Counter(piece for text in texts for piece in tokenizer.encode(text, add_special_tokens=False).tokens)
    controls = [_PAD, _UNKNOWN, _START, _END]
    single = [piece for piece in by_id if len(piece.removeprefix("##")) == 1]
    frequent = sorted(counts, key=lambda piece: (-counts[piece], vocabulary[piece]))
    common = [piece for piece in by_id if not (piece.startswith("[") and piece.endswith("]") and len(piece) > 2)]
    kept = list(dict.fromkeys([*controls, *single, *frequent, *common]))[: max(pieces, len(controls) + len(single))]
    kept = [*controls, *sorted(kept[len(controls) :], key=lambda piece: vocabulary[piece])]
    return _wordpiece(tokenizer, kept), np.array([vocabulary[piece] for piece in kept], np.int64)


def _wordpiece(like: Tokenizer, pieces: Sequence[str]) -> Tokenizer:
    """A tokenizer of these pieces that cuts and folds text as `like` does; none of its tokens is an added one."""
    settings = json.loads(like.to_str())["model"]
    model = models.WordPiece(
        vocab={piece: index for index, piece in enumerate(pieces)},
        unk_token=_UNKNOWN,
        continuing_subword_prefix=settings["continuing_subword_prefix"],
        max_input_chars_per_word=settings["max_input_chars_per_word"],
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = like.normalizer, like.pre_tokenizer, like.decoder
    ends = [(token, pieces.index(token)) for token in (_START, _END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{_START} $A {_END}", special_tokens=ends)
    return plain(tokenizer)


def _without_middle(ids: list[int], most: int) -> list[int]:
    tail = most // 2
    return ids if len(ids) <= most else ids[: most - tail] + ids[-tail:]
