"""Whole answers beside their prediction: what lies between the stages, and how far the sum of them is off."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter

from tam_edge.runtime.calibrate.specimen import make_specimen, specimens
from tam_edge.runtime.calibrate.vision import QUESTION
from tam_edge.runtime.calibration import Calibrated
from tam_edge.runtime.errors import MemoryLimitError
from tam_edge.runtime.rates import Rates
from tam_edge.runtime.session import VideoQA

ROUNDS = 3
"""How often each plan is answered."""
MOST_SECONDS = 30.0
"""No further answer begins after this long."""


def tried(rates: Rates, ask_with: Callable[[Calibrated], VideoQA], progress: Callable[[str], None]) -> Rates:
    """The rates with what whole answers took beyond them, and by how much at most; `ask_with` opens the bundle."""
    progress("whole answers")
    measured = list(_answers(rates, ask_with))
    if not measured:  # nothing with a video fits below the ceiling
        return rates
    overhead_ms = max(0.0, median(took - predicted for predicted, took in measured))
    worst = max(took / (predicted + overhead_ms) - 1 for predicted, took in measured)
    spread = {**rates.spread, "whole": max(0.0, worst)}
    return rates.model_copy(update={"overhead_ms": overhead_ms, "spread": spread})


def _answers(rates: Rates, ask_with: Callable[[Calibrated], VideoQA]) -> Iterator[tuple[float, float]]:
    """Predicted and measured milliseconds to the first token, of plans with few and with many frames."""
    began = perf_counter()
    with tempfile.TemporaryDirectory(prefix="tam-edge-") as folder:
        clip = str(make_specimen(next(specimens()), Path(folder)))
        for number in range(ROUNDS):
            with ask_with(Calibrated(rates)) as qa:  # anew each time, so that opening counts
                for frames in (1, 4, None):
                    if number and perf_counter() - began > MOST_SECONDS:
                        return
                    with closing(qa.open(clip)) as video:
                        qa.forget()
                        try:
                            answer = qa.ask(video, QUESTION, frames=frames, max_tokens=1)
                        except MemoryLimitError:
                            continue
                    yield answer.plan.predicted_ms or 0.0, answer.timings.first_token
