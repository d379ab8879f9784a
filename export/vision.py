"""The image encoder as an ONNX graph, each mixture of experts one fused `com.microsoft.MoE` node.

pixels float32 [N, 3, image_px, image_px] -> features float32 [N, S*S, D], N free.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from tam_edge.export.graph import CONTRIB, Attribute, Graph
from tam_edge.models.config import VisionConfig
from tam_edge.models.moe import MLP, MoEMLP
from tam_edge.models.vision import Attention, VisionBlock, VisionTransformer
from tam_edge.quant.graph_file import WeightsFile


def vision_graph(encoder: VisionTransformer, weights: WeightsFile | None = None) -> onnx.ModelProto:
    """The encoder's graph in float32, with its final norm if it has one; large constants go into `weights`."""
    config = encoder.config
    graph = Graph(weights)
    x = _embed(graph, encoder)
    for index, block in enumerate(encoder.blocks):
        x = _block(graph, x, f"layers.{index}", block, config)
    if encoder.post_layernorm is not None:
        x = graph.layer_norm(x, "post_layernorm", encoder.post_layernorm)
    graph.node("Identity", [x], "features")
    side, px = config.grid_side, config.image_px
    return graph.model("vision", {"pixels": ("N", 3, px, px)}, {"features": ("N", side * side, config.width)})


def _embed(graph: Graph, encoder: VisionTransformer) -> str:
    convolution = encoder.patch_embedding
    weights = [
        graph.constant("patch_embedding.weight", convolution.weight),
        graph.constant("patch_embedding.bias", _bias(convolution)),
    ]
    patch = encoder.config.patch_px
    attributes = {"kernel_shape": [patch, patch], "strides": [patch, patch]}
    maps = graph.node("Conv", ["pixels", *weights], "patch_embedding", attributes=attributes)
    rows = graph.transpose(graph.reshape(maps, "patches.flat", [0, 0, -1]), "patches", (0, 2, 1))  # [N, S*S, D]
    positions = graph.constant("position_embedding.weight", encoder.position_embedding.weight)
    return graph.node("Add", [rows, positions], "embeddings")


def _block(graph: Graph, x: str, name: str, block: VisionBlock, config: VisionConfig) -> str:
    normed = graph.layer_norm(x, f"{name}.layer_norm1", block.layer_norm1)
    attended = _attention(graph, normed, f"{name}.self_attn", block.self_attn)
    x = graph.node("Add", [x, attended], f"{name}.residual1")
    normed = graph.layer_norm(x, f"{name}.layer_norm2", block.layer_norm2)
    if isinstance(block.mlp, MoEMLP):
        out = _mixture(graph, normed, f"{name}.mlp", block.mlp)
    else:
        out = _mlp(graph, normed, f"{name}.mlp", block.mlp)
    return graph.node("Add", [x, out], f"{name}.residual2")


def _attention(graph: Graph, x: str, name: str, attention: Attention) -> str:
    width = attention.q_proj.in_features
    head = width // attention.heads
    heads = []
    # Keys are laid out transposed at once: [N, heads, head, S*S].
    for part, axes in (("q_proj", (0, 2, 1, 3)), ("k_proj", (0, 2, 3, 1)), ("v_proj", (0, 2, 1, 3))):
        linear: nn.Linear = getattr(attention, part)
        flat = graph.linear(x, f"{name}.{part}", linear.weight, linear.bias)
        split = graph.reshape(flat, f"{name}.{part}.heads", [0, 0, attention.heads, head])
        heads.append(graph.transpose(split, f"{name}.{part}.transposed", axes))
    query, key, value = heads
    scores = graph.node("MatMul", [query, key], f"{name}.scores")
    scale = graph.constant(f"{name}.scale", np.array(head**-0.5, np.float32))
    weights = graph.node(
        "Softmax", [graph.node("Mul", [scores, scale], f"{name}.scaled")], f"{name}.weights", attributes={"axis": -1}
    )
    mixed = graph.transpose(graph.node("MatMul", [weights, value], f"{name}.mixed"), f"{name}.joined", (0, 2, 1, 3))
    out = graph.reshape(mixed, f"{name}.flat", [0, 0, width])
    return graph.linear(out, f"{name}.out_proj", attention.out_proj.weight, attention.out_proj.bias)


def _mlp(graph: Graph, x: str, name: str, mlp: MLP) -> str:
    hidden = graph.linear(x, f"{name}.fc1", mlp.fc1.weight, mlp.fc1.bias)
    hidden = graph.node("Gelu", [hidden], f"{name}.gelu", attributes={"approximate": "tanh"})
    return graph.linear(hidden, f"{name}.fc2", mlp.fc2.weight, mlp.fc2.bias)


def _mixture(graph: Graph, x: str, name: str, moe: MoEMLP) -> str:
    """The fused node takes gate logits [tokens, E] and, with normalised weights, is softmax over the top k of them.

    Experts are stored last first: of equal logits onnxruntime takes the higher index, TallVA the lower.
    """
    experts = [expert for expert in moe.experts if isinstance(expert, MLP)][::-1]
    logits = graph.linear(x, f"{name}.gate", moe.gate.weight.flip(0), None)
    rows = graph.reshape(logits, f"{name}.gate.rows", [-1, len(experts)])
    weights = [
        graph.constant(f"{name}.fc1.weight", _stack([expert.fc1.weight for expert in experts])),
        graph.constant(f"{name}.fc1.bias", _stack([expert.fc1.bias for expert in experts])),
        graph.constant(f"{name}.fc2.weight", _stack([expert.fc2.weight for expert in experts])),
        graph.constant(f"{name}.fc2.bias", _stack([expert.fc2.bias for expert in experts])),
    ]
    attributes: dict[str, Attribute] = {
        "k": moe.experts_per_token,
        "normalize_routing_weights": 1,
        "activation_type": "gelu",
    }
    return graph.node("MoE", [x, rows, *weights], name, domain=CONTRIB, attributes=attributes)


def _stack(tensors: list[Tensor]) -> Tensor:
    return torch.stack([tensor.detach() for tensor in tensors])


def _bias(convolution: nn.Conv2d) -> Tensor:
    if convolution.bias is None:
        raise ValueError("the patch convolution has no bias; this is not a SigLIP encoder")
    return convolution.bias
