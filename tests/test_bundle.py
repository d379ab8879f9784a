"""A bundle that lies is refused at load, by the name of the field; one that does not is hashed once."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_bundle import make_tiny_bundle

from tam_edge.runtime.bundle import MANIFEST_LIMIT_BYTES, Bundle, default_bundle_path, load_bundle
from tam_edge.runtime.errors import BundleError

NOBODY = 65534


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("made") / "tiny")


@pytest.fixture
def folder(made_once, tmp_path, monkeypatch):
    """A fresh copy, and a cache folder that knows nothing of it."""
    monkeypatch.setenv("TAM_EDGE_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(made_once, tmp_path / "tiny"))


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def edit(folder, path, value):
    """Set, or with `...` delete, one entry of the manifest by its dotted path."""
    manifest = manifest_of(folder)
    *parents, last = path.split(".")
    entry = manifest
    for key in parents:
        entry = entry[int(key) if isinstance(entry, list) else key]
    last = int(last) if isinstance(entry, list) else last
    if value is ...:
        del entry[last]
    else:
        entry[last] = value
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refused(folder, **options):
    with pytest.raises(BundleError) as caught:
        load_bundle(folder, **options)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return caught.value


def snapshot(folder):
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def change_byte(path):
    """Change one byte and nothing else that `stat` shows."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


# --- a good bundle ---


def test_a_good_bundle_loads_and_stays_as_it_was(folder):
    before = snapshot(folder)
    bundle = load_bundle(str(folder))
    assert bundle.path == folder.resolve()
    assert bundle.manifest.name == "tiny"
    assert bundle.file(bundle.manifest.inductor.engines[0]) == folder.resolve() / "inductor.onnx"
    assert bundle.file("manifest.json").is_file()
    assert snapshot(folder) == before


def test_a_bundle_may_be_read_only(folder):
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    try:
        assert load_bundle(folder).manifest.name == "tiny"
    finally:
        folder.chmod(0o755)


def test_the_fingerprint_follows_the_content_and_not_the_place(folder, tmp_path):
    first = load_bundle(folder).fingerprint
    assert load_bundle(shutil.copytree(folder, tmp_path / "copy")).fingerprint == first
    edit(folder, "version", "2")
    assert load_bundle(folder).fingerprint != first


def test_the_embedded_bundle_is_found_without_importing_its_package():
    code = (
        "import sys; from tam_edge.runtime.bundle import default_bundle_path as p; print(p()); "
        "assert 'tam_edge.models' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert Path(run.stdout.strip()) == default_bundle_path()
    assert default_bundle_path().name == "tallva-nano"
    assert load_bundle(default_bundle_path()).manifest.name == "tallva-nano"


# --- lies within the manifest ---

LIES = {
    "unknown version": ("schema_version", 2, "schema_version", "should be 1"),
    "unknown field": ("colour", "red", "colour", "Extra inputs"),
    "missing field": ("license", ..., "license", "Field required"),
    "text for a number": ("encoders.eye.width", "24", "encoders.eye.width", "valid integer"),
    "no engine": ("inductor.engines", [], "inductor.engines", "at least 1 item"),
    "unknown backend": ("inductor.engines.0.backend", "pickle", "inductor.engines.0.backend", "'onnx'"),
    "path above": ("inductor.engines.0.file", "../x.onnx", "inductor.engines.0.file", "inside the bundle folder"),
    "absolute path": ("language.tokenizer.file", "/etc/passwd", "language.tokenizer.file", "inside the bundle folder"),
    "bad template": ("prompt.metadata", "{duration}", "prompt.metadata", "unknown field {duration}"),
    "grid without projector": ("projectors.3", ..., "projectors.3", "has no projector"),
    "expert mismatch": ("projectors.3.expert", 3, "projectors.3.expert", "is 3, the ladder says 2"),
    "grid off the ladder": ("routing.high_grid_long", 7, "routing.high_grid_long", "grid 7 is not on the ladder"),
    "ladder upside down": ("routing.ladder.0.grid", 1, "routing.ladder", "grid 3 must be smaller"),
    "finer grid for less": ("routing.ladder.2.tokens_per_frame", 9, "routing.ladder", "smaller and cheaper"),
    "too few tokens a frame": ("routing.ladder.2.tokens_per_frame", 3, "routing.ladder", "is at least 4 tokens"),
    "grid finer than the eye": ("encoders.eye.image_px", 21, "encoders.eye.grid_side", "patches of 7 px are 3"),
    "task without rule": ("routing.tasks.5", ..., "routing.tasks", "no rule for the Inductor's task 'summary'"),
    "rule without task": ("inductor.tasks.5", ..., "inductor.tasks", "the rule 'summary' is not among"),
    "task twice": ("inductor.tasks.0", "summary", "inductor.tasks", "'summary' is there 2 times"),
    "rule twice": ("routing.tasks.0.name", "summary", "routing.tasks", "'summary' is there 2 times"),
    "row without words": ("routing.phrases.more", ..., "routing.phrases", "no words for the row 'more'"),
    "strategy without encoder": ("strategies.0.encoders.0", "ear", "strategies.0.encoders", "no encoder 'ear'"),
    "no strategy": ("strategies", [], "strategies", "at least 1 item"),
    "no room": ("language.context", 419, "language.context", "leaves room for 3 visual tokens"),
    "wrong hash": ("projectors.2.engines.0.sha256", "0" * 64, "projectors.2.engines.0.sha256", "another file"),
    "wrong size": ("language.tokenizer.size_bytes", 7, "language.tokenizer.size_bytes", "bytes, not 7"),
    "missing file": ("encoders.eye.engines.0.file", "no.onnx", "encoders.eye.engines.0.file", "'no.onnx' is missing"),
    "folder as file": ("encoders.eye.engines.0.file", ".", "encoders.eye.engines.0.file", "not a regular file"),
    "endless name": (
        "encoders.eye.engines.0.file",
        "x" * 400,
        "encoders.eye.engines.0.file",
        "cannot be reached: File name too long",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_by_the_name_of_its_field(folder, lie):
    path, value, field, said = LIES[lie]
    edit(folder, path, value)
    error = refused(folder)
    assert error.field == field
    assert said in str(error)


def test_a_context_with_room_for_exactly_one_frame_is_enough(folder):
    edit(folder, "language.context", 420)  # 16 for the answer, 400 for text, 4 for a frame at grid 2
    assert load_bundle(folder).manifest.context_visual_tokens == 4


def test_two_strategies_of_one_name_are_refused(folder):
    edit(folder, "strategies", manifest_of(folder)["strategies"] * 2)
    assert refused(folder).field == "strategies"


def test_a_ladder_finer_than_any_encoder_is_refused(folder):
    manifest = manifest_of(folder)
    manifest["routing"]["ladder"].insert(0, {"grid": 5, "expert": 9, "tokens_per_frame": 25})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    error = refused(folder)
    assert (error.field, "grid 5 is finer than any encoder's 4" in str(error)) == ("routing.ladder", True)


# --- lies on the disk ---


def test_a_changed_byte_is_found_and_its_file_named(folder):
    change_byte(folder / "language.gguf")
    error = refused(folder)
    assert error.field == "language.engines.0.sha256"
    assert "'language.gguf' is damaged" in str(error)


def test_a_link_that_leads_outside_is_refused_and_one_that_stays_is_not(folder, tmp_path):
    target = tmp_path / "elsewhere.onnx"
    (folder / "inductor.onnx").rename(target)
    (folder / "inductor.onnx").symlink_to(target)
    assert "outside the bundle folder" in str(refused(folder))
    (folder / "inductor.onnx").unlink()
    target.rename(folder / "renamed.onnx")
    (folder / "inductor.onnx").symlink_to("renamed.onnx")
    assert load_bundle(folder).manifest.name == "tiny"


def test_a_link_to_the_folder_itself_is_fine_and_a_loop_is_refused(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert load_bundle(tmp_path / "link").path == folder.resolve()
    (folder / "inductor.onnx").unlink()
    (folder / "inductor.onnx").symlink_to("inductor.onnx")
    assert refused(folder).field == "inductor.engines.0.file"


def test_a_pipe_is_not_waited_for(folder):
    (folder / "inductor.onnx").unlink()
    os.mkfifo(folder / "inductor.onnx")
    assert "not a regular file" in str(refused(folder))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "no such file"])
def test_a_loaded_bundle_opens_nothing_outside(folder, name):
    with pytest.raises(BundleError):
        load_bundle(folder).file(name)


@contextmanager
def another_user(folder):
    """Become a user who may come this far and no further."""
    if os.geteuid() != 0:
        yield
        return
    parents = [parent for parent in folder.parents if parent.stat().st_uid == 0 and parent.stat().st_mode & 0o077 == 0]
    for parent in parents:
        parent.chmod(0o711)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        for parent in parents:
            parent.chmod(0o700)


@pytest.mark.parametrize(
    ("name", "field"), [("language.gguf", "language.engines.0.file"), ("manifest.json", "manifest.json")]
)
def test_a_file_this_user_may_not_read_is_named(folder, name, field):
    (folder / name).chmod(0)
    with another_user(folder):
        error = refused(folder)
    assert (error.field, "cannot be read" in str(error)) == (field, True)


# --- a manifest that is none ---


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Invalid JSON"),
        (b"{", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[]", "should be an object"),
        (b"null", "should be an object"),
        (b" " * (MANIFEST_LIMIT_BYTES + 1), "larger than"),
    ],
)
def test_a_manifest_that_is_none_is_refused(folder, content, said):
    (folder / "manifest.json").write_bytes(content)
    error = refused(folder)
    assert error.field == "manifest.json"
    assert said in str(error)


@pytest.mark.parametrize("path", ["encoders.eye.width", "prompt.metadata", "inductor.engines.0.file", "w" * 100_000])
def test_a_wrong_value_or_key_as_long_as_the_file_is_not_repeated(folder, path):
    edit(folder, path, "{" + "w" * 100_000 + "}")
    assert path.startswith(refused(folder).field)


def test_a_place_without_a_manifest_is_no_bundle(folder):
    assert "no such folder" in str(refused(folder / "nowhere"))
    assert "no such folder" in str(refused(folder / "manifest.json"))
    assert "no such folder" in str(refused("\0"))
    (folder / "manifest.json").unlink()
    assert "this folder is no bundle" in str(refused(folder))
    (folder / "manifest.json").mkdir()
    assert "cannot be read" in str(refused(folder))


# --- the record of what was hashed ---


def records(tmp_path):
    return list((tmp_path / "cache").rglob("*.json"))


def test_files_are_hashed_once_and_then_compared_by_size_and_time(folder, tmp_path):
    load_bundle(folder)
    assert len(records(tmp_path)) == 1
    change_byte(folder / "language.gguf")
    assert load_bundle(folder).manifest.name == "tiny"
    assert refused(folder, verify=True).field == "language.engines.0.sha256"


def test_a_file_with_another_time_is_hashed_again(folder):
    load_bundle(folder)
    change_byte(folder / "language.gguf")
    os.utime(folder / "language.gguf")
    assert refused(folder).field == "language.engines.0.sha256"


def test_a_record_does_not_outlive_the_hash_it_was_made_for(folder):
    load_bundle(folder)
    edit(folder, "language.engines.0.sha256", "0" * 64)
    assert refused(folder).field == "language.engines.0.sha256"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"language.gguf": 3}', b'{"language.gguf": [1, "x", 2]}', b"\xff"]
)
def test_a_damaged_record_is_written_anew(folder, tmp_path, content):
    load_bundle(folder)
    (record,) = records(tmp_path)
    good = record.read_bytes()
    record.write_bytes(content)
    load_bundle(folder)
    assert record.read_bytes() == good
    assert [path.name for path in record.parent.iterdir()] == [record.name]


def test_a_cache_that_cannot_be_written_costs_only_time(folder, tmp_path, monkeypatch):
    (tmp_path / "a file").touch()
    monkeypatch.setenv("TAM_EDGE_CACHE", str(tmp_path / "a file" / "cache"))
    assert isinstance(load_bundle(folder), Bundle)
    change_byte(folder / "language.gguf")
    assert refused(folder).field == "language.engines.0.sha256"


def test_a_refused_bundle_leaves_no_record(folder, tmp_path):
    change_byte(folder / "language.gguf")
    refused(folder)
    assert records(tmp_path) == []
