"""One ONNX graph of a bundle, encoder or projector, in fewer bits: rounded, compared stage by stage, and where the
error is too large raised to more bits until it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from tam_edge.quant.graph import SMALLEST, Site, sites
from tam_edge.quant.graph_file import read_graph, save_graph
from tam_edge.quant.keep import EXACT, StageNoise, bits_within
from tam_edge.quant.layers import Feed, Observed
from tam_edge.quant.rewrite import Bits, halved, quantised, statically
from tam_edge.runtime.errors import UsageError

GraphType = Literal["fp16", "int8", "int8-static", "int4"]
"""How the matrices of an encoder or projector are stored."""
ExpertType = Literal["int8", "int4"]
"""How the experts of an encoder are stored."""
ERROR_MOST: Mapping[str, float] = {"fp16": 0.01, "int8": 0.05, "int8-static": 0.05, "int4": 0.2}
"""Largest error of the output in its standard deviations; stages get more bits until it is kept."""
ROUNDS = 6
"""How often the graph is written and measured at most, until every stage is exact that must be."""

_BITS: Mapping[str, Bits] = {"int8": 8, "int8-static": 8, "int4": 4}


@dataclass(frozen=True, slots=True)
class GraphResult:
    """A graph in fewer bits and what that did to it."""

    precision: str
    """What the manifest calls it."""
    error: float
    """Root mean squared error of the output on the calibration frames, in its standard deviations."""
    error_most: float
    """What it was held to."""
    stages: tuple[dict[str, Any], ...]
    """Of every stage: bits by kind of weight, the error it adds, the error so far, tokens sent to other experts."""
    raised: tuple[str, ...]
    """Stages that got more bits than asked for."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def shrink(
    source: Path,
    out: Path,
    feeds: Sequence[Feed],
    *,
    dense: GraphType | None,
    experts: ExpertType | None,
    error_most: float | None,
    threads: int,
    progress: Callable[[str], None],
) -> GraphResult:
    """Write the graph in `source` to `out` with `dense` matrices and `experts` of those types.

    Experts follow the matrices where they are not named: int4 with int4, else int8. None for both is not meant.

    Raises:
        UsageError: there is nothing of that kind in the graph.
        EngineError: it cannot be read or run.
    """
    model = read_graph(source)
    found = sites(model)
    has_experts = any(site.kind == "experts" for site in found)
    if experts is not None and not has_experts:
        raise UsageError(f"{source.name} has no mixture of experts: leave --experts out")
    if has_experts and experts is None and dense is not None:
        experts = "int4" if dense == "int4" else "int8"
    limit = ERROR_MOST[_coarser(dense, experts)] if error_most is None else error_most
    if dense == "fp16":
        return _half(model, out, feeds, limit, threads)
    asked = {
        site.key: _BITS[wanted] for site in found if (wanted := dense if site.kind == "dense" else experts) is not None
    }
    if not asked:
        raise UsageError(
            f"{source.name} has no matrix of {SMALLEST:,} numbers or more: there is nothing to make smaller"
        )
    task = _Task(model, found, asked, dense == "int8-static", feeds, out)
    exact = Observed(model, feeds, out.parent, threads)
    return _within(task, exact, limit, _name(dense, experts), progress)


@dataclass(frozen=True, slots=True)
class _Task:
    model: onnx.ModelProto
    sites: list[Site]
    asked: dict[str, Bits]
    static: bool
    feeds: Sequence[Feed]
    out: Path

    def write(self, bits: Mapping[str, int], path: Path) -> onnx.ModelProto:
        """The graph with these bits for every key; keys that are missing or EXACT stay float32."""
        fixed = {site.key for site in self.sites if self.static and site.kind == "dense"}
        chosen: dict[str, Bits] = {
            key: 8 if n == 8 else 4 for key, n in bits.items() if n != EXACT and key not in fixed
        }
        model = quantised(self.model, chosen)
        calibrated = [key for key, n in bits.items() if n != EXACT and key in fixed]
        if calibrated:
            model = statically(model, calibrated, self.feeds, path)
        save_graph(model, path)
        return model

    def bits(self, stages: Mapping[str, int]) -> dict[str, int]:
        """Bits of every key, given the least bits of its stage."""
        return {
            site.key: max(self.asked[site.key], stages[site.stage]) for site in self.sites if site.key in self.asked
        }


def _within(task: _Task, exact: Observed, limit: float, name: str, progress: Callable[[str], None]) -> GraphResult:
    stages, spreads = _noises(task, exact, progress)
    ends = spreads[exact.stages[-1]]
    allowed, gain = np.inf, 1.0
    for round_number in range(ROUNDS + 1):
        least = bits_within(stages, allowed) if round_number < ROUNDS else {stage.name: EXACT for stage in stages}
        rounded = task.write(task.bits(least), task.out)
        error = exact.output_error(task.out)
        progress(f"{task.out.name}: error {error:.3f}, at most {limit:.3f} allowed")
        if error <= limit or set(least.values()) == {EXACT}:
            break
        left = sum(0.0 if least[stage.name] == EXACT else stage.noise[least[stage.name]] for stage in stages)
        gain = error**2 * ends / left
        allowed = min(0.98 * limit**2 * ends / gain, 0.98 * left)  # at least one step further each round
    return _result(task, exact, rounded, least, (name, error, limit))


def _noises(task: _Task, exact: Observed, progress: Callable[[str], None]) -> tuple[list[StageNoise], dict[str, float]]:
    """What every stage adds in the bits asked for, and in 8 where fewer were asked for."""
    trials = [dict(task.asked)]
    if 4 in task.asked.values():
        trials.append({key: max(bits, 8) for key, bits in task.asked.items()})
    noises: list[dict[str, float]] = []
    spreads: dict[str, float] = {}
    for trial in trials:
        progress(f"{task.out.name}: what each layer adds in {min(trial.values())} bits")
        errors, spreads = exact.added(task.write(trial, task.out))
        noises.append(errors)
    stages = []
    for name in exact.stages:
        inside = [site for site in task.sites if site.stage == name and site.key in task.asked]
        if inside:
            lowest = min(task.asked[site.key] for site in inside)
            noise = {int(lowest): noises[0][name]} | ({8: noises[1][name]} if lowest == 4 else {})
            stages.append(StageNoise(name, sum(site.numbers for site in inside), noise))
    return stages, spreads


def _result(
    task: _Task, exact: Observed, rounded: onnx.ModelProto, least: Mapping[str, int], said: tuple[str, float, float]
) -> GraphResult:
    name, error, limit = said
    added, spreads = exact.added(rounded)
    so_far, moved = exact.so_far(rounded)
    bits = task.bits(least)
    stages = []
    for stage in exact.stages:
        inside = [site for site in task.sites if site.stage == stage]
        spread = spreads[stage] or 1.0
        stages.append(
            {
                "stage": stage or "output",
                "bits": {site.kind: bits.get(site.key, EXACT) for site in inside},
                "added": float(np.sqrt(added[stage] / spread)),
                "so_far": float(np.sqrt(so_far[stage] / spread)),
                "tokens_sent_elsewhere": max((moved[s.key] for s in inside if s.key in moved), default=None),
            }
        )
    raised = [site.stage or "output" for site in task.sites if bits.get(site.key, 0) > task.asked.get(site.key, EXACT)]
    return GraphResult(name, error, limit, tuple(stages), tuple(dict.fromkeys(raised)))


def _half(model: onnx.ModelProto, out: Path, feeds: Sequence[Feed], limit: float, threads: int) -> GraphResult:
    exact = Observed(model, feeds, out.parent, threads)
    save_graph(halved(model), out)
    error = exact.output_error(out)
    if not error <= limit:  # also where it is no number: something overflowed
        raise UsageError(f"{out.name}: float16 changes the output by {error:.3f}, not within {limit:.3f}: choose int8")
    return GraphResult("fp16", error, limit, (), ())


def _name(dense: GraphType | None, experts: ExpertType | None) -> str:
    if dense is None:
        return f"experts {experts}"
    return dense if experts in (None, dense) else f"{dense}, experts {experts}"


def _coarser(dense: GraphType | None, experts: ExpertType | None) -> str:
    return "int4" if "int4" in (dense, experts) else str(dense or experts)
