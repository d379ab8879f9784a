"""Who is asked: the bundle as it is, the bundle with one thing taken away (the paper's ablations), other bundles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tam_edge.models.evaluate.pipeline import one_pipeline
from tam_edge.runtime import UsageError
from tam_edge.runtime.bundle import Bundle, load_bundle
from tam_edge.runtime.integrity import forget
from tam_edge.runtime.plan import Limits
from tam_edge.runtime.routing import Routing, frame_cap

BASELINE, FIXED, ALL = "baseline", "fixed", "all"
ABLATIONS = {
    FIXED: "one pipeline for every task, within the same visual tokens",
    "dense": "no mixture: every layer's experts averaged into one",
    "random-top2": "two experts a token, drawn at random",
    "lowest-2": "the two experts a token's router thinks least of",
    "projector-swap": "the finest grid's projector and the coarsest grid's exchanged",
    "projector-random": "every frame through the projector of a grid drawn at random",
    "projector-untrained": "projectors drawn at random, never trained",
    "no-instruction": "no task instruction in the prompt",
}
"""What each ablation takes away; `fixed-GRID` is `fixed` from a grid of one's choice on, and not among `all`."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to answer every question."""

    name: str
    what: str
    """What is different, in a few words."""
    bundle: Path
    """Folder of the bundle that is asked."""
    limits: Limits = field(default_factory=Limits)
    """What its plans must stay within."""
    routing: Routing | None = None
    """Rules of its plans; None: those of the bundle."""


def ablations(wanted: Iterable[str], bundle: Bundle) -> tuple[str, ...]:
    """The names in `wanted`, which may hold commas and "all", each once and in the order of `ABLATIONS`.

    Raises:
        UsageError: there is no such ablation, or no such grid.
    """
    names = chosen(wanted, ABLATIONS, "--ablate", also=r"fixed-\d+")
    for name in names:
        if (grid := _grid_of(name)) is not None:
            bundle.manifest.routing.rung(grid)
    return names


def chosen(wanted: Iterable[str], known: Iterable[str], option: str, also: str = "") -> tuple[str, ...]:
    """Split an option's values at commas, replace "all", refuse what is neither known nor like `also`.

    Raises:
        UsageError: an unknown name.
    """
    order = list(known)
    names = dict.fromkeys(name.strip() for value in wanted for name in value.split(","))
    for name in names:
        if name not in (*order, ALL) and not (also and re.fullmatch(also, name)):
            raise UsageError(f"{option} {name[:40]!r} is unknown: choose from {', '.join(order)} or {ALL}")
    if ALL in names:
        names |= dict.fromkeys(order)
        del names[ALL]
    return tuple(sorted(names, key=lambda name: (order.index(name) if name in order else -1, name)))


@contextmanager
def ablated(names: Sequence[str], bundle: Bundle, folder: Path, strategy: str | None) -> Iterator[list[Arm]]:
    """An arm for each ablation; the bundles they need are written into `folder`, and forgotten afterwards.

    Raises:
        UsageError: the bundle has not got what shall be taken away.
    """
    arms = []
    for name in names:
        if name == FIXED or _grid_of(name) is not None:
            arms.append(fixed(name, bundle, _grid_of(name), Limits(strategy=strategy)))
        else:
            from tam_edge.models.evaluate.ablate import derive  # needs onnx

            arms.append(
                Arm(name, ABLATIONS[name], derive(name, bundle, folder / name, strategy), Limits(strategy=strategy))
            )
    try:
        yield arms
    finally:
        for arm in arms:
            if arm.bundle != bundle.path:
                forget(arm.bundle)


def fixed(name: str, bundle: Bundle, grid: int | None, limits: Limits) -> Arm:
    """The bundle with one pipeline for every task, from `grid` on, by default that of its balanced row."""
    routing = one_pipeline(bundle.manifest.routing, grid)
    rung, room = routing.rung(routing.balanced_grid), bundle.manifest.context_visual_tokens
    budget = room if limits.visual_tokens is None else min(room, limits.visual_tokens)
    what = f"every task: up to {frame_cap(rung, budget, routing)} frames at grid {rung.grid}"
    return Arm(name, what, bundle.path, limits, routing)


def check_strategy(bundle: Bundle, name: str | None) -> None:
    """Refuse a strategy that the bundle has not got.

    Raises:
        UsageError: it has not.
    """
    names = [strategy.name for strategy in bundle.manifest.strategies]
    if name is not None and name not in names:
        raise UsageError(f"--strategy {name[:40]!r} is unknown to {bundle.path}: choose one of {', '.join(names)}")


def others(given: Iterable[str], strategy: str | None) -> list[Arm]:
    """An arm for each `NAME=FOLDER` or `FOLDER`.

    Raises:
        UsageError: a name is given twice or belongs to an ablation, or a bundle has not got the strategy.
        BundleError: a folder holds no bundle.
    """
    arms: dict[str, Arm] = {}
    for value in given:
        name, _, folder = ("", "", value) if Path(value).is_dir() else value.partition("=")
        bundle = load_bundle(folder or name)
        check_strategy(bundle, strategy)
        name = name or bundle.path.name
        if name in {BASELINE, *ABLATIONS, *arms} or _grid_of(name) is not None or " " in name:
            raise UsageError(f"--against {value}: {name!r} is taken or has a space, write ANOTHERNAME={bundle.path}")
        arms[name] = Arm(name, f"bundle {bundle.manifest.name}", bundle.path, Limits(strategy=strategy))
    return list(arms.values())


def _grid_of(name: str) -> int | None:
    found = re.fullmatch(r"fixed-(\d+)", name)
    return int(found[1]) if found else None
