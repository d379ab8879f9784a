"""The shipped Inductor on questions written after its training data, which nothing is ever trained on."""

import pytest
from tokenizers import Tokenizer

from tam_edge.models.inductor import TASKS
from tam_edge.models.inductor_questions import (
    question_key,
    read_fresh,
    read_labelled,
    read_paraphrases,
    read_rephrased,
    read_wide,
)
from tam_edge.runtime.bundle import default_bundle_path, load_bundle
from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.inductor import Inductor

FRESH = read_fresh()
PARAPHRASED = [(said, task) for _, task, said in FRESH if said]


@pytest.fixture(scope="module")
def accuracy():
    bundle = load_bundle(default_bundle_path())
    spec = bundle.manifest.inductor
    engine = OnnxEngine(bundle.file(spec.engines[0]), threads=1)
    inductor = Inductor(spec, engine, Tokenizer.from_file(str(bundle.file(spec.tokenizer))))

    def share(texts, tasks):
        found = [estimate.task for estimate in inductor.classify(texts)]
        return sum(name == TASKS[task - 1] for name, task in zip(found, tasks, strict=True)) / len(texts)

    yield share
    engine.close()


def test_fresh_questions_are_in_no_training_data():
    keys = {question_key(text) for text, _, said in FRESH for text in (text, said) if text}
    known = (*read_labelled(None), *read_wide(), *read_rephrased(), *read_paraphrases())
    assert not keys & {question_key(one.text) for one in known}
    assert all(sum(labelled == task for _, labelled, _ in FRESH) >= 18 for task in range(1, 9))


def test_fresh_questions_get_their_type(accuracy):
    assert accuracy([text for text, _, _ in FRESH], [task for _, task, _ in FRESH]) >= 0.95


def test_paraphrases_of_them_get_it_too(accuracy):
    assert accuracy([said for said, _ in PARAPHRASED], [task for _, task in PARAPHRASED]) >= 0.9
