"""The bundles behind the ablations: each the given bundle with one graph, or its prompt, changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tam_edge.models.evaluate import experts, projectors
from tam_edge.models.evaluate.derive import graph_engine, with_graphs, without_instruction
from tam_edge.runtime.bundle import Bundle

ENCODERS: dict[str, Callable[[Path], bytes]] = {
    "dense": experts.mean_expert,
    "random-top2": experts.random_experts,
    "lowest-2": experts.least_likely_experts,
}
PROJECTORS: dict[str, Callable[[Mapping[int, Path]], dict[int, bytes]]] = {
    "projector-swap": projectors.swapped,
    "projector-random": projectors.shuffled,
    "projector-untrained": projectors.untrained,
}
INSTRUCTION = "no-instruction"


def derive(name: str, source: Bundle, folder: Path, strategy: str | None = None) -> Path:
    """Write the bundle of an ablation into `folder`; an encoder that is changed is that of `strategy`.

    Raises:
        UsageError: the bundle has not got what shall be taken away.
    """
    if name == INSTRUCTION:
        return without_instruction(source, folder, name)
    if name in ENCODERS:
        strategies = source.manifest.strategies
        used = next((spec for spec in strategies if spec.name == strategy), strategies[0])
        encoder = source.manifest.encoders[used.encoders[0]]
        engine = graph_engine(encoder.engines, f"--ablate {name}")
        return with_graphs(source, folder, name, {engine.file: ENCODERS[name](source.file(engine))})
    specs = source.manifest.projectors
    files = {grid: graph_engine(spec.engines, f"--ablate {name}") for grid, spec in specs.items()}
    graphs = PROJECTORS[name]({grid: source.file(engine) for grid, engine in files.items()})
    return with_graphs(source, folder, name, {files[grid].file: graph for grid, graph in graphs.items()})
