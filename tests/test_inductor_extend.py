"""A ninth task type for a bundle: recognised by the runtime, the old ones kept, no other file touched."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from command import call
from tiny_base import make_bert, make_run
from tiny_bundle import engine as engine_entry
from tiny_bundle import file_spec, make_tiny_bundle

from tam_edge.export.extend import extend_bundle
from tam_edge.export.extension_data import check_counts, read_questions, rehearsal, split
from tam_edge.export.extension_fit import fit_row
from tam_edge.export.inductor import export_inductor
from tam_edge.models.inductor import TASKS
from tam_edge.models.inductor_questions import DATA, question_key, read_labelled
from tam_edge.runtime import VideoQA, load_bundle
from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.errors import UsageError
from tam_edge.runtime.parts import Parts
from tam_edge.runtime.routing import TAM_ROUTING, TaskRule

TRAIN, TEST = DATA / "very_long_video_train.jsonl", DATA / "very_long_video_test.jsonl"
RULE = TaskRule(name="very-long-video", title="Very Long Video", group="more", asks="about hours of video")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A tiny bundle with an Inductor that `export` wrote."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")
    run = tmp_path_factory.mktemp("run")
    make_run(run, make_bert(tmp_path_factory.mktemp("base")))
    export_inductor(run, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["inductor"] = {
        "engines": [{**engine_entry(folder, "inductor.onnx"), "precision": "int8"}],
        "tokenizer": file_spec(folder, "inductor-tokenizer.json"),
        "tasks": list(TASKS),
        "max_tokens": 40,
        "temperature": 1.25,
    }
    manifest["routing"]["tasks"] = [rule.model_dump() for rule in TAM_ROUTING.tasks]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "NOTICE").write_text("not in the manifest")
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def extended(bundle, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "nine"
    train, test = read_questions(TRAIN, "--data"), read_questions(TEST, "--test")
    return out, extend_bundle(bundle, out, RULE, train, test)


def logits(folder, texts):
    with_parts = Parts(load_bundle(folder), threads=1, device="cpu")
    try:
        return with_parts.inductor().classify(texts)
    finally:
        with_parts.close()


def test_most_unseen_questions_of_the_new_type_are_found_and_the_old_types_kept(extended):
    _, said = extended
    assert (said.task, said.trained_questions, said.test_questions) == ("very-long-video", 680, 104)
    assert said.accuracy - said.old_taken > 0.4  # a random body; the shipped one's figures are in the README
    assert said.old_questions == 480
    assert said.old_accuracy_before - said.old_accuracy_after <= said.old_taken
    assert set(said.old_per_task) == set(TASKS)
    assert said.seconds < 600


def test_the_figures_are_what_the_runtime_does(bundle, extended):
    out, said = extended
    test = read_questions(TEST, "--test")
    estimates = logits(out, test)
    assert np.mean([one.task == RULE.name for one in estimates]) == pytest.approx(said.accuracy, abs=0.02)
    assert all(sum(one.probabilities.values()) == pytest.approx(1) for one in estimates)
    asked = [one.text for one in read_labelled(None)[::5]]
    for before, after in zip(logits(bundle, asked), logits(out, asked), strict=True):
        rest = {name: value for name, value in after.probabilities.items() if name != RULE.name}
        total = sum(rest.values())
        for name, value in before.probabilities.items():
            assert rest[name] / total == pytest.approx(value, abs=1e-6)  # the old types' logits are the same


def test_every_other_file_is_the_same_byte_for_byte(bundle, extended):
    out, _ = extended
    names = {path.name for path in bundle.iterdir()}
    assert {path.name for path in out.iterdir()} == names
    differ = {name for name in names if (out / name).read_bytes() != (bundle / name).read_bytes()}
    assert differ == {"inductor.onnx", "manifest.json"}
    assert [path.name for path in out.parent.iterdir()] == ["nine"]


def test_the_manifest_differs_where_it_must(bundle, extended):
    before, after = load_bundle(bundle).manifest, load_bundle(extended[0], verify=True).manifest
    assert after.inductor.tasks == (*TASKS, RULE.name)
    assert after.routing.tasks == (*before.routing.tasks, RULE)
    assert after.inductor.engines[0].precision == "int8"
    same = {"inductor": before.inductor, "routing": before.routing}
    assert after.model_copy(update=same) == before
    assert after.routing.model_copy(update={"tasks": before.routing.tasks}) == before.routing


def test_a_plan_follows_the_new_types_row(extended):
    with VideoQA.load(extended[0], threads=1) as qa:
        assert qa.bundle.manifest.routing.rule(RULE.name).group == "more"


def test_a_tenth_type_can_follow(extended, tmp_path):
    train = tuple(
        f"please count the {colour} marbles in jar {n}" for n in range(12) for colour in ("red", "blue", "old")
    )
    train += tuple(f"jar {n}: marbles of glass, their number" for n in range(20))
    said = extend_bundle(
        extended[0], tmp_path / "ten", TaskRule(name="marbles", title="M", group="high"), train, ("marbles in my jar",)
    )
    assert load_bundle(tmp_path / "ten").manifest.inductor.tasks == (*TASKS, RULE.name, "marbles")
    assert said.old_taken < 0.5
    names = [one.name for one in onnx.load(tmp_path / "ten" / "inductor.onnx").graph.output]
    assert names == ["logits", "features"]
    engine = OnnxEngine(tmp_path / "ten" / "inductor.onnx", threads=1, device="cpu")
    ids = np.full((2, 5), 9)
    assert engine.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})[0].shape == (2, 10)
    engine.close()


def test_the_command_writes_the_bundle_and_reports(bundle, tmp_path):
    out = tmp_path / "b2"
    told = call(
        *("inductor", "extend", "--bundle", bundle, "--task", "very-long-video", "--data", TRAIN, "--test", TEST),
        *("--group", "more", "--out", out, "--json"),
    )
    assert told.code == 0, told.err
    report = json.loads(told.out)
    assert (report["task"], report["test_questions"], report["schema_version"]) == ("very-long-video", 104, 1)
    rule = load_bundle(out).manifest.routing.rule("very-long-video")
    assert (rule.title, rule.group) == ("Very Long Video", "more")
    again = call("inductor", "extend", "--bundle", out, "--task", "very-long-video", "--data", TRAIN, "--out", out)
    assert again.code == 2
    assert "knows the task type 'very-long-video' already" in again.err


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["not json"], "line 1 is no JSON"),
        (['{"question": "how many hours"}', '{"text": "why"}'], "line 2 has no question"),
        (['["why"]'], "line 1 has no question"),
        (['{"question": "  "}'], "line 1: the question is empty"),
        ([json.dumps({"question": "x" * 5000})], "line 1: the question has 5,000 characters"),
        ([json.dumps({"question": f"hour {n % 7}"}) for n in range(300)], "7 distinct questions of the new type"),
    ],
)
def test_bad_questions_are_named(bundle, tmp_path, lines, said):
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    told = call(
        *("inductor", "extend", "--bundle", bundle, "--task", "t", "--data", tmp_path / "q.jsonl", "--test", TEST),
        *("--out", tmp_path / "out"),
    )
    assert (told.code, told.out) == (2, "")
    assert said in told.err
    assert told.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_mistakes_are_named(bundle, tmp_path):
    train = read_questions(TRAIN, "--data")
    with pytest.raises(UsageError, match=r"--data .*nowhere cannot be read: No such file"):
        read_questions(tmp_path / "nowhere", "--data")
    (tmp_path / "latin").write_bytes(b'{"question": "wo f\xfchrt es hin"}')
    with pytest.raises(UsageError, match="it is no UTF-8 text"):
        read_questions(tmp_path / "latin", "--data")
    with pytest.raises(UsageError, match="is also trained on"):
        check_counts(train, (train[3].upper() + "?",))
    with pytest.raises(UsageError, match="no questions to measure on"):
        check_counts(train, ())
    with pytest.raises(UsageError, match="is there and is no bundle"):
        extend_bundle(bundle, tmp_path, RULE, train, ("x",))
    with pytest.raises(UsageError, match="is the bundle that is read"):
        extend_bundle(bundle, bundle, RULE, train, ("x",))


def test_an_inductor_without_features_is_named(bundle, tmp_path):
    shutil.copytree(make_tiny_bundle(tmp_path / "plain"), tmp_path / "copy")
    with pytest.raises(UsageError, match="gives no features"):
        extend_bundle(tmp_path / "copy", tmp_path / "out", RULE, ("a",), ("b",))
    assert not (tmp_path / "out").exists()


def test_a_fifth_is_kept_to_measure_on_where_no_test_file_is_given():
    questions = read_questions(TRAIN, "--data")
    train, test = split(questions)
    assert sorted(train + test) == sorted(questions)
    assert 0.12 < len(test) / len(questions) < 0.28


def test_test_questions_share_no_template_with_the_training():
    train = [set(question_key(text)) for text in read_questions(TRAIN, "--data")]
    for text in read_questions(TEST, "--test"):
        words = set(question_key(text))
        assert max(len(words & one) / len(words | one) for one in train) < 0.5, text


def test_what_is_rehearsed_is_not_measured_on():
    old = rehearsal(TASKS)
    measured = {question_key(one.text) for one in old.test}
    assert len(old.test) == 480
    assert not measured & {question_key(text) for text in old.train}
    assert {one.task for one in rehearsal(TASKS[:3]).test} == {1, 2, 3}


def test_the_row_speaks_on_the_old_types_scale():
    rng = np.random.default_rng(0)
    old_features, new_features = rng.normal(size=(800, 6)), rng.normal(size=(200, 6)) + np.r_[5.0, np.zeros(5)]
    old_logits, new_logits = rng.normal(size=(800, 8)) * 4, rng.normal(size=(200, 8))
    row = fit_row((new_logits, new_features), (old_logits, old_features), 2.0)
    assert row.weight[0] > 4 * np.abs(row.weight[1:]).max()
    new, old = (features @ row.weight + row.bias for features in (new_features, old_features))
    assert (new > new_logits.max(axis=1)).mean() > 0.9
    assert (old > old_logits.max(axis=1)).mean() < 0.02
    # another temperature is another scale of all logits, the new one's too
    twice = fit_row((2 * new_logits, new_features), (2 * old_logits, old_features), 4.0)
    np.testing.assert_allclose(twice.weight, 2 * row.weight, rtol=1e-3, atol=1e-4)
