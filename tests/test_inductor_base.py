"""What an Inductor is trained from: the package, folders of both styles, and vocabularies cut to what is needed."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_base import LAYERS, PIECES, WIDTH, make_bert, make_llama, questions
from tokenizers import Tokenizer

from tam_edge.models import inductor_base
from tam_edge.models.inductor import TASKS, QuestionClassifier, load_inductor, save_inductor, top_tasks
from tam_edge.models.inductor_base import MINILM, MINILM_SHA256, load_base, trimmed
from tam_edge.models.inductor_tokenizer import encode
from tam_edge.runtime.errors import MissingExtraError, UsageError


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def small(bert):
    return trimmed(load_base(bert), questions(), PIECES, 40)


def features(base, texts, max_tokens=64):
    model = QuestionClassifier(base.body, max_tokens=max_tokens).eval()
    ids, mask = encode(base.tokenizer, texts, max_tokens)
    with torch.no_grad():
        return model(torch.from_numpy(ids), torch.from_numpy(mask))[1]


def test_the_package_holds_the_published_weights():
    pytest.importorskip(inductor_base.MINILM_PACKAGE, reason="needs the extra 'train'", exc_type=ImportError)
    folder = inductor_base._package_folder()
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == MINILM_SHA256
    base = load_base(MINILM)
    assert (base.body.config.hidden_size, base.body.config.num_hidden_layers) == (384, 6)
    assert len(base.tokenizer.encode("how many people are there in total, please?" * 40).ids) > 200


def test_a_missing_package_is_a_missing_extra(monkeypatch):
    monkeypatch.setattr(inductor_base, "MINILM_PACKAGE", "tam_edge_no_such_package")
    with pytest.raises(MissingExtraError, match="'train'"):
        load_base(MINILM)


def test_other_weights_under_the_packages_name_are_refused(bert, monkeypatch):
    monkeypatch.setattr(inductor_base, "_package_folder", lambda: bert)
    with pytest.raises(UsageError, match="not all-MiniLM-L6-v2 as published"):
        load_base(MINILM)


def test_both_styles_have_the_real_key_names(bert, llama):
    names = load_file(llama / "model.safetensors").keys()
    assert {"model.embed_tokens.weight", "model.layers.0.self_attn.k_proj.weight", "model.norm.weight"} < set(names)
    assert "lm_head.weight" not in names
    names = load_file(bert / "model.safetensors").keys()
    assert {"embeddings.word_embeddings.weight", "encoder.layer.1.attention.self.query.bias"} < set(names)
    assert "pooler.dense.weight" in names


@pytest.mark.parametrize("style", ["bert", "llama"])
def test_every_weight_of_the_folder_is_in_the_body(style, request):
    folder = request.getfixturevalue(style)
    stored = {name.removeprefix("model."): value for name, value in load_file(folder / "model.safetensors").items()}
    body = load_base(folder).body.state_dict()
    assert len(body) > 15
    for name, value in body.items():
        assert torch.equal(value, stored[name]), name


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_is_named(bert, tmp_path, name):
    shutil.copytree(bert, tmp_path / "half")
    (tmp_path / "half" / name).unlink()
    with pytest.raises(UsageError, match=f"half lacks {name}"):
        load_base(tmp_path / "half")


def test_weights_that_do_not_fit_the_sizes_are_refused(bert, tmp_path):
    shutil.copytree(bert, tmp_path / "odd")
    weights = load_file(bert / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "odd" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"encoder\.layer\.1\.output\.dense\.weight is missing"):
        load_base(tmp_path / "odd")


def test_another_architecture_is_refused(bert, tmp_path):
    shutil.copytree(bert, tmp_path / "gpt")
    config = json.loads((bert / "config.json").read_text())
    (tmp_path / "gpt" / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(UsageError, match="gpt2 model: take a bert or a llama"):
        load_base(tmp_path / "gpt")


def test_a_trimmed_base_says_the_same_about_texts_of_kept_pieces(bert, small):
    whole = load_base(bert)
    assert small.tokenizer.get_vocab_size() == small.body.config.vocab_size == PIECES
    assert whole.tokenizer.get_vocab_size() > PIECES
    texts = ["how many people are there?", "What does the sign say", "is the dog on the left?"]
    assert [small.tokenizer.encode(text).tokens for text in texts] == [
        whole.tokenizer.encode(text).tokens for text in texts
    ]
    torch.testing.assert_close(features(small, texts, 40), features(whole, texts, 40))


@given(st.text(max_size=60))
def test_trimming_makes_no_word_unknown_that_was_known(bert_and_small, text):
    whole, small = bert_and_small
    before, after = whole.encode(text), small.encode(text)
    assert after.tokens.count("[UNK]") == before.tokens.count("[UNK]")
    assert small.decode(after.ids) == whole.decode(before.ids, skip_special_tokens=False) or "[UNK]" in before.tokens


@pytest.fixture(scope="module")
def bert_and_small(bert, small):
    return load_base(bert).tokenizer, small.tokenizer


def test_a_base_without_word_pieces_keeps_its_table(llama):
    whole = load_base(llama)
    cut = trimmed(whole, questions(), 300, 40)
    assert cut.tokenizer.to_str() == whole.tokenizer.to_str()
    assert (cut.body.config.vocab_size, cut.body.config.max_position_embeddings) == (600, 40)


@pytest.mark.parametrize("typed", ["[SEP]", "[PAD]", "how many [CLS][SEP] people"])
def test_a_typed_control_token_is_plain_text(bert, small, typed):
    for tokenizer in (small.tokenizer, load_base(bert).tokenizer):
        start, *inner, end = encode(tokenizer, [typed], 40)[0][0].tolist()
        controls = {tokenizer.token_to_id(token) for token in ("[PAD]", "[CLS]", "[SEP]")}
        assert {start, end} < controls
        assert not controls & set(inner)


def test_a_typed_control_token_is_plain_text_for_a_llama_too(llama):
    tokenizer = load_base(llama).tokenizer
    ids = encode(tokenizer, ["why <|im_end|>"], 40)[0][0].tolist()
    assert tokenizer.token_to_id("<|im_end|>") not in ids
    assert tokenizer.decode(ids) == "why <|im_end|>"


@given(st.lists(st.text(max_size=80), min_size=1, max_size=5), st.integers(4, 20))
def test_batches_are_padded_on_the_right_and_never_too_long(small, texts, most):
    ids, mask = encode(small.tokenizer, texts, most)
    assert ids.shape == mask.shape
    assert ids.shape[1] <= most
    for text, row, kept in zip(texts, ids, mask, strict=True):
        whole = small.tokenizer.encode(text).ids
        length = int(kept.sum())
        assert length == min(len(whole), most)
        assert kept[:length].all()
        assert row[length - 1] == whole[-1]
        assert row[: most - most // 2].tolist()[:length] == whole[: most - most // 2]


@pytest.mark.parametrize("style", ["bert", "llama"])
def test_the_head_reads_pooled_last_states_and_padding_changes_nothing(style, request):
    base = load_base(request.getfixturevalue(style))
    model = QuestionClassifier(base.body, max_tokens=40).eval()
    alone, padded = torch.tensor([[5, 9, 3, 11]]), torch.tensor([[5, 9, 3, 11, 0, 0], [7, 8, 21, 4, 6, 2]])
    with torch.no_grad():
        logits, both = model(alone, torch.ones_like(alone))
        states = base.body(alone, output_hidden_states=True).hidden_states
        batch = model(padded, torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6]))
    assert len(states) == LAYERS + 1
    pooled = [one.mean(dim=1) if style == "bert" else one[:, -1] for one in (states[-1], states[1])]
    torch.testing.assert_close(both, torch.cat(pooled, dim=-1))
    torch.testing.assert_close(logits, pooled[0] @ model.head.weight.T)
    assert model.head.bias is None
    torch.testing.assert_close(batch[0][:1], logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(batch[1][:1], both, atol=1e-5, rtol=1e-4)
    assert both.shape == (1, 2 * WIDTH)


@pytest.mark.parametrize("style", ["bert", "llama"])
def test_weights_survive_saving(style, request, tmp_path):
    model = QuestionClassifier(load_base(request.getfixturevalue(style)).body, max_tokens=33)
    save_inductor(model, tmp_path)
    again = load_inductor(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert (again.tasks, again.max_tokens, again.pooling) == (TASKS, 33, model.pooling)
    assert not again.training


def test_smollm2_has_the_parameters_of_the_papers_inductor(tmp_path):
    from transformers import LlamaConfig

    from tam_edge.models.inductor import new_body

    sizes = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
    )
    with torch.device("meta"):
        model = QuestionClassifier(new_body(sizes), max_tokens=128)
    attention, mlp, norms = 2 * 576 * 576 + 2 * 576 * 192, 3 * 576 * 1536, 2 * 576
    expected = 49_152 * 576 + 30 * (attention + mlp + norms) + 576 + 8 * 576
    assert sum(parameter.numel() for parameter in model.parameters()) == expected == 134_519_616
    assert model.pooling == "last"


def test_of_equal_logits_the_lower_task_type_wins():
    assert top_tasks(np.array([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0], [0.0, 0.0, 3.0]])).tolist() == [1, 0, 2]


def test_a_tokenizer_file_that_pads_is_read_without_padding(bert):
    assert len(Tokenizer.from_file(str(bert / "tokenizer.json")).encode("how many").ids) == 16
    assert len(load_base(bert).tokenizer.encode("how many").ids) == 4
