"""A trained Inductor in a bundle: the runtime asks it, and no other file differs."""

import json

import pytest
from command import call
from tiny_base import make_bert, make_run
from tiny_bundle import make_tiny_bundle

from tam_edge.export.inductor_put import put_inductor
from tam_edge.models.inductor import TASKS
from tam_edge.runtime import load_bundle
from tam_edge.runtime.errors import BundleError
from tam_edge.runtime.parts import Parts


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, a bundle that knows the paper's task types, and a copy with the run's Inductor."""
    folder, run = tmp_path_factory.mktemp("put"), tmp_path_factory.mktemp("run")
    make_run(run, make_bert(tmp_path_factory.mktemp("base")))
    bundle = make_tiny_bundle(folder / "old")
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "inductor.onnx").rename(bundle / "router.onnx")
    manifest["inductor"]["engines"][0]["file"] = "router.onnx"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    done = call("inductor", "put", "--run", str(run), "--bundle", str(bundle), "--out", str(folder / "new"))
    assert (done.code, done.out) == (0, f"wrote {folder / 'new'}\n")
    return run, bundle, folder / "new"


def test_the_runtime_asks_the_new_one(made):
    run, _, new = made
    loaded = load_bundle(new, verify=True)
    metrics = json.loads((run / "metrics.json").read_text())
    assert loaded.manifest.inductor.temperature == metrics["temperature"]
    assert loaded.manifest.routing.confidence_threshold == metrics["threshold"]
    assert loaded.manifest.inductor.engines[0].memory is not None
    assert loaded.manifest.parity["inductor_labels_differ"] == 0
    parts = Parts(loaded, threads=1, device="cpu")
    try:
        [estimate] = parts.inductor().classify(["how many people?"])
    finally:
        parts.close()
    assert set(estimate.probabilities) == set(TASKS)


def test_no_other_file_differs_and_none_is_left_over(made):
    _, old, new = made
    before, after = load_bundle(old).manifest, load_bundle(new).manifest
    kept = {spec.file for field, spec in before.files().items() if not field.startswith("inductor")}
    assert kept
    for file in kept:
        assert (new / file).read_bytes() == (old / file).read_bytes()
    assert {path.name for path in new.iterdir()} >= {spec.file for spec in after.files().values()}
    gone = {spec.file for spec in before.files().values()} - {spec.file for spec in after.files().values()}
    assert gone and not any((new / file).exists() for file in gone)
    for field in ("encoders", "projectors", "language", "strategies", "prompt"):
        assert getattr(before, field) == getattr(after, field)


def test_mistakes_are_named(made, tmp_path):
    run, bundle, _ = made
    for arguments, said in (
        (["--run", str(tmp_path), "--out", str(tmp_path / "b")], "holds no finished Inductor"),
        (["--run", str(run), "--out", str(bundle)], "is the bundle that is read"),
    ):
        done = call("inductor", "put", "--bundle", str(bundle), *arguments)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert said in done.err


def test_a_bundle_without_a_rule_for_a_task_type_is_named(made, tmp_path):
    run, *_ = made
    other = make_tiny_bundle(tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    for field in ("inductor", "routing"):
        manifest[field]["tasks"].pop()
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"routing\.tasks: no rule for"):
        put_inductor(other, run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
