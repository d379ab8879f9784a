"""The ablations do to a graph what they say, and nothing else in the bundle changes."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rough_models import PROJECTOR, roughen
from tiny_bundle import EXPERTS, PATCH_PX, SIDE, TOP, encoder_by_hand, encoder_weights, make_tiny_bundle
from torch import nn

from tam_edge.export.projector import projector_graph
from tam_edge.models.evaluate import experts, projectors
from tam_edge.models.evaluate.ablate import ENCODERS, INSTRUCTION, PROJECTORS, derive
from tam_edge.models.evaluate.arms import ABLATIONS, FIXED
from tam_edge.models.projector import Projectors
from tam_edge.runtime import UsageError, VideoQA
from tam_edge.runtime.bundle import default_bundle_path, load_bundle
from tam_edge.runtime.engines.onnx import OnnxEngine

PIXELS = np.random.default_rng(1).standard_normal((6, 3, SIDE * PATCH_PX, SIDE * PATCH_PX)).astype(np.float32)
FEATURES = np.random.default_rng(2).normal(size=(40, SIDE * SIDE, 32)).astype(np.float32)
PREVIOUS = np.concatenate((FEATURES[:1], FEATURES[:-1]))
TIMES = np.linspace(0, 1, 40, dtype=np.float32)
INPUTS = {"features": FEATURES, "previous_features": PREVIOUS, "time_fraction": TIMES}
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    return encoder_weights(np.random.default_rng(0))


def run(graph: bytes, folder: Path, **inputs: np.ndarray) -> np.ndarray:
    path = folder / "graph.onnx"
    path.write_bytes(graph)
    engine = OnnxEngine(path, threads=1)
    found = engine.run(inputs)[0]
    engine.close()
    return found


# ---- experts


def test_lowest_experts_are_those_of_the_formula(folder: Path, tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    found = run(experts.least_likely_experts(folder / "encoder.onnx"), tmp_path, pixels=PIXELS)
    by_hand = encoder_by_hand(PIXELS, weights, lambda scores: np.argsort(scores, kind="stable")[:TOP])
    np.testing.assert_allclose(found, by_hand, atol=TOLERANCE)
    assert np.abs(found - encoder_by_hand(PIXELS, weights)).max() > 100 * TOLERANCE


def test_random_experts_are_two_a_token_and_every_pair_as_often(
    folder: Path, tmp_path: Path, weights: dict[str, np.ndarray]
) -> None:
    pixels = np.concatenate([PIXELS] * 20)  # 1,920 tokens
    graph = experts.random_experts(folder / "encoder.onnx")
    found = run(graph, tmp_path, pixels=pixels)
    pairs = list(combinations(range(EXPERTS), TOP))
    possible = np.stack([encoder_by_hand(PIXELS, weights, lambda _, pair=pair: pair) for pair in pairs])
    apart = np.abs(found[None] - np.tile(possible, (1, 20, 1, 1))).max(-1)  # [pairs, N, T]
    assert apart.min(0).max() < TOLERANCE
    counts = np.bincount(apart.argmin(0).ravel(), minlength=len(pairs))
    assert counts.min() > counts.sum() / len(pairs) * 0.8
    np.testing.assert_array_equal(found, run(graph, tmp_path, pixels=pixels))


def test_the_mean_expert_is_dense(folder: Path, tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    found = run(experts.mean_expert(folder / "encoder.onnx"), tmp_path, pixels=PIXELS)
    mean = {name: w.mean(0, keepdims=True) if name.startswith("fc") else w for name, w in weights.items()}
    by_hand = encoder_by_hand(PIXELS, mean, lambda _: [0])
    np.testing.assert_allclose(found, by_hand, atol=TOLERANCE)


def test_layers_draw_their_own_experts() -> None:
    path = default_bundle_path() / "vision.onnx"
    model = onnx.load_from_string(experts.random_experts(path))
    seeds = [node.attribute[0].f for node in model.graph.node if node.op_type == "RandomUniformLike"]
    mixtures = sum(node.op_type == "MoE" for node in model.graph.node)
    assert len(set(seeds)) == len(seeds) == mixtures > 1


@pytest.mark.parametrize("name", ENCODERS)
def test_the_shipped_encoder_can_be_changed(name: str, tmp_path: Path) -> None:
    path = default_bundle_path() / "vision.onnx"
    pixels = np.random.default_rng(3).normal(size=(2, 3, 168, 168)).astype(np.float32)
    changed, as_it_is = (
        run(ENCODERS[name](path), tmp_path, pixels=pixels),
        run(path.read_bytes(), tmp_path, pixels=pixels),
    )
    assert changed.shape == as_it_is.shape and np.isfinite(changed).all()
    assert np.abs(changed - as_it_is).max() > 1e-3


def test_an_encoder_without_experts_is_refused(folder: Path) -> None:
    for change in ENCODERS.values():
        with pytest.raises(UsageError, match="no mixture of experts"):
            change(folder / "projector-2.onnx")


# ---- projectors


@pytest.fixture(scope="module")
def modules() -> Projectors:
    torch.set_num_threads(1)
    module = Projectors(PROJECTOR)
    roughen(module)
    return module


@pytest.fixture(scope="module")
def paths(modules: Projectors, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("projectors")
    written = {grid: folder / f"projector-{grid}.onnx" for grid in PROJECTOR.grids}
    for grid, path in written.items():
        onnx.save(projector_graph(modules, grid, SIDE), path)
    return written


def with_experts(modules: Projectors, order: list[int]) -> Projectors:
    """The same projectors with their experts in another order."""
    other = Projectors(PROJECTOR)
    other.load_state_dict(modules.state_dict())
    other.experts = nn.ModuleList(modules.experts[index] for index in order)
    return other


def tokens(modules: Projectors, grid: int) -> np.ndarray:
    with torch.no_grad():
        return modules(torch.from_numpy(FEATURES), grid, torch.from_numpy(TIMES), torch.from_numpy(PREVIOUS)).numpy()


def test_finest_and_coarsest_exchange_their_projectors_and_no_others(
    modules: Projectors, paths: dict[int, Path], tmp_path: Path
) -> None:
    assert list(PROJECTOR.grids) == [4, 3, 2]
    swapped = with_experts(modules, [2, 1, 0])
    for grid, graph in projectors.swapped(paths).items():
        found = run(graph, tmp_path, **INPUTS)
        np.testing.assert_allclose(found, tokens(swapped, grid), atol=1e-4)
        assert np.allclose(found, tokens(modules, grid), atol=1e-4) == (grid == 3)


def test_of_four_grids_the_middle_ones_keep_their_projectors() -> None:
    bundle = load_bundle(default_bundle_path())
    files = {grid: bundle.file(spec.engines[0]) for grid, spec in bundle.manifest.projectors.items()}
    before, after = (
        projectors._experts({grid: onnx.load_from_string(graph) for grid, graph in graphs.items()})
        for graphs in ({grid: path.read_bytes() for grid, path in files.items()}, projectors.swapped(files))
    )
    for grid, source in {12: 5, 8: 8, 6: 6, 5: 12}.items():
        assert len(before[source]) == len(after[grid]) == 4, "two matrices and their biases"
        for name, weight in before[source].items():
            np.testing.assert_array_equal(after[grid][name], weight)


def test_shuffled_projectors_draw_one_expert_a_frame(
    modules: Projectors, paths: dict[int, Path], tmp_path: Path
) -> None:
    for grid, graph in projectors.shuffled(paths).items():
        found = run(graph, tmp_path, **INPUTS)
        possible = np.stack([tokens(with_experts(modules, [index] * 3), grid) for index in range(3)])
        apart = np.abs(found - possible).max((-1, -2))  # [experts, N]
        assert apart.min(0).max() < 1e-4
        assert np.bincount(apart.argmin(0), minlength=3).min() >= 5


def test_untrained_projectors_are_of_the_same_kind(modules: Projectors, paths: dict[int, Path], tmp_path: Path) -> None:
    for grid, graph in projectors.untrained(paths).items():
        found = run(graph, tmp_path, **INPUTS)
        trained = tokens(modules, grid)
        assert 0.3 < found.std() / trained.std() < 3
        assert (
            abs(np.corrcoef((found - found.mean((0, 1))).ravel(), (trained - trained.mean((0, 1))).ravel())[0, 1]) < 0.9
        )


def test_projectors_without_experts_of_their_own_are_refused(paths: dict[int, Path]) -> None:
    for change in PROJECTORS.values():
        with pytest.raises(UsageError, match="no experts"):
            change({4: paths[4], 2: paths[4]})


# ---- bundles


def test_every_ablation_has_a_change() -> None:
    assert set(ABLATIONS) == {FIXED, INSTRUCTION, *ENCODERS, *PROJECTORS}


@pytest.mark.parametrize("name", [*ENCODERS, *PROJECTORS, INSTRUCTION])
def test_a_derived_bundle_differs_in_what_was_taken_away(name: str, folder: Path, tmp_path: Path) -> None:
    source = load_bundle(folder)
    derived = load_bundle(derive(name, source, tmp_path / name), verify=True)
    changed = {
        field
        for field in type(source.manifest).model_fields
        if getattr(source.manifest, field) != getattr(derived.manifest, field)
    }
    kind = "encoders" if name in ENCODERS else "projectors" if name in PROJECTORS else "prompt"
    assert changed == {"name", kind}
    old, new = source.manifest.files(), derived.manifest.files()
    assert set(old) == set(new)
    touched = {field.partition(".")[0] for field in old if old[field].sha256 != new[field].sha256}
    assert touched == ({kind} - {"prompt"})


def test_the_source_is_left_alone(folder: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("lowest-2", "projector-swap", INSTRUCTION):
        derive(name, load_bundle(folder), tmp_path / name)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_instruction_is_gone_and_the_rest_stays(folder: Path, tmp_path: Path) -> None:
    text = load_bundle(derive(INSTRUCTION, load_bundle(folder), tmp_path / "b")).manifest.prompt.after_visual
    assert text == "\n{metadata}\n{question}<|im_end|>\n<|im_start|>assistant"


def test_a_prompt_without_an_instruction_is_refused(tmp_path: Path) -> None:
    def change(manifest: dict) -> None:
        manifest["prompt"]["after_visual"] = manifest["prompt"]["after_visual"].replace("{instruction}", "")

    bundle = load_bundle(make_tiny_bundle(tmp_path / "bundle", change=change))
    with pytest.raises(UsageError, match=r"no-instruction: .* has no task instruction"):
        derive(INSTRUCTION, bundle, tmp_path / "derived")


def test_a_graph_for_another_engine_is_refused(tmp_path: Path) -> None:
    def change(manifest: dict) -> None:
        for engine in manifest["encoders"]["eye"]["engines"]:
            engine["backend"] = "tensorrt"

    bundle = load_bundle(make_tiny_bundle(tmp_path / "bundle", change=change))
    with pytest.raises(UsageError, match="needs an ONNX graph"):
        derive("lowest-2", bundle, tmp_path / "derived")


def test_features_are_shared_between_the_same_encoders_only(folder: Path, tmp_path: Path) -> None:
    source = load_bundle(folder)
    swapped, rerouted = (derive(name, source, tmp_path / name) for name in ("projector-swap", "lowest-2"))
    with VideoQA.load(folder) as first, VideoQA.load(swapped) as same, VideoQA.load(rerouted) as other:
        same.share_features(first)
        with pytest.raises(UsageError, match="same encoders"):
            other.share_features(first)
