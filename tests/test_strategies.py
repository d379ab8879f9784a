"""Strategies: patch features become the plan's visual tokens, number for number."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import EMBEDDING, LADDER, SIDE, TASKS, WIDTH, engine, make_tiny_bundle

from tam_edge.runtime.bundle import load_bundle
from tam_edge.runtime.errors import BundleError, UsageError
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.inductor import TaskEstimate
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.plan import Limits, make_plan
from tam_edge.runtime.strategies import make_strategy
from tam_edge.runtime.vision import PatchFeatures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def parts(folder):
    parts = Parts(load_bundle(folder), threads=1, device="cpu")
    yield parts
    parts.close()


def plan_for(parts, *, grid=3, frames=3, duration=10.0, start=0.0):
    info = VideoInfo("v", "video", duration, 250, 64, 64, 25.0, "h264", "id", start_seconds=start)
    estimate = TaskEstimate("?", "reasoning", 1.0, {name: float(name == "reasoning") for name in TASKS})
    return make_plan(estimate, info, parts.bundle.manifest, Limits(frames=frames, grid=grid))


def features(times, seed=0):
    values = np.random.default_rng(seed).standard_normal((len(times), SIDE * SIDE, WIDTH)).astype(np.float32)
    return PatchFeatures(values, np.array(times, np.float64), ("v",) * len(times), "eye")


def one_by_one(some):
    for i, time in enumerate(some.timestamps_seconds):
        yield PatchFeatures(some.values[i : i + 1], np.array([time]), some.sources[i : i + 1], some.encoder)


def pooled(values, grid):
    """Bilinear, align_corners=False, no antialias: each target cell's centre between the two nearest source centres."""
    square = values.reshape(-1, SIDE, SIDE, WIDTH)
    centres = ((np.arange(grid) + 0.5) * SIDE / grid - 0.5).clip(0, SIDE - 1)
    low = np.floor(centres).astype(int)
    high, share = np.minimum(low + 1, SIDE - 1), centres - low
    rows = square[:, low] * (1 - share)[:, None, None] + square[:, high] * share[:, None, None]
    cells = rows[:, :, low] * (1 - share)[:, None] + rows[:, :, high] * share[:, None]
    return cells.reshape(len(values), grid * grid, WIDTH)


def constants(folder, grid):
    graph = onnx.load(folder / f"projector-{grid}.onnx").graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


@pytest.mark.parametrize("grid", LADDER)
def test_tam_is_pooling_then_the_expert_of_the_grid(folder, parts, grid):
    plan = plan_for(parts, grid=grid, duration=10.0)
    some = features(plan.timestamps_seconds)
    tokens = parts.strategy(plan).project(one_by_one(some), plan)
    weights = constants(folder, grid)
    fractions = np.array(plan.timestamps_seconds) / 10.0
    expected = pooled(some.values, grid) @ weights["weight"] + fractions[:, None, None] * weights["late"]
    np.testing.assert_allclose(tokens.embeddings, expected.reshape(-1, EMBEDDING), atol=1e-4)
    assert (tokens.grid, tokens.expert) == (grid, LADDER.index(grid) + 1)


@given(st.data())
def test_the_token_count_is_the_plans(parts, data):
    plan = plan_for(parts, grid=data.draw(st.sampled_from(LADDER)), frames=data.draw(st.integers(1, 10)))
    tokens = parts.strategy(plan).project(one_by_one(features(plan.timestamps_seconds)), plan)
    assert tokens.exact
    assert len(tokens.embeddings) == sum(tokens.frame_tokens) == plan.visual_tokens
    assert len(tokens.frame_tokens) == plan.frames


def test_frames_together_or_one_by_one_are_the_same(parts):
    plan = plan_for(parts)
    some, strategy = features(plan.timestamps_seconds), parts.strategy(plan)
    together, apart = strategy.project([some], plan), strategy.project(one_by_one(some), plan)
    np.testing.assert_allclose(together.embeddings, apart.embeddings, atol=1e-5)
    assert together.frame_tokens == apart.frame_tokens


@pytest.mark.parametrize("chunks", [[5], [1, 1, 1, 1, 1], [2, 3], [4, 1]])
def test_every_frame_is_told_the_one_before_it_whatever_the_chunks(tmp_path, chunks):
    """A projector that gives the difference of the two: the first frame is told itself, a chunk the last of another."""
    weight = np.random.default_rng(3).standard_normal((WIDTH, EMBEDDING)).astype(np.float32)
    shape = ["N", SIDE * SIDE, WIDTH]
    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["features", "previous_features"], ["difference"]),
            helper.make_node("MatMul", ["difference", "weight"], ["tokens"]),
        ],
        "difference",
        [helper.make_tensor_value_info(f"{which}features", TensorProto.FLOAT, shape) for which in ("", "previous_")],
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["N", SIDE * SIDE, EMBEDDING])],
        [numpy_helper.from_array(weight, "weight")],
    )

    def use_graph(manifest):
        opset = [helper.make_opsetid("", 20)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "difference.onnx")
        spec = manifest["projectors"][str(SIDE)]
        spec.update(inputs=["features", "previous_features"], engines=[engine(tmp_path, "difference.onnx")])

    parts = Parts(load_bundle(make_tiny_bundle(tmp_path, change=use_graph)), threads=1, device="cpu")
    plan = plan_for(parts, grid=SIDE, frames=5)
    whole = features(plan.timestamps_seconds)
    ends = np.cumsum(chunks)
    some = [
        PatchFeatures(whole.values[a:b], whole.timestamps_seconds[a:b], whole.sources[a:b], whole.encoder)
        for a, b in zip((0, *ends), ends, strict=False)
    ]
    tokens = parts.strategy(plan).project(some, plan).embeddings.reshape(5, SIDE * SIDE, EMBEDDING)
    assert not tokens[0].any()
    np.testing.assert_allclose(tokens[1:], np.diff(whole.values, axis=0) @ weight, atol=1e-4)
    parts.close()


def test_time_counts_from_the_start_of_a_window(parts):
    """The same pictures at the same place in the clip, but cut out of a longer one."""
    whole, window = plan_for(parts), plan_for(parts, start=100.0)
    assert window.timestamps_seconds[0] == 100.0
    strategy = parts.strategy(whole)
    a = strategy.project([features(whole.timestamps_seconds)], whole)
    b = strategy.project([features(window.timestamps_seconds)], window)
    np.testing.assert_allclose(a.embeddings, b.embeddings, atol=1e-5)


def test_an_image_lies_at_time_zero(folder, parts):
    plan = replace(plan_for(parts, frames=1), duration_seconds=0.0)
    some = features([0.0])
    tokens = parts.strategy(plan).project([some], plan)
    np.testing.assert_allclose(tokens.embeddings, pooled(some.values, 3)[0] @ constants(folder, 3)["weight"], atol=1e-4)


def test_no_frames_are_no_tokens(parts):
    plan = plan_for(parts)
    tokens = parts.strategy(plan).project([], plan)
    assert tokens.embeddings.shape == (0, EMBEDDING)
    assert tokens.frame_tokens == ()


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"projector_width": EMBEDDING + 16}, "projectors.3", "48"),
        (
            {
                "change": lambda m: m["routing"]["ladder"].__setitem__(
                    1, {"grid": 3, "expert": 2, "tokens_per_frame": 12}
                )
            },
            "routing.ladder",
            "12 tokens a frame",
        ),
        (
            {"change": lambda m: m["projectors"]["3"].update(inputs=["features"])},
            "projectors.3.inputs",
            "time_fraction",
        ),
    ],
)
def test_a_projector_that_gives_something_else_is_named(tmp_path, options, field, words):
    parts = Parts(load_bundle(make_tiny_bundle(tmp_path / "tiny", **options)), threads=1, device="cpu")
    plan = plan_for(parts)
    with pytest.raises(BundleError, match=words) as caught:
        parts.strategy(plan).project([features(plan.timestamps_seconds)], plan)
    assert caught.value.field == field
    parts.close()


def test_a_strategy_this_version_does_not_know(parts):
    with pytest.raises(UsageError, match=r"'linvt'.*tam"):
        make_strategy("linvt", parts.bundle, lambda field, specs: pytest.fail("nothing may be opened"))
