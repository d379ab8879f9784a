"""The Inductor's graph against its PyTorch module, and through the runtime's own classifier."""

import copy
import json
import logging

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tam_edge.export.inductor import LOGIT_TOLERANCE, check_questions, compare_inductor, export_inductor
from tam_edge.export.parity import ParityError
from tam_edge.models.inductor import TASKS, InductorConfig, build_inductor, load_inductor
from tam_edge.models.inductor_tokenizer import encode, train_tokenizer
from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.inductor import Inductor
from tam_edge.runtime.manifest import InductorSpec

SMALL = InductorConfig(vocab_size=900, width=48, layers=2, heads=4, kv_heads=2, ffn_width=64, max_tokens=40, pad_id=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a training run leaves, with random weights large enough that another formula would be noticed."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = build_inductor(SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0).add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    train_tokenizer(check_questions(), vocab_size=SMALL.vocab_size).save(str(folder / "tokenizer.json"))
    (folder / "metrics.json").write_text(json.dumps({"temperature": 1.25, "threshold": 0.4}))
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield export_inductor(run, tmp_path_factory.mktemp("out") / "made")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def engine(exported):
    engine = OnnxEngine(exported.engine, threads=1, device="cpu")
    yield engine
    engine.close()


def test_labels_are_identical_and_logits_close(exported):
    assert exported.parity["labels_differ"] == 0
    assert exported.parity["max_abs_error"] <= LOGIT_TOLERANCE
    assert exported.parity["questions"] > 1000


def test_the_export_says_what_a_bundle_must_know(exported):
    assert exported.tasks == TASKS
    assert (exported.max_tokens, exported.temperature, exported.threshold) == (40, 1.25, 0.4)
    assert exported.engine.stat().st_size < 5_000_000
    assert {path.name for path in exported.engine.parent.iterdir()} == {exported.engine.name, exported.tokenizer.name}
    assert logging.getLogger("transformers").level != logging.CRITICAL


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 40)])
def test_batch_and_length_are_free(run, engine, shape):
    ids = np.random.default_rng(0).integers(1, SMALL.vocab_size, shape)
    mask = np.ones_like(ids)
    with torch.inference_mode():
        expected = load_inductor(run)(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
    assert engine.input_names == ("input_ids", "attention_mask")
    np.testing.assert_allclose(engine.run({"input_ids": ids, "attention_mask": mask})[0], expected.numpy(), atol=1e-4)


def test_the_runtime_names_the_task_types_pytorch_names(run, exported, engine):
    tokenizer = Tokenizer.from_file(str(exported.tokenizer))
    spec = InductorSpec.model_construct(
        tasks=exported.tasks, max_tokens=exported.max_tokens, temperature=exported.temperature
    )
    texts = [text for text in check_questions()[::9] if text.strip()]
    estimates = Inductor(spec, engine, tokenizer).classify(texts)
    model = load_inductor(run)
    for text, estimate in zip(texts, estimates, strict=True):
        ids, mask = encode(tokenizer, [text], exported.max_tokens)
        with torch.inference_mode():
            logits = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits[0]
        probabilities = torch.softmax(logits / 1.25, dim=-1).numpy()
        np.testing.assert_allclose(list(estimate.probabilities.values()), probabilities, atol=1e-4)
        assert estimate.task == TASKS[int(probabilities.argmax())]


@pytest.mark.parametrize("part", ["score.weight", "model.norm.weight", "model.layers.1.mlp.down_proj.weight"])
def test_a_graph_of_other_weights_is_refused(run, exported, engine, part):
    model = load_inductor(run)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.state_dict()[part].mul_(1.02)
    tokenizer = Tokenizer.from_file(str(exported.tokenizer))
    texts = check_questions()[:60]
    assert compare_inductor(model, engine, tokenizer, texts)["labels_differ"] == 0
    with pytest.raises(ParityError, match="logits off by"):
        compare_inductor(other, engine, tokenizer, texts)


def test_a_run_without_figures_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        export_inductor(tmp_path, tmp_path / "out")
