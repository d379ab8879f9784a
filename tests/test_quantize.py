"""`tam-edge quantize` as a whole, on the bundle that ships and on a tiny one."""

import hashlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_bundle import make_tiny_bundle
from typer.testing import CliRunner

import tam_edge.quant.quantise as pipeline
from tam_edge.apps.exits import ending
from tam_edge.quant.bundle import building
from tam_edge.quant.cli import quantize
from tam_edge.quant.quantise import quantise
from tam_edge.quant.report import report_html, write_report
from tam_edge.quant.request import Request
from tam_edge.runtime import VideoQA, load_bundle
from tam_edge.runtime.bundle import default_bundle_path
from tam_edge.runtime.errors import MemoryLimitError, TamEdgeError, UsageError, VideoError

SAMPLE = default_bundle_path().parent / "street" / "sample.mp4"
QUESTION = "how many people?"


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def asked(bundle, out, *options):
    import typer

    app = typer.Typer()
    app.command()(quantize)
    arguments = [str(bundle), "--out", str(out), "--threads", "1", "--calibrate", str(SAMPLE), *map(str, options)]
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The shipped bundle in few bits: one frame-poor question, so that it takes seconds."""
    folder = tmp_path_factory.mktemp("quantize")
    before = hashes(default_bundle_path())
    options = ["--vision", "int8", "--experts", "int4", "--language", "Q4_K_M", "--error-most", "0.06"]
    result = asked(
        default_bundle_path(), folder / "B2", *options, "--ask", QUESTION, "--report", folder / "r.html", "--json"
    )
    assert result.exit_code == 0, result.output
    assert hashes(default_bundle_path()) == before
    return folder, json.loads(result.stdout)


def test_the_new_bundle_is_smaller_and_answers_alike(whole):
    folder, report = whole
    bundle = load_bundle(folder / "B2", verify=True)
    files = {path.name for path in (folder / "B2").iterdir()}
    assert {spec.file for spec in bundle.manifest.files().values()} | {"manifest.json"} == files
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    assert bundle.manifest.name == "tallva-nano+int8+experts-int4+Q4_K_M"
    assert bundle.manifest.language.engines[0].precision == "Q4_K_M"
    old, new = (
        sum(path.stat().st_size for path in place.iterdir() if not path.name.startswith("inductor"))
        for place in (default_bundle_path(), folder / "B2")
    )
    assert old / new > 2 and report["size"]["smaller"] > 1.4  # the Inductor is in 8 bits as it is
    assert report["agreement"]["questions"] == 1
    with VideoQA.load(folder / "B2", threads=1, device="cpu") as new:
        said = new.ask(new.open(SAMPLE), QUESTION).text
    assert said.isdigit()
    parity = bundle.manifest.parity
    assert "vision_max_abs_error" not in parity and "inductor_max_abs_error" in parity
    assert parity["quantised_encoder_siglip_error"] <= 0.06


def test_the_report_says_where_the_error_comes_from(whole):
    _, report = whole
    detail = report["details"]["encoder siglip"]
    assert detail["error"] <= detail["error_most"] == 0.06
    assert detail["raised"]  # int4 experts alone are above it
    for stage in detail["stages"]:
        kinds = set(stage["bits"].values())
        assert kinds <= {4, 8, 32}
        assert (stage["added"] > 0) == (bool(kinds - {32}))
        if "experts" in stage["bits"]:
            assert 0 <= stage["tokens_sent_elsewhere"] < 0.2
    assert report["stages"]["vision"] == pytest.approx(detail["error"], rel=0.5)
    assert report["stages"]["strategy"] == 0  # projectors were not asked for
    assert 0 < report["stages"]["language"]["divergence_nats"] < 0.2
    assert report["details"]["language"]["with_imatrix"]
    assert {"Q4_K", "Q6_K"} == set(report["details"]["language"]["types"])
    assert all(report["speed"][key]["old"] > 0 for key in report["speed"] if key.endswith(("frame", "second")))


def test_the_page_is_one_file_with_pictures_and_the_same_figures(whole):
    folder, report = whole
    page = (folder / "r.html").read_text(encoding="utf-8")
    assert page == report_html(report)
    assert page.count("<svg") == 2
    assert not re.search(r"""(src|href)=["']?http|<script""", page)
    assert json.loads(_unescaped(page)) == report


def _unescaped(page):
    from html import unescape

    return unescape(page.rpartition("<pre>")[2].partition("</pre>")[0])


def test_text_from_outside_cannot_become_markup(whole):
    _, report = whole
    evil = json.loads(json.dumps(report))
    evil["agreement"]["apart"] = [{"video": "<b>", "question": "<script>x</script>", "old": "a", "new": "b"}]
    evil["bundle"]["name"] = "<img src=x>"
    page = report_html(evil)
    assert "<script" not in page and "<img" not in page


def test_a_file_name_that_is_no_text_does_not_stop_the_report(whole, tmp_path):
    _, report = whole
    odd = json.loads(json.dumps(report))
    odd["agreement"]["apart"] = [{"video": "\udcff\x1b[2J.mp4", "question": "q", "old": "a", "new": "b"}]
    write_report(odd, tmp_path / "r.html")
    assert "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[2J.mp4" in (tmp_path / "r.html").read_text("utf-8")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    def in_f32(manifest):
        manifest["language"]["engines"][0]["precision"] = "f32"

    return make_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle", change=in_f32)


def tried(tiny, out, **options):
    request = {"bundle": tiny, "out": out, "calibrate": (SAMPLE,), "ask": (QUESTION,), **options}
    return quantise(Request(**request))


def test_only_what_is_asked_for_changes(tiny, tmp_path):
    report = tried(tiny, tmp_path / "B2", experts="int8", language="Q8_0")
    new, old = load_bundle(tmp_path / "B2").manifest, load_bundle(tiny).manifest
    assert new.encoders["eye"].engines[0].precision == "experts int8"
    assert new.projectors == old.projectors and new.inductor == old.inductor and new.routing == old.routing
    assert report["details"]["encoder eye"]["stages"][0]["bits"] == {"experts": 8}
    assert not report["details"]["language"]["with_imatrix"]  # 8 bits need none


def test_the_source_is_not_touched_where_a_new_file_has_the_name_of_one_of_its_own(tmp_path):
    """Such as a bundle that holds f16 and Q8_0 and becomes Q8_0 alone, or one whose names say what they are."""

    def add_engine(manifest):
        first = manifest["language"]["engines"][0]
        first["precision"] = "f32"
        names = ("encoder.onnx", "language-q8_0.gguf"), ("language.gguf", "encoder-experts-int8.onnx")
        for have, name in names:
            (tmp_path / "bundle" / name).write_bytes((tmp_path / "bundle" / have).read_bytes())
        spec = first | manifest["encoders"]["eye"]["engines"][0] | {"file": "language-q8_0.gguf", "backend": "gguf"}
        manifest["language"]["engines"].append(spec)
        other = manifest["encoders"]["eye"]["engines"][0] | {key: first[key] for key in ("sha256", "size_bytes")}
        manifest["encoders"]["eye"]["engines"].append(other | {"file": "encoder-experts-int8.onnx"})

    bundle = make_tiny_bundle(tmp_path / "bundle", change=add_engine)
    before = hashes(bundle)
    report = tried(bundle, tmp_path / "B2", experts="int8", language="Q8_0")
    assert hashes(bundle) == before
    names = {one["new"]["file"] for one in report["files"]}
    assert {"language-q8_0.gguf", "encoder-experts-int8.onnx"} <= names
    load_bundle(tmp_path / "B2", verify=True)


def test_the_types_are_chosen_for_a_device(tiny, tmp_path):
    """Projectors of 768 numbers have nothing to make smaller, so they are no choice."""
    report = tried(tiny, tmp_path / "B2", target_bytes=2**33)
    kinds = report["target"]["kinds"]
    assert kinds == {"vision": "as it is", "language": "as it is", "projectors": "as it is"}
    options = {(one["part"], one["kind"]): one for one in report["target"]["options"]}
    assert ("vision", "int4") in options and ("projectors", "int8") not in options
    assert options["language", "Q4_0"]["error"] > options["language", "Q8_0"]["error"] > 0
    with pytest.raises(MemoryLimitError, match="is too small"):
        tried(tiny, tmp_path / "B3", target_bytes=2**28)
    assert [path.name for path in tmp_path.iterdir()] == ["B2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vision": "int3"}, "--vision 'int3' is unknown: choose one of fp16, int8, int8-static, int4"),
        ({"language": "Q4_K_X"}, "--language 'Q4_K_X' is unknown"),
        ({}, "nothing to do"),
        ({"vision": "fp16", "experts": "int8"}, "leave --experts out"),
        ({"language": "Q8_0", "error_most": 0.0}, "--error-most 0"),
        ({"language": "Q8_0", "videos": 1, "seed": 5}, "seeds below"),
        ({"language": "Q4_0", "imatrix": Path("no.dat")}, "--imatrix no.dat is not there"),
        ({"language": "Q8_0", "report": Path("/no/such/r.html")}, "cannot write /no/such/r.html"),
        ({"language": "Q8_0", "calibrate": (Path("none.mp4"),)}, "none.mp4 is not there"),
        ({"language": "Q8_0", "compare": (Path("none.mp4"),)}, "none.mp4 is not there"),
        ({"language": "Q8_0", "report": SAMPLE}, "sample.mp4 is one of the files that are read"),
        ({"language": "Q4_0", "imatrix": Path(__file__)}, "is no imatrix in GGUF format"),
        ({"projectors": "int8"}, "nothing to make smaller"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(tiny, tmp_path, options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        tried(tiny, tmp_path / "B2", **options)
    assert not list(tmp_path.iterdir())


def test_what_is_found_at_the_end_is_looked_for_first(tiny, tmp_path):
    """A report that would take a file of a bundle away; a video to compare on that is none."""
    with pytest.raises(UsageError, match="lies in the bundle"):
        tried(tiny, tmp_path / "B2", language="Q8_0", report=tiny / "manifest.json")
    make_tiny_bundle(tmp_path / "B2", seed=9)
    before = hashes(tmp_path / "B2")
    with pytest.raises(UsageError, match="lies in the bundle"):
        tried(tiny, tmp_path / "B2", language="Q8_0", report=tmp_path / "B2" / "r.html")
    with pytest.raises(VideoError, match="is no video or image that can be read"):
        tried(tiny, tmp_path / "B2", language="Q8_0", compare=(Path(__file__),))
    assert hashes(tmp_path / "B2") == before


def test_the_place_must_be_free_or_a_bundle_and_not_the_source(tiny, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file.txt").write_text("mine")
    source = load_bundle(tiny)
    for out, message in (
        (tmp_path / "mine", "is no bundle"),
        (tiny, "is the bundle that is read"),
        (tiny / "in", "lies in it"),
    ):
        with pytest.raises(UsageError, match=message), building(source, out):
            pass
    assert (tmp_path / "mine" / "file.txt").read_text() == "mine"


def test_a_bundle_that_was_rounded_already_is_refused(tmp_path):
    def rounded(manifest):
        manifest["language"]["engines"][0]["precision"] = "Q8_0"
        manifest["encoders"]["eye"]["engines"][0]["precision"] = "int8"

    bundle = make_tiny_bundle(tmp_path / "bundle", change=rounded)
    for options, message in (
        ({"language": "Q4_0"}, "needs a GGUF in f16"),
        ({"vision": "int8"}, "needs an ONNX graph"),
    ):
        with pytest.raises(UsageError, match=message):
            tried(bundle, tmp_path / "B2", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_end_half_way_leaves_the_older_bundle_and_nothing_else(tiny, tmp_path, monkeypatch, error):
    make_tiny_bundle(tmp_path / "B2", seed=9)
    before = hashes(tmp_path / "B2")

    def interrupted(*_, **__):
        raise error

    monkeypatch.setattr(pipeline, "compare_speed", interrupted)  # the last step before the bundle is moved
    with pytest.raises(error):
        tried(tiny, tmp_path / "B2", language="Q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["B2"]
    assert hashes(tmp_path / "B2") == before


FULL_DISK = """
import resource, sys
from pathlib import Path
from tam_edge.quant.bundle import building
from tam_edge.runtime.bundle import load_bundle
source = load_bundle(sys.argv[1])
try:
    with building(source, Path(sys.argv[2])) as folder:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        (folder / "weights.onnx").write_bytes(b"x" * 40_000)
except Exception as error:
    print(type(error).__name__, error)
"""
"""Writes more than a limit on file sizes allows, which fails as a full disk does."""


def test_a_full_disk_is_one_line_and_leaves_nothing(tiny, tmp_path):
    child = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tiny, tmp_path / "B2"], capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )  # fmt: skip
    assert child.stdout.startswith(f"TamEdgeError cannot write {tmp_path}/B2: File too large; make room"), child.stderr
    assert not list(tmp_path.iterdir())


def test_errors_end_as_one_line_of_the_command(tiny, tmp_path):
    result = asked(tiny, tmp_path / "B2", "--projectors", "int8")
    assert isinstance(result.exception, TamEdgeError)
    end = ending(result.exception, "tam-edge quantize")
    assert end is not None and end.code == 2
    assert "\n" not in end.line and end.line.startswith("tam-edge quantize: ")
