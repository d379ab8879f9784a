"""`tam-edge tune`: the bundled language model learns on; nothing else of its bundle changes."""

import hashlib
import json
import shutil

import pytest
import torch
from command import call
from tiny_bundle import make_tiny_bundle

from tam_edge.export.answers import SceneVideo
from tam_edge.export.bundle_eye import BundleEye
from tam_edge.export.language_reader import read_language
from tam_edge.export.tune import tune_bundle
from tam_edge.export.tuning import learned
from tam_edge.models.recipe import features
from tam_edge.models.recipe.features import view_of, view_pixels
from tam_edge.models.street import make_scene
from tam_edge.runtime import UsageError, VideoQA, load_bundle
from tam_edge.runtime.bundle import default_bundle_path

BUNDLED = default_bundle_path()
LENGTH = {"steps": 2, "shards": 1, "questions": 2}


def stopped_after(step):
    """A progress line that ends a tuning, as Ctrl-C would."""

    def line(what):
        if what.startswith(step):
            raise KeyboardInterrupt

    return line


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A run of two steps on a few scenes, stopped in between, and its bundle."""
    folder = tmp_path_factory.mktemp("tune")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(features, "SCENES_PER_SHARD", 3)
        with pytest.raises(KeyboardInterrupt):
            tune_bundle(BUNDLED, folder / "run", folder / "new", **LENGTH, progress=stopped_after("writing"))
        assert [path.name for path in folder.iterdir()] == ["run"]
        filmed = (folder / "run" / "features" / "0000.safetensors").stat().st_mtime_ns
        bundle = tune_bundle(BUNDLED, folder / "run", folder / "new", **LENGTH)
        assert (folder / "run" / "features" / "0000.safetensors").stat().st_mtime_ns == filmed
    return folder / "run", bundle


def hashes(bundle):
    return {field: spec.sha256 for field, spec in bundle.manifest.files().items()}


def test_only_the_language_model_differs(tuned):
    _, bundle = tuned
    before, after = hashes(load_bundle(BUNDLED)), hashes(bundle)
    assert before.keys() == after.keys()
    changed = {field for field, value in after.items() if value != before[field]}
    assert changed == {f"language.engines.{index}" for index in range(len(bundle.manifest.language.engines))}


def test_the_bundle_holds_what_was_learned(tuned):
    run, bundle = tuned
    in_file = read_language(bundle.file(bundle.manifest.language.engines[0])).state_dict()
    first = read_language(load_bundle(BUNDLED).file("language-f16.gguf"))
    before = {key: value.clone() for key, value in first.state_dict().items()}
    for key, value in learned(run, first).state_dict().items():
        rounded = value.half().float() if value.ndim > 1 else value
        assert torch.equal(rounded, in_file[key])
    assert any(not torch.equal(value, in_file[key]) for key, value in before.items())


def test_the_manifest_says_so(tuned):
    _, bundle = tuned
    manifest, before = bundle.manifest, load_bundle(BUNDLED).manifest
    assert {key: manifest.training[key] for key in before.training} == before.training
    assert {"tuning_seed": 0, "tuning_steps": 2, "tuning_shards": 1}.items() <= manifest.training.items()
    assert (manifest.parity["language_questions"], manifest.parity["language_answers_differ"]) == (2, 0)
    assert manifest.parity["vision_max_abs_error"] == before.parity["vision_max_abs_error"]
    assert all(engine.peak_bytes > 0 for engine in manifest.language.engines)


def test_frames_are_seen_alike_however_many_come_at_once():
    view = view_of(7, "more")
    bundle = load_bundle(BUNDLED)
    pixels, times = view_pixels(view, "more"), torch.tensor(view.time_fractions)
    eye = BundleEye(bundle, 1)
    whole = eye(pixels, view.grid, times)
    assert whole.shape == (len(view.times) * view.grid**2, bundle.manifest.language.embedding_width)
    few = eye(pixels[:3], view.grid, times[:3])
    torch.testing.assert_close(whole[: len(few)], few, atol=1e-4, rtol=0)


def test_it_answers(tuned):
    _, bundle = tuned
    with VideoQA.load(bundle.path, threads=1) as qa:
        assert qa.ask(SceneVideo(make_scene(990_001)), "how many people are there?").text


def test_another_length_needs_another_run(tuned, tmp_path):
    run, _ = tuned
    with pytest.raises(UsageError, match="begun with another bundle, seed or length"):
        tune_bundle(BUNDLED, run, tmp_path / "new", **(LENGTH | {"steps": 3}))
    assert not (tmp_path / "new").exists()


def quantised(folder):
    """The bundled model with its 8-bit language model alone."""
    manifest = json.loads((BUNDLED / "manifest.json").read_text())
    manifest["language"]["engines"] = manifest["language"]["engines"][1:]
    shutil.copytree(BUNDLED, folder, dirs_exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def cut_short(folder):
    """The bundled model with a language model whose end is missing, and a manifest that says it is so."""
    quantised(folder)
    manifest = json.loads((BUNDLED / "manifest.json").read_text())
    engine = manifest["language"]["engines"][0]
    data = (BUNDLED / engine["file"]).read_bytes()[:100_000]
    (folder / engine["file"]).write_bytes(data)
    engine |= {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (quantised, "only f16 and f32 can learn on, so tune, then quantise"),
        (cut_short, "cannot be read as GGUF"),
        (make_tiny_bundle, "only its own bundles can be tuned"),
        (lambda folder: folder, "manifest.json"),
    ],
)
def test_what_cannot_be_tuned_gets_one_line(make, said, tmp_path):
    (tmp_path / "bundle").mkdir()
    bundle = make(tmp_path / "bundle")
    done = call("tune", str(bundle), "--run", str(tmp_path / "run"), "--out", str(tmp_path / "new"), "--steps", "2")
    assert done.code in (1, 2)
    assert done.out == ""
    assert done.err.count("\n") == 1 and said in done.err
    assert not (tmp_path / "new").exists() and not (tmp_path / "run").exists()


def test_the_bundle_itself_is_no_place(tmp_path):
    done = call("tune", str(BUNDLED), "--run", str(tmp_path / "run"), "--out", str(BUNDLED), "--steps", "2")
    assert (done.code, done.out) == (2, "")
    assert "is the bundle that is read" in done.err
