"""What makes the nano model nano: its rules, prompt and pixels, written once for training and for the bundle."""

from __future__ import annotations

from tam_edge.models.config import NANO
from tam_edge.runtime.manifest import EncoderSpec, ImagePreprocessing, PromptTexts
from tam_edge.runtime.routing import TAM_ROUTING, Routing, Rung, TaskRule

TASKS = tuple(rule.name for rule in TAM_ROUTING.tasks)
PREPROCESSING = ImagePreprocessing(bars="crop", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
ENCODER = EncoderSpec.model_construct(image_px=NANO.vision.image_px, preprocessing=PREPROCESSING)

ROUTING = Routing(
    ladder=tuple(
        Rung(grid=grid, expert=index + 1, tokens_per_frame=grid * grid)
        for index, grid in enumerate(NANO.projector.grids)
    ),
    # Counting must see everybody who passes, and four frames at the finest grid would not: so static attributes
    # stand with the balanced tasks here, where TAM has them with the high-resolution ones.
    tasks=(
        TaskRule(name=TASKS[0], title="attributes", group="balanced", asks="what is there, or how many"),
        TaskRule(name=TASKS[1], title="action", group="balanced", asks="what somebody does"),
        TaskRule(name=TASKS[2], title="detail", group="high", asks="about a pose, a face or another fine detail"),
        TaskRule(name=TASKS[3], title="order", group="more", asks="when things happen, or in which order"),
        TaskRule(name=TASKS[4], title="place", group="high", asks="where something is"),
        TaskRule(name=TASKS[5], title="summary", group="more", asks="what the whole clip is about"),
        TaskRule(name=TASKS[6], title="reason", group="balanced", asks="why something is as it is"),
        TaskRule(name=TASKS[7], title="text", group="high", asks="what is written"),
    ),
    frames_per_second=1.0,
    max_frames=120,
    balanced_grid=8,
    high_grid_short=12,
    high_grid_long=12,
    more_grid=5,
    short_seconds=30.0,
    fallback_seconds_per_frame=30.0,
    confidence_threshold=0.35,
    phrases={"high": "few fine frames", "balanced": "balanced frames", "more": "many coarse frames"},
    context_reserve_tokens=256,
    max_visual_tokens=600,
)
PROMPT = PromptTexts(
    system="<|im_start|>",
    after_visual="{metadata} {instruction}\n{question}<|im_end|>",
    metadata="{frames} frames {duration_seconds:.0f} s",
    instruction="{task_name}",
)
CONTEXT_TOKENS = NANO.language.context
MAX_OUTPUT_TOKENS = 48
STOP = "<|im_end|>"
