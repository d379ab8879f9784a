"""Engines: real ONNX Runtime and real llama.cpp on tiny files."""

import subprocess
import sys

import gguf
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_bundle import EMBEDDING, PATCH_PX, SIDE, encoder_by_hand, encoder_weights, engine, make_tiny_bundle

from tam_edge.runtime.engines import choose_engine, open_engine, open_language_engine
from tam_edge.runtime.engines.llamacpp import CHUNK_TOKENS
from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.errors import EngineError
from tam_edge.runtime.schema import EngineSpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def language(folder):
    model = open_language_engine(folder / "language.gguf", spec(folder, "language.gguf", "gguf"), threads=1)
    yield model
    model.close()


@pytest.fixture
def embeddings():
    return np.random.default_rng(5).standard_normal((CHUNK_TOKENS + 44, EMBEDDING)).astype(np.float32)


def spec(folder, name, backend="onnx", **changes):
    return EngineSpec.model_validate({**engine(folder, name, backend), **changes})


def test_8_bit_products_do_not_overflow(tmp_path):
    """Two products of 255 and 127 are more than 16 bits hold."""
    weights = numpy_helper.from_array(np.full((64, 32), 127, np.int8), "weights")
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Cast", ["x"], ["bytes"], to=onnx.TensorProto.UINT8),
            onnx.helper.make_node("MatMulInteger", ["bytes", "weights"], ["sums"]),
            onnx.helper.make_node("Cast", ["sums"], ["y"], to=onnx.TensorProto.FLOAT),
        ],
        "overflow",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [9, 64])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [9, 32])],
        [weights],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "overflow.onnx")
    opened = OnnxEngine(tmp_path / "overflow.onnx", threads=1, device="cpu")
    (sums,) = opened.run({"x": np.full((9, 64), 255, np.float32)})
    opened.close()
    assert (sums == 64 * 255 * 127).all()


# ---- choosing


def test_the_first_engine_that_fits_is_chosen_and_those_before_it_are_named(folder):
    specs = [
        spec(folder, "encoder.onnx", "tensorrt", file="eye.engine"),
        spec(folder, "encoder.onnx", file="eye-orin.onnx", built_for="Orin"),
        spec(folder, "encoder.onnx"),
        spec(folder, "encoder.onnx", file="eye-int8.onnx"),
    ]
    choice = choose_engine("encoders.eye.engines", specs)
    assert choice.spec == specs[2]
    assert [r.what for r in choice.rejections] == ["eye.engine", "eye-orin.onnx"]
    assert "TensorRT" in choice.rejections[0].reason
    assert "Orin" in choice.rejections[1].reason


def test_no_engine_fits(folder):
    with pytest.raises(EngineError, match=r"inductor.*TensorRT"):
        choose_engine("inductor.engines", [spec(folder, "inductor.onnx", "tensorrt")])


def test_each_role_takes_its_own_backend(folder):
    with pytest.raises(EngineError, match="gguf"):
        open_engine(folder / "language.gguf", spec(folder, "language.gguf", "gguf"), threads=1)
    with pytest.raises(EngineError, match="onnx"):
        open_language_engine(folder / "encoder.onnx", spec(folder, "encoder.onnx"), threads=1)


# ---- ONNX Runtime


def test_onnx_moe_node_is_the_formula(folder):
    """softmax over the two highest gate logits, tanh GELU: what the vision encoder's MoE layers mean."""
    weights = encoder_weights(np.random.default_rng(0))
    pixels = np.random.default_rng(1).standard_normal((3, 3, SIDE * PATCH_PX, SIDE * PATCH_PX)).astype(np.float32)
    eye = open_engine(folder / "encoder.onnx", spec(folder, "encoder.onnx"), threads=1)
    assert eye.input_names == ("pixels",)
    [found] = eye.run({"pixels": pixels})
    np.testing.assert_allclose(found, encoder_by_hand(pixels, weights), atol=2e-5)
    eye.close()


def test_onnx_errors_are_one_line_and_name_the_file(folder, tmp_path, capfd):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=r"broken\.onnx"):
        open_engine(broken, spec(folder, "encoder.onnx"), threads=1)
    eye = open_engine(folder / "encoder.onnx", spec(folder, "encoder.onnx"), threads=1)
    with pytest.raises(EngineError, match=r"encoder\.onnx"):
        eye.run({"pixels": np.zeros((1, 3, 5, 5), np.float32)})
    eye.close()
    eye.close()
    with pytest.raises(EngineError, match="closed"):
        eye.run({"pixels": np.zeros((1, 3, 28, 28), np.float32)})
    assert capfd.readouterr() == ("", "")


def test_onnx_warnings_are_not_printed(folder, tmp_path, capfd):
    """onnxruntime warns about an initializer that nothing uses."""
    graph = onnx.load(folder / "encoder.onnx")
    graph.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "unused"))
    onnx.save(graph, tmp_path / "odd.onnx")
    open_engine(tmp_path / "odd.onnx", spec(folder, "encoder.onnx"), threads=1).close()
    assert capfd.readouterr() == ("", "")


def test_a_gpu_asked_for_by_name_is_not_replaced_in_silence(folder):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(EngineError, match="CUDA"):
        open_engine(folder / "encoder.onnx", spec(folder, "encoder.onnx"), threads=1, device="cuda")


# ---- llama.cpp


def test_prefix_cut_and_continued_equals_a_fresh_sequence(folder, language, embeddings):
    language.reserve(600)
    language.append_tokens([1, 20, 21])
    language.append_embeddings(embeddings)
    prefix = language.length
    language.append_tokens([30, 31, 32])
    other = language.logits()
    take(language, 5)
    language.truncate(prefix)
    language.append_tokens([40, 41])
    continued = language.logits()

    fresh = open_language_engine(folder / "language.gguf", spec(folder, "language.gguf", "gguf"), threads=1)
    fresh.reserve(600)
    fresh.append_tokens([1, 20, 21])
    fresh.append_embeddings(embeddings)
    fresh.append_tokens([40, 41])
    np.testing.assert_array_equal(continued, fresh.logits())
    assert not np.array_equal(continued, other)
    fresh.close()


def take(language, count, temperature=0.0, seed=0):
    tokens = language.sample(temperature, seed)
    taken = [next(tokens) for _ in range(count)]
    tokens.close()
    return taken


def test_embeddings_enter_where_the_same_tokens_would(folder, language):
    """Rows of the embedding table, entered as embeddings, score the next token as the token ids do."""
    ids = np.random.default_rng(2).integers(10, 350, CHUNK_TOKENS + 40).tolist()
    table = embedding_table(folder)
    language.reserve(len(ids))
    language.append_tokens(ids)
    by_token = language.logits()
    language.truncate(0)
    language.append_embeddings(table[ids])
    np.testing.assert_allclose(language.logits(), by_token, atol=1e-4)


def embedding_table(folder):
    """Rows of the GGUF's token embeddings, read with the gguf package."""
    tensors = gguf.GGUFReader(folder / "language.gguf").tensors
    return next(np.array(tensor.data) for tensor in tensors if tensor.name == "token_embd.weight")


def test_embeddings_see_later_ones_only_without_causal_attention(language, embeddings):
    changed = embeddings.copy()
    changed[-1] += 1
    language.reserve(400, block=len(embeddings))
    first_states = []
    for rows, causal in ((embeddings, True), (changed, True), (embeddings, False), (changed, False)):
        language.truncate(0)
        language.append_embeddings(rows, causal=causal)
        language.truncate(len(rows) - 1)  # what is left saw the last row or did not
        language.append_tokens([9])
        first_states.append(language.logits())
    np.testing.assert_array_equal(first_states[0], first_states[1])
    assert np.abs(first_states[2] - first_states[3]).max() > 1e-4


def test_greedy_takes_the_highest_score_and_repeats(language):
    language.reserve(64)
    language.append_tokens([1, 2, 3])
    best = int(language.logits().argmax())
    first = take(language, 12)
    language.truncate(3)
    language.truncate(2)
    language.append_tokens([3])
    assert first[0] == best
    assert take(language, 12) == first


def test_a_seed_repeats_its_draws_and_another_does_not(language):
    def drawn(seed):
        language.truncate(0)
        language.append_tokens([1, 2, 3])
        return take(language, 20, temperature=1.0, seed=seed)

    language.reserve(64)
    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    assert drawn(2**32 - 1) == drawn(2**32 - 1)


def test_growing_the_room_drops_what_was_held(language):
    language.reserve(100)
    language.append_tokens([1, 2])
    language.reserve(50)
    assert (language.length, language.capacity) == (2, 256)
    language.reserve(257)
    assert (language.length, language.capacity) == (0, 512)


def test_too_many_tokens_are_refused_before_llama_cpp_would_abort(language, embeddings):
    language.reserve(10)
    with pytest.raises(EngineError, match="do not fit"):
        language.append_tokens([1] * 257)
    with pytest.raises(EngineError, match="see each other"):
        language.append_embeddings(embeddings, causal=False)
    with pytest.raises(EngineError, match=r"\[T, 32\]"):
        language.append_embeddings(np.zeros((2, EMBEDDING + 1), np.float32))


def test_token_ids_outside_the_vocabulary_are_refused(language):
    language.reserve(10)
    with pytest.raises(EngineError, match="code"):
        language.append_tokens([100_000])


def test_end_tokens_are_known(language):
    assert language.is_end(2)
    assert not language.is_end(200)


def test_llama_cpp_prints_nothing(folder, tmp_path):
    """In a process of its own: the library prints while it loads, before a test could silence it."""
    (tmp_path / "broken.gguf").write_bytes(b"GGUF, but not really")
    code = f"""
from pathlib import Path
from tam_edge.runtime.engines.llamacpp import LlamaCppEngine
from tam_edge.runtime.errors import EngineError
try:
    LlamaCppEngine(Path({str(tmp_path / "broken.gguf")!r}), threads=1)
except EngineError as error:
    assert "broken.gguf" in str(error)
else:
    raise SystemExit("opened")
model = LlamaCppEngine(Path({str(folder / "language.gguf")!r}), threads=1)
model.reserve(300)
model.append_tokens([1, 2, 3])
next(model.sample(0.5, 1))
model.close()
model.close()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
