"""Language: real llama.cpp behind the stage; a scripted engine only where the tokens themselves are the input."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundle import (
    CONTEXT,
    CONTROL_TOKENS,
    EMBEDDING,
    MAX_OUTPUT,
    RESERVE,
    file_spec,
    language_tokenizer,
    make_tiny_bundle,
)

from tam_edge.runtime.bundle import load_bundle
from tam_edge.runtime.engines import open_language_engine
from tam_edge.runtime.errors import BundleError, EngineError, UsageError
from tam_edge.runtime.language import GenerationOptions, LanguageModel
from tam_edge.runtime.tokenizer import load_tokenizer

BEFORE, AFTER, OTHER_AFTER = (1, 50, 51), (90, 91, 92, 93), (70, 71)
GREEDY = GenerationOptions(max_tokens=12)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(make_tiny_bundle(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def model(bundle):
    model = opened(bundle)
    yield model
    model.close()


@pytest.fixture
def embeddings():
    return np.random.default_rng(3).standard_normal((60, EMBEDDING)).astype(np.float32)


def opened(bundle):
    spec = bundle.manifest.language.engines[0]
    engine = open_language_engine(bundle.file(spec), spec, threads=1)
    try:
        return LanguageModel(bundle, engine, load_tokenizer(bundle, bundle.manifest.language.tokenizer, "tokenizer"))
    except BundleError:
        engine.close()
        raise


def answer(model, after=AFTER, options=GREEDY):
    model.read(after)
    return "".join(model.generate(options))


# ---- the visual prefix


def test_a_second_question_is_answered_as_by_a_fresh_model(bundle, model, embeddings):
    model.see(BEFORE, embeddings, room=30)
    first, second, first_again = answer(model), answer(model, OTHER_AFTER), answer(model)
    fresh = opened(bundle)
    fresh.see(BEFORE, embeddings, room=30)
    assert answer(fresh, OTHER_AFTER) == second
    assert first_again == first != second
    fresh.close()


def test_earlier_turns_stay_and_give_the_very_numbers_of_a_fresh_sequence(bundle, model, embeddings):
    """Each turn is entered by itself, so which of them stood there already makes no difference to a single bit."""
    asked = [tuple(range(60 + 7 * i, 60 + 7 * i + 5 + i)) for i in range(4)]
    model.see(BEFORE, embeddings, room=60)
    kept = []
    for at in range(4):
        kept.append(model.read(asked[at], asked[:at]))
        list(model.generate(GREEDY))
    assert kept == [0, 5, 11, 18]
    branched = (asked[0], (99, 98), asked[2])
    for earlier, reused in ((branched, 5), (branched, 5 + 2 + 7), (asked[:1], 5), ((), 0)):
        assert model.read(asked[3], earlier) == reused
        fresh = opened(bundle)
        fresh.see(BEFORE, embeddings, room=60)
        assert fresh.read(asked[3], earlier) == 0
        np.testing.assert_array_equal(model._engine.logits(), fresh._engine.logits())
        fresh.close()
    model.see(BEFORE, embeddings[::-1], room=60)
    assert model.read(asked[3], asked[:3]) == 0, "turns behind other frames are other turns"


def test_an_interrupted_turn_is_entered_again(bundle, model, embeddings, monkeypatch):
    model.see(BEFORE, embeddings, room=60)
    append = model._engine.append_tokens

    def interrupted(ids):
        append(ids)
        if tuple(ids) == OTHER_AFTER:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model._engine, "append_tokens", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.read(AFTER, [(80, 81), OTHER_AFTER])
    assert model.read(AFTER, [(80, 81), OTHER_AFTER]) == 2
    fresh = opened(bundle)
    fresh.see(BEFORE, embeddings, room=60)
    fresh.read(AFTER, [(80, 81), OTHER_AFTER])
    np.testing.assert_array_equal(model._engine.logits(), fresh._engine.logits())
    fresh.close()


def test_the_answer_depends_on_the_visual_tokens(model, embeddings):
    answers = set()
    for rows in (embeddings, embeddings[::-1], embeddings[:30]):
        model.see(BEFORE, rows, room=30)
        answers.add(answer(model))
    assert len(answers) == 3


def test_full_attention_among_visual_tokens_is_another_model(tmp_path, model, embeddings):
    def change(manifest):
        manifest["language"]["visual_attention"] = "full"

    full = opened(load_bundle(make_tiny_bundle(tmp_path / "full", change=change)))
    long = np.tile(embeddings, (5, 1))  # more than one chunk, so that it has to be entered at once
    for language in (model, full):
        language.see(BEFORE, long, room=30)
    assert answer(model) != answer(full)
    full.close()


def test_room_is_left_for_a_longer_question(model, embeddings):
    assert model.room == 0
    model.see(BEFORE, embeddings, room=10)
    assert model.prefix_tokens == len(BEFORE) + len(embeddings)
    assert model.room >= RESERVE + MAX_OUTPUT
    held = model.prefix_tokens
    model.read([90] * (RESERVE + MAX_OUTPUT))
    assert model.prefix_tokens == held


def test_the_room_never_asks_for_more_than_the_context(model):
    rows = np.zeros((CONTEXT - 100, EMBEDDING), np.float32)
    model.see((1,), rows, room=20)
    assert model.prefix_tokens + model.room == CONTEXT


def test_an_interrupted_prefix_is_no_prefix(model, embeddings):
    model.see(BEFORE, embeddings, room=30)
    with pytest.raises(EngineError):
        model.see(BEFORE, embeddings[:, :-1], room=30)
    assert model.prefix_tokens == 0


# ---- generation


def test_greedy_repeats_and_a_seed_repeats(model, embeddings):
    model.see(BEFORE, embeddings, room=30)
    assert answer(model) == answer(model)
    drawn = [answer(model, options=GenerationOptions(20, temperature=1.5, seed=seed)) for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_leaving_early_stops_and_the_model_stays_usable(model, embeddings):
    model.see(BEFORE, embeddings, room=30)
    whole = answer(model)
    model.read(AFTER)
    pieces = model.generate(GREEDY)
    first = next(pieces)
    pieces.close()
    assert whole.startswith(first)
    assert answer(model) == whole


def test_a_stop_token_ends_the_answer(tmp_path, model, embeddings):
    """The same weights, told that the second token it says is a stop token."""
    model.see(BEFORE, embeddings, room=30)
    model.read(AFTER)
    said = said_tokens(model, 2)
    text = language_tokenizer().id_to_token(said[1])

    def change(manifest):
        manifest["language"]["stop"] = ["<|im_end|>", text]

    stopping = opened(load_bundle(make_tiny_bundle(tmp_path / "stop", change=change)))
    stopping.see(BEFORE, embeddings, room=30)
    assert answer(stopping) == answer(model, options=GenerationOptions(max_tokens=1))
    stopping.close()


def said_tokens(model, count):
    tokens = model._engine.sample(0.0, 0)
    said = [next(tokens) for _ in range(count)]
    tokens.close()
    assert len(set(said)) == count
    return said


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}])
def test_options_that_make_no_sense(options):
    with pytest.raises(UsageError):
        GenerationOptions(**{"max_tokens": 5, **options})


# ---- text from tokens


class Scripted:
    """Says the tokens it is given."""

    embedding_width, vocabulary_size, rope, capacity, length = EMBEDDING, 10_000, "1d", 100, 0

    def __init__(self, tokens):
        self.tokens, self.taken, self.closed = tokens, 0, False

    def logits(self):
        scores = np.zeros(self.vocabulary_size, np.float32)
        scores[70] = np.log(self.vocabulary_size - 1)  # as likely as all others together
        return scores

    def sample(self, temperature, seed):
        try:
            for token in self.tokens:
                self.taken += 1
                yield token
        finally:
            self.closed = True

    def is_end(self, token):
        return False


def pieces_of(bundle, tokens, max_tokens=10_000):
    engine = Scripted(tokens)
    pieces = list(LanguageModel(bundle, engine, language_tokenizer()).generate(GenerationOptions(max_tokens)))
    assert engine.closed
    return pieces, engine.taken


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\N{REPLACEMENT CHARACTER}"), max_size=40))
def test_pieces_are_whole_characters_and_join_to_the_text(bundle, text):
    text = unicodedata.normalize("NFC", text)
    pieces, _ = pieces_of(bundle, language_tokenizer().encode(text).ids)
    assert "".join(pieces) == text.strip()
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    assert all(pieces)


def test_a_character_comes_when_its_last_byte_is_there(bundle):
    text = "a\N{PILE OF POO}b"
    ids = language_tokenizer().encode(text).ids
    assert len(ids) == 6
    pieces, _ = pieces_of(bundle, ids)
    assert pieces == ["a", "\N{PILE OF POO}", "b"]
    assert pieces_of(bundle, ids[:4])[0] == ["a"]


def test_whole_characters_before_an_unfinished_one_are_kept(bundle):
    """A token may end in the first byte of a character that never comes."""
    token = next(
        i
        for i in range(300, 360)
        if language_tokenizer().decode([i]) == "\N{LATIN SMALL LETTER O WITH DIAERESIS}\ufffd"
    )
    assert pieces_of(bundle, [70, token])[0][-1] == "\N{LATIN SMALL LETTER O WITH DIAERESIS}"


def test_white_space_around_the_answer_is_left_out(bundle):
    pieces, _ = pieces_of(bundle, language_tokenizer().encode("  \n two people  in red \n\n").ids)
    assert "".join(pieces) == "two people  in red"
    assert pieces[0][0] != " "


def test_no_token_is_taken_beyond_the_limit_or_a_stop(bundle):
    stop = CONTROL_TOKENS.index("<|im_end|>")
    assert pieces_of(bundle, [70, 71, 72, 73], max_tokens=2)[1] == 2
    pieces, taken = pieces_of(bundle, [70, stop, 71])
    assert (len(pieces), taken) == (1, 2)
    assert pieces_of(bundle, [stop]) == ([], 1)


def test_control_tokens_are_no_text(bundle):
    assert pieces_of(bundle, [70, CONTROL_TOKENS.index("<image>"), 71])[0] == pieces_of(bundle, [70, 71])[0]


def test_the_first_token_has_the_probability_that_the_model_gave_it(bundle):
    for tokens, probability in (([70, 71], 0.5), ([71, 70], 0.5 / 9_999), ([], None)):
        model = LanguageModel(bundle, Scripted(tokens), language_tokenizer())
        list(model.generate(GenerationOptions(10)))
        assert model.first_probability == pytest.approx(probability)


# ---- a bundle that lies


def test_another_embedding_width_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"width 40.*says 32") as caught:
        opened(load_bundle(make_tiny_bundle(tmp_path / "tiny", language_width=40)))
    assert caught.value.field == "language.embedding_width"


def test_a_stop_that_is_no_token_is_named(tmp_path):
    def change(manifest):
        manifest["language"]["stop"] = ["<|eot_id|>"]

    with pytest.raises(BundleError, match="eot_id") as caught:
        opened(load_bundle(make_tiny_bundle(tmp_path / "tiny", change=change)))
    assert caught.value.field == "language.stop"


def test_a_tokenizer_larger_than_the_model_is_named(tmp_path):
    folder = make_tiny_bundle(tmp_path / "tiny")
    larger = language_tokenizer()
    larger.add_tokens(["one more"])
    larger.save(str(folder / "tokenizer.json"))

    def change(manifest):
        manifest["language"]["tokenizer"] = file_spec(folder, "tokenizer.json")

    rewritten = make_tiny_bundle(tmp_path / "again", change=change)
    larger.save(str(rewritten / "tokenizer.json"))
    with pytest.raises(BundleError, match="361 tokens") as caught:
        opened(load_bundle(rewritten))
    assert caught.value.field == "language.tokenizer"


def test_two_dimensional_positions_are_refused(tmp_path):
    def change(manifest):
        manifest["language"]["rope"] = "mrope"

    with pytest.raises(BundleError, match="mrope") as caught:
        opened(load_bundle(make_tiny_bundle(tmp_path / "tiny", change=change)))
    assert caught.value.field == "language.rope"


# ---- stop texts


@given(st.lists(st.text("abc ", max_size=4), max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_an_answer_ends_where_the_first_stop_text_begins(pieces, stop):
    model = object.__new__(LanguageModel)
    model.ended_by = "length"
    shown, text = list[str](), "".join(pieces)
    taken = iter(pieces)
    for piece in model._until_stop(taken, stop):
        shown.append(piece)
    # What comes first is what is complete first: a stop text may lie within a longer one.
    ends = [text.find(one) + len(one) for one in stop if one in text]
    done = next((n for n in range(len(pieces) + 1) if any(one in "".join(pieces[:n]) for one in stop)), None)
    seen = text if done is None else "".join(pieces[:done])
    begins = [seen.find(one) for one in stop if one in seen]
    assert "".join(shown) == (seen[: min(begins)] if begins else text)
    assert model.ended_by == ("stop" if ends else "length")


def test_nothing_is_shown_that_may_still_become_a_stop_text():
    model = object.__new__(LanguageModel)
    model.ended_by = "length"
    assert list(model._until_stop(["one E", "N", "D of it", " EN"], ["END", "never"])) == ["one ", "", ""]
    assert model.ended_by == "stop"
    assert list(model._until_stop(["one E", "N"], ["END", "never"])) == ["one ", "", "EN"]


def test_a_real_answer_stops_and_says_what_ended_it(model, embeddings):
    model.see(BEFORE, embeddings, 40)
    whole = answer(model)
    assert model.ended_by == "length"
    stop = whole[3:6]
    assert answer(model, options=GenerationOptions(12, stop=("nowhere", stop))) == whole[: whole.index(stop)].rstrip()
    assert model.ended_by == "stop"
    assert answer(model) == whole
    assert model.ended_by == "length"


def test_an_empty_stop_text_is_refused():
    with pytest.raises(UsageError, match="stop"):
        GenerationOptions(12, stop=("",))
