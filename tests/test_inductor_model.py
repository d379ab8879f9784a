"""The Inductor's sizes, its head, its tokenizer and its questions."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tam_edge.models.inductor import NANO, SMOLLM2_135M, TASKS, InductorConfig, build_inductor, load_inductor, top_tasks
from tam_edge.models.inductor_data import FOLDS, Mixture, collect, draw, fold_of, read_labelled, street_groups
from tam_edge.models.inductor_measure import calibration_error, choose_threshold, fit_temperature, probabilities
from tam_edge.models.inductor_phrases import dressed, expand, generate, load_phrases, misspelt, noise, with_options
from tam_edge.models.inductor_public import PublicQuestion, read_public_questions, weak_task
from tam_edge.models.inductor_tokenizer import END_ID, PAD_ID, encode, train_tokenizer

TINY = InductorConfig(vocab_size=40, width=16, layers=2, heads=2, kv_heads=1, ffn_width=24, max_tokens=12, pad_id=0)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_full_size_has_the_parameters_of_smollm2_135m_and_a_bias_free_head():
    with torch.device("meta"):
        model = build_inductor(SMOLLM2_135M)
    attention, mlp, norms = 2 * 576 * 576 + 2 * 576 * 192, 3 * 576 * 1536, 2 * 576
    assert parameters(model) == 49_152 * 576 + 30 * (attention + mlp + norms) + 576 + 8 * 576 == 134_519_616
    assert model.score.weight.shape == (8, 576)
    assert model.score.bias is None
    names = model.state_dict().keys()
    assert {name.split(".")[0] for name in names} == {"model", "score"}
    assert "model.layers.29.mlp.gate_proj.weight" in names
    assert not any(name.startswith("lm_head") for name in names)


def test_nano_size_fits_the_bundle():
    model = build_inductor(NANO)
    assert parameters(model) * 4 < 5_000_000 * 0.8
    assert [model.config.id2label[index] for index in range(8)] == list(TASKS)


@pytest.mark.parametrize("change", [{"heads": 3}, {"kv_heads": 3}, {"pad_id": 40}])
def test_sizes_that_do_not_fit_together_are_refused(change):
    sizes = {"vocab_size": 40, "width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "ffn_width": 8, "max_tokens": 4}
    with pytest.raises(ValueError, match=r"do not divide|outside the vocabulary"):
        InductorConfig(**{**sizes, "pad_id": 0, **change})


def test_the_head_reads_the_last_token_that_is_no_padding():
    torch.manual_seed(0)
    model = build_inductor(TINY).eval()
    question = torch.tensor([[5, 9, 3, 1]])
    with torch.no_grad():
        hidden = model.model(question).last_hidden_state  # [1, 4, width]
        alone = model(input_ids=question, attention_mask=torch.ones_like(question)).logits
        ids = torch.tensor([[5, 9, 3, 1, 0, 0, 0], [7, 8, 2, 4, 6, 2, 1]])
        padded = model(input_ids=ids, attention_mask=(ids != 0).long()).logits
        cut = model(input_ids=question[:, :3], attention_mask=torch.ones(1, 3, dtype=torch.long)).logits
    torch.testing.assert_close(alone, hidden[:, -1] @ model.score.weight.T)
    torch.testing.assert_close(padded[:1], alone)
    assert not torch.allclose(alone, cut, atol=1e-4)


def test_of_equal_logits_the_lower_task_type_wins():
    assert top_tasks(np.array([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0], [0.0, 0.0, 3.0]])).tolist() == [1, 0, 2]


def test_weights_survive_saving(tmp_path):
    model = build_inductor(TINY).eval()
    model.save_pretrained(tmp_path)
    again = load_inductor(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


@pytest.fixture(scope="module")
def tokenizer():
    phrases, rng = load_phrases(), np.random.default_rng(0)
    return train_tokenizer((generate(phrases, 1 + at % 8, rng) for at in range(2000)), vocab_size=600)


@pytest.mark.parametrize("typed", ["<|end|>", "<|pad|>", "how many<|pad|><|end|> people"])
def test_a_typed_control_token_is_plain_text(tokenizer, typed):
    ids = tokenizer.encode(typed).ids
    assert ids[-1] == END_ID
    assert not {PAD_ID, END_ID} & set(ids[:-1])


def test_case_and_compatibility_forms_do_not_matter(tokenizer):
    assert tokenizer.encode("HOW Many \uff43\uff41\uff52\uff53").ids == tokenizer.encode("how many cars").ids


@given(st.lists(st.text(max_size=80), min_size=1, max_size=5), st.integers(4, 20))
def test_batches_are_padded_on_the_right_and_never_too_long(tokenizer, texts, most):
    ids, mask = encode(tokenizer, texts, most)
    assert ids.shape == mask.shape
    assert ids.shape[1] <= most
    for text, row, kept in zip(texts, ids, mask, strict=True):
        whole = tokenizer.encode(text).ids
        length = int(kept.sum())
        assert length == min(len(whole), most)
        assert kept[:length].all()
        assert row[length - 1] == END_ID
        assert (row[length:] == PAD_ID).all()
        assert row[: most - most // 2].tolist()[:length] == whole[: most - most // 2]


def test_the_same_texts_give_the_same_tokenizer(tokenizer):
    texts = ["how many people", "what does the sign say", "where is the dog"] * 3
    assert train_tokenizer(texts, vocab_size=300).to_str() == train_tokenizer(texts, vocab_size=300).to_str()


def test_every_slot_of_every_template_can_be_filled():
    phrases, rng = load_phrases(), np.random.default_rng(0)
    assert sorted(phrases.templates) == list(range(1, 9))
    for templates in phrases.templates.values():
        for template in templates:
            question = expand(template, phrases.slots, rng)
            assert question
            assert not set("{}[]|") & set(question)
            assert dressed(question, phrases, rng)


def test_generated_questions_repeat_with_their_seed():
    phrases = load_phrases()

    def some(seed):
        rng = np.random.default_rng(seed)
        return [dressed(generate(phrases, 1 + at % 8, rng), phrases, rng) + noise(rng) for at in range(60)]

    assert some(3) == some(3)
    assert some(3) != some(4)


def test_options_stand_beside_the_question():
    phrases, rng = load_phrases(), np.random.default_rng(1)
    for task in range(1, 9):
        assert "which one fits" in (text := with_options("which one fits", task, phrases, rng))
        assert len(text) > len("which one fits") + 2


@given(st.text(min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_a_slip_changes_a_text_but_a_little(text, seed):
    slipped = misspelt(text, np.random.default_rng(seed))
    assert slipped
    assert abs(len(slipped) - len(text)) <= 2


def test_written_questions_are_sixty_a_task_type_and_never_move_between_folds():
    written = read_labelled(None)
    assert len(written) == 480
    assert all(sum(one.task == task for one in written) == 60 for task in range(1, 9))
    assert {fold_of(one.text) for one in written} == set(range(FOLDS))
    assert [fold_of(text) for text in ("how many people?", "summarise this")] == [1, 4]


def test_held_out_questions_reach_no_batch(tmp_path):
    asked = ("how many cats", "where is it", "why is she sad", "read the sign")
    records = [{"question": text, "task": 1, "second": 2, "source": "written"} for text in asked]
    (tmp_path / "labelled.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    fold = fold_of("how many cats")
    sets = collect(tmp_path, street=((1, ("How many cats?",)), (5, ("where",))), held_out_fold=fold)
    assert "how many cats" in [one.text for one in sets.held_out]
    texts, targets = draw(sets, Mixture(labelled=0.4, street=0.6, none=0.0), np.random.default_rng(0), 300)
    assert not any(text.lower().strip(" ?.!") == "how many cats" for text in texts)
    np.testing.assert_allclose(targets.sum(axis=1), 1.0, rtol=1e-6)


def test_without_a_folder_the_projects_own_questions_are_enough():
    sets = collect(None)
    assert not sets.public
    assert len(sets.labelled) + len(sets.held_out) == 480
    texts, targets = draw(sets, Mixture(), np.random.default_rng(0), 400)
    assert len(texts) == 400
    assert set(targets.argmax(axis=1)) == set(range(8))
    assert (targets.max(axis=1) == np.float32(1 / 8)).any()


def test_street_families_cover_every_task_type():
    groups = street_groups(range(40))
    assert {task for task, _ in groups} == set(range(1, 9))
    assert all(len(set(texts)) == len(texts) for _, texts in groups)


@pytest.mark.parametrize(
    ("text", "code", "task"),
    [
        ("how many people are there", "number", 1),
        ("how many times did the man jump", "number", 4),
        ("what happened after the man jumped", "temporal relation", 4),
        ("what did the man do after he jumped", "TN", 2),
        ("why did the man jump", "TP", 7),
        ("where is the man", "DO", 5),
        ("is the man outdoors", "yes/no", 5),
        ("how is the baby feeling", "TC", 3),
        ("what is the initial letter of the title", "other", 8),
        ("is the man a good person", "yes/no", None),
    ],
)
def test_weak_labels_follow_the_conventions_at_the_borders(text, code, task):
    assert weak_task(PublicQuestion(text, code)) == task


def test_both_public_sets_are_read_in_their_own_layout(tmp_path):
    questions = [{"question": "what color is it", "question_id": "a_1"}, {"question": "lost", "question_id": "a_2"}]
    (tmp_path / "train_q.json").write_text(json.dumps(questions))
    (tmp_path / "train_a.json").write_text(json.dumps([{"answer": "red", "type": 4, "question_id": "a_1"}]))
    (tmp_path / "test_q.json").write_text(json.dumps(questions))
    (tmp_path / "test_a.json").write_text((tmp_path / "train_a.json").read_text())
    (tmp_path / "nextqa").mkdir()
    (tmp_path / "nextqa" / "val.csv").write_text("video,question,answer,qid,type\n1,why did he run,2,3,CW\n")
    found = read_public_questions(tmp_path)
    assert found == [PublicQuestion("what color is it", "color"), PublicQuestion("why did he run", "CW")]
    assert read_public_questions(tmp_path / "missing") == []


def test_temperature_undoes_overconfidence():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(4000, 8)) * 2
    labels = np.array([rng.choice(8, p=row) for row in probabilities(true)])
    temperature = fit_temperature(true * 3, labels)
    assert 2.6 < temperature < 3.4
    assert calibration_error(probabilities(true * 3, temperature), labels) < 0.03
    assert calibration_error(probabilities(true * 3), labels) > 0.1


def test_threshold_keeps_right_answers_and_turns_away_the_rest():
    right, none = np.linspace(0.6, 1.0, 100), np.linspace(0.1, 0.7, 100)
    threshold = choose_threshold(right, none)
    assert (right >= threshold).mean() >= 0.97
    assert (none < threshold).mean() > 0.8
    assert choose_threshold(np.full(10, 0.15), none) == 0.2
