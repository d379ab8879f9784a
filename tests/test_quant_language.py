"""GGUF types as llama.cpp really stores them, and the importance of inputs as it is really used."""

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from tiny_bundle import CONTEXT, EMBEDDING, FFN, decoder_shapes, language_tokenizer, write_gguf

from tam_edge.export.full_size_bytes import write_hollow
from tam_edge.export.full_size_shapes import TEXT_SHAPES, TextShape
from tam_edge.quant.imatrix import Imatrix, measure
from tam_edge.quant.language import TYPES, check_source, planned, quantise_language, stored
from tam_edge.runtime.errors import EngineError, UsageError

STEPS = {"Q8_0": 0.57, "Q4_0": 1.01}
"""Largest error of a number in steps of its block: half a step and what a float16 scale is off by at 127 steps; Q4_0
has no step for the end of the other sign."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny-f32.gguf"
    write_gguf(path, language_tokenizer(), np.random.default_rng(3))
    return path


def tensors(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_stored_numbers_are_those_of_the_format(source, tmp_path, kind):
    quantise_language(source, tmp_path / "q.gguf", kind, imatrix=None, threads=1)
    small, exact = tensors(tmp_path / "q.gguf"), tensors(source)
    compared = 0
    for name, tensor in small.items():
        if tensor.tensor_type.name != kind:
            continue
        values, original = dequantize(tensor.data, tensor.tensor_type), exact[name].data
        blocks = original.reshape(-1, 32)
        step = np.abs(blocks).max(-1, keepdims=True) / {"Q8_0": 127, "Q4_0": 8}[kind]
        assert (np.abs(values.reshape(-1, 32) - blocks) <= step * STEPS[kind] + 1e-5).all()
        compared += 1
    assert compared >= 8


def test_what_a_type_does_not_fit_is_reported_as_it_is_stored(source, tmp_path):
    """Rows of 32 fit no block of 256 and rows of 48 no block at all."""
    assert EMBEDDING % 256 and FFN % 32
    found = quantise_language(source, tmp_path / "q.gguf", "Q4_K_M", imatrix=None, threads=1)
    read = {tensor.tensor_type.name for tensor in tensors(tmp_path / "q.gguf").values() if len(tensor.shape) > 1}
    assert set(found.types) == read
    assert "Q4_K" not in read and "F16" in read
    assert found.bytes_by_type == stored(tmp_path / "q.gguf").bytes_by_type
    assert 4 < found.bits_per_weight < 16


def test_a_plan_is_what_gets_stored(tmp_path):
    """Of a model of full width, of which only the shapes are there."""
    shape = TextShape(256, 2, 4, 2, 512, 300, 320, True)
    write_hollow(shape, tmp_path / "hollow.gguf")
    for kind in ("Q8_0", "Q4_K_M"):
        made = quantise_language(tmp_path / "hollow.gguf", tmp_path / "q.gguf", kind, imatrix=None, threads=1)
        assert planned(tmp_path / "hollow.gguf", kind) == made


def test_a_7b_model_is_three_times_smaller(tmp_path):
    write_hollow(TEXT_SHAPES["7B"], tmp_path / "7b.gguf")
    assert (tmp_path / "7b.gguf").stat().st_blocks * 512 < 20_000_000  # a hole
    sizes = {kind: sum(planned(tmp_path / "7b.gguf", kind).bytes_by_type.values()) for kind in ("f16", "Q4_K_M")}
    assert sizes["f16"] / sizes["Q4_K_M"] > 3.2


@pytest.fixture(scope="module")
def prompts():
    draw = np.random.default_rng(5)
    return [
        [list(range(10, 30)), draw.standard_normal((300, EMBEDDING), np.float32), [7, 8, 9]],
        [[40, 41, 42], draw.standard_normal((11, EMBEDDING), np.float32), list(range(20))],
    ]


@pytest.fixture(scope="module")
def importance(source, prompts):
    return measure(source, prompts, context=CONTEXT, threads=1, source="test", progress=lambda _: None)


def test_importance_is_the_mean_square_of_what_a_matrix_is_given(source, prompts, importance):
    """Of the first layer it can be computed by hand: embeddings over their root mean square."""
    table = tensors(source)["token_embd.weight"].data
    rows = np.concatenate([table[part] if isinstance(part, list) else part for prompt in prompts for part in prompt])
    normed = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(importance.squares["blk.0.attn_q.weight"], (normed**2).mean(0), rtol=2e-3)
    matrices = {name for name, shape, _ in decoder_shapes(8, EMBEDDING) if len(shape) == 2} - {"token_embd.weight"}
    assert set(importance.squares) == matrices
    assert importance.squares["blk.1.ffn_down.weight"].shape == (FFN,)


def test_a_saved_importance_is_read_back(importance, tmp_path):
    importance.save(tmp_path / "i.gguf")
    again = Imatrix.load(tmp_path / "i.gguf")
    assert again.tokens == importance.tokens
    for name, squares in importance.squares.items():
        np.testing.assert_allclose(again.squares[name], squares, rtol=1e-5)


def test_importance_makes_what_matters_more_exact(source, tmp_path):
    """Eight columns matter a thousand times more than the rest: their error shrinks, at the cost of the others."""
    names = [name for name, tensor in tensors(source).items() if len(tensor.shape) > 1 and name != "token_embd.weight"]
    widths = {name: int(tensors(source)[name].shape[0]) for name in names}
    weights = {name: np.where(np.arange(width) < 8, 1000.0, 1.0).astype(np.float32) for name, width in widths.items()}
    Imatrix(weights, 1, "test").save(tmp_path / "i.gguf")
    errors = []
    for imatrix in (None, tmp_path / "i.gguf"):
        quantise_language(source, tmp_path / "q.gguf", "Q4_0", imatrix=imatrix, threads=1)
        small, exact = tensors(tmp_path / "q.gguf")["blk.0.ffn_gate.weight"], tensors(source)["blk.0.ffn_gate.weight"]
        assert small.tensor_type.name == "Q4_0"
        squares = (dequantize(small.data, small.tensor_type) - exact.data) ** 2
        errors.append((squares[:, :8].mean(), squares[:, 8:].mean()))
    assert errors[1][0] < 0.8 * errors[0][0]
    assert errors[1][1] > errors[0][1]


def test_what_cannot_be_used_is_said_in_one_line(source, tmp_path):
    quantise_language(source, tmp_path / "q.gguf", "Q8_0", imatrix=None, threads=1)
    with pytest.raises(UsageError, match=r"q\.gguf holds Q8_0 already"):
        check_source(tmp_path / "q.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(source.read_bytes()[:-5000])
    with pytest.raises(EngineError, match="no readable GGUF"):
        check_source(cut)
    with pytest.raises(EngineError, match="free space of the disk"):
        quantise_language(source, tmp_path / "no" / "q.gguf", "Q8_0", imatrix=None, threads=1)
    for name, content in (("a.dat", b"\0" * 40), ("b.gguf", source.read_bytes())):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match="is no imatrix"):
            Imatrix.load(tmp_path / name)


def test_types_are_known_from_fine_to_coarse():
    assert TYPES == ("f16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0")
