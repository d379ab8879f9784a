"""`--report`: one HTML page that says what was saved and what it cost, in pictures and tables, with the JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tam_edge.quant.picture import layer_errors, sizes
from tam_edge.runtime.budget import size_text
from tam_edge.runtime.errors import TamEdgeError
from tam_edge.runtime.page import page_html, section_html, text

STYLE = """
h1 { font-size: clamp(1.4rem, 5vw, 2rem); line-height: 1.2; margin: 0 0 .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .625rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
th { color: var(--soft); font-weight: 500; }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .old { fill: var(--faint); } svg .new { fill: var(--accent); }
svg .rule { stroke: var(--line); } svg .line { fill: none; stroke: var(--second); stroke-width: 2; }
"""


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write the page.

    Raises:
        TamEdgeError: it cannot be written.
    """
    try:
        path.write_text(report_html(report), encoding="utf-8")
    except OSError as error:
        raise TamEdgeError(f"cannot write {path}: {error.strerror}; the new bundle is finished") from error


def report_html(report: dict[str, Any]) -> str:
    """The whole page."""
    title = f"{report['bundle']['name']}: {report['size']['smaller']:.2f} times smaller"
    body = "\n".join(section_html(heading, content) for heading, content in _sections(report) if content)
    head = f"<h1>{text(title)}</h1>\n{''.join(f'<p>{text(line)}</p>' for line in lines(report))}"
    return page_html(title, f"{head}\n{body}", style=STYLE)


def lines(report: dict[str, Any]) -> Iterator[str]:
    """What matters most, for the terminal and the head of the page."""
    size, speed, same = report["size"], report["speed"], report["agreement"]
    before, after = size_text(size["old_bytes"]), size_text(size["new_bytes"])
    yield f"size        {before} to {after}, {size['smaller']:.2f} times smaller"
    for key, what in (("vision_ms_per_frame", "ms a frame"), ("decode_tokens_per_second", "tokens/s")):
        one = speed[key]
        ratio = f"{one['faster']:.2f} times as fast (CPU time: {one['faster_cpu']:.2f})"
        yield f"speed       {one['old']:g} to {one['new']:g} {what}, {ratio}"
    yield f"answers     {same['same']} of {same['questions']} are the same ({same['what']})"
    if (found := report["accuracy"]) is not None:
        low, high = found["difference_ci95"]
        yield (
            f"accuracy    {found['old']['accuracy']:.1%} to {found['new']['accuracy']:.1%}: "
            f"{100 * found['difference']:+.2f} points (95% interval {100 * low:+.2f} to {100 * high:+.2f}, "
            f"{found['questions']} questions of {found['videos']} street videos)"
        )
    if (target := report["target"]) is not None:
        yield f"target      {'; '.join(target['reasons'])}"


def _sections(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Sizes", sizes(report["files"]) + _files(report["files"])
    for role, detail in report["details"].items():
        if detail.get("stages"):
            yield f"Where the error comes from: {role}", _layers(detail)
    graphs = {role: detail for role, detail in report["details"].items() if "error" in detail}
    yield "Errors of graphs", _graphs(graphs)
    if "language" in report["details"]:
        yield "Language model", _language(report["details"]["language"])
    yield "Stage by stage", _stages(report["stages"])
    yield "Speed, side by side", _speed(report["speed"])
    if report["target"] is not None:
        yield "Chosen for the device", _target(report["target"])
    yield "Answers", _answers(report["agreement"])
    if report["accuracy"] is not None:
        yield "Accuracy", _accuracy(report["accuracy"])
    yield "Read this with it", _notes(report)
    whole = text(json.dumps(report, indent=1, ensure_ascii=False))
    yield "", f"<details><summary>As JSON</summary><pre>{whole}</pre></details>"


def _files(files: Sequence[dict[str, Any]]) -> str:
    rows = []
    for one in files:
        old, new = one["old"], one["new"]
        texts = [size_text(some[key]) for key in ("size_bytes", "peak_bytes") for some in (old, new)]
        rows.append([one["role"], old["precision"], new["precision"], *texts])
    return _table(["role", "was", "is", "size before", "after", "peak memory before", "after"], rows)


def _layers(detail: dict[str, Any]) -> str:
    rows = []
    for stage in detail["stages"]:
        bits = ", ".join(f"{kind} {'fp32' if n == 32 else n}" for kind, n in stage["bits"].items()) or "as it was"
        moved = stage["tokens_sent_elsewhere"]
        rows.append(
            [
                stage["stage"],
                bits,
                f"{stage['added']:.2%}",
                f"{stage['so_far']:.2%}",
                "" if moved is None else f"{moved:.2%}",
            ]
        )
    raised = ", ".join(detail["raised"]) or "none"
    note = (
        "Bars: what a stage adds to exact input; line: the error of all stages so far; both as root mean squared error "
        "in standard deviations. Gates of experts, embeddings, norms and products of activations stay fp32. "
        f"More bits than asked for, because the output's error had to stay within {detail['error_most']:.1%}: {raised}."
    )
    names = ["stage", "bits", "adds", "so far", "tokens sent to other experts"]
    return layer_errors(detail["stages"]) + _note(note) + _table(names, rows)


def _graphs(graphs: dict[str, dict[str, Any]]) -> str:
    rows = [[role, one["precision"], f"{one['error']:.2%}", f"{one['error_most']:.2%}"] for role, one in graphs.items()]
    return _table(["graph", "type", "error of its output", "allowed"], rows) if rows else ""


def _language(detail: dict[str, Any]) -> str:
    rows = [
        [kind, f"{detail['types'].get(kind, 0)}", size_text(size)] for kind, size in detail["bytes_by_type"].items()
    ]
    imatrix = "with" if detail["with_imatrix"] else "without"
    note = (
        f"{detail['type']}, {imatrix} an importance matrix: {detail['bits_per_weight']:.2f} bits a number. llama.cpp "
        "stores rows that a type does not fit in the nearest that they do; these are the types in the file."
    )
    return _note(note) + _table(["type in the file", "matrices", "size"], rows)


def _stages(stages: dict[str, Any]) -> str:
    rows = [
        ["vision, same frames", f"{stages['vision']:.2%}", "", ""],
        ["strategy, same patch features", f"{stages['strategy']:.2%}", "", ""],
    ]
    for key, words in (("language", "language, same visual tokens"), ("all", "all together")):
        one = stages[key]
        rows.append([words, "", f"{one['divergence_nats']:.4f}", f"{one['same_token_share']:.1%}"])
    names = ["stage", "error", "divergence of the next token, nats", "same next token"]
    return _table(names, rows)


def _speed(speed: dict[str, Any]) -> str:
    named = {
        "vision_ms_per_frame": "vision, ms a frame",
        "prefill_tokens_per_second": "prefill, tokens/s",
        "decode_tokens_per_second": "decode, tokens/s",
    }
    rows = [
        [words, *(f"{speed[key][column]:g}" for column in ("old", "new", "faster", "faster_cpu"))]
        for key, words in named.items()
    ]
    prompt = f"{speed['frames']} frames, {speed['prompt_tokens']} tokens of prompt"
    note = f"Medians of {speed['rounds']} rounds in turns, {prompt}; times of this machine."
    return _table(["", "before", "after", "times as fast", "by CPU time"], rows) + _note(note)


def _target(target: dict[str, Any]) -> str:
    rows = [
        [one["part"], one["kind"], size_text(one["peak_bytes"]), f"{one['error']:.4f}"] for one in target["options"]
    ]
    reasons = "".join(f"<li>{text(reason)}</li>" for reason in target["reasons"])
    return f"<ul>{reasons}</ul>" + _table(["part", "type", "peak memory", "divergence alone, nats"], rows)


def _answers(same: dict[str, Any]) -> str:
    rows = [[one["video"], one["question"], one["old"], one["new"]] for one in same["apart"]]
    head = _note(f"{same['same']} of {same['questions']} answers are the same, on {same['what']}.")
    return head + (_table(["video", "question", "before", "after"], rows) if rows else "")


def _accuracy(found: dict[str, Any]) -> str:
    rows = []
    for name, one in (("all", found), *found["per_task"].items()):
        low, high = one["difference_ci95"] or (0.0, 0.0)
        now = one["new"]["accuracy"] if name == "all" else one["accuracy"]
        difference = 0.0 if one["difference"] is None else one["difference"]
        rows.append([name, f"{now:.1%}", f"{100 * difference:+.2f}", f"{100 * low:+.2f} to {100 * high:+.2f}"])
    note = f"{found['videos']} unseen street videos, seed {found['seed']}; intervals by bootstrap over videos, paired."
    return _table(["task type", "accuracy now", "points", "95% interval"], rows) + _note(note)


def _notes(report: dict[str, Any]) -> str:
    on = report["calibrated_on"]
    notes = [f"Calibrated, and compared stage by stage, on {on['what']}, {on['questions']} questions."]
    kinds = {one["new"]["precision"] for one in report["files"]}
    if "fp16" in kinds:
        notes.append(
            "fp16 graphs are for GPUs. Their numbers were checked on this CPU; they were not run on a GPU here."
        )
    if any("int8" in kind or "int4" in kind for kind in kinds):
        notes.append("int8 and int4 graphs hold onnxruntime's CPU kernels; on a GPU take fp16.")
    return "".join(_note(note) for note in notes)


def _table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{text(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _note(words: str) -> str:
    return f'<p class="note">{text(words)}</p>'
