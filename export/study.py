"""The four arms of a study as bundles: each with the rules it was trained for, so that one evaluation compares them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tam_edge.export.answers import FIRST_SEED
from tam_edge.export.bundle import Progress, check_folders, export_bundle
from tam_edge.export.facts import BundleFacts
from tam_edge.export.nano import NANO_FACTS
from tam_edge.models.evaluate.pipeline import one_pipeline
from tam_edge.models.recipe.features import FIXED
from tam_edge.models.recipe.study import ARMS, Arm
from tam_edge.runtime.bundle import Bundle


def facts_of(arm: Arm) -> BundleFacts:
    """What the bundle of an arm says; one pipeline for every task is a routing in which all follow one rule."""
    plan = "one pipeline for every task" if arm.plan == FIXED else "plans that follow the task"
    eye = "a dense eye" if arm.experts == 1 else f"{arm.experts} experts in every layer of its eye"
    return replace(
        NANO_FACTS,
        name=f"tallva-study-{arm.name}",
        description=f"One of four models trained equally long on the synthetic street camera: {plan}, {eye}.",
        routing=one_pipeline(NANO_FACTS.routing) if arm.plan == FIXED else NANO_FACTS.routing,
    )


def export_study(
    study: Path,
    out: Path,
    *,
    questions: int = 100,
    first_seed: int = FIRST_SEED,
    progress: Progress = lambda _: None,
) -> dict[str, Bundle]:
    """Write OUT/ARM for each of the four arms in `study`; arguments as for `export_bundle`.

    Raises:
        UsageError: an arm is not finished, or its place holds something else; nothing is written then.
        ParityError: a file does not compute what its PyTorch module computes.
    """
    for arm in ARMS:
        check_folders(study / arm.name, out / arm.name)
    bundles = {}
    for arm in ARMS:
        progress(f"exporting {arm.name}")
        folders = study / arm.name, out / arm.name
        bundles[arm.name] = export_bundle(
            *folders, facts_of(arm), questions=questions, first_seed=first_seed, progress=progress
        )
    return bundles
