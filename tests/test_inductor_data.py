"""The Inductor's questions: where they come from, what is held out, and what is measured on them."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tam_edge.models.inductor_data import Mixture, collect, draw, none_texts, street_groups, vocabulary_texts
from tam_edge.models.inductor_measure import (
    calibration_error,
    choose_threshold,
    confidence_buckets,
    confusion,
    fit_temperature,
    lenient_accuracy,
    paper_calibration_error,
    probabilities,
)
from tam_edge.models.inductor_phrases import dressed, expand, generate, load_phrases, misspelt, noise, with_options
from tam_edge.models.inductor_public import PublicQuestion, read_public_questions, weak_task
from tam_edge.models.inductor_questions import (
    FOLDS,
    fold_of,
    question_key,
    read_labelled,
    read_paraphrases,
    read_wide,
    said_otherwise,
    sha256_of,
)

MIXED = Mixture(labelled=0.3, wide=0.2, public=0.1, street=0.1, none=0.1)


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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How many people?", "how many people"),
        ("where's the dog", "WHERE'S DOG?!"),
        ("robot, what does the sign say please", "What does sign say"),
        ("is the cat on a mat", "on the mat is a cat"),
    ],
)
def test_near_duplicates_share_a_key(one, other):
    assert question_key(one) == question_key(other)
    assert question_key(one) != question_key(f"{other} not")


def test_the_words_of_a_key_count_as_often_as_they_stand_there():
    assert question_key("the red red car") != question_key("the red car")


def test_held_out_questions_and_paraphrases_reach_no_batch(tmp_path):
    asked = ("how many cats", "where is it", "why is she sad", "read the sign")
    records = [{"question": text, "task": 1, "second": 2, "source": "written"} for text in asked]
    (tmp_path / "labelled.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    fold, said = fold_of("how many cats"), read_paraphrases()[3].text
    street = ((1, ("How many cats?", said)), (2, (f"{said}!",)), (5, ("where",)))
    sets = collect(tmp_path, street, held_out_folds=(fold,))
    assert "how many cats" in [one.text for one in sets.held_out]
    assert sets.street == ((5, ("where",)),)
    keys = {question_key(one.text) for group in (*sets.labelled, *sets.wide) for one in group}
    assert not keys & sets.hidden
    texts, targets = draw(sets, Mixture(0.4, 0.0, 0.0, 0.6, 0.0), np.random.default_rng(0), 300)
    assert not any(text.lower().strip(" ?.!") == "how many cats" for text in texts)
    np.testing.assert_allclose(targets.sum(axis=1), 1.0, rtol=1e-6)


def test_with_all_folds_held_out_no_labelled_question_is_trained_on():
    sets = collect(None, held_out_folds=range(FOLDS))
    assert (len(sets.held_out), sets.labelled) == (480, ())
    hidden = {question_key(one.text) for one in read_labelled(None)} | {
        question_key(p.text) for p in read_paraphrases()
    }
    trained = {question_key(one.text) for group in sets.wide for one in group}
    assert hidden == sets.hidden
    assert not hidden & trained
    assert len(draw(sets, MIXED, np.random.default_rng(0), 50)[0]) == 50


def test_the_five_folds_are_a_partition_of_the_labelled_questions():
    folds = [collect(None, held_out_folds=(fold,)) for fold in range(FOLDS)]
    held_out = [one.text for sets in folds for one in sets.held_out]
    assert sorted(held_out) == sorted(one.text for one in read_labelled(None))
    for sets in folds:
        seen = {one.text for kind in sets.labelled for one in kind}
        originals = {one.text for one in read_labelled(None)} - {one.text for one in sets.held_out}
        assert not seen & {one.text for one in (*sets.held_out, *said_otherwise(sets.held_out))}
        assert originals <= seen
        assert len(seen) == pytest.approx(6 * len(originals), abs=5)  # each is said in five more ways


def test_every_labelled_question_is_said_otherwise_with_its_labels():
    written = read_labelled(None)
    for one in written:
        others = said_otherwise([one])
        assert len({question_key(other.text) for other in (one, *others)}) == len(others) + 1 >= 5, one.text
        assert {(other.task, other.second, other.source) for other in others} == {(one.task, one.second, one.source)}
    said = {question_key(one.text) for one in said_otherwise(written)}
    assert len(said & {question_key(one.text) for one in read_paraphrases()}) <= 3  # those are dropped


def test_without_a_folder_the_projects_own_questions_are_enough():
    sets = collect(None, held_out_folds=(0,))
    assert not sets.public
    texts, targets = draw(sets, MIXED, np.random.default_rng(0), 400)
    assert len(texts) == 400
    assert set(targets.argmax(axis=1)) == set(range(8))
    assert (targets.max(axis=1) == np.float32(1 / 8)).any()
    assert len(vocabulary_texts(sets, 0, count=30)) > 2000


def test_paraphrases_are_of_labelled_questions_of_all_types_and_nobody_trains_on_them():
    paraphrases = read_paraphrases()
    assert len({one.original_sha256 for one in paraphrases}) == len(paraphrases) >= 320
    written = {sha256_of(one.text): one for one in read_labelled(None)}
    known = [written[one.original_sha256] for one in paraphrases if one.original_sha256 in written]
    assert min(Counter(one.task for one in known).values()) >= 20
    assert len(paraphrases) - len(known) >= 100  # of public questions, which are not in this repository
    for one in paraphrases:
        if original := written.get(one.original_sha256):
            assert question_key(one.text) != question_key(original.text)


def test_wide_questions_are_many_of_every_type_and_none_is_a_labelled_one():
    wide = read_wide()
    assert min(Counter(one.task for one in wide).values()) >= 240
    assert len({one.text for one in wide}) == len(wide)
    assert all(one.second is None or (1 <= one.second <= 8 and one.second != one.task) for one in wide)
    assert not {question_key(one.text) for one in wide} & {question_key(one.text) for one in read_labelled(None)}


def test_texts_that_are_none_of_the_types_are_trained_on_or_measured_on():
    phrases = load_phrases()
    assert len(phrases.none["train"]) > 300
    assert len(phrases.none["held_out"]) > 150
    assert not {question_key(text) for text in phrases.none["train"]} & {
        question_key(text) for text in phrases.none["held_out"] if question_key(text)
    }
    assert len(none_texts(phrases, "held_out", gibberish=7)) == len(phrases.none["held_out"]) + 7


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


def test_the_calibration_error_is_eq_5_over_ten_buckets():
    confidence = np.array([0.95, 0.93, 0.65, 0.62, 0.61])
    chances = np.c_[confidence, (1 - confidence)[:, None] * np.full((5, 7), 1 / 7)]
    labels = np.array([0, 0, 0, 3, 3])  # right, right, right, wrong, wrong
    expected = 2 / 5 * abs(1 - 0.94) + 3 / 5 * abs(1 / 3 - (0.65 + 0.62 + 0.61) / 3)
    assert calibration_error(chances, labels) == pytest.approx(expected)
    paper = 2 / 5 * abs(1 - 0.9) + 3 / 5 * abs(1 / 3 - 0.7)
    assert paper_calibration_error(chances, labels) == pytest.approx(paper)
    buckets = confidence_buckets(chances, labels)
    assert [one.questions for one in buckets] == [0, 0, 0, 0, 0, 0, 3, 0, 0, 2]
    assert buckets[6].accuracy == pytest.approx(1 / 3)


def test_the_papers_own_table_gives_its_own_error():
    # Table 4a: accuracy per bucket; the shares are not printed, equal ones give the shape of the sum.
    shares, accuracy = np.full(5, 200), (0.59, 0.73, 0.84, 0.93, 0.98)
    rows, labels = [], []
    for bucket, (count, right) in enumerate(zip(shares, accuracy, strict=True)):
        confidence = max(0.13, (bucket + 0.5) / 5)
        rows += [[confidence] + [(1 - confidence) / 7] * 7] * int(count)
        labels += [0] * round(count * right) + [1] * (int(count) - round(count * right))
    expected = np.mean([abs(right - (one + 0.5) / 5) for one, right in enumerate(accuracy)])
    assert paper_calibration_error(np.array(rows), np.array(labels)) == pytest.approx(expected, abs=1e-9)


def test_confusion_and_the_second_label():
    labels, predicted = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0])
    assert confusion(labels, predicted, 3) == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert lenient_accuracy(predicted, labels, [None, 1, None, 1]) == 0.75


def test_one_temperature_per_row_scales_each_row():
    logits = np.array([[2.0, 0.0], [2.0, 0.0]])
    both = probabilities(logits, np.array([[1.0], [2.0]]))
    np.testing.assert_allclose(both, np.concatenate([probabilities(logits[:1]), probabilities(logits[1:], 2.0)]))


def test_threshold_keeps_right_answers_and_turns_away_the_rest():
    right, none = np.linspace(0.6, 1.0, 100), np.linspace(0.1, 0.7, 100)
    threshold = choose_threshold(right, none)
    assert (right >= threshold).mean() >= 0.97
    assert (none < threshold).mean() > 0.8
    assert choose_threshold(np.full(10, 0.15), none) == 0.2
