"""A real bundle of a few hundred kilobytes with random weights, made in a second and without torch.

Everything in it runs for real: ONNX graphs with a `com.microsoft.MoE` node, a Qwen2 GGUF, byte-level BPE. The Inductor
knows the key words below; the answers are babble, but the same babble every time.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from onnx import TensorProto, helper, numpy_helper, save
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

IMAGE_PX, PATCH_PX, SIDE, WIDTH = 28, 7, 4, 24
EXPERTS, TOP, HIDDEN = 4, 2, 32
LADDER = (4, 3, 2)
EMBEDDING, LAYERS, HEADS, KV_HEADS, FFN, CONTEXT = 32, 2, 4, 2, 48, 1024
MAX_OUTPUT, RESERVE, MAX_VISUAL = 16, 400, 160

TASKS = {
    "static attributes": ("attributes", "high", ("many", "colour", "wearing")),
    "action recognition": ("action", "balanced", ("doing", "does", "playing")),
    "fine-grained attributes": ("detail", "high", ("holding", "smallest", "detail")),
    "temporal sequence": ("order", "more", ("happens", "before", "after", "first", "when")),
    "spatial orientation": ("place", "high", ("where", "left", "right")),
    "summary": ("summary", "more", ("summarize", "describe", "about")),
    "reasoning": ("reason", "balanced", ("why", "because", "reason")),
    "OCR and cross-modal": ("text", "high", ("sign", "say", "written", "read")),
}
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
SENTENCES = (
    "how many people are there? what colour is the car? what does the sign say? summarize the video",
    "what happens after the car leaves? where is the dog? why did the car stop? user assistant frames",
    "two people in red and blue, a green car, a dog on the left, 3 cyclists, Ärger über Größe, 人が三人います",
)


LONG_TOKENS = 200_000
"""Longest answer of the bundle that babbles."""


def make_tiny_bundle(
    folder: Path,
    *,
    seed: int = 0,
    encoder_width: int = WIDTH,
    projector_width: int = EMBEDDING,
    language_width: int = EMBEDDING,
    change: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Write a bundle into ``folder``; the widths are those of the graphs, `change` edits the manifest, for lies."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    tokenizer = language_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    inductor_tokenizer().save(str(folder / "inductor-tokenizer.json"))
    save(inductor_graph(), str(folder / "inductor.onnx"))
    save(encoder_graph(draw, encoder_width), str(folder / "encoder.onnx"))
    for grid in LADDER:
        save(projector_graph(draw, grid, projector_width), str(folder / f"projector-{grid}.onnx"))
    write_gguf(folder / "language.gguf", tokenizer, draw, language_width)
    manifest = manifest_json(folder)
    if change is not None:
        change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    return folder


def make_babbling_bundle(folder: Path) -> Path:
    """A model that babbles for minutes if nobody stops it: words that end an answer score 0, and others more."""
    make_tiny_bundle(folder)
    tokenizer, model = language_tokenizer(), gguf.GGUFReader(folder / "language.gguf", "r+")
    [scores] = [tensor.data for tensor in model.tensors if tensor.name == "token_embd.weight"]  # tied
    scores[[tokenizer.token_to_id(token) for token in CONTROL_TOKENS]] = 0
    scores.flush()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["language"] |= {"context": LONG_TOKENS + 1024, "max_output_tokens": LONG_TOKENS}
    manifest["language"]["engines"][0] |= file_spec(folder, "language.gguf")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def manifest_json(folder: Path) -> dict[str, Any]:
    """The manifest of what `make_tiny_bundle` wrote."""
    return {
        "schema_version": 1,
        "name": "tiny",
        "version": "1",
        "license": "Apache-2.0",
        "description": "Random weights for tests.",
        "created_by": "tests",
        "inductor": {
            "engines": [engine(folder, "inductor.onnx")],
            "tokenizer": file_spec(folder, "inductor-tokenizer.json"),
            "tasks": list(TASKS),
            "max_tokens": 64,
        },
        "encoders": {
            "eye": {
                "image_px": IMAGE_PX,
                "patch_px": PATCH_PX,
                "grid_side": SIDE,
                "width": WIDTH,
                "preprocessing": {"mean": [0.5] * 3, "std": [0.5] * 3},
                "engines": [engine(folder, "encoder.onnx")],
            }
        },
        "projectors": {
            str(grid): {
                "expert": expert,
                "inputs": ["features", "time_fraction"],
                "engines": [engine(folder, f"projector-{grid}.onnx")],
            }
            for expert, grid in enumerate(LADDER, start=1)
        },
        "strategies": [{"name": "tam", "encoders": ["eye"]}],
        "language": {
            "engines": [engine(folder, "language.gguf", backend="gguf")],
            "tokenizer": file_spec(folder, "tokenizer.json"),
            "embedding_width": EMBEDDING,
            "context": CONTEXT,
            "stop": ["<|im_end|>"],
            "max_output_tokens": MAX_OUTPUT,
        },
        "prompt": {
            "system": "<|im_start|>user\n",
            "after_visual": "\n{metadata} {instruction}\n{question}<|im_end|>\n<|im_start|>assistant",
            "metadata": "{frames} frames, {duration_seconds:.0f} s.",
            "instruction": "{task_name}.",
        },
        "routing": routing_json(),
    }


def routing_json() -> dict[str, Any]:
    """Three grids and the eight task types."""
    return {
        "ladder": [{"grid": g, "expert": i, "tokens_per_frame": g * g} for i, g in enumerate(LADDER, start=1)],
        "tasks": [{"name": name, "title": title, "group": group} for name, (title, group, _) in TASKS.items()],
        "max_frames": 24,
        "balanced_grid": 3,
        "high_grid_short": 4,
        "high_grid_long": 3,
        "more_grid": 2,
        "confidence_threshold": 0.4,
        "phrases": {"high": "fewer frames", "more": "more frames", "balanced": "some frames"},
        "context_reserve_tokens": RESERVE,
        "max_visual_tokens": MAX_VISUAL,
    }


def file_spec(folder: Path, name: str) -> dict[str, Any]:
    """Name, hash and size of one file."""
    data = (folder / name).read_bytes()
    return {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}


def engine(folder: Path, name: str, backend: str = "onnx") -> dict[str, Any]:
    """One entry of a role's list."""
    return {**file_spec(folder, name), "backend": backend, "precision": "fp32", "peak_bytes": 8 << 20}


def language_tokenizer() -> Tokenizer:
    """Byte-level BPE with Qwen2's NFC step and split, trained on three sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(CONTROL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def inductor_tokenizer() -> Tokenizer:
    """One token for each key word, one for every other word."""
    words = ["[PAD]", "[UNK]", *(word for _, _, words in TASKS.values() for word in words)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def inductor_graph():
    """Each key word adds 4 to its task's logit: two unlike words are a tie, none is 1/8 each."""
    votes = np.zeros((inductor_tokenizer().get_vocab_size(), len(TASKS)), np.float32)
    for task, (_, _, words) in enumerate(TASKS.values()):
        for word in words:
            votes[inductor_tokenizer().token_to_id(word), task] = 4.0
    nodes = [
        helper.make_node("Gather", ["votes", "input_ids"], ["voted"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask_column"]),
        helper.make_node("Mul", ["voted", "mask_column"], ["counted"]),
        helper.make_node("ReduceSum", ["counted", "token_axis"], ["logits"], keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "L"]) for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", len(TASKS)])]
    constants = {"votes": votes, "last": np.array([2], np.int64), "token_axis": np.array([1], np.int64)}
    return _model(nodes, inputs, outputs, constants)


def encoder_graph(draw: np.random.Generator, width: int = WIDTH):
    """Patch convolution, then one residual block whose MLP is a mixture of four experts, two per token."""
    constants = encoder_weights(draw, width) | {
        "tokens_shape": np.array([0, width, SIDE * SIDE], np.int64),
        "flat": np.array([-1, width], np.int64),
        "unflat": np.array([-1, SIDE * SIDE, width], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "patch", "patch_bias"], ["map"], strides=[PATCH_PX, PATCH_PX]),
        helper.make_node("Reshape", ["map", "tokens_shape"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["patches"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["patches", "flat"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "gate"], ["scores"]),
        helper.make_node(
            "MoE",
            ["tokens", "scores", "fc1", "fc1_bias", "fc2", "fc2_bias"],
            ["mixed"],
            domain="com.microsoft",
            k=TOP,
            normalize_routing_weights=1,
            activation_type="gelu",
        ),
        helper.make_node("Add", ["tokens", "mixed"], ["sum"]),
        helper.make_node("Reshape", ["sum", "unflat"], ["patch_features"]),
    ]
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, IMAGE_PX, IMAGE_PX])]
    outputs = [helper.make_tensor_value_info("patch_features", TensorProto.FLOAT, ["N", SIDE * SIDE, width])]
    return _model(nodes, inputs, outputs, constants)


def encoder_weights(draw: np.random.Generator, width: int = WIDTH) -> dict[str, np.ndarray]:
    """Weights of the tiny encoder, also read by the literal numpy transcription in the tests."""
    shapes = {
        "patch": (width, 3, PATCH_PX, PATCH_PX),
        "patch_bias": (width,),
        "gate": (width, EXPERTS),
        "fc1": (EXPERTS, HIDDEN, width),
        "fc1_bias": (EXPERTS, HIDDEN),
        "fc2": (EXPERTS, width, HIDDEN),
        "fc2_bias": (EXPERTS, width),
    }
    scale = {"patch": 0.1, "gate": 1.0, "fc1": 0.3, "fc2": 0.3}
    return {name: _normal(draw, shape, scale.get(name, 0.1)) for name, shape in shapes.items()}


def best_experts(scores: np.ndarray) -> np.ndarray:
    """The experts of one token that its gate logits [E] choose."""
    return np.argsort(-scores, kind="stable")[:TOP]


def encoder_by_hand(
    pixels: np.ndarray, w: dict[str, np.ndarray], choose: Callable[[np.ndarray], Iterable[int]] = best_experts
) -> np.ndarray:
    """The tiny encoder, literally: pixels [N, 3, px, px] -> [N, S*S, D]."""
    patches = pixels.reshape(-1, 3, SIDE, PATCH_PX, SIDE, PATCH_PX).transpose(0, 2, 4, 1, 3, 5)
    tokens = patches.reshape(-1, 3 * PATCH_PX**2) @ w["patch"].reshape(len(w["patch"]), -1).T + w["patch_bias"]
    logits = tokens @ w["gate"]
    mixed = np.zeros_like(tokens)
    for row, (token, scores) in enumerate(zip(tokens, logits, strict=True)):
        chosen = np.array(choose(scores))
        shares = np.exp(scores[chosen] - scores[chosen].max())
        for share, expert in zip(shares / shares.sum(), chosen, strict=True):
            hidden = w["fc1"][expert] @ token + w["fc1_bias"][expert]
            hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
            mixed[row] += share * (w["fc2"][expert] @ hidden + w["fc2_bias"][expert])
    return (tokens + mixed).reshape(len(pixels), SIDE * SIDE, -1)


def projector_graph(draw: np.random.Generator, grid: int, width: int = EMBEDDING):
    """Bilinear pooling to the grid, a matrix, and a vector that grows with time."""
    constants = {
        "square": np.array([-1, SIDE, SIDE, WIDTH], np.int64),
        "pooled_size": np.array([1, 1, grid / SIDE, grid / SIDE], np.float32),
        "row": np.array([-1, grid * grid, WIDTH], np.int64),
        "weight": _normal(draw, (WIDTH, width), 0.3),
        "late": _normal(draw, (1, 1, width), 1.0),
        "axes": np.array([1, 2], np.int64),
    }
    nodes = [
        helper.make_node("Reshape", ["features", "square"], ["map"]),
        helper.make_node("Transpose", ["map"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Resize", ["planes", "", "pooled_size"], ["pooled"], mode="linear"),
        helper.make_node("Transpose", ["pooled"], ["pooled_map"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["pooled_map", "row"], ["pooled_rows"]),
        helper.make_node("MatMul", ["pooled_rows", "weight"], ["projected"]),
        helper.make_node("Unsqueeze", ["time_fraction", "axes"], ["time_column"]),
        helper.make_node("Mul", ["time_column", "late"], ["time_rows"]),
        helper.make_node("Add", ["projected", "time_rows"], ["tokens"]),
    ]
    inputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", SIDE * SIDE, WIDTH]),
        helper.make_tensor_value_info("time_fraction", TensorProto.FLOAT, ["N"]),
    ]
    outputs = [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["N", grid * grid, width])]
    return _model(nodes, inputs, outputs, constants)


def write_gguf(path: Path, tokenizer: Tokenizer, draw: np.random.Generator, width: int = EMBEDDING) -> None:
    """A Qwen2 decoder with tied embeddings and its vocabulary."""
    size = tokenizer.get_vocab_size()
    tokens = [tokenizer.id_to_token(i) for i in range(size)]
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in CONTROL_TOKENS else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.token_to_id("<|im_end|>"))
    for name, shape, scale in decoder_shapes(size, width):
        writer.add_tensor(name, np.ones(shape, np.float32) if scale is None else _normal(draw, shape, scale))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def decoder_shapes(vocabulary: int, width: int) -> list[tuple[str, tuple[int, ...], float | None]]:
    """Name, shape and standard deviation (None: ones) of every tensor, large enough that every part matters."""
    kv_width = width // HEADS * KV_HEADS
    tensors: list[tuple[str, tuple[int, ...], float | None]] = [
        ("token_embd.weight", (vocabulary, width), 1.0),
        ("output_norm.weight", (width,), None),
    ]
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        tensors += [(f"{block}.{norm}_norm.weight", (width,), None) for norm in ("attn", "ffn")]
        for name, rows in (("q", width), ("k", kv_width), ("v", kv_width)):
            tensors += [
                (f"{block}.attn_{name}.weight", (rows, width), 0.4),
                (f"{block}.attn_{name}.bias", (rows,), 0.1),
            ]
        tensors += [
            (f"{block}.attn_output.weight", (width, width), 0.4),
            (f"{block}.ffn_gate.weight", (FFN, width), 0.3),
            (f"{block}.ffn_up.weight", (FFN, width), 0.3),
            (f"{block}.ffn_down.weight", (width, FFN), 0.3),
        ]
    return tensors


def _normal(draw: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    return (draw.standard_normal(shape) * scale).astype(np.float32)


def _model(nodes, inputs, outputs, constants):
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)
