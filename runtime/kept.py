"""What a session keeps from one question for the next: patch features, the view in the language model, the plans."""

from __future__ import annotations

from collections.abc import Sequence

from tam_edge.runtime.budget import MIB
from tam_edge.runtime.footprint import Thrift
from tam_edge.runtime.history import Asked, Turn
from tam_edge.runtime.inductor import TaskEstimate
from tam_edge.runtime.language import GenerationOptions
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.plan import Limits, Plan, make_plan
from tam_edge.runtime.preference import SeenPlans, prefer_seen
from tam_edge.runtime.prompting import Prompts
from tam_edge.runtime.video import Video
from tam_edge.runtime.view import SeenVideo, View, view_key
from tam_edge.runtime.vision import FeatureCache, Features

FEATURE_CACHE_BYTES = 64 * MIB
"""Most patch features kept for later questions; fewer where the memory ceiling is low."""


class Kept:
    """What earlier questions have left, and how a new one can use it."""

    def __init__(self, parts: Parts, prompts: Prompts) -> None:
        self.features = FeatureCache(FEATURE_CACHE_BYTES)
        """Patch features of videos that are decoded."""
        self.view: View | None = None
        """What the language model's visual prefix shows."""
        self.plans = SeenPlans()
        """Plans that were looked at to the end."""
        self._parts = parts
        self._prompts = prompts

    def features_of(self, video: Video) -> Features:
        """Where a video's patch features are: a live window brings its own."""
        return video.features if isinstance(video, SeenVideo) else self.features

    def keeps_bytes(self, video: Video) -> int:
        """Patch features that may be kept beside a question about this video; a live window's are none of them."""
        return self.features.held_bytes if isinstance(video, SeenVideo) else self.features.most_bytes

    def decide(self, estimate: TaskEstimate, video: Video, limits: Limits, *, follow_up: bool) -> Plan:
        """The plan that the rules make, or one that was looked at before and is as good."""
        manifest, seen = self._parts.bundle.manifest, self.plans.of(video.info.identity)
        ruled = make_plan(estimate, video.info, manifest, limits)
        in_model = bool(seen and self.view is not None and self.view.key == view_key(video, seen[0]))
        follows = follow_up and self._prompts.texts(ruled).follow_up is not None
        return prefer_seen(
            ruled, estimate, video.info, manifest, limits, seen, last_in_model=in_model, follow_up=follows
        )

    def held_view(self, video: Video, plan: Plan, asked: Asked, options: GenerationOptions) -> View | None:
        """What an earlier question left in the language model, if it is what this plan looks at and leaves room."""
        view = self.view
        if view is None or view.key != view_key(video, plan):
            return None
        needed = self._prompts.prompt(view.seen_of(plan), asked).text_tokens + options.max_tokens
        return view if self._parts.language().room >= needed else None

    def is_seen(
        self, video: Video, plan: Plan, question: str, turns: Sequence[Turn], options: GenerationOptions
    ) -> bool:
        """Whether the language model holds a plan's frames, with room for the question and its earlier turns."""
        if self.view is None or self.view.key != view_key(video, plan):
            return False
        asked = self._prompts.with_history(plan, question, turns, options.max_tokens)
        return self.held_view(video, plan, asked, options) is not None

    def make_room(self, video: Video, thrift: Thrift) -> None:
        """Let go of what a plan does without, before its frames are looked at."""
        self.features.resize(thrift.features_bytes)
        video.decode_with(thrift.decoder_threads or self._parts.threads)
        if thrift.close_inductor:
            self._parts.close_stage("inductor")
        if thrift.in_turn:
            self.view = None
            self._parts.close_stage("language")

    def forget(self) -> None:
        """Let go of all of it."""
        self.view, self.plans = None, SeenPlans()
        self.features = FeatureCache(FEATURE_CACHE_BYTES)
