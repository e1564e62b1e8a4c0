"""The preconditioner of a CPD's normal equations: against its blocks formed densely, and what it is worth."""

import pytest
import torch
from cp_convolutions import CONVOLUTIONS, definite, made, randn
from torch import nn

from tnlib import layers
from tnlib.compress.fitting import _kernel_of, fit_factors
from tnlib.compress.preconditioner import CPBlocks


def dense_block(layer, factors, k, moment):
    """J_k^T M J_k of one factor, column by column."""
    kernel, number = _kernel_of(layer), factors[k].numel()
    units = torch.eye(number, dtype=torch.float64).reshape(number, *factors[k].shape)
    images = torch.stack([kernel(*factors[:k], unit, *factors[k + 1 :])[0] for unit in units])
    return torch.einsum("ati,ij,btj->ab", images, moment[0], images)


@pytest.mark.parametrize(("format", "kind"), CONVOLUTIONS)
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_of_a_kronecker_product_the_blocks_are_exact(format, kind, damping):
    layer = made(format, kind)
    factors = [randn(*f.shape, seed=k) for k, f in enumerate(layer.factors())]
    moment = torch.ones(1, 1, dtype=torch.float64)
    for seed, factor in enumerate(factors[:-1]):
        moment = torch.kron(moment, definite(factor[0].numel(), seed))
    gradient = [randn(*f.shape, seed=9 + k) for k, f in enumerate(factors)]
    found = CPBlocks(layer, moment[None]).at(factors, [damping] * len(factors))(gradient)
    for k, part in enumerate(found):
        block = dense_block(layer, factors, k, moment[None])
        expected = torch.linalg.solve(block + damping * torch.eye(len(block), dtype=block.dtype), gradient[k].flatten())
        assert torch.allclose(part.flatten(), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("format", "kind"), CONVOLUTIONS)
def test_of_any_moment_the_block_of_the_outputs_is_exact(format, kind):
    layer = made(format, kind)
    factors = [randn(*f.shape, seed=k) for k, f in enumerate(layer.factors())]
    size = layer.weight[0].numel()
    moment = definite(size, 3)[None]
    gradient = [randn(*f.shape, seed=9 + k) for k, f in enumerate(factors)]
    found = CPBlocks(layer, moment).at(factors, [0.1] * len(factors))(gradient)
    block = dense_block(layer, factors, len(factors) - 1, moment)
    expected = torch.linalg.solve(block + 0.1 * torch.eye(len(block), dtype=block.dtype), gradient[-1].flatten())
    assert torch.allclose(found[-1].flatten(), expected, rtol=1e-7, atol=1e-9)
    for k, part in enumerate(found):  # the others are positive definite, which conjugate gradients need
        assert part.shape == factors[k].shape
        assert (part * gradient[k]).sum() > 0


@pytest.mark.parametrize("format", ["cp", "cp3"])
def test_with_the_blocks_as_many_products_go_further(format):
    torch.manual_seed(0)
    layer = nn.Conv2d(12, 10, 3).double()
    smooth = torch.exp(-0.3 * torch.arange(3.0)[:, None].sub(torch.arange(3.0)).abs()).double()
    moment = torch.kron(definite(12, 1), torch.kron(smooth, smooth))[None]
    target = layer.weight.detach().flatten(1)[None]
    start = layers.factorize(layer, format, 9)
    _, with_blocks = fit_factors(start, target, moment, products=25, tol=1e-6)
    _, without = fit_factors(start, target, moment, tol=1e-6, preconditioned=False)
    assert with_blocks[0] == without[0]
    assert with_blocks[-1] < without[-1]


def test_factors_of_zeros_give_numbers():
    layer = made("cp3", nn.Conv2d)
    zeros = [torch.zeros_like(f) for f in layer.factors()]
    solve = CPBlocks(layer, definite(layer.weight[0].numel(), 0)[None]).at(zeros, [0.0] * 3)
    assert all(torch.isfinite(part).all() for part in solve(zeros))
