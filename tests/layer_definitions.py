"""The dense weight of every format, by its definition in the literature: einsum over the factors, nothing of tnlib."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Letters: g group, s inputs, t outputs, xyz the window, a .. e ranks.


def dense_by_definition(module: nn.Module) -> Tensor:
    """What the factors of a layer multiply out to, in the replaced layer's shape."""
    factors = [factor.detach() for factor in module.factors()]
    if hasattr(module, "kernel_size"):
        groups = module.groups
        grouped = [factor.unflatten(0, (groups, -1)) for factor in factors]
        make = tensorized if module.format == "ttm" else chained
        return make(module, grouped).reshape(module.out_channels, -1, *module.kernel_size)
    if hasattr(module, "num_embeddings"):
        table = factors[0] @ factors[1].T if module.format == "svd" else tt_matrix(factors)
        table = table[: module.num_embeddings, : module.embedding_dim].clone()
        if module.padding_idx is not None:
            table[module.padding_idx] = 0.0
        return table
    make = {"svd": lambda f: f[1] @ f[0], "cp": cp, "tucker": tucker, "tt": tt_matrix, "ttm": tt_matrix}[module.format]
    return make(factors)[: module.out_features, : module.in_features]


def cp(factors: list[Tensor]) -> Tensor:
    """Sum over r of the outer products of columns r; the first half of the modes are the rows' digits."""
    letters = "abcdefgh"[: len(factors)]
    terms = ",".join(f"{letter}r" for letter in letters)
    return matrix(torch.einsum(f"{terms}->{letters}", *factors))


def tucker(factors: list[Tensor]) -> Tensor:
    """Core times one factor in each mode."""
    core, *factors = factors
    inner, outer = "abcdefgh"[: core.ndim], "ijklmnop"[: core.ndim]
    terms = ",".join(o + i for o, i in zip(outer, inner, strict=True))
    return matrix(torch.einsum(f"{inner},{terms}->{outer}", core, *factors))


def tt_matrix(cores: list[Tensor]) -> Tensor:
    """A tensor train over the pairs (m_k, n_k) of digits (Oseledets 2010; Novikov et al. 2015).

    A plain train through the rows' digits, then the columns', is one whose pairs are (m_k, 1), then (1, n_k).
    """
    rows, cols = ([core.shape[axis] for core in cores] for axis in (1, 2))
    tensor = trained([core.flatten(1, 2) for core in cores]).reshape(
        [n for pair in zip(rows, cols, strict=True) for n in pair]
    )
    tensor = tensor.permute(*range(0, 2 * len(cores), 2), *range(1, 2 * len(cores), 2))
    return tensor.reshape(math.prod(rows), math.prod(cols))


def trained(cores: list[Tensor]) -> Tensor:
    """The tensor of a train of cores (R_(q-1), N_q, R_q)."""
    tensor = cores[0]
    for core in cores[1:]:
        tensor = torch.einsum("...a,anb->...nb", tensor, core)
    return tensor[0, ..., 0]


def matrix(tensor: Tensor) -> Tensor:
    """A tensor of an even number of modes, the first half as rows."""
    half = tensor.ndim // 2
    return tensor.flatten(half).flatten(0, half - 1)


def chained(module: nn.Module, f: list[Tensor]) -> Tensor:
    """Kernels (g, T, S, window) of the formats whose factors are the kernels of small convolutions, first to last."""
    w = "xyz"[: len(module.kernel_size)]
    first, *middle, last = f
    last = along(last, ()) if module.format != "spatial_svd" else along(last, (1,))
    if module.format == "svd":
        return torch.einsum(f"gas{w},gta->gts{w}", first, last)
    if module.format == "spatial_svd":  # Jaderberg et al. 2014, scheme 2
        return torch.einsum("gasx,gtay->gtsxy", along(first, (0,)), last)
    first = along(first, ())
    if module.format == "cp3":
        return torch.einsum(f"gas,gao{w},gta->gts{w}", first, middle[0], last)
    if module.format == "tucker2":  # Kim et al. 2016
        return torch.einsum(f"gas,gba{w},gtb->gts{w}", first, middle[0], last)
    each = [along(factor, (axis,)) for axis, factor in enumerate(middle[: len(w)])]
    if module.format == "cp":  # Lebedev et al. 2015
        terms = ",".join(f"gao{letter}" for letter in w)
        return torch.einsum(f"gas,{terms},gta->gts{w}", first, *each, last)
    if module.format == "tucker":
        ranks = "cde"[: len(w)]
        terms = ",".join(f"g{rank}o{letter}" for rank, letter in zip(ranks, w, strict=True))
        return torch.einsum(f"gas,{terms},gba{ranks},gtb->gts{w}", first, *each, middle[-1], last)
    assert module.format == "tt"
    ranks = "abcd"[: len(w) + 1]
    terms = ",".join(f"g{right}{left}{x}" for left, right, x in zip(ranks[:-1], ranks[1:], w, strict=True))
    return torch.einsum(f"gas,{terms},gt{ranks[-1]}->gts{w}", first, *each, last)


def along(factor: Tensor, axes: tuple[int, ...]) -> Tensor:
    """A small convolution's kernel (g, R, R', *window) without the spatial axes of one entry that are not in `axes`."""
    return factor.reshape(*factor.shape[:3], *(factor.shape[3 + axis] for axis in axes))


def tensorized(module: nn.Module, f: list[Tensor]) -> Tensor:
    """A train over the window, then the pairs (t_k, s_k) of channel digits (Garipov et al. 2016)."""
    filters, *cores = f
    kernels = []
    for g in range(module.groups):
        window = filters[g].flatten(1)  # (R_0, kh kw)
        pairs = [core[g] for core in cores]
        parts = [tt_matrix([torch.einsum("r,rmnb->mnb", column, pairs[0])[None], *pairs[1:]]) for column in window.mT]
        outputs, inputs = module.out_channels // module.groups, module.in_channels // module.groups
        kernels.append(torch.stack(parts, -1)[:outputs, :inputs])
    return torch.stack(kernels)
