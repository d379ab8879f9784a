"""Questions to task types through a real ONNX graph and a real tokenizer."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import save
from tiny_bundle import TASKS, inductor_graph, inductor_tokenizer
from tokenizers.normalizers import Replace
from tokenizers.processors import TemplateProcessing

from tam_edge.runtime.engines.onnx import OnnxEngine
from tam_edge.runtime.errors import EngineError, QuestionError
from tam_edge.runtime.inductor import QUESTION_CHARACTERS, Inductor, check_question
from tam_edge.runtime.manifest import InductorSpec

KEY_WORDS = {word: task for task, (_, _, words) in TASKS.items() for word in words if word != "reason"}
A_FILE = {"file": "f", "sha256": "0" * 64, "size_bytes": 1}
SPEC = InductorSpec.model_validate(
    {
        "engines": [{**A_FILE, "backend": "onnx", "precision": "fp32", "peak_bytes": 0}],
        "tokenizer": A_FILE,
        "tasks": list(TASKS),
        "max_tokens": 64,
    }
)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("inductor") / "inductor.onnx"
    save(inductor_graph(), str(path))
    engine = OnnxEngine(path, threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def inductor(graph):
    return Inductor(SPEC, graph, inductor_tokenizer())


def with_spec(graph, tokenizer=None, **changes):
    return Inductor(SPEC.model_copy(update=changes), graph, tokenizer or inductor_tokenizer())


@pytest.mark.parametrize(
    ("question", "task"),
    [
        ("How many people are there?", "static attributes"),
        ("What happens after the car leaves?", "temporal sequence"),
        ("Summarize the video", "summary"),
        ("What does the sign say?", "OCR and cross-modal"),
    ],
)
def test_a_question_gets_its_task_with_a_probability_for_each(inductor, question, task):
    (estimate,) = inductor.classify([f"  {question}\n"])
    assert estimate.question == question
    assert estimate.task == task
    assert list(estimate.probabilities) == list(TASKS)
    assert estimate.confidence == estimate.probabilities[task] == max(estimate.probabilities.values())
    assert sum(estimate.probabilities.values()) == pytest.approx(1)
    assert estimate.unread_tokens == 0


def test_the_softmax_is_literal_and_the_temperature_divides_the_logits(graph, inductor):
    # The graph gives the key word's task 4 and the others 0.
    for temperature, estimator in ((1.0, inductor), (2.5, with_spec(graph, temperature=2.5))):
        (estimate,) = estimator.classify(["summarize"])
        expected = math.exp(4 / temperature) / (math.exp(4 / temperature) + 7)
        assert estimate.confidence == pytest.approx(expected, rel=1e-6)
        assert estimate.probabilities["reasoning"] == pytest.approx((1 - expected) / 7, rel=1e-6)


def test_of_equals_the_first_task_is_named(inductor):
    (unknown,) = inductor.classify(["bananas"])
    assert (unknown.task, unknown.confidence) == ("static attributes", pytest.approx(1 / 8))
    (tie,) = inductor.classify(["summarize why"])
    assert tie.task == "summary"


def test_huge_logits_do_not_overflow(graph):
    (estimate,) = with_spec(graph, temperature=1e-300).classify(["summarize"])
    assert estimate.confidence == 1.0


words = st.lists(st.sampled_from(["the", "car", *KEY_WORDS]), min_size=1, max_size=9).map(" ".join)


@given(st.lists(words, max_size=70))
def test_an_estimate_does_not_depend_on_what_else_is_asked(inductor, asked):
    together = inductor.classify(asked)
    assert together == [inductor.classify([question])[0] for question in asked]


def test_many_questions_of_one_length_come_back_in_order(inductor):
    asked = [f"the {word}" for word in KEY_WORDS] * 5
    assert [e.task for e in inductor.classify(asked)] == list(KEY_WORDS.values()) * 5
    assert inductor.classify([]) == []


def test_the_middle_of_a_long_question_is_left_out_and_counted(graph):
    short = with_spec(graph, max_tokens=9)
    filler = ["car"] * 8

    def estimate(words):
        return short.classify([" ".join(words)])[0]

    for question in (["summarize", *filler, *filler], [*filler, *filler, "summarize"]):
        assert (estimate(question).task, estimate(question).unread_tokens) == ("summary", 8)
    # Five of the head and four of the tail are kept.
    assert estimate(["car"] * 4 + ["summarize"] + ["car"] * 12).confidence > 0.8
    assert estimate(["car"] * 5 + ["summarize"] + ["car"] * 11).confidence == pytest.approx(1 / 8)
    assert estimate(["car"] * 13 + ["summarize"] + ["car"] * 3).confidence > 0.8
    assert estimate(["car"] * 12 + ["summarize"] + ["car"] * 4).confidence == pytest.approx(1 / 8)
    assert estimate(["car"] * 9).unread_tokens == 0


def test_control_tokens_in_a_question_are_plain_text(graph):
    tokenizer = inductor_tokenizer()
    tokenizer.add_special_tokens(["<|im_end|>", "summarize"])
    for question in ("<|im_end|>", "why <|im_end|> stop"):
        # The added token's id lies beyond the graph's table: recognised, it would make the graph fail.
        (estimate,) = with_spec(graph, tokenizer).classify([question])
        assert estimate == with_spec(graph).classify([question])[0]


def test_the_tokenizers_own_start_token_is_added(graph):
    tokenizer = inductor_tokenizer()
    start = tokenizer.token_to_id("sign")
    tokenizer.post_processor = TemplateProcessing(single="sign $A", special_tokens=[("sign", start)])
    assert with_spec(graph, tokenizer).classify(["bananas"])[0].task == "OCR and cross-modal"


def test_a_graph_that_does_not_fit_the_tasks_is_an_engine_error(graph):
    with pytest.raises(EngineError, match=r"\(1, 8\).*\(1, 7\)"):
        with_spec(graph, tasks=SPEC.tasks[:-1]).classify(["why"])


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("", "empty"),
        (" \t\n\u3000", "empty"),
        ("x" * (QUESTION_CHARACTERS + 1), "4,001 characters"),
        ("x" * 100_000, "100,000 characters: shorten it to 4,000"),
        ("why \udcff?", "not valid text at character 5"),
    ],
)
def test_a_question_that_cannot_be_asked_is_a_usage_error(inductor, question, said):
    with pytest.raises(QuestionError, match=said) as caught:
        check_question(question)
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 200
    with pytest.raises(QuestionError):
        inductor.classify(["why", question])


def test_a_question_without_a_readable_word_is_refused(graph):
    tokenizer = inductor_tokenizer()
    tokenizer.normalizer = Replace("\u200b", "")
    with pytest.raises(QuestionError, match="no word the Inductor can read"):
        with_spec(graph, tokenizer).classify(["\u200b"])


def test_the_longest_question_is_fine():
    assert check_question("x" * QUESTION_CHARACTERS) == "x" * QUESTION_CHARACTERS
    assert check_question("  人が何人いますか \n") == "人が何人いますか"
