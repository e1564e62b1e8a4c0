# %% [markdown]
# # Solve the exercises of `07 measure what it costs`
#
# Try them first. Each answer is followed by the same check as in the lesson, and by why it is so.
#
# [Back to the lesson](../07_measure_what_it_costs.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # of the random numbers that the answers are tried on

# %%
import math

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tnlib import check, measure

generator = torch.Generator().manual_seed(seed)

# %% [markdown]
# ## 1. Intensity
#
# Count numbers: input, weight, bias, output. The bias matters little, but it is there, and for a tiny layer at batch 1 you
# can see it.


# %%
def linear_intensity(batch, inputs, outputs, width):
    numbers = batch * inputs + inputs * outputs + outputs + batch * outputs
    return batch * inputs * outputs / (width * numbers)


check.linear_intensity(linear_intensity)

# %% [markdown]
# Tensors can tell their bytes, and `measure.cost` the MACs:

# %%
for batch, inputs, outputs in ((1, 30, 20), (64, 7, 50)):
    layer, x = nn.Linear(inputs, outputs), torch.rand(batch, inputs, generator=generator)
    moved = x.nbytes + layer.weight.nbytes + layer.bias.nbytes + layer(x).nbytes
    macs = measure.cost(layer, x.shape).macs
    assert math.isclose(linear_intensity(batch, inputs, outputs, 4), macs / moved)
print("formula = count")

# %% [markdown]
# Half the bytes a number, twice the intensity: that is one of the two gains of float16. The common mistake is the factor 2
# between MAC and FLOP. A peak in FLOP/s and an intensity in MAC/byte do not go together.

# %%
assert linear_intensity(8, 30, 20, 2) == 2 * linear_intensity(8, 30, 20, 4)
print("width 2 instead of 4: twice the intensity")

# %% [markdown]
# ## 2. Attainable GFLOP/s
#
# Bring both roofs to the unit that is asked for, then take the lower one.


# %%
def attainable_gflops(macs, moved, peak_gflops, gbytes_per_second):
    intensity = 2 * macs / moved  # FLOP per byte
    return min(peak_gflops, intensity * gbytes_per_second)


check.attainable_gflops(attainable_gflops)

# %% [markdown]
# `Roofline.attainable` does the same in MACs. Half the rate in FLOP, everywhere:

# %%
roof = measure.Roofline(1, {"float32": 75.0}, 20.0, 1.0)  # 75 GMAC/s = 150 GFLOP/s
for macs, moved in ((3e6, 8e6), (5e9, 8e6), (1e6, 1e9)):
    assert math.isclose(attainable_gflops(macs, moved, 150, 20), 2 * roof.attainable(macs / moved))
print("GFLOP/s = 2 GMAC/s, left and right of the ridge")

# %% [markdown]
# Why a minimum and not a sum of times? While one block of numbers is multiplied, the next one can be on its way. The
# roofline supposes that this overlap is perfect; it is a bound. Without any overlap the rate is at most halved:

# %%
for macs, moved in ((3e6, 8e6), (5e9, 8e6), (3e7, 8e6)):
    seconds = 2 * macs / 150e9 + moved / 20e9
    assert 0.5 <= 2 * macs / seconds / 1e9 / attainable_gflops(macs, moved, 150, 20) <= 1
print("no overlap: between half of the roof and the roof")

# %% [markdown]
# ## 3. A speed-up from samples
#
# Divide round by round, then take the median. What slows a whole round multiplies both times and cancels.


# %%
def paired_speedup(first, second):
    return float(torch.quantile(first / second, 0.5))


check.paired_speedup(paired_speedup)

# %% [markdown]
# An experiment with a known truth: the second function takes 0.9 of the first's time, and the machine slows down by
# random factors up to ten, round by round. The ratio of medians is right on average, but it scatters more:

# %%
paired, unpaired = [], []
for _ in range(200):
    machine = 10 ** torch.rand(15, generator=generator, dtype=torch.float64)
    noise = 1 + 0.05 * torch.rand(2, 15, generator=generator, dtype=torch.float64)
    first, second = machine * noise[0], 0.9 * machine * noise[1]
    paired.append(paired_speedup(first, second))
    unpaired.append(float(first.quantile(0.5) / second.quantile(0.5)))
spread = [float(torch.tensor(values).std()) for values in (paired, unpaired)]
assert spread[0] < spread[1]
assert abs(torch.tensor(paired).mean() - 1 / 0.9) < 0.01
print("paired ratios scatter less than ratios of medians, around the truth")

# %% [markdown]
# Two details. `torch.median` of an even number of values returns the lower of the middle two; `quantile(0.5)` their mean.
# And pairing needs *turns*: if the two functions were timed in two blocks, entry $i$ of one has nothing to do with entry
# $i$ of the other.

# %%
even = torch.tensor([1.0, 2.0, 3.0, 10.0])
assert even.median() == 2
assert even.quantile(0.5) == 2.5
print("median of 1, 2, 3, 10:", float(even.median()), "or", float(even.quantile(0.5)))

# %% [markdown]
# ## 4. Break-even with a stride
#
# The first $1 \times 1$ stage computes all $HW$ positions, since the stride comes after it. The other two and the dense kernel
# compute $\lceil H/s \rceil \lceil W/s \rceil$.


# %%
def tucker2_mac_break_even(T, S, k, height, width, stride):
    before = height * width
    after = math.ceil(height / stride) * math.ceil(width / stride)
    R = 0
    while before * S * (R + 1) + after * ((R + 1) ** 2 * k**2 + (R + 1) * T) < after * T * S * k**2:
        R += 1
    return R


check.tucker2_mac_break_even(tucker2_mac_break_even)

# %% [markdown]
# Against real layers, one rank below and one above:


# %%
def macs_of(T, S, k, height, width, stride, R=None):
    whole = nn.Conv2d(S, T, k, stride, k // 2)
    parts = [nn.Conv2d(S, R or 1, 1), nn.Conv2d(R or 1, R or 1, k, stride, k // 2), nn.Conv2d(R or 1, T, 1)]
    return measure.cost(whole if R is None else nn.Sequential(*parts), (1, S, height, width)).macs


for case in ((64, 48, 3, 15, 11, 2), (32, 32, 5, 9, 8, 1), (20, 30, 3, 7, 7, 3)):
    R = tucker2_mac_break_even(*case)
    assert macs_of(*case, R=R) < macs_of(*case) <= macs_of(*case, R=R + 1)
print("below at R, not below at R + 1, for strides 1, 2 and 3")

# %% [markdown]
# The common mistake is to solve it in parameters. At stride 1 that is the same; at stride 2 it promises ranks that cost
# more MACs than the dense layer:

# %%
in_parameters = tucker2_mac_break_even(64, 64, 3, 16, 16, 1)
in_macs = tucker2_mac_break_even(64, 64, 3, 16, 16, 2)
assert in_macs < in_parameters
assert macs_of(64, 64, 3, 16, 16, 2, R=in_parameters) > macs_of(64, 64, 3, 16, 16, 2)
print(f"64 -> 64, 3x3, stride 2: rank {in_macs} in MACs, {in_parameters} in parameters")

# %% [markdown]
# ## 5. The batch at the ridge
#
# $I \ge I^*$ means $1/B + 1/m + 1/n \le 1/(4 I^*)$, so
#
# $$B \ge \left(\frac{1}{4 I^*} - \frac 1 m - \frac 1 n\right)^{-1} ,$$
#
# provided that the bracket is positive. If it is not, the layer is too narrow: $I < \frac14 \min(m, n)$ for every batch.


# %%
def ridge_batch(inputs, outputs, ridge):
    rest = 1 / (4 * ridge) - 1 / inputs - 1 / outputs
    return math.ceil(1 / rest) if rest > 0 else 0


check.ridge_batch(ridge_batch)

# %% [markdown]
# The answer is the first batch whose intensity reaches the ridge:


# %%
def intensity(batch, inputs, outputs):
    return 1 / (4 * (1 / batch + 1 / inputs + 1 / outputs))


for inputs, outputs, ridge in ((1000, 700, 3.7), (90, 70, 2.1), (4096, 25088, 12.3)):
    B = ridge_batch(inputs, outputs, ridge)
    assert intensity(B, inputs, outputs) >= ridge > intensity(B - 1, inputs, outputs)
assert intensity(10**9, 30, 4000) < 8.3
print("at B the ridge is reached, at B - 1 it is not")

# %% [markdown]
# Read it once more for a low-rank layer: its stages have sizes $R \times n$ and $m \times R$. If $R \le 4 I^*$, **no batch makes
# them limited by arithmetic**. On such a machine the MACs that a smaller rank saves are free anyway.

# %%
ridge = 6.0
for R in (8, 24):
    assert ridge_batch(1000, R, ridge) == 0
assert ridge_batch(1000, 64, ridge) > 0
print("ranks up to 4 x ridge: limited by memory at every batch")

# %% [markdown]
# ## 6. The cheapest meeting point
#
# The first phase goes from the last core, as in the lesson, and stops after core $p$. The second phase goes from the first core on what
# is left, with two passengers: the outputs that are done, and the bond $R_p$, open until core $p - 1$ closes it.


# %%
def meeting_macs(m, n, ranks, p):
    bonds, macs = [1, *ranks, 1], 0
    for q in range(p, len(m)):
        macs += math.prod(n[:q]) * bonds[q] * m[q] * n[q] * bonds[q + 1] * math.prod(m[q + 1 :])
    for q in range(p):
        waiting = bonds[p] if q < p - 1 else 1
        step = bonds[q] * m[q] * n[q] * bonds[q + 1]
        macs += math.prod(m[:q]) * step * math.prod(n[q + 1 : p]) * waiting * math.prod(m[p:])
    return macs


def two_sided_macs(row_dims, col_dims, ranks):
    return min(meeting_macs(row_dims, col_dims, ranks, p) for p in range(len(row_dims) + 1))


check.two_sided_macs(two_sided_macs)

# %% [markdown]
# A count is a claim about a computation, so do the computation. `tensordot` contracts in exactly this order, torch counts
# its MACs, and the result is compared with the dense matrix:


# %%
def meet(cores, x, p):
    n = [core.shape[2] for core in cores]
    y = x.reshape(*n, 1)  # inputs not met, bond, outputs done
    for q in reversed(range(p, len(cores))):
        y = torch.tensordot(y.movedim((q, q + 1), (0, 1)), cores[q], ([0, 1], [2, 3]))
        y = y.movedim(-2, q)
    y = y.unsqueeze(0)  # left bond, inputs not met, open bond, outputs done
    for q in range(p):
        closing = q == p - 1
        y = torch.tensordot(cores[q], y, ([0, 2, 3], [0, 1, 2]) if closing else ([0, 2], [0, 1]))
        y = y.unsqueeze(0) if closing else y.movedim(0, -1)
    return y


# %% [markdown]
# The digits of the result come out in an order that depends on $p$; sorted values are enough to compare.

# %%
m, n, ranks = (3, 2, 5, 2), (2, 4, 3, 3), (2, 3, 2)
bonds = [1, *ranks, 1]
sizes = [(bonds[q], m[q], n[q], bonds[q + 1]) for q in range(4)]
cores = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
x = torch.randn(math.prod(n), generator=generator, dtype=torch.float64)
dense = torch.einsum("aipb,bjqc,ckrd,dlse,pqrs->ijkl", *cores, x.reshape(n)).flatten()
for p in range(5):
    with FlopCounterMode(display=False) as counter:
        y = meet(cores, x, p)
    assert torch.allclose(y.flatten().sort().values, dense.sort().values)
    assert counter.get_total_flops() // 2 == meeting_macs(m, n, ranks, p)
print("five meeting points: equal results, and MACs as counted")

# %% [markdown]
# For the VGG layer of the lesson, does meeting in the middle pay?

# %%
vgg = ((4,) * 6, (2, 7, 8, 8, 7, 4), (4,) * 5)
counts = [meeting_macs(*vgg, p) for p in range(7)]
best = min(range(7), key=counts.__getitem__)
print("MACs for p = 0 .. 6:", ", ".join(f"{count:,}" for count in counts), "  best p:", best)
assert counts[best] == two_sided_macs(*vgg)

# %% [markdown]
# Two mistakes: to forget that the open bond multiplies the work of the second phase, and to count it in the closing step
# as well, where it is summed. Both give plausible numbers; only a computation tells.
