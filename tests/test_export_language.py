"""The decoder's GGUF file in real llama.cpp against the PyTorch module, and the mutants the comparison must notice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from rough_models import LANGUAGE, roughen
from tiny_bundle import language_tokenizer

from tam_edge.export.language import Precision, gguf_name, write_gguf
from tam_edge.export.parity import LOGIT_TOLERANCE, ParityError, compare_logits, with_f16_matrices
from tam_edge.models.config import LanguageConfig
from tam_edge.models.language import LanguageModel
from tam_edge.runtime.engines.llamacpp import LlamaCppEngine

ANSWER = (17, 300, 5, 42)


def _language(config: LanguageConfig = LANGUAGE) -> LanguageModel:
    torch.set_num_threads(1)
    language = LanguageModel(config).eval()
    roughen(language, gain=1.0)  # llama.cpp rounds activations to f16: larger weights would blow that up
    torch.nn.init.normal_(language.embed_tokens.weight, std=0.2)
    return with_f16_matrices(language)


def _prompt(language: LanguageModel) -> np.ndarray:
    """Words, then small visual tokens (their epsilon shows), then words."""
    torch.manual_seed(11)
    with torch.no_grad():
        words = language.embed_tokens(torch.randint(0, 360, (9,)))
    return torch.cat((words[:2], torch.randn(40, words.shape[1]) * 0.002, words[2:])).numpy()


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    language_tokenizer().save(str(path))
    return path


@pytest.fixture
def open_gguf(tmp_path: Path, tokenizer: Path) -> Iterator[Callable[..., LlamaCppEngine]]:
    opened: list[LlamaCppEngine] = []

    def write_and_open(language: LanguageModel, precision: Precision = "f16") -> LlamaCppEngine:
        path = tmp_path / f"{len(opened)}.gguf"
        write_gguf(language, tokenizer, path, precision=precision, name="tiny", stop="<|im_end|>")
        opened.append(LlamaCppEngine(path, threads=1))
        return opened[-1]

    yield write_and_open
    for engine in opened:
        engine.close()


@pytest.mark.parametrize("tied", [True, False])
def test_llama_cpp_computes_the_module(open_gguf: Callable[..., LlamaCppEngine], tied: bool) -> None:
    language = _language(replace(LANGUAGE, tied=tied))
    error = compare_logits(language, open_gguf(language), _prompt(language), ANSWER)
    assert 0 < error <= LOGIT_TOLERANCE


def test_token_ids_and_embeddings_are_the_same_door(open_gguf: Callable[..., LlamaCppEngine]) -> None:
    language = _language()
    engine = open_gguf(language)
    ids = [3, 77, 200, 41]
    with torch.no_grad():
        expected = language(language.embed_tokens(torch.tensor([ids])))[0, -1].numpy()
    engine.reserve(16)
    engine.append_tokens(ids)
    np.testing.assert_allclose(engine.logits(), expected, atol=LOGIT_TOLERANCE)


def test_greedy_answers_are_the_same(open_gguf: Callable[..., LlamaCppEngine]) -> None:
    language = _language()
    engine = open_gguf(language)
    prompt = _prompt(language)
    expected = language.greedy_generate(torch.from_numpy(prompt).unsqueeze(0), 8, stop=-1)
    engine.reserve(len(prompt) + 8)
    engine.append_embeddings(prompt)
    assert [token for token, _ in zip(engine.sample(0.0, 0), range(8), strict=False)] == expected


def test_q8_0_is_smaller_and_close(open_gguf: Callable[..., LlamaCppEngine], tmp_path: Path) -> None:
    language = _language()
    engines = {precision: open_gguf(language, precision) for precision in ("f16", "Q8_0")}
    sizes = [(tmp_path / f"{index}.gguf").stat().st_size for index in range(2)]
    assert sizes[1] < 0.75 * sizes[0]
    rows = []
    for engine in engines.values():
        engine.reserve(64)
        engine.append_embeddings(_prompt(language))
        rows.append(engine.logits())
    assert LOGIT_TOLERANCE < np.abs(rows[0] - rows[1]).max() < 0.1 * np.abs(rows[0]).max()
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "1.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == "Q8_0"
    assert kinds["blk.0.attn_q.bias"] == kinds["output_norm.weight"] == "F32"


def _other_rotation(language: LanguageModel) -> None:
    """Interleaved pairs instead of halves: rows of q and k in Llama's order."""
    for layer in language.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            for parameter in (projection.weight, projection.bias):
                heads = parameter.data.unflatten(0, (-1, 2, language.config.head_width // 2))
                parameter.data = heads.transpose(1, 2).flatten(0, 2).contiguous()


MUTANTS: dict[str, Callable[[LanguageModel], None]] = {
    "other rotation": _other_rotation,
    "other rope base": lambda m: setattr(m, "config", replace(m.config, rope_theta=10000.0)),
    "other epsilon": lambda m: setattr(m, "config", replace(m.config, rms_norm_eps=1e-5)),
    "no key bias": lambda m: m.layers[0].self_attn.k_proj.bias.data.zero_(),
    "up is gate": lambda m: m.layers[1].mlp.up_proj.weight.data.copy_(m.layers[1].mlp.gate_proj.weight.data),
    "final norm left out": lambda m: m.norm.weight.data.fill_(1.0),
    "heads shared otherwise": lambda m: m.layers[2].self_attn.k_proj.weight.data.copy_(
        m.layers[2].self_attn.k_proj.weight.data.unflatten(0, (2, -1)).flip(0).flatten(0, 1)
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_comparison_notices(open_gguf: Callable[..., LlamaCppEngine], mutant: str) -> None:
    language, changed = _language(), _language()
    MUTANTS[mutant](changed)
    with pytest.raises(ParityError, match="logits differ"):
        compare_logits(language, open_gguf(changed), _prompt(language), ANSWER)


def test_comparison_notices_one_layer_less(open_gguf: Callable[..., LlamaCppEngine]) -> None:
    language = _language()
    shorter = LanguageModel(replace(LANGUAGE, layers=2))
    weights = {key: value for key, value in language.state_dict().items() if not key.startswith("layers.2.")}
    shorter.load_state_dict(weights)
    with pytest.raises(ParityError, match="logits differ"):
        compare_logits(language, open_gguf(shorter), _prompt(language), ANSWER)


def test_vocabulary_is_the_tokenizers_own(tmp_path: Path, tokenizer: Path) -> None:
    language = LanguageModel(replace(LANGUAGE, vocab_size=384))  # padded, as checkpoints are
    path = tmp_path / "padded.gguf"
    write_gguf(language, tokenizer, path, precision="f16", name="tiny", stop="<|im_end|>")
    fields = GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    ids = language_tokenizer().get_vocab()
    assert len(tokens) == 384
    assert all(tokens[index] == token for token, index in ids.items())
    assert tokens[len(ids)] == f"[PAD{len(ids)}]"
    merges = json.loads(tokenizer.read_text())["model"]["merges"]
    assert fields["tokenizer.ggml.merges"].contents() == [" ".join(pair) for pair in merges]
    assert fields["tokenizer.ggml.model"].contents() == "gpt2"
    assert fields["tokenizer.ggml.pre"].contents() == "qwen2"
    assert fields["tokenizer.ggml.eos_token_id"].contents() == ids["<|im_end|>"]
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert (kinds[ids["<|im_end|>"]], kinds[ids["a"]], kinds[-1]) == (3, 1, 5)


def test_stop_token_is_an_end_for_llama_cpp(open_gguf: Callable[..., LlamaCppEngine]) -> None:
    engine = open_gguf(_language())
    ids = language_tokenizer().get_vocab()
    assert engine.is_end(ids["<|im_end|>"])
    assert not engine.is_end(ids["a"])


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(ValueError, match="rows"):
        write_gguf(
            LanguageModel(replace(LANGUAGE, vocab_size=350)),
            tokenizer,
            tmp_path / "a.gguf",
            precision="f16",
            name="tiny",
            stop="<|im_end|>",
        )
    with pytest.raises(ValueError, match="stop token"):
        write_gguf(
            LanguageModel(LANGUAGE), tokenizer, tmp_path / "b.gguf", precision="f16", name="tiny", stop="<|end|>"
        )


def test_every_tensor_has_a_name() -> None:
    with torch.device("meta"):
        keys = LanguageModel(replace(LANGUAGE, tied=False)).state_dict().keys()
    names = [gguf_name(key) for key in keys]
    assert len(set(names)) == len(names)
    assert gguf_name("layers.11.post_attention_layernorm.weight") == "blk.11.ffn_norm.weight"
    assert gguf_name("lm_head.weight") == "output.weight"
