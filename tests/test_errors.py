"""Errors: one printable line, the facts kept as attributes, exit codes as the command line promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from tam_edge.runtime.errors import (
    BundleError,
    DeadlineError,
    EngineError,
    MemoryLimitError,
    MissingExtraError,
    QuestionError,
    TamEdgeError,
    UsageError,
    VideoError,
)

EXAMPLES = [
    (UsageError("unknown strategy 'x'"), 2),
    (QuestionError("the question is empty"), 2),
    (VideoError("clip.mp4", "no such file"), 1),
    (BundleError(Path("models/nano"), "language.engines.0.sha256", "does not match"), 1),
    (MemoryLimitError(1000, 2000, "needs 2000 bytes"), 1),
    (DeadlineError(1.0, None, "is not calibrated"), 1),
    (EngineError("cannot open"), 1),
    (MissingExtraError("export", "tam-edge train"), 1),
]


@pytest.mark.parametrize(("error", "exit_code"), EXAMPLES)
def test_exit_codes(error: TamEdgeError, exit_code: int) -> None:
    assert isinstance(error, TamEdgeError)
    assert error.exit_code == exit_code


@pytest.mark.parametrize("hostile", ["a\nb", "a\r\n\tb", "a\x1b[31mb", "a\x00b", "a\udcffb"])
def test_a_message_is_one_printable_line(hostile: str) -> None:
    text = str(VideoError(hostile, f"{hostile} is bad"))
    assert text.isprintable()
    assert text.encode("utf-8")


def test_a_very_long_source_is_shortened_but_kept() -> None:
    error = VideoError("x" * 5000, "no such file")
    assert len(str(error)) < 400
    assert error.source == "x" * 5000


def test_facts_are_attributes() -> None:
    assert VideoError(Path("a") / "b.mp4", "bad").source == str(Path("a") / "b.mp4")
    bundle = BundleError("nano", "encoders.siglip", "bad")
    assert (bundle.bundle, bundle.field, str(bundle)) == (
        "nano",
        "encoders.siglip",
        "bundle nano: encoders.siglip: bad",
    )
    memory = MemoryLimitError(10, 20, "too small")
    assert (memory.limit_bytes, memory.needed_bytes) == (10, 20)
    deadline = DeadlineError(1.5, 2.0, "too short")
    assert (deadline.deadline_seconds, deadline.needed_seconds) == (1.5, 2.0)
    assert "pip install 'tam-edge[export]'" in str(MissingExtraError("export", "tam-edge train"))
