"""Attention whose projections are layers that are called, so that each of them can be replaced by a factorized one."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tnlib.layers import eligible
from tnlib.layers.factorized import Factorized
from tnlib.layers.stages import own_parameter


class _Unpacked:
    """Stands where torch looks for the packed weight; on what overrides torch's functions it runs no fused path."""

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> Any:
        return NotImplemented


class SplitAttention(nn.Module):
    """`nn.MultiheadAttention` with four `nn.Linear` that it calls: `q_proj`, `k_proj`, `v_proj`, `out_proj`.

    Arguments, results and first weights are torch's own (Vaswani et al. 2017, section 3.2.2). Torch's fused inference
    path, which calls no layer, is declined, also by the transformer layers around: they call theirs, too.
    """

    bias_k: Tensor | None
    bias_v: Tensor | None
    out_proj: nn.Module
    # What torch asks for before it takes its fused path: in transformer layers the first two, in an encoder the third.
    _qkv_same_embed_dim, in_proj_bias = False, None
    in_proj_weight = _Unpacked()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()
        self._become(nn.MultiheadAttention(*arguments, **options))

    @classmethod
    def from_module(cls, attention: nn.MultiheadAttention) -> Self:
        """The same attention, split: own copies of the weights, their dtype, device, need for gradients, and the mode.

        An `out_proj` that was factorized already stays so, and is called from now on. No parameter is shared any more.

        Raises:
            TypeError: a subclass, or one that is parametrized, pruned, hooked or extended, or whose `out_proj` is.
        """
        same = type(attention) is nn.MultiheadAttention and "forward" not in vars(attention)
        if not same or eligible.hooked(attention) or len(list(attention.children())) != 1:
            kind = type(attention).__name__
            raise TypeError(f"cannot split {kind}, no plain nn.MultiheadAttention: remove hooks, pruning and the like")
        if not isinstance(attention.out_proj, Factorized):
            eligible.require(attention.out_proj, (nn.Linear,), cls.__name__)
        split = cls(attention.embed_dim, attention.num_heads, device="meta")
        split._become(attention)
        return split

    def _become(self, like: nn.MultiheadAttention) -> None:
        self.embed_dim, self.kdim, self.vdim, self.dropout = like.embed_dim, like.kdim, like.vdim, like.dropout
        self.num_heads, self.head_dim = like.num_heads, like.head_dim
        self.batch_first, self.add_zero_attn = like.batch_first, like.add_zero_attn
        self.register_parameter("bias_k", _copied(like.bias_k))
        self.register_parameter("bias_v", _copied(like.bias_v))
        weights = (like.q_proj_weight, like.k_proj_weight, like.v_proj_weight)  # none of them if they are packed as one
        self.q_proj, self.k_proj, self.v_proj = (
            _linear(_copied(like.in_proj_weight, n) if own is None else _copied(own), _copied(like.in_proj_bias, n))
            for n, own in enumerate(weights)
        )
        last = like.out_proj
        small = isinstance(last, Factorized)
        self.out_proj = copy.deepcopy(last) if small else _linear(_copied(last.weight), _copied(last.bias))
        self.train(like.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention`: (N, L, E), (N, S, kdim), (N, S, vdim) to (N, L, E) and weights (N, L, S) or None.

        (L, N, E) and its like if not `batch_first`; without N if unbatched. Masks, True or -inf where nothing is to be
        attended to: `key_padding_mask` (N, S), `attn_mask` (L, S) or (N heads, L, S). Weights are those of each head,
        (N, heads, L, S), unless `average_attn_weights`. `is_causal` says that `attn_mask` is the causal one.

        Raises:
            ValueError: shapes that do not fit, a mask of integers, nested tensors, `is_causal` without a mask.
        """
        self._check(query, key, value, key_padding_mask, attn_mask)
        if is_causal and attn_mask is None:
            raise ValueError("is_causal says that attn_mask is the causal one: give that mask, too")
        q, k, v = self._heads(self.q_proj(query)), self._heads(self.k_proj(key)), self._heads(self.v_proj(value))
        added = int(self.bias_k is not None) + int(self.add_zero_attn)  # keys at the end, which no mask hides
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self._heads(self.bias_k).expand(k.shape[0], -1, -1, -1)], 2)
            v = torch.cat([v, self._heads(self.bias_v).expand(v.shape[0], -1, -1, -1)], 2)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        by_hint = is_causal and key_padding_mask is None and not need_weights and not added
        mask = None if by_hint else self._mask(attn_mask, key_padding_mask, added, q.dtype)
        weights = None
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.mT
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), self.dropout, self.training)
            x = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if query.dim() == 3 else weights.squeeze(0)
        else:
            x = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0, by_hint)
        x = (x.transpose(1, 2) if self.batch_first else x.permute(2, 0, 1, 3)).flatten(2)
        return self.out_proj(x if query.dim() == 3 else x.squeeze(int(not self.batch_first))), weights

    def _heads(self, x: Tensor) -> Tensor:
        """(N, L, E), (L, N, E) or (L, E) to (N, heads, L, E / heads)."""
        x = x if x.dim() == 3 else x.unsqueeze(int(not self.batch_first))
        x = x.unflatten(-1, (self.num_heads, self.head_dim))
        return x.transpose(1, 2) if self.batch_first else x.permute(1, 2, 0, 3)

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, added: int, dtype: torch.dtype) -> Tensor | None:
        """Both masks as one that is added to the scores."""
        if attn_mask is not None and attn_mask.dim() == 3:
            attn_mask = attn_mask.unflatten(0, (-1, self.num_heads))
        if padding is not None:
            padding = padding.reshape(-1, 1, 1, padding.shape[-1])
        masks = [mask for mask in (attn_mask, padding) if mask is not None]
        terms = [torch.where(mask, -torch.inf, 0.0) if mask.dtype == torch.bool else mask for mask in masks]
        return F.pad(sum(terms[1:], terms[0]).to(dtype), (0, added)) if terms else None

    def _check(self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, mask: Tensor | None) -> None:
        if query.is_nested or key.is_nested or value.is_nested:
            raise ValueError("nested tensors are not supported: set use_nested_tensor = False on the encoder around")
        dims, shapes = query.dim(), [tuple(x.shape) for x in (query, key, value)]
        if dims not in (2, 3) or key.dim() != dims or value.dim() != dims:
            raise ValueError(f"query, key and value must all be 3-D, or all 2-D if unbatched, got shapes {shapes}")
        axis = int(dims == 3 and self.batch_first)
        length, keys, batch = query.shape[axis], key.shape[axis], query.shape[1 - axis] if dims == 3 else 1
        if key.shape[:-1] != value.shape[:-1] or (dims == 3 and key.shape[1 - axis] != batch):
            raise ValueError(f"query, key and value differ in batch or length, got shapes {shapes}")
        wanted = [(batch, keys)[3 - dims :], (batch * self.num_heads, length, keys)]
        wanted[1] = wanted[1][mask is not None and mask.dim() == 2 :]
        for name, given, shape in zip(("key_padding_mask", "attn_mask"), (padding, mask), wanted, strict=True):
            if given is not None and given.dtype != torch.bool and not given.is_floating_point():
                raise ValueError(f"{name} must be of bools or floats, got {given.dtype}: call .bool() on it")
            if given is not None and (given.dim() != len(shape) or given.shape != shape):
                raise ValueError(f"{name} must have shape {shape}, got {tuple(given.shape)}")


def split_attention(model: nn.Module, skip: Collection[nn.Module] = ()) -> list[str]:
    """Replace every `nn.MultiheadAttention` in a model by its `SplitAttention`, in place; one in several places by one.

    What `SplitAttention.from_module` refuses is left as it is, and what is in `skip` or has its `out_proj` there. An
    `nn.TransformerEncoder` around makes no nested tensors from then on: of padding, its output is not zero.

    Returns:
        The qualified names of those replaced; of one in several places all of them.

    Raises:
        ValueError: the model is itself one to replace, which cannot be done in place.
    """
    found: dict[nn.Module, SplitAttention] = {}
    names = []
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.MultiheadAttention) and not any(part in skip for part in module.modules()):
            if module not in found:
                try:
                    found[module] = SplitAttention.from_module(module)
                except TypeError:
                    continue
            if not name:
                raise ValueError("the model is itself an nn.MultiheadAttention: use SplitAttention.from_module(model)")
            model.set_submodule(name, found[module])
            names.append(name)
    for encoder in model.modules():
        if isinstance(encoder, nn.TransformerEncoder) and not set(found.values()).isdisjoint(encoder.modules()):
            encoder.use_nested_tensor = False
    return names


def _copied(parameter: Tensor | None, part: int | None = None) -> nn.Parameter | None:
    """A copy of a parameter, or of one third of it."""
    if parameter is None:
        return None
    return own_parameter(parameter if part is None else parameter.chunk(3)[part], parameter)


def _linear(weight: Any, bias: nn.Parameter | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = weight
    layer.register_parameter("bias", bias)
    return layer
