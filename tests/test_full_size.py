"""Checkpoints with random weights in the public layout, and the exact size of what becomes of them."""

import json
import math
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from tam_edge.export import full_size, full_size_answers, full_size_bytes
from tam_edge.export.full_size import write_checkpoint
from tam_edge.export.full_size_bytes import bundle_bytes
from tam_edge.export.full_size_files import CONTROL_TOKENS, tokenizer
from tam_edge.export.full_size_shapes import TEXT_SHAPES, VISION_SHAPES, shapes
from tam_edge.export.full_size_vision import _encoder, bench
from tam_edge.export.pretrained.bundle import export_checkpoint
from tam_edge.export.pretrained.source import ImportOptions, read_source
from tam_edge.export.vision import vision_graph
from tam_edge.quant.encoder import shrink
from tam_edge.quant.graph import sites
from tam_edge.quant.graph_file import read_graph, weight_bytes
from tam_edge.runtime.bundle import default_bundle_path
from tam_edge.runtime.errors import UsageError

SAMPLE = default_bundle_path().parent / "street" / "sample.mp4"
TINY = TEXT_SHAPES["tiny"], VISION_SHAPES["tiny"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(full_size, "SHARD_BYTES", 40_000)
        write_checkpoint(folder, *TINY)
    return folder


def test_transformers_finds_every_tensor_it_wants_and_no_other(checkpoint):
    from transformers import LlavaOnevisionForConditionalGeneration

    model, told = LlavaOnevisionForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32, output_loading_info=True
    )
    assert not any(told.values()), told
    with torch.inference_mode():
        draw = torch.Generator().manual_seed(0)
        features = model.model.vision_tower(torch.randn(1, 3, 56, 56, generator=draw)).last_hidden_state
        logits = model(input_ids=torch.arange(40)[None]).logits
    assert 0.3 < features.std() < 3 and 0.3 < logits.std() < 3  # nothing dies and nothing explodes


def test_shards_hold_everything_once_in_bf16(checkpoint):
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    found = {}
    files = sorted(checkpoint.glob("model-*.safetensors"))
    assert len(files) == 3
    for file in files:
        with safe_open(file, "pt") as shard:
            for name in shard.keys():  # noqa: SIM118
                assert index["weight_map"][name] == file.name
                found[name] = tuple(shard.get_slice(name).get_shape())
                assert shard.get_tensor(name).dtype == torch.bfloat16
    assert found == dict(shapes(*TINY))
    assert index["metadata"]["total_size"] == 2 * sum(map(math.prod, found.values()))
    assert not list(checkpoint.glob("*.draft"))


def test_the_same_seed_gives_the_same_weights(checkpoint, tmp_path):
    write_checkpoint(tmp_path / "again", *TINY)
    name = "language_model.model.layers.1.mlp.down_proj.weight"
    values = []
    for folder in (checkpoint, tmp_path / "again"):
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        with safe_open(folder / index["weight_map"][name], "pt") as shard:
            values.append(shard.get_tensor(name))
    assert torch.equal(*values)


def test_the_tokenizer_has_the_size_and_the_ids_of_the_public_ones(checkpoint):
    made = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    assert [made.token_to_id(text) for text in CONTROL_TOKENS] == list(range(300, 305))
    full = tokenizer(TEXT_SHAPES["7B"].merged)
    assert (full.get_vocab_size(), full.token_to_id("<image>")) == (151_648, 151_646)
    text = "Wie viele Leute? 人が三人 \N{PEDESTRIAN}"
    for one in (made, full):
        assert one.decode(one.encode(text).ids) == text


def test_full_sizes_are_those_of_the_public_models():
    """Parameters of LLaVA-OneVision 0.5B and 7B, vision tower of 26 layers included."""
    counts = {
        name: sum(math.prod(shape) for _, shape in shapes(TEXT_SHAPES[name], VISION_SHAPES["so400m"]))
        for name in ("0.5B", "7B")
    }
    assert counts == {"0.5B": 893_675_552, "7B": 8_030_807_584}


@pytest.mark.parametrize(("language", "smaller"), [("0.5B", 2.7), ("7B", 3.0)])
def test_int4_bundles_are_as_small_as_promised(language, smaller):
    shape = TEXT_SHAPES[language], VISION_SHAPES["so400m"]
    half, small = bundle_bytes(*shape, "fp16", "f16"), bundle_bytes(*shape, "int4", "Q4_K_M")
    inductor_and_vocabulary = 16_000_000 + 2 * 6_000_000
    assert (sum(half.values()) + inductor_and_vocabulary) / (sum(small.values()) + inductor_and_vocabulary) > smaller


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_the_arithmetic_is_what_a_graph_holds(tmp_path, monkeypatch, kind):
    """A tiny encoder's arrays, written for real, against the sum of its shapes."""
    monkeypatch.setattr(sites, "__defaults__", (500,))
    monkeypatch.setattr(full_size_bytes, "SMALLEST", 500)
    onnx.save(vision_graph(_encoder("tiny", 2, 1)), tmp_path / "v.onnx")
    feeds = [{"pixels": np.random.default_rng(0).standard_normal((1, 3, 56, 56), np.float32)}]
    shrink(
        tmp_path / "v.onnx", tmp_path / "q.onnx", feeds, dense=kind, experts=None, error_most=5.0, threads=1,
        progress=lambda _: None,
    )  # fmt: skip
    held = sum(weight_bytes(one) for one in read_graph(tmp_path / "q.onnx").graph.initializer)
    reckoned = bundle_bytes(*TINY, kind, "f16", grids=1)["vision"]
    assert reckoned <= held < reckoned + 600  # shapes of reshapes, scalars


def test_the_bench_compares_types_in_one_run(monkeypatch):
    monkeypatch.setattr(sites, "__defaults__", (500,))
    told = bench("tiny", 1, 1, ["int8"], 2, 1)
    assert told["types"]["fp32"]["faster"] == 1
    assert told["types"]["int8"]["cpu_ms_per_frame"] > 0


@pytest.mark.parametrize("layout", ["hugging-face", "llava-next"])
def test_both_layouts_can_be_imported(tmp_path, layout):
    write_checkpoint(tmp_path / "in", *TINY, layout=layout)
    source = read_source(tmp_path / "in", ImportOptions())
    assert (source.sizes.layout, source.sizes.newline) == (layout, "one" if layout == "hugging-face" else "grid")
    assert source.sizes.config.vision.layers == TINY[1].layers
    assert len(source.sizes.resolutions) == 36


def test_a_place_that_is_taken_is_left_alone(checkpoint):
    with pytest.raises(UsageError, match="is there already"):
        write_checkpoint(checkpoint, *TINY)


def test_the_script_writes_a_folder(tmp_path):
    command = [sys.executable, "-m", "tam_edge.export.full_size", "--out", tmp_path / "c"]
    done = subprocess.run([*command, "--language", "tiny", "--vision", "tiny"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "c").iterdir()}
    assert {"config.json", "preprocessor_config.json", "tokenizer.json", "model-00001-of-00001.safetensors"} <= names


def test_bundles_are_asked_in_turns_and_their_figures_make_a_table(checkpoint, tmp_path):
    bundles = [tmp_path / name for name in ("plain", "eighth")]
    for bundle, precision in zip(bundles, ("f32", "Q8_0"), strict=True):
        export_checkpoint(checkpoint, bundle, ImportOptions(precision=precision))
    measured = full_size_answers.measure(bundles, SAMPLE, frames=2, rounds=1, threads=1)
    assert list(measured) == ["plain", "eighth"]
    for figures in measured.values():
        assert list(figures) == list(full_size_answers.COLUMNS)
        assert all(figure > 0 for figure in figures.values())
        assert figures["vision_ms_per_frame"] < figures["first_token_ms"]
    lines = full_size_answers.table(measured).splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| bundle", "| ---", "| plain", "| eighth"]
    assert {line.count("|") for line in lines} == {2 + len(full_size_answers.COLUMNS)}


def test_a_run_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="nothing-here"):
        full_size_answers.measure([tmp_path / "nothing-here"], SAMPLE, frames=2, rounds=1, threads=1)
