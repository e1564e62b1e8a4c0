"""Estimates of a matrix's rank from the matrix alone: what stands out of white noise, or keeps a share of the energy.

All three read the singular values only, so a matrix and its transpose have the same rank. `vbmf` and
`description_length_rank` suppose a low-rank matrix plus independent Gaussian noise of one variance.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from tnlib.decompose import _validate as validate

Values = NDArray[np.float64]


class VBMF(NamedTuple):
    """Rank, noise variance of one entry, and the shrunk singular values, (rank,), descending."""

    rank: int
    noise_variance: float
    singular_values: Tensor


def vbmf(matrix: Tensor, noise_variance: float | None = None) -> VBMF:
    """Rank by empirical variational Bayesian matrix factorization: the global minimum of the free energy.

    The model is matrix = B A^T + noise, the columns of A and B Gaussian with variances of their own, which are
    estimated, too. With L <= M the sides of the matrix, alpha = L / M and s a singular value, a component is kept where

        s^2 > M noise_variance (1 + t) (1 + alpha / t),   t > 0 the root of log(1 + t) + alpha log(1 + t / alpha) = t,

    and its singular value shrinks to s / 2 (1 - (L + M) r + sqrt((1 - (L + M) r)^2 - 4 L M r^2)), r = noise_variance /
    s^2. In a large matrix the weakest component found has a singular value of sqrt(M noise_variance t) without noise; t
    is 2.5129 sqrt(alpha) to 6 % from alpha = 0.05 on, and exactly at 1. A noise variance that is not given is that of
    least free energy; the rank then stays below L M / (L + M), half the side of a square matrix; a row or a column
    has rank 0. The estimate is too high by a share of R^2 / (L M - R (L + M)) where all R components are strong, more
    where they are weak. A matrix that has such a rank up to the rounding of its dtype has noise variance 0.

    Args:
        matrix: shape (m, n), real.
        noise_variance: of one entry, in the units of the matrix squared; estimated if None.

    Returns:
        `VBMF`; the singular values have the dtype and device of the matrix.

    Raises:
        TypeError: not a real floating torch tensor.
        ValueError: a tensor that is empty or not of order 2, nan or infinite values, a noise variance that is negative
            or not finite, singular values too large for the input's dtype or a noise variance too large for a float.

    Source: Nakajima, Sugiyama, Babacan and Tomioka, Global analytic solution of fully-observed variational Bayesian
        matrix factorization, JMLR 14 (2013) 1-37; t and the bounds of the noise variance: Nakajima, Tomioka, Sugiyama
        and Babacan, Condition for perfect dimensionality recovery by variational Bayesian PCA, JMLR 16 (2015).
    """
    s, rounding, exponent = _spectrum(matrix)
    small, large = sorted(matrix.shape)
    alpha, threshold = small / large, _evb_threshold(small / large)
    given = _scaled_variance(noise_variance, exponent)
    variance = _evb_noise_variance(s**2 / large, rounding**2 / large, large, threshold) if given is None else given
    kept = s[s > max(rounding, math.sqrt(large * variance * threshold))]
    ratio = large * variance / kept**2
    linear = 1 - (1 + alpha) * ratio
    shrunk = torch.from_numpy(kept / 2 * (linear + np.sqrt(linear**2 - 4 * alpha * ratio**2))).to(matrix.device)
    noise = _times_power_of_two(variance, 2 * exponent) if noise_variance is None else float(noise_variance)
    if math.isinf(noise):
        raise ValueError("the noise variance is too large for a float: divide the matrix by a constant first")
    return VBMF(len(kept), noise, validate.narrowed(shrunk, matrix.dtype, exponent))


def energy_rank(matrix: Tensor, energy: float) -> int:
    """The smallest rank whose best approximation keeps a share of the squared Frobenius norm.

    Args:
        matrix: shape (m, n), real.
        energy: sum of the kept squared singular values over the sum of all, in (0, 1]. A share is met to within max(m,
            n) eps of float64; 1 keeps every singular value above the rounding of the matrix in its dtype.

    Returns:
        The rank, 0 for a zero matrix. The relative error of `svd` at this rank is at most sqrt(1 - energy).

    Raises:
        TypeError: not a real floating torch tensor.
        ValueError: a tensor that is empty or not of order 2, nan or infinite values, an energy outside (0, 1].
    """
    s, rounding, _ = _spectrum(matrix)
    if not 0 < energy <= 1:
        raise ValueError(f"energy must lie in (0, 1], got {energy}")
    tails = np.cumsum(np.where(s > rounding, s, 0.0)[::-1] ** 2)[::-1]
    lost = 1 - energy + max(matrix.shape) * np.finfo(np.float64).eps if energy < 1 else 0.0
    return int((tails > lost * tails[0]).sum())


def description_length_rank(matrix: Tensor, noise_variance: float | None = None) -> int:
    """Rank by minimum description length: the number of signals of Wax and Kailath (1985), for real data.

    The samples are the N = max(m, n) vectors along the longer side, each of p = min(m, n) entries: the rows of a tall
    matrix, the columns of a wide one. With l_1 >= .. >= l_p the eigenvalues s^2 / N of their covariance about zero, the
    rank is the k < p that makes least

        N (p - k) log(arithmetic / geometric mean of l_(k+1) .. l_p) + k (2 p - k + 1) / 2 log N,

    twice the description length but for a constant. Wax and Kailath's vectors are complex and have k (2 p - k) free
    parameters; real ones have k (2 p - k + 1) / 2, and half the log-likelihood. With a known noise variance v, k <= p
    and the first term is the sum of N (l_i / v - log(l_i / v) - 1) over i > k, where only l_i > v are signals. The
    criterion is made for N of several times p: a square matrix of noise with ten rows often seems of full rank.

    Args:
        matrix: shape (m, n), real.
        noise_variance: of one entry, in the units of the matrix squared; unknown if None.

    Returns:
        The rank; at most p - 1 if the noise variance is unknown.

    Raises:
        TypeError: not a real floating torch tensor.
        ValueError: a tensor that is empty or not of order 2, nan or infinite values, a noise variance that is negative
            or not finite.

    Source: Wax and Kailath, Detection of signals by information theoretic criteria, IEEE Transactions on Acoustics,
        Speech and Signal Processing 33 (1985) 387-392.
    """
    s, rounding, exponent = _spectrum(matrix)
    variance = _scaled_variance(noise_variance, exponent)
    if s[0] == 0:
        return 0
    p, samples = sorted(matrix.shape)
    k = np.arange(p + 1)
    penalty = k * (2 * p - k + 1) / 2 * math.log(samples)
    eigenvalues = np.maximum(s, rounding) ** 2 / samples
    if variance is not None:
        signals = eigenvalues / max(variance, rounding**2 / samples)
        signals = signals[signals > 1]
        gain = np.append(0.0, np.cumsum(samples * (signals - np.log(signals) - 1)))
        return int(np.argmin(penalty[: len(gain)] - gain))
    arithmetic = np.log(np.cumsum(eigenvalues[::-1])[::-1] / (p - k[:p]))
    geometric = np.cumsum(np.log(eigenvalues[::-1]))[::-1] / (p - k[:p])
    return int(np.argmin(samples * (p - k[:p]) * (arithmetic - geometric) + penalty[:p]))


def _spectrum(matrix: Tensor) -> tuple[Values, float, int]:
    """Singular values times 2^-exponent, descending; how large a zero may have become by rounding; the exponent."""
    wide, exponent = validate.scaled(matrix, order=2)
    s: Values = torch.linalg.svdvals(wide).cpu().numpy()
    stored = torch.finfo(matrix.dtype).eps / 2 * float(np.linalg.norm(s))  # no entry moves by more than eps / 2 of it
    return s, max(stored, float(s[0]) * max(wide.shape) * torch.finfo(wide.dtype).eps), exponent


def _scaled_variance(noise_variance: float | None, exponent: int) -> float | None:
    """The given noise variance, checked, in the units of the scaled matrix."""
    if noise_variance is None:
        return None
    if not (math.isfinite(noise_variance) and noise_variance >= 0):
        raise ValueError(f"noise_variance must be finite and not negative, got {noise_variance}")
    return _times_power_of_two(noise_variance, -2 * exponent)


def _times_power_of_two(value: float, exponent: int) -> float:
    """The value times 2^exponent, infinite where that is out of range."""
    return math.ldexp(value, exponent) if value == 0 or math.frexp(value)[1] + exponent <= 1024 else math.inf


def _evb_threshold(alpha: float) -> float:
    """The least s^2 / (M noise_variance) of a component that is kept: there its free energy is that of no component."""
    low, high = math.sqrt(alpha), 3.0  # the function's maximum, and more than the root at alpha = 1, the largest root
    t = brentq(lambda t: math.log1p(t) + alpha * math.log1p(t / alpha) - t, low, high, xtol=1e-14 * low)
    return float((1 + t) * (1 + alpha / t))


def _evb_noise_variance(e: Values, rounding: float, large: int, threshold: float) -> float:
    """The noise variance v of least free energy, e = s^2 / M descending.

    Twice the free energy over L M is, but for a constant, log v + sum(x + min(0, psi)) / L, x = e / v, where
    psi = log(1 + tau) + alpha log(1 + tau / alpha) - tau and x = (1 + tau) (1 + alpha / tau). Where one more component
    is kept it has a kink, which is no minimum. Between two kinks, its derivative by u = 1 / v is 1 / u times a convex
    function, so that the one minimum is the function's largest root, to which Newton's method descends from the right.
    """
    length, alpha = len(e), len(e) / large
    most = (length * large - 1) // (length + large)  # of the components kept at any minimum
    if e[most] <= rounding:
        return 0.0  # the free energy has no lower bound as v vanishes
    tails = np.append(np.cumsum(e[::-1])[::-1], 0.0)
    kinks = threshold / e[: most + 1]
    minima = [length / tails[0]]  # all is noise: the lowest u there can be
    for kept in range(1, most + 1):
        left, right = max(kinks[kept - 1], minima[0]), kinks[kept]
        minima += _largest_root(e[:kept], float(tails[kept]), length, alpha, left, right)
    energies = []
    for u in minima:
        kept = int((u * e > threshold).sum())
        tau = _tau(u * e[:kept], alpha)
        signal = 1 + alpha + alpha / tau + np.log1p(tau) + alpha * np.log1p(tau / alpha)  # x + psi without cancellation
        energies.append((float(signal.sum()) + u * tails[kept]) / length - math.log(u))
    return float(1 / minima[int(np.argmin(energies))])


def _largest_root(e: Values, tail: float, length: int, alpha: float, left: float, right: float) -> list[float]:
    """The largest u in (left, right) where sum(x - tau) over the kept components, e, plus u tail is L, if any."""
    u = right
    while u > left:
        tau = _tau(u * e, alpha)
        value = float((1 + alpha + alpha / tau).sum()) + u * tail - length
        slope = tail - float((alpha * e / (tau**2 - alpha)).sum())
        if slope <= 0:
            return []
        if value <= 4 * np.finfo(np.float64).eps * u * slope:
            return [u]  # or the right end, where the free energy still falls, and which a minimum undercuts
        u -= value / slope
    return []


def _tau(x: Values, alpha: float) -> Values:
    """The larger root of x = (1 + tau) (1 + alpha / tau)."""
    return np.asarray((x - 1 - alpha + np.sqrt((x - 1 - alpha) ** 2 - 4 * alpha)) / 2)
