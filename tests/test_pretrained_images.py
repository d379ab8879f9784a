"""Still images of an imported checkpoint: tiles, tokens and answers are those of OneVision's own processing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_checkpoint import (
    IMAGE_PX,
    SIDE,
    LlavaOnevisionForConditionalGeneration,
    checkpoint_tokenizer,
    save_checkpoint,
    tiny_config,
    tiny_model,
)
from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionProcessor

from tam_edge.export import manifest
from tam_edge.export.pretrained.bundle import export_checkpoint
from tam_edge.export.pretrained.deviation import error_of
from tam_edge.export.pretrained.reference import Reference
from tam_edge.export.pretrained.source import ImportOptions
from tam_edge.export.pretrained.verify import said, verify_bundle
from tam_edge.models.street import make_scene, render
from tam_edge.runtime import Bundle, Limits, Plan, TaskEstimate, UsageError, VideoQA, make_plan
from tam_edge.runtime.answer import StageClock
from tam_edge.runtime.engines.llamacpp import LlamaCppEngine
from tam_edge.runtime.footprint import Case, Thrift, stage_needs
from tam_edge.runtime.frames import VideoInfo
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.plan import check_plan
from tam_edge.runtime.standing import Standing
from tam_edge.runtime.tiles import best_resolution, tile_layout
from tam_edge.runtime.tokenizer import encode_plain, encode_template
from tam_edge.runtime.view import look
from tam_edge.runtime.vision import FeatureCache

ONEVISION = [[384 * i, 384 * j] for i in range(1, 7) for j in range(1, 7)]
TINY = tiny_config().image_grid_pinpoints
SIZES = [(90, 160), (160, 90), (100, 100), (40, 33), (310, 290), (30, 300), (301, 77)]
"""Heights and widths: fitted above and below, left and right, scaled up, scaled down, very long."""


UNLIMITED = Limits()


@pytest.fixture(scope="module")
def model() -> LlavaOnevisionForConditionalGeneration:
    return tiny_model()


@pytest.fixture(scope="module")
def bundle(model: LlavaOnevisionForConditionalGeneration, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "graph_figures", lambda path, inputs, axis=0: {"peak_bytes": 1})
        folder = save_checkpoint(tmp_path_factory.mktemp("images") / "tiny", model)
        yield export_checkpoint(folder, folder.with_name("bundle"), ImportOptions(precision="f32"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Path]:
    """A street scene in every size, lossless."""
    folder, scene = tmp_path_factory.mktemp("pictures"), render(make_scene(990_700), 1.0)
    paths = {}
    for height, width in SIZES:
        paths[height, width] = folder / f"{height}x{width}.png"
        Image.fromarray(scene).resize((width, height)).save(paths[height, width])
    return paths


def processor() -> LlavaOnevisionImageProcessor:
    return LlavaOnevisionImageProcessor(
        size={"height": IMAGE_PX, "width": IMAGE_PX},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        image_grid_pinpoints=TINY,
    )


def their_tokens(model: LlavaOnevisionForConditionalGeneration, paths: list[Path]) -> list[np.ndarray]:
    """Visual tokens of each image, by OneVision's own processor and model."""
    images = [Image.open(path).convert("RGB") for path in paths]
    inputs = processor()(images if len(images) == 1 else [images], return_tensors="pt")
    with torch.no_grad():
        tokens = model.model.get_image_features(
            inputs["pixel_values"], inputs["image_sizes"], batch_num_images=inputs["batch_num_images"]
        )
    return [some.numpy() for some in tokens]


@given(
    height=st.integers(1, 4000),
    width=st.integers(1, 4000),
    setting=st.sampled_from([(ONEVISION, 384, 27, 9), (ONEVISION, 384, 27, 4), (TINY, IMAGE_PX, SIDE, 4)]),
)
def test_every_size_makes_the_tokens_that_the_processor_counts(
    height: int, width: int, setting: tuple[list[list[int]], int, int, int]
) -> None:
    points, tile, side, most = setting
    theirs = object.__new__(LlavaOnevisionProcessor)
    theirs.image_processor = SimpleNamespace(image_grid_pinpoints=points)
    theirs.num_image_tokens, theirs.vision_aspect_ratio = side**2, f"anyres_max_{most}"
    layout = tile_layout((height, width), [(a, b) for a, b in points], tile, side, most)
    assert layout.tokens == theirs._get_number_of_features(height, width, tile, tile)
    assert layout.fitted_px[0] <= layout.canvas_px[0]
    assert layout.fitted_px[1] <= layout.canvas_px[1]


def test_the_best_resolution_is_the_smallest_of_equally_good_ones() -> None:
    assert best_resolution((700, 1400), [(768, 768), (384, 768), (384, 384)]) == (384, 768)
    assert best_resolution((384, 384), [(768, 768), (384, 384)]) == (384, 384)


@pytest.mark.parametrize("size", SIZES)
def test_one_image_is_seen_as_onevision_sees_it(
    model: LlavaOnevisionForConditionalGeneration,
    bundle: Bundle,
    pictures: dict[tuple[int, int], Path],
    size: tuple[int, int],
) -> None:
    [expected] = their_tokens(model, [pictures[size]])
    with VideoQA.load(bundle.path, threads=1) as qa:
        video = qa.open(pictures[size])
        plan = qa.plan(video, "what does the sign say?")
        parts = Parts(bundle, threads=1, device="cpu")
        view, tokens = look(video, plan, parts, FeatureCache(0), StageClock())
        parts.close()
    assert plan.images == "tiles"
    assert plan.visual_tokens == len(expected) == view.evidence[0].tokens
    assert error_of(tokens.embeddings, expected).worst <= 1e-4


def test_several_images_are_seen_as_onevision_sees_them(
    model: LlavaOnevisionForConditionalGeneration, bundle: Bundle, pictures: dict[tuple[int, int], Path]
) -> None:
    paths = [pictures[size] for size in SIZES[:4]]
    expected = their_tokens(model, paths)
    with VideoQA.load(bundle.path, threads=1) as qa:
        video = qa.open(paths)
        plan = qa.plan(video, "what is on both?")
        parts = Parts(bundle, threads=1, device="cpu")
        view, tokens = look(video, plan, parts, FeatureCache(0), StageClock())
        parts.close()
    assert (plan.images, plan.frames) == ("whole", 4)
    assert [frame.tokens for frame in view.evidence] == [SIDE**2 + 1] * 4 == [len(some) for some in expected]
    assert error_of(tokens.embeddings, np.concatenate(expected)).worst <= 1e-4


@pytest.mark.parametrize("count", [1, 3])
def test_answers_about_images_are_those_of_transformers(
    model: LlavaOnevisionForConditionalGeneration, bundle: Bundle, pictures: dict[tuple[int, int], Path], count: int
) -> None:
    """The prompt is the chat template's: every image on a line of its own, then the question."""
    paths = [pictures[size] for size in SIZES[:count]]
    tokenizer, reference = checkpoint_tokenizer(), Reference(model)
    visual = [torch.from_numpy(some) for some in their_tokens(model, paths)]
    engine = LlamaCppEngine(bundle.file(bundle.manifest.language.engines[0]), threads=1)
    stop = [index for index in range(tokenizer.get_vocab_size()) if engine.is_end(index)]
    engine.close()
    words = model.get_input_embeddings()

    def embedded(text: str) -> torch.Tensor:
        return words(torch.tensor(encode_template(tokenizer, text))).detach()

    for question in ("what does the sign say?", "人が三人いますか?", "summarize"):
        parts = [embedded("<|im_start|>user\n")]
        for some in visual:
            parts += [some, embedded("\n")]
        asked = words(torch.tensor(encode_plain(tokenizer, question))).detach()
        prompt = torch.cat([*parts, asked, embedded("<|im_end|>\n<|im_start|>assistant\n")])[None]
        expected = reference.greedy(prompt, 24, stop)
        with VideoQA.load(bundle.path, threads=1) as qa:
            video = qa.open(paths[0] if count == 1 else paths)
            assert qa.ask(video, question, max_tokens=24).text == said(tokenizer, expected)
            again = qa.ask(video, question, max_tokens=24)
        assert again.text == said(tokenizer, expected)
        assert again.cache["prefix_tokens_reused"] > again.plan.visual_tokens


def test_a_second_tokenisation_of_line_breaks_would_be_noticed(bundle: Bundle) -> None:
    """Text behind an image is encoded with what follows it in the template; a line break must be a token of its own."""
    tokenizer = checkpoint_tokenizer()
    assert len(encode_template(tokenizer, bundle.manifest.images.between)) == 1  # type: ignore[union-attr]


def _plan(bundle: Bundle, path: Path | list[Path], limits: Limits = UNLIMITED) -> tuple[Plan, object]:
    with VideoQA.load(bundle.path, threads=1) as qa:
        video = qa.open(path)
    estimate = TaskEstimate("why?", "reasoning", 0.9, {"reasoning": 0.9})
    return make_plan(estimate, video.info, bundle.manifest, limits), video.info


def test_what_does_not_fit_gives_way_step_by_step(bundle: Bundle, pictures: dict[tuple[int, int], Path]) -> None:
    path = pictures[310, 290]
    tiled, info = _plan(bundle, path)
    whole, _ = _plan(bundle, path, Limits(visual_tokens=tiled.visual_tokens - 1))
    frames, _ = _plan(bundle, path, Limits(visual_tokens=SIDE**2))
    assert (tiled.images, whole.images, frames.images) == ("tiles", "whole", None)
    assert (whole.visual_tokens, frames.grid) == (SIDE**2 + 1, 5)
    assert [one.what for one in whole.rejections] == ["the image in tiles"]
    assert [one.what for one in frames.rejections][:2] == ["the image in tiles", "whole images without pooling"]
    for plan in (tiled, whole, frames):
        assert plan.visual_tokens <= plan.token_budget
        check_plan(Plan.from_json(plan.to_json()), info, bundle.manifest)  # type: ignore[arg-type]


def test_frames_or_grid_by_hand_make_an_image_a_frame(bundle: Bundle, pictures: dict[tuple[int, int], Path]) -> None:
    plan, _ = _plan(bundle, pictures[100, 100], Limits(grid=4))
    assert (plan.images, plan.grid, plan.visual_tokens) == (None, 4, 17)


def test_a_plan_for_another_image_is_refused(bundle: Bundle, pictures: dict[tuple[int, int], Path]) -> None:
    plan, _ = _plan(bundle, pictures[90, 160])
    _, other = _plan(bundle, pictures[301, 77])
    with pytest.raises(UsageError, match="made for other images or another bundle"):
        check_plan(plan, other, bundle.manifest)  # type: ignore[arg-type]


def test_a_video_among_images_makes_all_of_them_frames(
    bundle: Bundle, pictures: dict[tuple[int, int], Path], tmp_path: Path
) -> None:
    from tam_edge.models.street.video import write_video

    write_video(make_scene(990_701), tmp_path / "clip.mp4", size_px=64)
    plan, _ = _plan(bundle, [pictures[100, 100], tmp_path / "clip.mp4"])
    assert plan.images is None


def test_line_breaks_in_videos_need_a_projector_of_their_own(
    model: LlavaOnevisionForConditionalGeneration,
    bundle: Bundle,
    pictures: dict[tuple[int, int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(manifest, "graph_figures", lambda path, inputs, axis=0: {"peak_bytes": 1})
    folder = save_checkpoint(tmp_path / "in", model, "A", newline="grid")
    options = ImportOptions(grids=(5, 3), precision="f32")
    exported = export_checkpoint(folder, tmp_path / "out", options, verify=verify_bundle)
    assert 0 < float(exported.manifest.parity["image_worst_error"]) <= 1e-4
    images = exported.manifest.images
    assert images is not None
    assert images.projector[0].file == "projector-image.onnx"
    seen = []
    for one in (bundle, exported):
        with VideoQA.load(one.path, threads=1) as qa:
            video = qa.open(pictures[90, 160])
            parts = Parts(one, threads=1, device="cpu")
            seen.append(look(video, qa.plan(video, "why?"), parts, FeatureCache(0), StageClock())[1].embeddings)
            parts.close()
    np.testing.assert_array_equal(*seen)


def test_memory_counts_every_tile(bundle: Bundle, pictures: dict[tuple[int, int], Path]) -> None:
    """Crops, and their visual tokens as they are projected and as they are put in order."""
    with VideoQA.load(bundle.path, threads=1) as qa:
        small, large = (qa.open(pictures[size]).info for size in ((40, 33), (310, 290)))

    def frames_bytes(info: VideoInfo, crops: int) -> int:
        needs = stage_needs(bundle.manifest, Standing(0), info, Case(images="tiles"), Thrift(chunk_frames=1))
        return needs["vision"]["frames"] - crops * (3 * IMAGE_PX**2 + 2 * SIDE**2 * 64 * 4) - pixels_bytes(info)

    def pixels_bytes(info: VideoInfo) -> int:
        return (2 * 3 + 7) * info.width_px * info.height_px

    assert frames_bytes(small, 2) == frames_bytes(large, 10) == 3 * IMAGE_PX**2 * 4
