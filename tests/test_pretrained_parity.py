"""An imported checkpoint computes what transformers computes, in every layout, and the comparison notices mutants.

float32 throughout: weights, the GGUF (precision f32) and its key-value cells; half-precision cells alone move logits by
2e-3 of a standard deviation, more than the 1e-4 asked for here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from tiny_checkpoint import (
    GRIDS,
    SIDE,
    Layout,
    LlavaOnevisionForConditionalGeneration,
    save_checkpoint,
    tiny_config,
    tiny_model,
)
from torch import nn
from torch.nn import functional

from tam_edge.export import manifest
from tam_edge.export.answers import evaluation_frames
from tam_edge.export.language import Precision
from tam_edge.export.parity import ParityError
from tam_edge.export.pretrained import verify
from tam_edge.export.pretrained.bundle import export_checkpoint
from tam_edge.export.pretrained.folder import open_checkpoint
from tam_edge.export.pretrained.reference import Reference, check_version, load_reference
from tam_edge.export.pretrained.sizes import CheckpointSizes, read_sizes
from tam_edge.export.pretrained.source import ImportOptions
from tam_edge.export.pretrained.verify import compare_language, compare_vision, said, stop_ids, verify_bundle
from tam_edge.models.street import make_scene
from tam_edge.models.street.video import write_video
from tam_edge.runtime import Bundle, FramesInMemory, VideoQA
from tam_edge.runtime.engines.llamacpp import LlamaCppEngine
from tam_edge.runtime.errors import TamEdgeError
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.plan import Plan
from tam_edge.runtime.prompt import build_prompt
from tam_edge.runtime.tokenizer import load_tokenizer
from tam_edge.runtime.vision import PatchFeatures, preprocess

EXACT = ImportOptions(precision="f32")
LIMIT = 1e-4
"""Largest error, in standard deviations of the reference."""
POOLED = 4
"""OneVision's grid for 7 patches a side, as 14 is for 27."""
QUESTIONS = (
    "how many people are there?",
    "what does the sign say?",
    "人が三人いますか?",
    "why did the dog stop 🐕, café?",
)


@pytest.fixture(scope="module", autouse=True)
def unmeasured() -> Iterator[None]:
    """Peak memory is measured in test_pretrained_bundle.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "graph_figures", lambda path, inputs, axis=0: {"peak_bytes": 1})
        yield


@pytest.fixture(scope="module")
def model() -> LlavaOnevisionForConditionalGeneration:
    return tiny_model()


@pytest.fixture(scope="module")
def checkpoint(model: LlavaOnevisionForConditionalGeneration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", model)


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Bundle:
    return export_checkpoint(checkpoint, checkpoint.with_name("bundle"), EXACT)


@pytest.fixture(scope="module")
def sizes(checkpoint: Path) -> CheckpointSizes:
    return read_sizes(open_checkpoint(checkpoint))


def worst(figures: dict[str, float | int | str]) -> float:
    return max(float(value) for key, value in figures.items() if key.endswith("_worst_error"))


@pytest.mark.parametrize(
    ("layout", "tied", "dtype"),
    [
        ("A", True, torch.bfloat16),
        ("B", False, torch.float32),
        ("C", True, torch.float16),
        ("D", False, torch.float32),
    ],
)
def test_every_layout_computes_what_transformers_computes(
    tmp_path: Path, layout: Layout, tied: bool, dtype: torch.dtype
) -> None:
    model = tiny_model(tiny_config(tied=tied))
    folder = save_checkpoint(tmp_path / "in", model, layout, shards=2 if tied else 1, dtype=dtype)
    exported = export_checkpoint(folder, tmp_path / "out", EXACT, verify=verify_bundle)
    parity = exported.manifest.parity
    assert str(parity["verified"]).startswith("transformers 4.")
    assert 0 < worst(parity) <= LIMIT
    assert parity["language_answers_same"] == parity["language_questions"] == 4


def test_the_reference_is_large_enough_to_compare(
    model: LlavaOnevisionForConditionalGeneration, bundle: Bundle
) -> None:
    reference = Reference(model)
    [spec] = bundle.manifest.encoders.values()
    features = reference.features(torch.from_numpy(preprocess(evaluation_frames(2), spec)))
    tokens = reference.video_tokens(features, POOLED, "one")
    prompt = reference.prompt([5, 6], tokens, [7, 8])
    assert all(float(stage.std()) >= 1 for stage in (features, tokens, reference.logits(prompt, [])))


def test_more_vision_blocks_than_are_used(tmp_path: Path) -> None:
    """27 stored and the second last chosen, or 27 stored where LLaVA drops the last: both use 26."""
    model = tiny_model(tiny_config(vision_layers=4, vision_feature_layer=-2))
    new = export_checkpoint(save_checkpoint(tmp_path / "in", model), tmp_path / "out", EXACT, verify=verify_bundle)
    assert worst(new.manifest.parity) <= LIMIT
    assert new.manifest.training["vision_layers"] == 3
    untrimmed = save_checkpoint(tmp_path / "next", tiny_model(tiny_config(vision_layers=4)), "A")
    config = untrimmed / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 5', '"num_hidden_layers": 4'))
    old = export_checkpoint(untrimmed, tmp_path / "old", EXACT, verify=verify_bundle)
    assert worst(old.manifest.parity) <= LIMIT
    assert old.manifest.training["vision_layers"] == 3


def _other_vision_gelu(model: LlavaOnevisionForConditionalGeneration) -> None:
    for layer in model.vision_tower.vision_model.encoder.layers:
        layer.mlp.activation_fn = nn.GELU()


def _other_projector_gelu(model: LlavaOnevisionForConditionalGeneration) -> None:
    model.multi_modal_projector.act = nn.GELU("tanh")


def _average_pooling(model: LlavaOnevisionForConditionalGeneration) -> None:
    def pooled(features: torch.Tensor) -> torch.Tensor:
        square = features.transpose(1, 2).unflatten(2, (SIDE, SIDE))
        return functional.avg_pool2d(square, 2, ceil_mode=True).flatten(2).transpose(1, 2)

    model.model.apply_pooling = pooled


def _one_vision_layer_less(model: LlavaOnevisionForConditionalGeneration) -> None:
    del model.vision_tower.vision_model.encoder.layers[-1]


def _one_vision_layer_more(model: LlavaOnevisionForConditionalGeneration) -> None:
    layers = model.vision_tower.vision_model.encoder.layers
    layers.append(layers[0])


def _other_vision_epsilon(model: LlavaOnevisionForConditionalGeneration) -> None:
    for module in model.vision_tower.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


def _after_the_closing_norm(model: LlavaOnevisionForConditionalGeneration) -> None:
    """What transformers 4.57.0 and 4.57.1 do."""
    tower = model.vision_tower
    honest = tower.forward

    def normed(*args: object, **options: object) -> object:
        out = honest(*args, **options)
        return type(out)(last_hidden_state=out.last_hidden_state, hidden_states=(out.last_hidden_state,))

    tower.forward = normed


VISION_MUTANTS = {
    "visual tokens of grid 4": [_average_pooling],
    "visual tokens": [_other_projector_gelu],
    "patch features": [
        _other_vision_gelu,
        _one_vision_layer_less,
        _one_vision_layer_more,
        _other_vision_epsilon,
        _after_the_closing_norm,
    ],
}


@pytest.mark.parametrize(("said", "mutate"), [(said, one) for said, some in VISION_MUTANTS.items() for one in some])
def test_another_eye_is_noticed(
    bundle: Bundle, sizes: CheckpointSizes, said: str, mutate: Callable[[LlavaOnevisionForConditionalGeneration], None]
) -> None:
    mutant = tiny_model()
    mutate(mutant)
    with pytest.raises(ParityError, match=f"{said}.* differ from transformers'"):
        compare_vision(bundle, sizes, Reference(mutant), evaluation_frames(2))


def _one_decoder_layer_less(model: LlavaOnevisionForConditionalGeneration) -> None:
    del model.language_model.layers[-1]


def _other_decoder_epsilon(model: LlavaOnevisionForConditionalGeneration) -> None:
    for module in model.language_model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 1e-5


def _other_rotation(model: LlavaOnevisionForConditionalGeneration) -> None:
    model.language_model.rotary_emb.inv_freq *= 1.001


def _no_newline(model: LlavaOnevisionForConditionalGeneration) -> None:
    model.model.image_newline.data.zero_()


@pytest.mark.parametrize(
    ("said", "mutate"),
    [
        ("logits", _one_decoder_layer_less),
        ("logits", _other_decoder_epsilon),
        ("logits", _other_rotation),
        ("visual tokens of a video", _no_newline),
    ],
)
def test_another_language_model_is_noticed(
    bundle: Bundle, sizes: CheckpointSizes, said: str, mutate: Callable[[LlavaOnevisionForConditionalGeneration], None]
) -> None:
    mutant = tiny_model()
    mutate(mutant)
    with pytest.raises(ParityError, match=f"{said} differ from transformers'"):
        compare_language(bundle, sizes, Reference(mutant), 1)


def test_a_mismatch_writes_no_bundle(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = tiny_model()
    _other_projector_gelu(mutant)
    monkeypatch.setattr(verify, "load_reference", lambda folder, sizes: Reference(mutant))
    with pytest.raises(ParityError, match="visual tokens"):
        export_checkpoint(checkpoint, tmp_path / "out", EXACT, verify=verify_bundle)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", ["4.57.0", "4.57.1", "4.45.2"])
def test_a_transformers_with_other_features_is_refused(version: str) -> None:
    with pytest.raises(TamEdgeError, match=f"transformers {version} is too old"):
        check_version(version)


def test_an_order_that_transformers_does_not_have_is_not_compared(checkpoint: Path) -> None:
    folder = open_checkpoint(checkpoint)
    sizes = read_sizes(replace(folder, config={**folder.config, "projector_order": "pool-then-project"}))
    with pytest.raises(TamEdgeError, match="nothing to compare pool-then-project with"):
        load_reference(folder, sizes)


@pytest.mark.parametrize("version", ["4.57.2", "4.57.6", "5.0.0rc1", "5.23.0"])
def test_later_ones_are_compared_with(version: str) -> None:
    check_version(version)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[FramesInMemory]:
    """Five H.264 clips, each decoded once; T = 2..6 frames at linspace(0, total - 1, T) for both sides."""
    clips = []
    for count in range(2, 7):
        path = tmp_path_factory.mktemp("clips") / "clip.mp4"
        write_video(replace(make_scene(990_500 + count), duration_seconds=2.0), path, size_px=120)
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        chosen = np.linspace(0, len(frames) - 1, count, dtype=int)
        clips.append(FramesInMemory([frames[at] for at in chosen], [float(at) for at in range(count)]))
    return clips


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every token that the engine draws."""
    drawn: list[int] = []
    honest = LlamaCppEngine.sample

    def noting(self: LlamaCppEngine, temperature: float, seed: int) -> Iterator[int]:
        for token in honest(self, temperature, seed):
            drawn.append(token)
            yield token

    def closing(self: LlamaCppEngine, temperature: float, seed: int) -> Iterator[int]:
        return noting(self, temperature, seed)

    monkeypatch.setattr(LlamaCppEngine, "sample", closing)
    return drawn


def test_greedy_answers_are_those_of_transformers(
    model: LlavaOnevisionForConditionalGeneration, bundle: Bundle, clips: list[FramesInMemory], entered: list[int]
) -> None:
    """20 pairs of video and question, 32 tokens each, through the whole runtime at OneVision's own pooling."""
    reference, lengths, answers = Reference(model), [], set()
    tokenizer = load_tokenizer(bundle, bundle.manifest.language.tokenizer, "language.tokenizer")
    [spec] = bundle.manifest.encoders.values()
    engine = LlamaCppEngine(bundle.file(bundle.manifest.language.engines[0]), threads=1)
    stop = stop_ids(bundle, tokenizer, engine)
    engine.close()
    with VideoQA.load(bundle.path, threads=1) as qa:
        for clip in clips:
            pixels = torch.from_numpy(preprocess(np.stack(clip.pixels), spec))
            with torch.inference_mode():
                visual = model.model.get_video_features(pixels[None], -1, "full")[0]
            visual = torch.cat((visual, model.model.image_newline[None].detach()))
            for question in QUESTIONS:
                video = qa.open(clip)
                entered.clear()
                answer = qa.ask(video, question, frames=len(clip.pixels), grid=POOLED, max_tokens=32)
                assert answer.plan.frames == len(clip.pixels)
                assert answer.plan.visual_tokens == len(visual) == POOLED**2 * len(clip.pixels) + 1
                text = build_prompt(bundle.manifest.prompt, answer.plan, tokenizer, question)
                expected = reference.greedy(reference.prompt(text.before, visual, text.after), 32, stop)
                assert [token for token in entered if token not in stop] == expected
                assert answer.text == said(tokenizer, expected)
                lengths.append(len(expected))
                answers.add(tuple(expected))
    assert len(lengths) == 20
    assert sum(length == 32 for length in lengths) >= 15
    assert len(answers) >= 10


def pooled_by_hand(features: np.ndarray, grid: int) -> np.ndarray:
    """Bilinear, half-pixel centres, [N, S*S, d] -> [N, grid, grid, d], written out."""
    square = features.reshape(len(features), SIDE, SIDE, -1)
    at = np.clip((np.arange(grid) + 0.5) * SIDE / grid - 0.5, 0, None)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, SIDE - 1), at - low
    rows = square[:, low] * (1 - part)[None, :, None, None] + square[:, high] * part[None, :, None, None]
    return rows[:, :, low] * (1 - part)[None, None, :, None] + rows[:, :, high] * part[None, None, :, None]


@pytest.mark.parametrize(("newline", "per_frame"), [("grid", lambda g: g * (g + 1)), ("frame", lambda g: g * g + 1)])
def test_line_breaks_stand_where_llava_video_puts_them(
    model: LlavaOnevisionForConditionalGeneration, tmp_path: Path, newline: str, per_frame: Callable[[int], int]
) -> None:
    folder = save_checkpoint(tmp_path / "in", model, "A", newline=newline)
    exported = export_checkpoint(folder, tmp_path / "out", EXACT)
    assert exported.manifest.closing is None
    assert [rung.tokens_per_frame for rung in exported.manifest.routing.ladder] == [per_frame(grid) for grid in GRIDS]
    features = np.random.default_rng(5).standard_normal((3, SIDE * SIDE, 32), np.float32) * 4
    with torch.no_grad():
        projected = model.multi_modal_projector(torch.from_numpy(features)).numpy()
    embedding = model.model.image_newline.detach().numpy()
    parts = Parts(exported, threads=1, device="cpu")
    try:
        for grid in GRIDS:
            plan = _plan(grid, 3, 3 * per_frame(grid))
            seen = [PatchFeatures(features, np.arange(3.0), ("clip",) * 3, "siglip")]
            tokens = parts.strategy(plan).project(seen, plan)
            expected = []
            for frame in pooled_by_hand(projected, grid):
                for row in frame:
                    expected += [*row, *([embedding] if newline == "grid" else [])]
                expected += [embedding] if newline == "frame" else []
            assert tokens.embeddings.shape == (plan.visual_tokens, 64)
            assert np.abs(tokens.embeddings - np.stack(expected)).max() <= LIMIT * np.stack(expected).std()
            assert tokens.frame_tokens == (per_frame(grid),) * 3
    finally:
        parts.close()


def _plan(grid: int, frames: int, tokens: int) -> Plan:
    return Plan(
        task="summary",
        confidence=1.0,
        probabilities={"summary": 1.0},
        strategy="tam",
        timestamps_seconds=tuple(float(at) for at in range(frames)),
        grid=grid,
        expert=GRIDS.index(grid) + 1,
        visual_tokens=tokens,
        visual_tokens_exact=True,
        token_budget=tokens,
        interval_seconds=1.0,
        duration_seconds=float(frames),
        predicted_bytes=None,
        predicted_ms=None,
        rejections=(),
        reasons=(),
    )


@pytest.mark.parametrize(("precision", "apart"), [("f32", 1e-5), ("f16", 1e-3)])
def test_float32_stays_exact_however_long_the_context(
    checkpoint: Path, tmp_path: Path, precision: Precision, apart: float
) -> None:
    """Beyond 64 MiB of scores others go over to flash attention: seen here as the larger difference."""
    exported = export_checkpoint(checkpoint, tmp_path / "out", ImportOptions(precision=precision))
    engine = LlamaCppEngine(exported.file(exported.manifest.language.engines[0]), threads=1, device="cpu")
    rows, scores = np.random.default_rng(0).standard_normal((100, 64), np.float32), []
    for cells in (512, 20480):
        engine.reserve(cells)
        engine.truncate(0)
        engine.append_embeddings(rows)
        scores.append(engine.logits())
    engine.close()
    error = np.abs(scores[0] - scores[1]).max() / scores[0].std()
    assert (error <= apart) == (precision == "f32")


def test_half_precision_is_compared_with_what_it_can_hold(
    checkpoint: Path, sizes: CheckpointSizes, model: LlavaOnevisionForConditionalGeneration, tmp_path: Path
) -> None:
    exported = export_checkpoint(checkpoint, tmp_path / "out", ImportOptions(precision="f16"))
    figures = compare_language(exported, sizes, Reference(model), 2)
    assert 1e-5 < float(figures["language_rms_error"]) <= verify.LOGIT_TOLERANCES["f16"]
    mutant = tiny_model()
    _one_decoder_layer_less(mutant)
    with pytest.raises(ParityError, match="logits differ"):
        compare_language(exported, sizes, Reference(mutant), 1)


def test_experts_change_no_token(
    checkpoint: Path,
    bundle: Bundle,
    sizes: CheckpointSizes,
    model: LlavaOnevisionForConditionalGeneration,
    tmp_path: Path,
) -> None:
    exported = export_checkpoint(checkpoint, tmp_path / "out", replace(EXACT, upcycle=True))
    figures = compare_vision(exported, sizes, Reference(model), evaluation_frames(2))
    assert worst(figures) <= LIMIT
    dense, moe = (one.manifest.encoders["siglip"].engines[0].size_bytes for one in (bundle, exported))
    assert moe - dense >= 3 * 3 * (2 * 32 * 48) * 4  # three more MLPs in each of three blocks
