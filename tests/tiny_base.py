"""Tiny text models in Hugging Face layout, with the key names and tokenizer settings of the real checkpoints."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from tam_edge.models.inductor import QuestionClassifier, save_inductor
from tam_edge.models.inductor_base import load_base, trimmed
from tam_edge.models.inductor_phrases import load_phrases
from tam_edge.models.inductor_questions import read_wide

WIDTH, LAYERS = 64, 2
PIECES = 700


def make_bert(folder: Path, seed: int = 0) -> Path:
    """A random BERT with a pooler, whose tokenizer file pads and cuts to 16 tokens, as all-MiniLM-L6-v2's does."""
    tokenizer = Tokenizer.from_str(_word_pieces())
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.06,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@cache
def _word_pieces() -> str:
    """Trained once: of equally frequent pieces another training may choose others."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=1200, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(questions(), trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(16)
    return str(tokenizer.to_str())


def make_llama(folder: Path, seed: int = 0) -> Path:
    """A random Llama laid out like SmolLM2-135M: tied embeddings, grouped heads, byte-level BPE with control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(questions(), trainer)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=256,
        rope_theta=100_000.0,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def questions() -> list[str]:
    """What the tokenizers are learned from."""
    return [one.text for one in read_wide()]


def make_run(folder: Path, base: Path, *, temperature: float = 1.25, threshold: float = 0.2) -> QuestionClassifier:
    """What a finished training leaves in its folder, with a random head whose opinions are strong."""
    folder.mkdir(parents=True, exist_ok=True)
    start = trimmed(load_base(base), [*questions(), *load_phrases().none["train"]], PIECES, 40)
    model = QuestionClassifier(start.body, max_tokens=40).eval()
    torch.manual_seed(1)
    torch.nn.init.normal_(model.head.weight, std=0.4)
    save_inductor(model, folder)
    start.tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "metrics.json").write_text(json.dumps({"temperature": temperature, "threshold": threshold}))
    return model
