"""`--report`: one HTML page that shows what was asked, answered, looked at and spent.

The page needs nothing but itself: pictures are inside it (runtime/page.py).
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tam_edge.apps.report_style import STYLE
from tam_edge.apps.thumbnails import Thumbnail
from tam_edge.apps.units import clock_text, milliseconds_text, reused_text
from tam_edge.runtime.answer import Answer
from tam_edge.runtime.budget import size_text
from tam_edge.runtime.page import page_html, section_html, text
from tam_edge.runtime.plan import Plan


@dataclass(frozen=True, slots=True)
class Entry:
    """One question of a report."""

    question: str
    """As it was asked."""
    answer: Answer
    """What came out and what it cost."""
    frames: tuple[Thumbnail, ...]
    """The frames that were looked at, in order."""
    notes: tuple[str, ...] = ()
    """What a person should know about the video."""


def report_html(entries: Sequence[Entry], sources: Sequence[str]) -> str:
    """The whole page for questions, at least one, that were asked about `sources`."""
    title = entries[0].question if len(entries) == 1 else f"{len(entries)} questions"
    body = "\n".join(_article(entry) for entry in entries)
    about = f", bundle {entries[0].answer.bundle}"
    return page_html(title, body, style=STYLE, header=", ".join(sources), about=about, pictures=True)


def _article(entry: Entry) -> str:
    answer, plan = entry.answer, entry.answer.plan
    parts = [
        f"<h1>{text(entry.question)}</h1>",
        f'<p class="answer">{text(answer.text) or "(no text)"}</p>',
        f'<div class="reasons">{"".join(f"<p>{text(reason)}</p>" for reason in plan.reasons)}</div>',
        section_html("", _facts(answer)),
        section_html("Task type", _tasks(plan)),
        section_html("Frames looked at", _clip(plan) + _frames(entry.frames) + _notes(entry.notes)),
        _pair(
            section_html("Time", _times(answer)),
            section_html("Tokens", _tokens(plan)) + section_html("Memory", _memory(answer)),
        ),
        section_html("Predicted and measured", _trace(answer)),
        section_html("Not done", _rejections(answer)) if answer.rejections else "",
        section_html("", f"<details><summary>As JSON</summary><pre>{_json(answer)}</pre></details>"),
    ]
    return f"<article>\n{chr(10).join(part for part in parts if part)}\n</article>"


def _pair(left: str, right: str) -> str:
    return f'<div class="pair"><div>{left}</div><div>{right}</div></div>'


def _facts(answer: Answer) -> str:
    plan = answer.plan
    facts = [
        ("Task type", plan.task),
        ("Strategy", plan.strategy),
        ("Frames", f"{plan.frames}"),
        ("Grid", f"{plan.grid} \N{MULTIPLICATION SIGN} {plan.grid}" if plan.grid else "none"),
        ("Expert", f"{plan.expert}" if plan.expert else "none"),
        ("First token", milliseconds_text(answer.timings.first_token)),
        ("Total", milliseconds_text(answer.timings.total)),
        ("Peak memory", size_text(answer.peak_bytes)),
    ]
    return f'<dl class="facts">{"".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in facts)}</dl>'


def _tasks(plan: Plan) -> str:
    ranked = sorted(plan.probabilities.items(), key=lambda item: -item[1])
    rows = (_bar(name, p, f"{p:.1%}", "chosen" if name == plan.task else "faint") for name, p in ranked)
    return _bars(rows)


def _clip(plan: Plan) -> str:
    """A strip for the whole clip with a mark for each frame; nothing for an image."""
    if plan.duration_seconds <= 0:
        return ""
    shares = ((seconds - plan.start_seconds) / plan.duration_seconds for seconds in plan.timestamps_seconds)
    marks = "".join(f'<i style="left:{_percent(share)}"></i>' for share in shares)
    ends = [clock_text(plan.start_seconds + seconds) for seconds in (0, plan.duration_seconds)]
    return f'<div class="clip">{marks}</div><p class="ends"><span>{ends[0]}</span><span>{ends[1]}</span></p>'


def _frames(frames: Sequence[Thumbnail]) -> str:
    several = len({frame.source for frame in frames}) > 1
    return f'<div class="frames">{"".join(_figure(frame, several) for frame in frames)}</div>'


def _figure(frame: Thumbnail, named: bool) -> str:
    when = clock_text(frame.time_seconds)
    caption = f"{when} {frame.source}" if named else when
    picture = f"data:image/jpeg;base64,{b64encode(frame.jpeg).decode()}"
    size = f'width="{frame.width_px}" height="{frame.height_px}"'
    return (
        f'<figure><img src="{picture}" {size} alt="frame at {when}"><figcaption>{text(caption)}</figcaption></figure>'
    )


def _times(answer: Answer) -> str:
    times = answer.timings
    stages = {
        "load": times.load,
        "inductor": times.inductor,
        "decode": times.decode,
        "vision": times.vision,
        "strategy": times.strategy,
        "prefill": times.prefill,
        "generate": times.generate,
    }
    whole = max(times.total, *stages.values(), 1e-9)
    rows = [_bar(name, value / whole, milliseconds_text(value)) for name, value in stages.items()]
    rows.append(_bar("first token", times.first_token / whole, milliseconds_text(times.first_token), "sum"))
    rows.append(_bar("total", times.total / whole, milliseconds_text(times.total), "sum"))
    notes = ["Stages may overlap; the first token counts from the question, loading included where it was needed."]
    if reused := reused_text(answer.plan.frames, answer.cache):
        notes.append(f"Reused from an earlier question: {reused}.")
    return _bars(rows) + _notes(notes)


def _tokens(plan: Plan) -> str:
    whole = max(plan.token_budget, plan.visual_tokens, 1)
    each = plan.visual_tokens / plan.frames
    most = "" if plan.visual_tokens_exact else "at most "
    rows = [
        _bar("one frame", each / whole, f"{each:,.0f}"),
        _bar("visual tokens", plan.visual_tokens / whole, f"{most}{plan.visual_tokens:,}", "chosen"),
        _bar("budget", plan.token_budget / whole, f"{plan.token_budget:,}", "faint"),
    ]
    return _bars(rows)


def _memory(answer: Answer) -> str:
    predicted = answer.plan.predicted_bytes or {}
    whole = max(answer.memory_limit_bytes, answer.peak_bytes, *predicted.values(), 1)
    rows = [_bar(f"{name}, predicted", size / whole, size_text(size), "faint") for name, size in predicted.items()]
    rows.append(_bar("peak, measured", answer.peak_bytes / whole, size_text(answer.peak_bytes), "chosen"))
    if answer.peak_gpu_bytes:
        rows.append(_bar("GPU peak, measured", answer.peak_gpu_bytes / whole, size_text(answer.peak_gpu_bytes)))
    rows.append(_bar("limit", answer.memory_limit_bytes / whole, size_text(answer.memory_limit_bytes), "sum"))
    return _bars(rows)


def _trace(answer: Answer) -> str:
    """Every stage: milliseconds and bytes as they were predicted, and as they were measured."""
    rows = []
    for stage, ms in answer.predicted_ms.items():
        measured = milliseconds_text(getattr(answer.timings, stage))
        rows.append((stage.replace("_", " "), "not calibrated" if ms is None else milliseconds_text(ms), measured))
    predicted = answer.plan.predicted_bytes or {}
    for stage, held in answer.stage_bytes.items():
        said = size_text(predicted[stage]) if stage in predicted else "none"
        measured = size_text(held.resident_bytes) + ("" if held.is_peak else " at its end")
        rows.append((f"{stage}, memory", said, measured))
    head = "<tr><th>Stage</th><th>predicted</th><th>measured</th></tr>"
    body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="trace">{head}{body}</table>'


def _notes(notes: Iterable[str]) -> str:
    return "".join(f'<p class="note">{text(note)}</p>' for note in notes)


def _rejections(answer: Answer) -> str:
    items = (f"<li>{text(rejection.what)}: {text(rejection.reason)}</li>" for rejection in answer.rejections)
    return f"<ul>{''.join(items)}</ul>"


def _bars(rows: Iterable[str]) -> str:
    return f'<div class="bars">{"".join(rows)}</div>'


def _bar(name: str, share: float, value: str, kind: str = "") -> str:
    fill = f'<span class="track"><span class="fill" style="width:{_percent(share)}"></span></span>'
    return f'<div class="row {kind}"><span class="name">{text(name)}</span>{fill}<b>{text(value)}</b></div>'


def _percent(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"


def _json(answer: Answer) -> str:
    return text(json.dumps(answer.to_json(), indent=2, ensure_ascii=False))
