"""The encoder of sentences, with drawn weights: torch's own transformer as an oracle, padding, checkpoints, batches."""

import json
import sys
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tnlib import sentences

SIZES = {"vocabulary": 40, "positions": 12, "hidden": 16, "inner": 24, "heads": 4, "blocks": 2, "eps": 1e-6}
CONFIG = {
    **{"model_type": "bert", "hidden_act": "gelu", "vocab_size": 40, "max_position_embeddings": 12},
    **{"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_hidden_layers": 2},
    "layer_norm_eps": 1e-6,
}
# Of a checkpoint of BERT, written out once more: what belongs to the first block, and what ours is called.
FIRST = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "first_norm",
    "intermediate.dense": "wide",
    "output.dense": "narrow",
    "output.LayerNorm": "second_norm",
}


def drawn():
    """An encoder in float64 whose norms are not the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = sentences.SentenceEncoder(**SIZES).double().eval()
        for norm in (module for module in model.modules() if isinstance(module, nn.LayerNorm)):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    return model.requires_grad_(False)


def texts(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(40, (length,), generator=generator) for length in lengths]


def torchs(model):
    """The blocks as torch's transformer encoder."""
    layer = nn.TransformerEncoderLayer(
        16, 4, 24, 0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, dtype=torch.float64
    )
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    for theirs, ours in zip(encoder.layers, model.blocks, strict=True):
        parts = (ours.query, ours.key, ours.value)
        theirs.self_attn.in_proj_weight.data = torch.cat([part.weight for part in parts])
        theirs.self_attn.in_proj_bias.data = torch.cat([part.bias for part in parts])
        pairs = [(theirs.self_attn.out_proj, ours.out), (theirs.linear1, ours.wide), (theirs.linear2, ours.narrow)]
        pairs += [(theirs.norm1, ours.first_norm), (theirs.norm2, ours.second_norm)]
        for one, other in pairs:
            one.load_state_dict(other.state_dict())
    return encoder.requires_grad_(False)


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_torchs_transformer_with_a_mean_behind(masked):
    model, tokens = drawn(), torch.stack(texts(7, 7, 7))
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 4:] = mask[2, 1:] = not masked
    x = model.norm(model.words.weight[tokens] + model.positions.weight[:7])
    hidden = torchs(model)(x, src_key_padding_mask=~mask)
    expected = torch.stack([h[m].mean(0) / h[m].mean(0).norm() for h, m in zip(hidden, mask, strict=True)])
    assert torch.allclose(model(tokens, mask) if masked else model(tokens), expected, atol=1e-12)


def test_padding_changes_nothing_but_its_mask_must_be_given():
    model, found = drawn(), texts(3, 8)
    padded, mask = torch.zeros(2, 8, dtype=torch.int64), torch.zeros(2, 8, dtype=torch.bool)
    for k, one in enumerate(found):
        padded[k, : len(one)], mask[k, : len(one)] = one, True
    alone = torch.cat([model(one[None]) for one in found])
    assert torch.allclose(model(padded, mask), alone, atol=1e-12)
    assert not torch.allclose(model(padded)[0], alone[0], atol=1e-3)


def test_sentences_come_back_in_their_order():
    model, found = drawn(), texts(5, 2, 5, 9, 2, 5)
    parts = sentences.by_length(found, 2)
    assert [part for part, _ in parts] == [[1, 4], [0, 2], [5], [3]]
    assert all(torch.equal(tokens[k], found[i]) for part, tokens in parts for k, i in enumerate(part))
    expected = torch.cat([model(one[None]) for one in found])
    assert torch.allclose(sentences.embed(model, found, 2), expected, atol=1e-12)
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        sentences.by_length(found, 0)


def checkpoint(folder, model, **changed):
    """Files as published, of an encoder whose tables have the same sum."""
    state, kinds = model.state_dict(), torch.randn(2, 16, dtype=torch.float64)
    given = {"embeddings.word_embeddings.weight": state["words.weight"]}
    given["embeddings.position_embeddings.weight"] = state["positions.weight"] - kinds[0]
    given |= {"embeddings.token_type_embeddings.weight": kinds, "pooler.dense.weight": torch.ones(16, 16)}
    given |= {f"embeddings.LayerNorm.{kind}": state[f"norm.{kind}"] for kind in ("weight", "bias")}
    for block in range(2):
        for theirs, ours in FIRST.items():
            for kind in ("weight", "bias"):
                given[f"encoder.layer.{block}.{theirs}.{kind}"] = state[f"blocks.{block}.{ours}.{kind}"]
    folder.mkdir()
    save_file({name: value.float().contiguous() for name, value in given.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | changed))
    return folder


def test_a_checkpoint_is_read(tmp_path):
    model, tokens = drawn(), torch.stack(texts(6, 6))
    loaded = sentences.load_encoder(checkpoint(tmp_path / "tiny", model))
    assert torch.allclose(loaded(tokens).double(), model(tokens), atol=1e-5)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_files_that_are_no_encoder(tmp_path):
    model = drawn()
    with pytest.raises(ValueError, match=r"'none' has no config\.json"):
        sentences.load_encoder(tmp_path / "none")
    with pytest.raises(ValueError, match="needs hidden_act 'gelu', the config in 'relu' has 'relu'"):
        sentences.load_encoder(checkpoint(tmp_path / "relu", model, hidden_act="relu"))
    with pytest.raises(ValueError, match=r"'deep' are not those of its config: .*layer\.2"):
        sentences.load_encoder(checkpoint(tmp_path / "deep", model, num_hidden_layers=3))
    with pytest.raises(ValueError, match=r"(?s)'wide' are not those of its config: .*size mismatch"):
        sentences.load_encoder(checkpoint(tmp_path / "wide", model, intermediate_size=32))
    with pytest.raises(ValueError, match="multiple of heads, got 16 and 3"):
        sentences.SentenceEncoder(hidden=16, heads=3)


def test_texts_need_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[sentences\]'"):
        sentences.tokenize(tmp_path, ["a text"])


@pytest.mark.skipif(find_spec("tokenizers") is None, reason="needs the extra `sentences`")
def test_texts_become_tokens(tmp_path):
    import tokenizers

    words = tokenizers.models.WordLevel({"[UNK]": 0, "in": 1, "the": 2, "beginning": 3}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(words)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.enable_padding(length=9)  # as published ones may have it
    made.save(str(tmp_path / "tokenizer.json"))
    found = sentences.tokenize(tmp_path, ["in the beginning", "the end", "the " * 9], longest=5)
    assert [one.tolist() for one in found] == [[1, 2, 3], [2, 0], [2] * 5]
    assert found[0].dtype == torch.int64
