# %% [markdown]
# # Solve the exercises of `14 propose a scheme`
#
# Try them first. Each answer is followed by the same check as in the lesson, and by why it is so.
#
# [Back to the lesson](../14_propose_a_scheme.ipynb) · [Glossary](../GLOSSARY.md)

# %% tags=["parameters"]
seed: int = 0  # of the random numbers that the answers are tried on

# %%
import torch

from tnlib import check

generator = torch.Generator().manual_seed(seed)


def randn(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# %% [markdown]
# ## 1. Behind a shortcut
#
# With BatchNorm's shift $b$, the sum is $s_c\, y + b + \text{before}$ in the original and $s_c\, y' + b + \text{now}$ in the compressed network. They are equal for
# $y' = y + (\text{before} - \text{now}) / s_c$: the shift cancels.


# %%
def shortcut_target(wanted, before, now, scale):
    return wanted + (before - now) / scale[:, None]


check.shortcut_target(shortcut_target)

# %%
wanted, before, now, scale, shift = randn(4, 50), randn(4, 50), randn(4, 50), 0.5 + randn(4).abs(), randn(4)
target = shortcut_target(wanted, before, now, scale)
sums = [scale[:, None] * y + shift[:, None] + shortcut for y, shortcut in ((wanted, before), (target, now))]
assert torch.allclose(*sums)
print("the two sums are equal, whatever BatchNorm adds")

# %% [markdown]
# Where a scale is nearly zero the target explodes for nothing: that channel hardly reaches the sum. `compress.repair` leaves such channels alone.
#
# ## 2. The best matrix of low rank on samples
#
# By proposition 2 the error is a constant plus $\|(\mathbf K - \mathbf W') (\mathbf X \mathbf X^\top)^{1/2}\|_F^2$, and by Eckart and Young the best $\mathbf K (\mathbf X \mathbf X^\top)^{1/2}$ is the truncated SVD of $\mathbf W' (\mathbf X \mathbf X^\top)^{1/2}$.
# Its left singular vectors are those of $\mathbf W' \mathbf X$, since both have the same Gram matrix. So project least squares on the leading ones: no root is needed.


# %%
def reduced_rank(x, y, rank):
    fitted = torch.linalg.lstsq(x.T, y.T).solution.T
    leading = torch.linalg.svd(fitted @ x, full_matrices=False).U[:, :rank]
    return leading @ leading.T @ fitted


check.reduced_rank(reduced_rank)

# %% [markdown]
# Truncating $\mathbf W'$ itself is another matrix, and a worse one on the samples unless the inputs are white:

# %%
x = randn(6, 6) @ randn(6, 300)
y = randn(5, 6) @ x + 2 * randn(5, 300)
u, s, v = torch.linalg.svd(torch.linalg.lstsq(x.T, y.T).solution.T, full_matrices=False)
for rank in (1, 2, 3):
    plain = (u[:, :rank] * s[:rank]) @ v[:rank]
    assert (y - reduced_rank(x, y, rank) @ x).norm() < (y - plain @ x).norm()
print("reduced-rank regression errs less on the samples than truncated least squares, at ranks 1 to 3")

# %% [markdown]
# ## 3. How far from Kronecker?
#
# Block $(i, j)$ of $\mathbf A \otimes \mathbf B$ is $a_{ij} \mathbf B$. Put each block into a row, and $\mathbf A \otimes \mathbf B$ becomes $\operatorname{vec}(\mathbf A) \operatorname{vec}(\mathbf B)^\top$, of rank one. Rearranging keeps the Frobenius norm, so the nearest one is the
# leading singular triple of the rearranged matrix, put back.


# %%
def nearest_kronecker(matrix, m, n):
    rows = matrix.reshape(m, n, m, n).permute(0, 2, 1, 3).reshape(m * m, n * n)
    u, s, v = torch.linalg.svd(rows, full_matrices=False)
    return torch.kron(s[0] * u[:, 0].reshape(m, m), v[0].reshape(n, n))


check.nearest_kronecker(nearest_kronecker)

# %% [markdown]
# A Kronecker product is its own nearest one. And the nearest one to a moment is a moment: if $\mathbf C$ is positive definite, so are both factors, up to a common sign (Van Loan and Pitsianis):

# %%
left, right = randn(4, 9), randn(3, 9)
product = torch.kron(left @ left.T, right @ right.T)
assert torch.allclose(nearest_kronecker(product, 4, 3), product)
samples = randn(12, 12) @ randn(12, 400)
moment = samples @ samples.T / 400
assert torch.linalg.eigvalsh(nearest_kronecker(moment, 4, 3)).min() > 0
print("found again; positive definite stays positive definite")
