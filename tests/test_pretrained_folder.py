"""A checkpoint folder that is incomplete, damaged or of another kind is refused in one line that says why."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoint import LlavaOnevisionForConditionalGeneration, save_checkpoint, tiny_config, tiny_model

from tam_edge.export.pretrained.bundle import export_checkpoint
from tam_edge.export.pretrained.folder import CheckpointError, open_checkpoint
from tam_edge.export.pretrained.sizes import read_sizes
from tam_edge.export.pretrained.source import ImportOptions, read_source
from tam_edge.export.pretrained.weights import check_tied_head
from tam_edge.quant import place
from tam_edge.runtime.errors import TamEdgeError, UsageError

PLAIN = ImportOptions()
FC1 = "vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight"


@pytest.fixture(scope="module")
def model() -> LlavaOnevisionForConditionalGeneration:
    return tiny_model()


@pytest.fixture
def folder(model: LlavaOnevisionForConditionalGeneration, tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "checkpoint", model)


def refused(folder: Path, options: ImportOptions = PLAIN) -> str:
    """The line an export of `folder` ends with; nothing is left of it."""
    out = folder.with_name("out")
    with pytest.raises(TamEdgeError) as error:
        export_checkpoint(folder, out, options)
    assert not out.exists()
    assert [path.name for path in folder.parent.iterdir() if "partial" in path.name] == []
    message = str(error.value)
    assert "\n" not in message
    return message


def edit_config(folder: Path, change: Callable[[dict], None]) -> Path:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_every_tensor_is_found_and_read_as_float32(
    model: LlavaOnevisionForConditionalGeneration, tmp_path: Path
) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        folder = open_checkpoint(save_checkpoint(tmp_path / str(dtype), model, dtype=dtype, shards=3))
        expected = model.model.language_model.layers[1].mlp.down_proj.weight.to(dtype).float()
        got = folder.read("language.layers.1.mlp.down_proj.weight")
        assert got.dtype == torch.float32
        assert torch.equal(got, expected)
        assert torch.equal(torch.cat(list(folder.blocks("language.layers.1.mlp.down_proj.weight", 7))), expected)


def test_pickled_weights_are_refused_and_never_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return open, (str(folder / "ran"), "w")

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    message = refused(folder)
    assert "pickled (pytorch_model.bin), which may run code when read: save them as safetensors" in message
    assert not (folder / "ran").exists()


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "config.json is missing" in refused(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{}")
    assert "neither model.safetensors nor model.safetensors.index.json" in refused(tmp_path / "empty")


@pytest.mark.parametrize("size", [0, 7, 5000, -1])
def test_a_truncated_file_is_named(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert "model.safetensors is damaged" in refused(folder)


def test_a_header_that_lies_is_damage(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[20:60] = b"\xff" * 40
    path.write_bytes(data)
    assert "model.safetensors is damaged" in refused(folder)


def test_values_that_are_no_numbers_are_named(model: LlavaOnevisionForConditionalGeneration, tmp_path: Path) -> None:
    spoilt = torch.full_like(model.model.language_model.layers[1].mlp.up_proj.weight, torch.nan)
    key = "language_model.model.layers.1.mlp.up_proj.weight"
    folder = save_checkpoint(tmp_path / "checkpoint", model, change={key: spoilt})
    assert f"{key} holds values that are no numbers" in refused(folder)


def test_a_missing_key_is_named(model: LlavaOnevisionForConditionalGeneration, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "checkpoint", model, change={FC1: None})
    assert refused(folder).endswith("vision.layers.1.mlp.fc1.weight is missing")


@pytest.mark.parametrize(
    "key", ["language_model.model.norm.weight", "multi_modal_projector.linear_2.bias", "image_newline"]
)
def test_every_part_misses_its_keys(model: LlavaOnevisionForConditionalGeneration, tmp_path: Path, key: str) -> None:
    folder = save_checkpoint(tmp_path / "checkpoint", model, change={key: None})
    assert key.rpartition(".")[0].rpartition(".")[2] in refused(folder)
    assert "is missing" in refused(folder)


def test_a_wrong_shape_is_named_with_both(model: LlavaOnevisionForConditionalGeneration, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "checkpoint", model, change={FC1: torch.zeros(48, 31)})
    assert refused(folder).endswith(f"{FC1} has shape [48, 31], config.json makes it [48, 32]")


def test_a_key_that_is_left_over_is_named(model: LlavaOnevisionForConditionalGeneration, tmp_path: Path) -> None:
    extra = {"language_model.model.layers.0.self_attn.q_norm.weight": torch.ones(16)}
    folder = save_checkpoint(tmp_path / "checkpoint", model, change=extra)
    assert refused(folder).endswith("self_attn.q_norm.weight belongs to no part of this model")


def test_a_lora_is_no_checkpoint(model: LlavaOnevisionForConditionalGeneration, tmp_path: Path) -> None:
    extra = {"base_model.model.lora_A.weight": torch.ones(4, 4)}
    folder = save_checkpoint(tmp_path / "checkpoint", model, change=extra)
    assert "base_model.model.lora_A.weight belongs to no part" in refused(folder)


def test_two_layouts_at_once_are_two_tensors_of_one_name(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.image_newline"] = weights["image_newline"].clone()
    save_file(weights, folder / "model.safetensors")
    assert "are the same tensor" in refused(folder)


def test_quantised_weights_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[FC1] = weights[FC1].to(torch.int8)
    save_file(weights, folder / "model.safetensors")
    assert f"{FC1} is stored as I8: take the checkpoint before it was quantised" in refused(folder)


def test_shards_must_be_what_the_index_says(model: LlavaOnevisionForConditionalGeneration, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "checkpoint", model, shards=2)
    index = folder / "model.safetensors.index.json"
    said = json.loads(index.read_text())
    names = sorted(set(said["weight_map"].values()))
    said["weight_map"]["ghost.weight"] = names[0]
    index.write_text(json.dumps(said))
    assert f"ghost.weight is not in {names[0]}" in refused(folder)
    del said["weight_map"]["ghost.weight"]
    index.write_text(json.dumps(said))
    (folder / names[1]).rename(folder / "elsewhere")
    assert f"{names[1]} is missing" in refused(folder)
    said["weight_map"][FC1] = "../elsewhere.safetensors"
    index.write_text(json.dumps(said))
    assert "lies outside the folder" in refused(folder)
    for name, line in (("x" * 5000, "cannot be reached: File name too long"), (".", ". is missing")):
        index.write_text(json.dumps({"weight_map": {FC1: name}}))
        assert line in refused(folder)
    index.write_text('{"weight_map": [1]}')
    assert "has no weight_map" in refused(folder)


def test_one_file_comes_before_shards_as_in_transformers(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "left-over.safetensors"}}')
    assert {stored.file.name for stored in open_checkpoint(folder).tensors.values()} == {"model.safetensors"}


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", '"x"'])
def test_a_config_that_is_no_json_object(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert "config.json" in refused(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["vision_config"].update(hidden_act="gelu"), "hidden_act is 'gelu'"),
        (lambda c: c["vision_config"].update(model_type="clip_vision_model"), "model_type is 'clip_vision_model'"),
        (lambda c: c["vision_config"].update(num_attention_heads=5), "must be a multiple of heads"),
        (lambda c: c["vision_config"].update(hidden_size="32"), "hidden_size is '32', a positive whole number"),
        (lambda c: c["vision_config"].update(layer_norm_eps=0), "layer_norm_eps is 0, a positive number"),
        (lambda c: c["vision_config"].update(num_hidden_layers=5), "vision.layers.3.layer_norm1.weight is missing"),
        (lambda c: c.update(vision_feature_layer=[-2, -1]), "vision_feature_layer is [-2, -1]"),
        (lambda c: c.update(vision_feature_layer=9), "vision_feature_layer 9 does not exist"),
        (lambda c: c.update(vision_feature_select_strategy="default"), "vision_feature_select_strategy"),
        (lambda c: c.update(projector_hidden_act="relu"), "projector_hidden_act is 'relu'"),
        (lambda c: c.update(projector_order="both"), "projector_order is 'both'"),
        (lambda c: c.update(image_grid_pinpoints=[[30, 100]]), "multiples of the encoder's 100 px"),
        (lambda c: c.update(image_grid_pinpoints=[[1, 2, 3]]), "no list of [height, width]"),
        (lambda c: c["text_config"].update(model_type="llama"), "its language model is llama"),
        (lambda c: c["text_config"].update(rope_scaling={"rope_type": "yarn"}), "rope_scaling is not supported"),
        (lambda c: c["text_config"].update(use_sliding_window=True), "use_sliding_window is not supported"),
        (lambda c: c["text_config"].update(num_key_value_heads=3), "must divide width"),
        (lambda c: c["text_config"].update(vocab_size=300), "has shape [384, 64], config.json makes it [300, 64]"),
        (lambda c: c["text_config"].update(rope_scaling="yarn"), "rope_scaling is no JSON object"),
        (lambda c: c["text_config"].update(rope_parameters={"rope_type": "yarn"}), "rope_parameters is not supported"),
        (lambda c: c["text_config"].update(rope_parameters=7), "rope_parameters is no JSON object"),
        (lambda c: c["text_config"].update(hidden_size=10**30), "hidden_size is larger than any model has it"),
        (lambda c: c["text_config"].update(num_hidden_layers=10**6), "num_hidden_layers is larger than any model"),
        (lambda c: c["text_config"].update(tokenizer_model_max_length="many"), "tokenizer_model_max_length is 'many'"),
        (lambda c: c["text_config"].update(tokenizer_model_max_length=math.inf), "tokenizer_model_max_length is inf"),
        (lambda c: c.update(image_grid_pinpoints=[[math.inf, 100]]), "no list of [height, width]"),
        (
            lambda c: c.update(image_grid_pinpoints=[[10**9 * 100, 100]]),
            "multiples of the encoder's 100 px, up to 6400",
        ),
        (lambda c: c.update(image_grid_pinpoints="all"), "neither a list of [height, width] nor"),
        (lambda c: c.update(mm_vision_tower="own", vision_config=[1]), "vision_config is no JSON object"),
        (lambda c: c.update(mm_vision_tower="own", vision_config={"num_hidden_layers": 1}), "without a block"),
        (lambda c: c.pop("text_config"), "lacks text_config"),
        (lambda c: [c.pop("text_config"), c.pop("vision_config")], "names no image encoder"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder: Path, change: Callable[[dict], None], said: str) -> None:
    assert said in refused(edit_config(folder, change))


def test_an_untied_head_must_be_there(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "checkpoint", tiny_model(tiny_config(tied=True)))
    edit_config(folder, lambda config: config["text_config"].update(tie_word_embeddings=False))
    assert refused(folder).endswith("language.lm_head.weight is missing")


def test_options_must_fit_the_checkpoint(folder: Path) -> None:
    assert "no grid may be larger" in refused(folder, ImportOptions(grids=(9, 4)))
    told: list[str] = []
    with pytest.raises(UsageError, match=r"--inductor .* is no bundle, no training run"):
        export_checkpoint(folder, folder.with_name("out"), ImportOptions(inductor=folder.parent), progress=told.append)
    assert told == ["taking over the Inductor"]  # and not at the end of an hour


def test_a_context_without_room_for_a_frame_is_refused(folder: Path) -> None:
    edit_config(folder, lambda config: config["text_config"].update(max_position_embeddings=11))
    assert refused(folder).endswith("a context of 11 tokens is too short: 12 are needed")
    edit_config(folder, lambda config: config["text_config"].update(max_position_embeddings=12))
    read_source(folder, PLAIN)


def test_a_tied_head_must_be_the_table(tmp_path: Path) -> None:
    model = tiny_model(tiny_config(tied=True))
    head, table = "language_model.lm_head.weight", model.model.language_model.embed_tokens.weight.detach()
    same = open_checkpoint(save_checkpoint(tmp_path / "same", model, change={head: table.clone()}))
    check_tied_head(same, read_sizes(same).config)
    for name, other in {"other": table + 1, "rows": table[:-1].clone()}.items():
        message = refused(save_checkpoint(tmp_path / name, model, change={head: other}))
        assert f"{head} is not the embedding table, to which config.json ties it" in message


def test_the_place_of_the_bundle_is_checked_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(out: Path) -> str:
        with pytest.raises(UsageError) as error:
            export_checkpoint(folder, out)
        return str(error.value)

    assert "is what is read, or holds it" in said(folder)
    (tmp_path / "manifest.json").write_text(
        json.dumps({"schema_version": 1, "inductor": 0, "encoders": 0, "language": 0})
    )
    assert "is what is read, or holds it" in said(tmp_path)  # a bundle that a checkpoint lies in
    page = tmp_path / "page"
    page.mkdir()
    (page / "manifest.json").write_text('{"short_name": "my web page", "icons": []}')
    assert "is there and is no bundle" in said(page)
    (tmp_path / "file").write_text("x")
    assert f"{tmp_path / 'file'} may not be written to" in said(tmp_path / "file" / "out")
    assert "File name too long" in said(tmp_path / ("x" * 300))
    monkeypatch.setattr(place.shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    assert "0.1 MiB free, about 0.6 MiB are needed" in said(tmp_path / "out")


def test_a_weight_that_f16_cannot_hold_is_named(model: LlavaOnevisionForConditionalGeneration, tmp_path: Path) -> None:
    key = "language_model.model.layers.2.mlp.up_proj.weight"
    huge = model.model.language_model.layers[2].mlp.up_proj.weight.detach() * 1e6
    folder = save_checkpoint(tmp_path / "checkpoint", model, change={key: huge})
    assert "layers.2.mlp.up_proj.weight holds weights above 65504, the largest number of f16: take bf16" in refused(
        folder
    )


def test_the_error_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        open_checkpoint(tmp_path)
