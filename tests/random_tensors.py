"""Random tensors of known ranks, with noise and without, float64, for the tests of `decompose`."""

import math

import tensorly as tl
import torch


def random_cp(shape, rank, *, collinearity=0.0, seed=0):
    """A tensor of CP rank R and its factors (N_q, R); any two columns of a factor have correlation `collinearity`."""
    generator, factors = torch.Generator().manual_seed(seed), []
    for size in shape:
        own, common = (torch.randn(size, n, generator=generator, dtype=torch.float64) for n in (rank, 1))
        factors.append(math.sqrt(1 - collinearity) * own + math.sqrt(collinearity) * common)
    return tl.cp_to_tensor((None, factors)), factors


def random_tucker(shape, ranks, *, seed=0):
    """A tensor of these Tucker ranks: a normal core and orthonormal factors."""
    generator = torch.Generator().manual_seed(seed)
    core = torch.randn(*ranks, generator=generator, dtype=torch.float64)
    pairs = zip(shape, ranks, strict=True)
    factors = [torch.linalg.qr(torch.randn(n, t, generator=generator, dtype=torch.float64)).Q for n, t in pairs]
    return tl.tucker_to_tensor((core, factors))


def with_noise(tensor, snr_db, *, seed=0):
    """The tensor plus white Gaussian noise N, with 10 log10(||X||^2 / E ||N||^2) = `snr_db`."""
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed), dtype=tensor.dtype)
    return tensor + float(tensor.norm()) / math.sqrt(tensor.numel()) * 10 ** (-snr_db / 20) * noise
