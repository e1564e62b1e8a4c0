# %% [markdown]
# # Solve the exercises of `15 bring a network to a small machine`
#
# Try them first. Each answer is followed by the same check as in the lesson, and by why it is so.
#
# [Back to the lesson](../15_bring_a_network_to_a_small_machine.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # of the random numbers that the answers are tried on

# %%
import torch

from tnlib import check

generator = torch.Generator().manual_seed(seed)


def randn(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# %% [markdown]
# ## 1. Eight bits and back
#
# Widen the range first: a zero point outside of -128 to 127 is no int8. Then round, add the zero point, clip, and read back. Clipping comes after the zero point is added, since it is the stored number that must fit.


# %%
def quantize_affine(x, low, high):
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero = round(-128 - low / scale)
    q = (torch.round(x / scale) + zero).clamp(-128, 127)
    return scale * (q - zero)


check.quantize_affine(quantize_affine)

# %%
x = 3 + randn(1000).clamp(-2.9, 2.9)
read = quantize_affine(x, float(x.min()), float(x.max()))
assert (read - x).abs().max() <= float(x.max()) / 255
assert quantize_affine(torch.zeros(3), 1.0, 2.0).abs().max() == 0
print("within a step, and zero stays zero though the range began above it")

# %% [markdown]
# ## 2. A chain of three
#
# Let $m_r$ be the common range. The scales are $m_r / a_r$, $m_r / b_r$, $m_r / c_r$; their product is $m_r^3 / (a_r b_r c_r)$ and has to be 1. So $m_r = (a_r b_r c_r)^{1/3}$: the geometric mean, for any number of factors.


# %%
def balance_three(a, b, c):
    return (a * b * c) ** (1 / 3) / torch.stack([a, b, c])


check.balance_three(balance_three)

# %% [markdown]
# Proposition 2 holds for three factors, too: no gauge has a smaller product of the three largest ranges.

# %%
a, b, c = (randn(8).exp() for _ in range(3))
scales = balance_three(a, b, c)
assert torch.allclose(scales.prod(0), torch.ones(8, dtype=torch.float64))
least = (scales * torch.stack([a, b, c])).amax(1).prod()
assert torch.isclose(least, (a * b * c).max())
for _ in range(100):
    other = randn(3, 8)
    other = torch.exp(other - other.mean(0))
    assert (other * torch.stack([a, b, c])).amax(1).prod() >= least * (1 - 1e-12)
print("100 other gauges: none has a smaller product of ranges")

# %% [markdown]
# ## 3. Where to clip
#
# All candidates at once: a row for each. What is outside of a range is clipped to its end and counts with its distance.


# %%
def best_range(x, ranges):
    steps = ranges[:, None] / 127
    read = steps * torch.round(x / steps).clamp(-127, 127)
    return ranges[(read - x).square().sum(1).argmin()]


check.best_range(best_range)

# %% [markdown]
# The more values there are beside an outlier, the more it pays to clip it: their rounding errors add up, and its clipping error does not.

# %%
found = []
for number in (100, 1_000, 10_000, 100_000):
    values = randn(number)
    values[0] = 15.0
    found.append(float(best_range(values, torch.linspace(2, 15, 131, dtype=torch.float64))))
assert found == sorted(found, reverse=True)
assert found[-1] < found[0]
print("the best range falls with the number of values beside the outlier")
