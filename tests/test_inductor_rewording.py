"""Questions said in other words by rule: what they keep, and that what is held out stays out."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tam_edge.models.inductor_data import Mixture, collect, draw
from tam_edge.models.inductor_questions import (
    FOLDS,
    question_key,
    read_labelled,
    read_paraphrases,
    read_rephrased,
    read_wide,
)
from tam_edge.models.inductor_rewording import reworded

REWORDED = Mixture(labelled=0.0, wide=0.5, public=0.0, street=0.0, none=0.0, rephrased=0.5, reworded=1.0)


def said(question, times=40):
    return {reworded(question, np.random.default_rng(seed)) for seed in range(times)}


@pytest.mark.parametrize(
    ("question", "one"),
    [
        ("what does the dog do after the man falls?", "after the man falls, what does the dog do"),
        ("What's the man holding?", "tell me what the man is holding"),
        ("where is the red bag", "point me to the red bag"),
        ("how many times did he jump", "how often did he jump"),
        ("how many people are waiting", "count the people that are waiting"),
        ("is the door open", "please check whether the door is open"),
        ("what happens after the bell rings", "the bell rings - what happens after that"),
        ("what does the sign say", "what can be read on the sign"),
        ("what color is the van", "the van: which colour"),
        ("summarize the talk", "boil the talk down for me"),
    ],
)
def test_a_frame_is_said_another_way(question, one):
    assert one in said(question)


def test_what_no_rule_knows_stays_as_it_was():
    assert said("tldr, Please!") == {"tldr, Please!"}


@given(st.text(max_size=60), st.integers(0, 2**32 - 1))
def test_any_text_can_be_reworded(text, seed):
    assert bool(reworded(text, np.random.default_rng(seed)).strip()) == bool(text.strip())


def test_no_rule_loses_the_words_a_question_is_about():
    """Function words come and go; at most one word of more than six letters may."""
    rng = np.random.default_rng(0)
    for one in read_wide():
        after = reworded(one.text, rng).lower()
        lost = [word for word in one.text.lower().split() if word.isalpha() and len(word) > 6 and word not in after]
        assert len(lost) <= 1, (one.text, after)


def test_a_sixth_of_the_written_questions_is_known_to_a_rule():
    rng = np.random.default_rng(0)
    wide = [one.text for one in read_wide()]
    assert sum(reworded(text, rng) != text for text in wide) > len(wide) / 6


def test_rephrased_questions_are_of_every_type_and_none_is_measured_on():
    rephrased = read_rephrased()
    assert min(Counter(one.task for one in rephrased).values()) >= 15
    keys = {question_key(one.text) for one in rephrased}
    assert len(keys) == len(rephrased)
    measured = {question_key(one.text) for one in (*read_labelled(None), *read_paraphrases())}
    assert not keys & measured


def test_reworded_questions_keep_their_type_and_what_is_held_out_stays_out():
    sets = collect(None, held_out_folds=range(FOLDS))
    texts, targets = draw(sets, REWORDED, np.random.default_rng(0), 400)
    assert not {question_key(text) for text in texts} & sets.hidden
    written = {one.text.lower().rstrip(" ?.!"): one.task for group in sets.rephrased for one in group}
    known = [
        (written[key], row) for text, row in zip(texts, targets, strict=True) if (key := text.rstrip(" ?.!")) in written
    ]
    assert len(known) > 30
    assert all(row.argmax() == task - 1 for task, row in known)
