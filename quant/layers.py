"""Where in a graph the error comes from: hidden states of the exact and the rounded graph on the same frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from tam_edge.quant.graph import cut_at, hidden_states, mixtures, with_outputs
from tam_edge.quant.graph_file import save_graph
from tam_edge.runtime.engines.onnx import OnnxEngine

Feed = Mapping[str, NDArray[np.float32]]
"""Inputs of a graph by name."""
Floats = NDArray[np.float32]
OUTPUT = ""
"""The stage behind the last hidden state."""


class Observed:
    """Values inside an exact graph on calibration inputs, to compare other graphs with.

    One file with more outputs is written into `folder`; values are computed again for each comparison, since those of
    a full-size encoder would not fit into memory.
    """

    def __init__(self, exact: onnx.ModelProto, feeds: Sequence[Feed], folder: Path, threads: int) -> None:
        self._feeds, self._folder, self._threads = feeds, folder, threads
        self._states, self._output = hidden_states(exact), exact.graph.output[0].name
        self._gates = mixtures(exact)
        self._file = folder / "exact-observed.onnx"
        with with_outputs(exact, [*self._states, *(gate for gate, _ in self._gates.values())]) as seen:
            save_graph(seen, self._file)

    @property
    def stages(self) -> list[str]:
        """Every stage in order, OUTPUT last."""
        return [*self._states, OUTPUT]

    def added(self, rounded: onnx.ModelProto) -> tuple[dict[str, float], dict[str, float]]:
        """Mean squared error each stage of `rounded` adds to exact input, and the variance of its exact output."""
        errors, spreads = dict.fromkeys(self.stages, 0.0), dict.fromkeys(self.stages, 0.0)
        with cut_at(rounded, self._states) as cut:
            opened = self._opened(cut)
        with opened as pieces, self._exact() as exact:
            for feed in self._feeds:
                values = exact(feed)
                states = {f"{name}.given": values[name] for name in self._states}
                got = pieces({**feed, **states})
                for stage in self.stages:
                    name = stage or self._output
                    errors[stage] += _mean_square(got[name] - values[name]) / len(self._feeds)
                    spreads[stage] += float(values[name].var()) / len(self._feeds)
        return errors, spreads

    def so_far(self, rounded: onnx.ModelProto) -> tuple[dict[str, float], dict[str, float]]:
        """Mean squared error of `rounded` at each stage, and the share of tokens each mixture sends elsewhere."""
        errors, moved = dict.fromkeys(self.stages, 0.0), dict.fromkeys(self._gates, 0.0)
        outputs = [*self._states, *(gate for gate, _ in self._gates.values())]
        with with_outputs(rounded, outputs) as seen:
            opened = self._opened(seen)
        with opened as other, self._exact() as exact:
            for feed in self._feeds:
                values, got = exact(feed), other(feed)
                for stage in self.stages:
                    name = stage or self._output
                    errors[stage] += _mean_square(got[name] - values[name]) / len(self._feeds)
                for mixture, (gate, k) in self._gates.items():
                    moved[mixture] += _moved(got[gate], values[gate], k) / len(self._feeds)
        return errors, moved

    def output_error(self, path: Path) -> float:
        """Relative error of the output of the graph in `path`."""
        squares = variance = 0.0
        with _session(path, self._threads) as other, self._exact() as exact:
            for feed in self._feeds:
                expected = exact(feed)[self._output]
                squares += _mean_square(other(feed)[self._output] - expected)
                variance += float(expected.var())
        return float(np.sqrt(squares / variance)) if variance else 0.0

    @contextmanager
    def _exact(self) -> Iterator[Run]:
        with _session(self._file, self._threads) as run:
            yield run

    def _opened(self, model: onnx.ModelProto) -> AbstractContextManager[Run]:
        """`model` as it is now, written and opened when the context is entered."""
        path = self._folder / "rounded-observed.onnx"
        save_graph(model, path)
        return _session(path, self._threads, [output.name for output in model.graph.output])


class Run:
    """An opened graph whose outputs come by name."""

    def __init__(self, engine: OnnxEngine, names: Sequence[str]) -> None:
        self._engine, self._names = engine, names

    def __call__(self, feed: Feed) -> dict[str, Floats]:
        """Every output of one run."""
        given = {name: feed[name] for name in self._engine.input_names}
        return dict(zip(self._names, self._engine.run(given), strict=True))


@contextmanager
def _session(path: Path, threads: int, names: Sequence[str] | None = None) -> Iterator[Run]:
    if names is None:
        names = [output.name for output in onnx.load(path, load_external_data=False).graph.output]
    engine = OnnxEngine(path, threads=threads, device="cpu")
    try:
        yield Run(engine, names)
    finally:
        engine.close()


def _mean_square(values: Floats) -> float:
    return float(np.mean(np.square(values, dtype=np.float32), dtype=np.float64))


def _moved(got: Floats, expected: Floats, k: int) -> float:
    """Share of tokens whose k experts are others."""
    chosen = [np.sort(np.argsort(-logits, axis=-1, kind="stable")[:, :k], axis=-1) for logits in (got, expected)]
    return float((chosen[0] != chosen[1]).any(-1).mean())
