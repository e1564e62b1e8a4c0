# %% [markdown]
# # Solve the exercises of `06 build tensor layers`
#
# Try them first. Each answer is followed by the same check as in the lesson, and by why it is so.
#
# [Back to the lesson](../06_build_tensor_layers.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # of the random layers that the answers are tried on

# %%
import itertools
import math

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from tnlib import check

generator = torch.Generator().manual_seed(seed)


# %%
def rand(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def close(a, b, tolerance=1e-10):
    return (a - b).norm() <= tolerance * b.norm()


# %%
def macs(function, *args):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(*args)
    return counter.get_total_flops() // 2


# %% [markdown]
# ## 1. Count a chain with a stride
#
# The first $1 \times 1$ sees the whole image, $H \times W$. The vertical stage strides vertically: its output is
# $H' \times W$. The horizontal one leaves $H' \times W'$, and there the last $1 \times 1$ works. A stage's MACs are
# its weights times the places of its *output*; a depthwise filter sees one channel, so its stage has $R k_h$ weights,
# not $R^2 k_h$.


# %%
def cp_conv_macs(kernel_shape, rank, image, output):
    T, S, kh, kw = kernel_shape
    (H, W), (h, w) = image, output
    return rank * (S * H * W + kh * h * W + kw * h * w + T * h * w)


check.cp_conv_macs(cp_conv_macs)

# %% [markdown]
# With a stride of 2 the first stage works on four times as many places as the last. The common mistake, parameters
# times output places, misses that:

# %%
exact = cp_conv_macs((64, 64, 3, 3), 64, (16, 16), (8, 8))
careless = 64 * (64 + 3 + 3 + 64) * 8 * 8
dense = 64 * 64 * 9 * 8 * 8
assert careless < dense < 2 * exact
print(f"exact {exact / dense:.2f}, careless {careless / dense:.2f} of the dense layer's MACs")

# %% [markdown]
# For such a layer another order is worth a thought: the sums over $a$ and $b$ could go in before the one over $s$,
# with the image filtered channel by channel for each term. Then the stride comes first, but the filters run over
# $S R$ images instead of $R$.
#
# ## 2. Sweep from the left
#
# The mirror image of the lesson's sweep. Let the state be (bond, digits to come, batch, outputs so far). The core as
# a matrix $m_q R_{q+1} \times R_q n_q$ acts on the front; the new output digit $i_q$ then goes to the *back*, and the
# bond stays in front.


# %%
def tt_linear_from_left(x, cores):
    y = x.T
    for core in cores:
        left, m, n, right = core.shape
        y = core.permute(1, 3, 0, 2).reshape(m * right, left * n) @ y.reshape(left * n, -1)
        y = y.reshape(m, -1).T
    return y.reshape(len(x), -1)


check.tt_linear_from_left(tt_linear_from_left)

# %% [markdown]
# At the end all outputs stand behind the batch, in their order: $i_0$ went to the back first, so it varies slowest.
# (The check's last input has $m = (1, 2^{19})$, $n = (2^{19}, 1)$: from the left the state shrinks to one bond before it
# grows, from the right it grows to $2^{39}$ numbers first.)
#
# Transposed digits are the common mistake; with square digits they give a result of the right shape. So test with
# unequal ones, against the weight multiplied out:


# %%
def random_cores(rows, cols, ranks):
    R = [1, *ranks, 1]
    return [rand(R[k], rows[k], cols[k], R[k + 1]) for k in range(len(rows))]


# %%
def tt_weight(cores):
    W = cores[0]
    for core in cores[1:]:
        W = torch.einsum("aijr,rklb->aikjlb", W, core).flatten(3, 4).flatten(1, 2)
    return W[0, :, :, 0]


# %%
rows, cols, ranks = (3, 5, 2, 4), (4, 2, 3, 2), (3, 6, 2)
cores, x = random_cores(rows, cols, ranks), rand(7, 48)
assert close(tt_linear_from_left(x, cores), x @ tt_weight(cores).T)
assert torch.autograd.gradcheck(lambda *cores: tt_linear_from_left(x, cores), [core.requires_grad_() for core in cores])
print("four unequal digits: equal to the dense layer, gradients right")

# %% [markdown]
# And the count: core $q$ acts for each value of the output digits already there and of the input digits still to come.


# %%
def sweep_macs(rows, cols, ranks):
    R = [1, *ranks, 1]
    others = [math.prod(cols[:k]) * math.prod(rows[k + 1 :]) for k in range(len(rows))]
    return sum(R[k] * rows[k] * cols[k] * R[k + 1] * others[k] for k in range(len(rows)))


assert macs(tt_linear_from_left, x, cores) == 7 * sweep_macs(rows[::-1], cols[::-1], ranks[::-1])
print("MACs as those of the mirrored train swept from the right")

# %% [markdown]
# ## 3. A strided CP convolution
#
# The factor that holds the kernel's vertical index $a$ moves vertically, so it carries the vertical stride and
# padding; the horizontal one likewise. The two factors of the channels move nowhere.


# %%
def strided_cp(x, factors, stride, padding):
    out, inp, high, wide = factors
    groups = inp.shape[1]
    y = F.conv2d(x, inp.T[:, :, None, None])
    y = F.conv2d(y, high.T[:, None, :, None], stride=(stride[0], 1), padding=(padding[0], 0), groups=groups)
    y = F.conv2d(y, wide.T[:, None, None, :], stride=(1, stride[1]), padding=(0, padding[1]), groups=groups)
    return F.conv2d(y, out[:, :, None, None])


check.strided_cp(strided_cp)

# %%
factors, image = [rand(size, 3) for size in (5, 4, 3, 2)], rand(2, 4, 9, 8)
kernel = torch.einsum("tr,sr,ar,br->tsab", *factors)
for stride, padding in (((2, 1), (1, 0)), ((1, 3), (0, 2)), ((2, 2), (1, 1))):
    wanted = F.conv2d(image, kernel, stride=stride, padding=padding)
    assert close(strided_cp(image, factors, stride, padding), wanted)
print("three strides and paddings: equal to torch's convolution with the multiplied-out kernel")

# %% [markdown]
# Why is a stride in the first stage wrong? It keeps pixels 0, 2, 4, ...; the vertical filter then combines pixels 0,
# 2 and 4, where the dense kernel combines 0, 1 and 2. The result is that of a *dilated* kernel on fewer pixels, of
# the same shape. Exactly that, if the padding is adapted:

# %%
out, inp, high, wide = factors
thin = image[:, :, ::2, ::2]
early = strided_cp(thin, factors, (1, 1), (0, 0))
dilated = F.conv2d(image, kernel, stride=2, dilation=2)
assert close(early, dilated[:, :, : early.shape[2], : early.shape[3]])
assert not close(early, F.conv2d(image, kernel, stride=2)[:, :, : early.shape[2], : early.shape[3]], 0.1)
print("striding first computes a dilated convolution")

# %% [markdown]
# ## 4. One standard deviation for all cores
#
# An entry of the weight is
#
# $$w_{ij} = \sum_{r_1 \dots r_{d-1}} g^{(0)}_{i_0 j_0 r_1}\, g^{(1)}_{r_1 i_1 j_1 r_2} \cdots g^{(d-1)}_{r_{d-1} i_{d-1} j_{d-1}} ,$$
#
# $R_1 \cdots R_{d-1}$ terms. Each is a product of $d$ independent entries of mean 0 and variance $s^2$, so it has
# mean 0 and variance $s^{2d}$. Two terms differ in at least one bond index, so at least one entry of the one does not
# occur in the other, and they are uncorrelated. The variances add: $\operatorname{Var}(w_{ij}) = s^{2d} \prod_q R_q$.
# Set it equal to $g^2 / N$:
#
# $$s = \Big( \frac{g^2}{N\, \prod_q R_q} \Big)^{1 / (2d)} .$$
#
# The sizes of the outputs do not occur.


# %%
def equal_std(rows, cols, ranks, gain):
    return (gain**2 / (math.prod(cols) * math.prod(ranks))) ** (1 / (2 * len(cols)))


check.equal_std(equal_std)

# %% [markdown]
# The lesson's exact test: put variances in the place of entries, multiply out.

# %%
for rows, cols, ranks, gain in (((3, 5, 2), (4, 2, 3), (3, 6), 2**0.5), ((2, 9), (7, 3), (5,), 1.0)):
    variances = [
        torch.full_like(core, equal_std(rows, cols, ranks, gain) ** 2) for core in random_cores(rows, cols, ranks)
    ]
    target = gain**2 / math.prod(cols)
    assert torch.allclose(
        tt_weight(variances), torch.full((math.prod(rows), math.prod(cols)), target, dtype=torch.float64)
    )
print("every entry of the weight has variance gain^2 / N")

# %% [markdown]
# So this rule and the lesson's give the weight the same variance; their cores differ by factors only, which is a
# gauge. What differs is what lies between: the sizes of intermediate states, and of the gradients of the single
# cores. The square root is easily forgotten; and note how *large* $s$ is, far from $\sqrt{2 / N}$:

# %%
vgg = equal_std((4,) * 6, (2, 7, 8, 8, 7, 4), (4,) * 5, 2**0.5)
print(f"VGG's first layer as a train of rank 4: s = {vgg:.2f}, a dense layer's {math.sqrt(2 / 25088):.4f}")
assert vgg > 10 * math.sqrt(2 / 25088)

# %% [markdown]
# ## 5. The cheapest plan
#
# Enumerating: choose the bonds that stay (the cuts), merge what lies between, and count both directions.


# %%
def merge(rows, cols, ranks, cuts):
    groups = list(itertools.pairwise([0, *cuts, len(rows)]))
    new_rows, new_cols = ([math.prod(sizes[a:b]) for a, b in groups] for sizes in (rows, cols))
    return new_rows, new_cols, [ranks[cut - 1] for cut in cuts]


# %%
def least_macs(rows, cols, ranks):
    d, found = len(rows), []
    for cuts in itertools.chain.from_iterable(itertools.combinations(range(1, d), count) for count in range(d)):
        r, c, R = merge(rows, cols, ranks, cuts)
        found += [sweep_macs(r, c, R), sweep_macs(r[::-1], c[::-1], R[::-1])]
    return min(found)


check.least_macs(least_macs)

# %% [markdown]
# There are $2^d$ plans, which is nothing for $d = 6$ and too much for $d = 40$. But the cost of a group of cores
# $a \dots b - 1$ in the sweep from the right depends only on $a$ and $b$:
#
# $$R_a\, (m_a \cdots m_{b-1})\, (n_a \cdots n_{b-1})\, R_b \cdot n_0 \cdots n_{a-1} \cdot m_b \cdots m_{d-1} .$$
#
# So the best way to group the first $b$ cores is the best last group $a \dots b - 1$ added to the best way to group
# the first $a$: *dynamic programming*, about $d^2 / 2$ groups in all.


# %%
def least_from_right(rows, cols, ranks):
    R, best = [1, *ranks, 1], [0]
    for b in range(1, len(rows) + 1):
        group = [
            R[a] * math.prod(rows[a:]) * math.prod(cols[:b]) * R[b] + best[a]
            for a in range(b)
        ]  # fmt: skip
        best.append(min(group))
    return best[-1]


# %%
def least_by_programming(rows, cols, ranks):
    return min(least_from_right(rows, cols, ranks), least_from_right(rows[::-1], cols[::-1], ranks[::-1]))


check.least_macs(least_by_programming)

# %% [markdown]
# (The products of the digits collapse: merged digits times those to come are $n_0 \cdots n_{b-1}$, merged times done
# are $m_a \cdots m_{d-1}$.) On random shapes, and on a train that no enumeration finishes:

# %%
for _ in range(50):
    sizes = torch.randint(2, 9, (3, 6), generator=generator).tolist()
    shape = sizes[0], sizes[1], sizes[2][:5]
    assert least_by_programming(*shape) == least_macs(*shape)
long = (2,) * 40, (2,) * 40, (3,) * 39
assert least_by_programming(*long) < sweep_macs(*long)
print("50 random layers: both find the same minimum; and 2^40 plans are no obstacle")

# %% [markdown]
# A sweep is not the only way: one can start in the middle, or contract the two halves of the train separately. And
# MACs are not time. `layers.TTMLinear.explain` shows what a planner does that minimises a model of time.
