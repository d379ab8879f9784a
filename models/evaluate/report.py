"""The whole evaluation: film, ask every arm, compare. One session is open at a time, so memory stays what one needs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tam_edge.models.evaluate.arms import BASELINE, Arm, ablated, ablations, check_strategy, chosen, others
from tam_edge.models.evaluate.ask import Reply, ask
from tam_edge.models.evaluate.comparison import Told, compare
from tam_edge.models.evaluate.films import Film, batches, scene_seeds
from tam_edge.models.evaluate.reencode import ENCODINGS, check_encodings, reencode
from tam_edge.models.evaluate.summary import summarise
from tam_edge.models.evaluate.sweep import budgets, curve, swept
from tam_edge.runtime import VideoQA
from tam_edge.runtime.budget import parse_size
from tam_edge.runtime.bundle import Bundle, default_bundle_path, load_bundle
from tam_edge.runtime.plan import Limits

SCHEMA_VERSION = 1
ENCODED = "encoded "
"""Before the name of an encoding, in an arm's name."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be measured."""

    seed: int
    """Which unseen scenes."""
    videos: int
    """How many of them."""
    bundle: Path | None = None
    """The bundle; None: the one that is installed."""
    strategy: str | None = None
    """How patch features become tokens; None: the bundle's first."""
    memory: str | None = None
    """Most memory to take."""
    threads: int | None = None
    """CPU threads."""
    ablate: tuple[str, ...] = ()
    """Names of ablations."""
    against: tuple[str, ...] = ()
    """Other bundles, each `NAME=FOLDER` or a folder."""
    budgets: tuple[str, ...] = ()
    """Visual-token budgets of the curve."""
    reencode: tuple[str, ...] = ()
    """Names of encodings."""


Done = Callable[[int, int, str], None]
"""Told after each film: how many are done and how many there are, over all sessions, and who was asked."""


def evaluate(request: Request, done: Done = lambda count, total, who: None) -> tuple[dict[str, Any], list[Reply]]:
    """Film, ask and compare; also returns every reply of every arm, so that mistakes can be looked at.

    Raises:
        UsageError: a seed that training may have seen, or something to measure that is unknown or not there.
        BundleError: a bundle that is none.
        ModuleNotFoundError: an ablation that changes a graph, and the `export` extra is not installed.
    """
    began = time.monotonic()
    seeds = scene_seeds(request.seed, request.videos)
    if request.memory is not None:
        parse_size(request.memory)  # refuse what no arm could be asked with before anything is filmed
    bundle = load_bundle(request.bundle or default_bundle_path())
    check_strategy(bundle, request.strategy)
    encodings = chosen(request.reencode, ENCODINGS, "--reencode")
    check_encodings(encodings)
    points, names = budgets(request.budgets, bundle), ablations(request.ablate, bundle)
    rivals = others(request.against, request.strategy)
    baseline = Arm(BASELINE, f"bundle {bundle.manifest.name}", bundle.path, Limits(strategy=request.strategy))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tam-edge-eval-")))
        taken = stack.enter_context(ablated(names, bundle, folder / "bundles", request.strategy))
        arms = [baseline, *taken, *rivals, *swept(points, bundle, request.strategy)]
        told = _ask_all(arms, encodings, seeds, folder, request, done)
    report = _report(request, bundle, told, [baseline, *taken, *rivals], encodings, points)
    if rivals:
        report["ablations"]["bundles"] = [BASELINE, *(arm.name for arm in rivals)]
    report["minutes"] = round((time.monotonic() - began) / 60, 2)
    return report, [reply for replies in told.values() for reply in replies]


def _ask_all(
    arms: Sequence[Arm], encodings: Sequence[str], seeds: range, folder: Path, request: Request, done: Done
) -> dict[str, list[Reply]]:
    """Replies of each arm. Arms of one bundle share a session, bundles with one encoder share its features."""
    told: dict[str, list[Reply]] = {
        name: [] for name in (*(arm.name for arm in arms), *map(ENCODED.__add__, encodings))
    }
    cast: dict[Path, list[Arm]] = {}
    for arm in arms:
        cast.setdefault(arm.bundle, []).append(arm)
    steps, total = 0, len(seeds) * len(cast)
    memory: int | str | None = request.memory
    for films in batches(seeds, folder):
        first: VideoQA | None = None
        for path, asked in cast.items():
            with VideoQA.load(path, memory=memory, threads=request.threads) as qa:
                memory = qa.limit.limit_bytes  # of the first session: what others take meanwhile must not end this
                if first is not None and first.bundle.manifest.encoders == qa.bundle.manifest.encoders:
                    qa.share_features(first)
                for film in films:
                    for reply in _about(film, qa, asked, encodings if first is None else ()):
                        told[reply.arm].append(reply)
                    steps += 1
                    done(steps, total, asked[0].name)
                first = first or qa
    return told


def _about(film: Film, qa: VideoQA, arms: Sequence[Arm], encodings: Sequence[str]) -> Iterator[Reply]:
    yield from ask(qa, film, arms)
    for name in encodings:
        again = film.path.with_stem(f"{film.path.stem}-{name}")
        reencode(film.path, again, ENCODINGS[name])
        yield from ask(qa, film, [replace(arms[0], name=f"{ENCODED}{name}")], path=again)
        again.unlink()


def _report(
    request: Request, bundle: Bundle, told: Told, arms: Sequence[Arm], encodings: Sequence[str], points: Sequence[int]
) -> dict[str, Any]:
    manifest, videos = bundle.manifest, request.videos
    tasks = [rule.name for rule in manifest.routing.tasks]
    report = {
        "schema_version": SCHEMA_VERSION,
        "bundle": {"name": manifest.name, "version": manifest.version},
        "seed": request.seed,
        "videos": videos,
        "strategy": request.strategy or manifest.strategies[0].name,
        **summarise(told[BASELINE], tasks, videos),
    }
    if len(arms) > 1:
        report["ablations"] = compare(told, {arm.name: arm.what for arm in arms}, tasks, videos)
    if encodings:
        again = {BASELINE: told[BASELINE], **{name: told[f"{ENCODED}{name}"] for name in encodings}}
        what = {BASELINE: "as filmed", **{name: ENCODINGS[name].what for name in encodings}}
        report["encodings"] = compare(again, what, tasks, videos)
    if points:
        report["curve"] = curve(points, told, manifest.routing.balanced_grid, videos)
    return report
