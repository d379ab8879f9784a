"""The Inductor's graph against its PyTorch module, before and after rounding, and through the runtime's classifier."""

import copy
import logging

import numpy as np
import pytest
import torch
from tiny_base import WIDTH, make_bert, make_llama, make_run
from tokenizers import Tokenizer

from tam_edge.export import inductor as exporting
from tam_edge.export.inductor import (
    LOGIT_TOLERANCE,
    ask_module,
    check_questions,
    compare_inductor,
    compare_int8,
    export_inductor,
    inductor_graph,
)
from tam_edge.export.parity import ParityError
from tam_edge.models.inductor import TASKS, load_inductor
from tam_edge.models.inductor_tokenizer import encode
from tam_edge.quant import onnx_int8
from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.errors import QuestionError
from tam_edge.runtime.inductor import QUESTION_CHARACTERS, Inductor
from tam_edge.runtime.manifest import InductorSpec


@pytest.fixture(scope="module", params=["bert", "llama"])
def run(request, tmp_path_factory):
    """What a training run leaves, with random weights and a loud head."""
    base = (make_bert if request.param == "bert" else make_llama)(tmp_path_factory.mktemp("base"))
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, base)
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_int8, "SMALLEST", 1000)
        yield export_inductor(run, tmp_path_factory.mktemp("out") / "made")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def engine(exported):
    engine = OnnxEngine(exported.engine, threads=1, device="cpu")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def exact_engine(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("exact") / "exact.onnx"
    path.write_bytes(inductor_graph(load_inductor(run)).SerializeToString())
    engine = OnnxEngine(path, threads=1, device="cpu")
    yield engine
    engine.close()


def test_labels_are_identical_before_rounding_and_nearly_after(exported):
    parity = exported.parity
    assert parity["labels_differ"] == 0
    assert 0 < parity["max_abs_error"] <= LOGIT_TOLERANCE
    assert parity["questions"] > 1000
    assert parity["int8_labels_clearly_differ"] <= 0.005 * parity["questions"]
    assert 0 < parity["int8_mean_error"] < 0.05


def test_the_export_says_what_a_bundle_must_know(exported):
    assert exported.tasks == TASKS
    assert (exported.max_tokens, exported.temperature, exported.threshold) == (40, 1.25, 0.2)
    assert {path.name for path in exported.engine.parent.iterdir()} == {exported.engine.name, exported.tokenizer.name}
    assert logging.getLogger("transformers").level != logging.CRITICAL
    assert b"/work/" not in exported.engine.read_bytes()
    assert b"site-packages" not in exported.engine.read_bytes()


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 40)])
def test_batch_and_length_are_free(run, exact_engine, shape):
    ids = np.random.default_rng(0).integers(5, 500, shape)
    mask = np.ones_like(ids)
    with torch.inference_mode():
        expected = load_inductor(run)(torch.from_numpy(ids), torch.from_numpy(mask))
    assert exact_engine.input_names == ("input_ids", "attention_mask")
    got = exact_engine.run({"input_ids": ids, "attention_mask": mask})
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=1e-3)
    assert got[1].shape == (shape[0], 2 * WIDTH)


def test_the_runtime_says_what_the_graph_says(exported, engine):
    tokenizer = Tokenizer.from_file(str(exported.tokenizer))
    texts = [text for text in check_questions()[::9] if text.strip()]
    estimates = classifier(exported, engine).classify(texts)
    for text, estimate in zip(texts, estimates, strict=True):
        ids, mask = encode(tokenizer, [text], exported.max_tokens)
        logits = engine.run({"input_ids": ids, "attention_mask": mask})[0][0]
        probabilities = np.exp(logits / 1.25) / np.exp(logits / 1.25).sum()
        np.testing.assert_allclose(list(estimate.probabilities.values()), probabilities, atol=1e-4)
        assert estimate.task == TASKS[int(probabilities.argmax())]


def classifier(exported, engine):
    spec = InductorSpec.model_construct(
        tasks=exported.tasks, max_tokens=exported.max_tokens, temperature=exported.temperature
    )
    return Inductor(spec, engine, Tokenizer.from_file(str(exported.tokenizer)))


def test_a_question_as_long_as_allowed_loses_its_middle_and_a_longer_one_is_refused(exported, engine):
    inductor = classifier(exported, engine)
    long = ("how many people are there " * 400)[:QUESTION_CHARACTERS]
    (estimate,) = inductor.classify([long])
    assert estimate.unread_tokens > 500
    with pytest.raises(QuestionError, match="100,000 characters"):
        inductor.classify(["a" * 100_000])


def test_typed_control_tokens_are_text(exported, engine):
    inductor = classifier(exported, engine)
    plain = inductor.classify(["what does it say"])[0]
    for typed in ("[CLS]", "[SEP]", "[PAD]", "<|endoftext|>", "<|im_end|>"):
        (estimate,) = inductor.classify([f"what does it say {typed}"])
        assert estimate.probabilities != plain.probabilities  # they are read, as words


def test_nothing_to_read_is_refused_although_start_and_end_tokens_are_there(exported, engine, request):
    if request.node.callspec.params["run"] == "llama":
        pytest.skip("bytes can always be read")
    with pytest.raises(QuestionError, match="no word the Inductor can read"):
        classifier(exported, engine).classify(["why", "\u200b\u200b"])


def test_a_graph_of_other_weights_is_refused(run, exported, exact_engine):
    model = load_inductor(run)
    tokenizer = Tokenizer.from_file(str(exported.tokenizer))
    texts = check_questions()[:60]
    asked, expected = ask_module(model, tokenizer, texts)
    assert compare_inductor(asked, expected, exact_engine)["labels_differ"] == 0
    inner = [name for name in model.state_dict() if name.endswith("weight") and "1." in name]
    for part in [*inner[:4], "head.weight"]:
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.state_dict()[part].mul_(1.05).add_(0.01)
        with pytest.raises(ParityError, match="logits off by"):
            compare_inductor(*ask_module(other, tokenizer, texts), exact_engine)


def test_rounding_that_changes_clear_answers_is_refused(run, exported, engine, monkeypatch):
    model = load_inductor(run)
    asked, expected = ask_module(model, Tokenizer.from_file(str(exported.tokenizer)), check_questions()[:80])
    assert compare_int8(asked, expected, engine, 1.25)["int8_labels_clearly_differ"] <= 1
    with pytest.raises(ParityError, match="clearly change the Inductor's mind"):
        compare_int8(asked, np.roll(expected, 1, axis=1), engine, 1.25)
    assert exporting.CHANGED_SHARE < 0.01


def test_a_run_without_figures_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        export_inductor(tmp_path, tmp_path / "out")
