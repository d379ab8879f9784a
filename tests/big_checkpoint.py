"""A checkpoint of real size with random weights, and what converting it needs in memory.

    python tests/big_checkpoint.py write 7b FOLDER      # 16 GB, layout A, bf16, in shards
    python tests/big_checkpoint.py convert FOLDER OUT   # prints {"vm_hwm_bytes": ..., "before_bytes": ..., ...}
    python tests/big_checkpoint.py convert FOLDER OUT 7 # the same with a ladder of one grid

`7b` is SigLIP-so400m with Qwen2-7B, `0.5b` with Qwen2-0.5B (tied), `ci` small enough for every test run. `convert` is
the whole of `tam-edge export --checkpoint`, in this process; the engines' memory is measured in others.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_bundle import language_tokenizer
from torch import Tensor

from tam_edge.models.config import LanguageConfig, ProjectorConfig, TallVAConfig, VisionConfig
from tam_edge.models.tallva import TallVA

SHARD_BYTES = 1 << 30
SO400M = VisionConfig(384, 14, 1152, 26, 16, 4304, experts=1, experts_per_token=1)
SMALL = VisionConfig(100, 14, 64, 3, 4, 96, experts=1, experts_per_token=1)
LANGUAGES = {
    "7b": LanguageConfig(152064, 3584, 28, 28, 4, 18944, 1e6, tied=False, context=32768),
    "0.5b": LanguageConfig(151936, 896, 24, 14, 2, 4864, 1e6, tied=True, context=32768),
    "ci": LanguageConfig(4096, 256, 40, 8, 2, 768, 1e6, tied=False, context=4096),
}


def sizes(shape: str) -> TallVAConfig:
    """Sizes by name."""
    vision, language = SMALL if shape == "ci" else SO400M, LANGUAGES[shape]
    return TallVAConfig(vision, ProjectorConfig((3,), vision.width, language.width, "project-then-pool"), language)


def write(shape: str, folder: Path) -> None:
    """Write the checkpoint, a shard in memory at a time; every tensor is cut from the same 16 million numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    config = sizes(shape)
    torch.manual_seed(0)
    numbers = torch.randn(1 << 24).mul_(0.02).to(torch.bfloat16)
    places: dict[str, str] = {}
    shard: dict[str, Tensor] = {}

    def flush() -> None:
        name = f"model-{len(set(places.values())):05}.safetensors"
        save_file(shard, folder / name)
        places.update(dict.fromkeys(shard, name))
        shard.clear()

    for key, shape_of in stored_shapes(config).items():
        count = int(torch.Size(shape_of).numel())
        shard[key] = numbers.repeat(-(-count // len(numbers)))[:count].reshape(shape_of).clone()
        if sum(values.nbytes for values in shard.values()) > SHARD_BYTES:
            flush()
    flush()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text(json.dumps(next_config(config)))
    language_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')


def stored_shapes(config: TallVAConfig) -> dict[str, tuple[int, ...]]:
    """LLaVA-NeXT's key names."""
    with torch.device("meta"):
        model = TallVA(config)
    tower = "model.vision_tower.vision_tower.vision_model."
    shapes: dict[str, tuple[int, ...]] = {"model.image_newline": (config.language.width,)}
    for key, value in model.vision.state_dict().items():
        shapes[tower + ("encoder." if key.startswith("layers.") else "embeddings.") + key] = tuple(value.shape)
    for key, value in model.projectors.experts[0].state_dict().items():
        module, kind = key.split(".")
        shapes[f"model.mm_projector.{'0' if module == 'linear_1' else '2'}.{kind}"] = tuple(value.shape)
    for key, value in model.language.state_dict().items():
        shapes[key if key.startswith("lm_head") else f"model.{key}"] = tuple(value.shape)
    return shapes


def next_config(config: TallVAConfig) -> dict[str, object]:
    """LLaVA-NeXT's config.json, the image encoder described."""
    vision, text = config.vision, config.language
    return {
        "model_type": "llava",
        "hidden_size": text.width,
        "intermediate_size": text.ffn_width,
        "max_position_embeddings": text.context,
        "num_attention_heads": text.heads,
        "num_hidden_layers": text.layers,
        "num_key_value_heads": text.kv_heads,
        "rope_theta": text.rope_theta,
        "tie_word_embeddings": text.tied,
        "vocab_size": text.vocab_size,
        "mm_vision_tower": "siglip",
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_newline_position": "grid",
        "image_aspect_ratio": "anyres_max_9",
        "vision_config": {
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp_width,
            "num_hidden_layers": vision.layers + 1,
            "num_attention_heads": vision.heads,
            "image_size": vision.image_px,
            "patch_size": vision.patch_px,
        },
    }


def convert(folder: Path, out: Path, grids: tuple[int, ...] | None = None) -> dict[str, float]:
    """Export, and what this process needed at its peak."""
    from tam_edge.export.pretrained.bundle import ImportOptions, export_checkpoint
    from tam_edge.runtime.budget import peak_resident_bytes, resident_bytes

    before, began = resident_bytes(), time.monotonic()
    export_checkpoint(folder, out, ImportOptions(grids=grids), progress=lambda what: print(what, file=sys.stderr))
    written = sum(path.stat().st_size for path in out.iterdir())
    return {
        "vm_hwm_bytes": peak_resident_bytes(),
        "before_bytes": before,
        "checkpoint_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "bundle_bytes": written,
        "seconds": round(time.monotonic() - began, 1),
    }


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], Path(sys.argv[3]))
    else:
        print(json.dumps(convert(Path(sys.argv[2]), Path(sys.argv[3]), tuple(map(int, sys.argv[4:])) or None)))
