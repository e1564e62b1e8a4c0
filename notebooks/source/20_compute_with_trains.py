# %% [markdown]
# # Compute with tensor trains: sums over $2^{40}$ entries
#
# **What you'll do.** Add, multiply, measure and round tensor trains; sum a tensor of $2^{40}$ entries exactly without
# forming it; end with one table of all formats, its formulas checked against real factors and trained weights.
#
# **What you'll learn.** What arithmetic does to ranks and what takes them back; which structure makes an exponential sum
# easy; what each format costs to store, to compute and to apply.
#
# **What you need first.** Notebook 04 (trains, TT-SVD, canonical forms, TT-matrices); for the last part CPD and Tucker
# (02, 03). No later lesson needs this one: it is a deep dive.
#
# **Time.** 145 minutes: 65 to read text and code, 80 for the exercises. Run All takes about a minute.
# **Difficulty.** Medium.
#
# Previous: [15 bring a network to a small machine](15_bring_a_network_to_a_small_machine.ipynb) · [Solutions](solutions/20_compute_with_trains.ipynb) · [Glossary](GLOSSARY.md)

# %% tags=["parameters"]
profile: str = "quick"  # "quick": few CP sweeps; "full": many
seed: int = 0  # decides every random tensor and the starting points of CPD
sites: int = 40  # spins of the Ising chain: 2^sites entries; 4 to 200
coupling: float = 0.6  # between neighbouring spins, in units of temperature; not 0
layer: str = "layer3.1.conv1"  # the convolution of ResNet-20 in the last comparison, one with stride 1
fraction: float = 0.3  # of the kernel's parameters that each format may keep there

# %%
import math

import matplotlib.pyplot as plt
import pandas as pd
import tensorly as tl
import torch
from torch.utils.flop_counter import FlopCounterMode

from tnlib import check, decompose, layers, measure, models, plots

plots.use_style()
pd.set_option("display.max_colwidth", None)
generator = torch.Generator().manual_seed(seed)
cp_sweeps = {"quick": 6, "full": 50}[profile]

# %% [markdown]
# ## The question
#
# A train stores a tensor of order $Q$ in about $Q N R^2$ numbers instead of $N^Q$ (lesson 04). That is worth little if the
# first computation has to multiply it out. What can you compute from the cores alone, and at what price?
#
# **Predict, then reveal.** Forty spins, each up or down, have $2^{40}$ states, and each state has a weight. How long does
# your laptop take to add up all weights at one a nanosecond, and how long for two hundred spins?

# %% jupyter={"outputs_hidden": true}
for number in (40, 200):
    seconds = 1e-9 * 2.0**number
    print(f"{number} spins: {seconds:.2g} seconds, {seconds / (365 * 24 * 3600):.2g} years")

# %% [markdown]
# ## What you bring from lesson 04
#
# A train has cores $\mathcal G_q \in \mathbb R^{R_q \times I_q \times R_{q+1}}$, with $R_0 = R_Q = 1$; an entry is the product of the matrices
# $\mathbf G_0(i_0)\, \mathbf G_1(i_1) \cdots \mathbf G_{Q-1}(i_{Q-1})$; its least ranks are those of the sequential unfoldings $\mathbf X_{\langle q \rangle}$.


# %%
def rand(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def random_train(shape, ranks):
    bonds = [1, *ranks, 1]
    return [rand(bonds[q], size, bonds[q + 1]) for q, size in enumerate(shape)]


# %%
def full(cores):
    product = cores[0]
    for core in cores[1:]:
        product = torch.tensordot(product, core, 1)
    return product[0, ..., 0]


def close(a, b, tolerance=1e-10):
    return (a - b).norm() <= tolerance * b.norm()


def tt_ranks_of(tensor):
    cuts = [tensor.reshape(math.prod(tensor.shape[:q]), -1) for q in range(1, tensor.ndim)]
    return [int(torch.linalg.matrix_rank(cut)) for cut in cuts]


# %% [markdown]
# In **mixed canonical form** with centre $c$ the cores before $c$ are left-orthogonal and those after it right-orthogonal. Then
# the centre has the tensor's norm. Reshaped into a matrix, with its left two indices as rows or its right two as columns, it
# has the singular values of the unfolding at the bond after it or before it.


# %%
def sweep(cores, stop):
    cores = list(cores)
    for q in range(stop):
        left, size, right = cores[q].shape
        Q, R = torch.linalg.qr(cores[q].reshape(left * size, right))
        cores[q], cores[q + 1] = Q.reshape(left, size, -1), torch.tensordot(R, cores[q + 1], 1)
    return cores


def mirror(cores):
    return [core.permute(2, 1, 0) for core in reversed(cores)]


# %%
def canonical(cores, centre):
    return mirror(sweep(mirror(sweep(cores, centre)), len(cores) - 1 - centre))


def tt_norm(cores):
    return canonical(cores, 0)[0].norm()


u, v = random_train((5, 3, 7, 4), (3, 4, 2)), random_train((5, 3, 7, 4), (2, 5, 3))
assert tt_ranks_of(full(u)) == [3, 4, 2]
assert torch.isclose(tt_norm(u), full(u).norm())
small, large = canonical(u, 1)[1].flatten(0, 1), full(u).flatten(0, 1).flatten(1)
assert torch.allclose(torch.linalg.svdvals(small)[:4], torch.linalg.svdvals(large)[:4])
print("two random trains; ranks of the first", tt_ranks_of(full(u)))

# %% [markdown]
# ## Arithmetic without multiplying out
#
# Sum: put the matrices $\mathbf G_q(i)$ and $\mathbf H_q(i)$ side by side on a diagonal. **Ranks add.** Entrywise (Hadamard)
# product: the product of two numbers is a Kronecker product of $1 \times 1$ matrices, and
# $(\mathbf A \otimes \mathbf B)(\mathbf C \otimes \mathbf D) = \mathbf{AC} \otimes \mathbf{BD}$. **Ranks multiply.**


# %%
def tt_add(x, y):
    cores = []
    for g, h in zip(x, y, strict=True):
        (a, _, b), (c, _, d) = g.shape, h.shape
        upper = torch.nn.functional.pad(g, (0, d, 0, 0, 0, c))
        cores.append(upper + torch.nn.functional.pad(h, (b, 0, 0, 0, a, 0)))
    cores[0], cores[-1] = cores[0].sum(0, keepdim=True), cores[-1].sum(2, keepdim=True)
    return cores


# %%
def tt_hadamard(x, y):
    return [torch.einsum("anb,cnd->acnbd", g, h).flatten(3).flatten(0, 1) for g, h in zip(x, y, strict=True)]


def bonds(cores):
    return [core.shape[0] for core in cores[1:]]


for name, operation, result in (("sum", tt_add, full(u) + full(v)), ("product", tt_hadamard, full(u) * full(v))):
    assert close(full(operation(u, v)), result)
    print(f"{name}: ranks {bonds(u)} and {bonds(v)} give {bonds(operation(u, v))}")

# %% [markdown]
# These are rules for the cores as written down. The tensor's own ranks can be lower: $\mathcal X - \mathcal X$ is zero, and stored with
# twice the ranks of $\mathcal X$.

# %% [markdown]
# ### Inner product
#
# Contract the ladder from one end to the other. The state in between is an $R \times S$ matrix, never larger:

# %%
two_rows = [(q, 1) for q in range(4)] + [(q, 0) for q in reversed(range(4))]
names = ("G0", "G1", "G2", "G3", "H3", "H2", "H1", "H0")
plots.einsum_graph("wA,AxB,ByC,Cz,cz,byc,axb,wa->", names=names, at=two_rows)
plt.title("An inner product has no open leg")
plt.show()


# %%
def tt_inner(x, y):
    state = torch.ones(1, 1, dtype=torch.float64)
    for g, h in zip(x, y, strict=True):
        half = (state.T @ g.flatten(1)).reshape(-1, g.shape[2])  # (bond of y and mode, next bond of x)
        state = half.T @ h.flatten(0, 1)
    return state[0, 0]


# %%
assert torch.isclose(tt_inner(u, v), (full(u) * full(v)).sum())
assert torch.isclose(tt_inner(u, u).sqrt(), full(u).norm())
print("inner product and norm agree with the dense ones")


# %% [markdown]
# Its cost is $\sum_q (R_q S_q I_q R_{q+1} + S_q I_q R_{q+1} S_{q+1})$ MACs, about $2 Q N R^3$. Counted while it runs:


# %%
def macs(function, *arguments):
    with FlopCounterMode(display=False) as counter:
        function(*arguments)
    return counter.get_total_flops() // 2


# %%
R, S, I = [1, *bonds(u), 1], [1, *bonds(v), 1], (5, 3, 7, 4)
formula = sum(S[q] * I[q] * R[q + 1] * (R[q] + S[q + 1]) for q in range(4))
assert macs(tt_inner, u, v) == formula
print(f"{formula} MACs for the inner product of two trains, {5 * 3 * 7 * 4} if both tensors were at hand")

# %% [markdown]
# For four short modes the dense product is cheaper (forming the tensors not counted). The train's cost grows in proportion
# to the number of modes, the dense one exponentially.

# %% [markdown]
# ## Rounding
#
# Arithmetic makes trains with larger ranks than they need. You want TT-SVD of that tensor, but you only
# have its cores, and multiplying them out may be impossible. **Rounding** (Oseledets 2011, algorithm 2): put the centre
# at core 0, then sweep to the right with truncated SVDs. All cores but the centre are orthogonal at each step, so
# the singular values of the small centre core *are* those of a huge unfolding.


# %%
def tt_round(cores, rel_error=1e-12, max_rank=10**9):
    cores = canonical(cores, 0)
    threshold = rel_error * cores[0].norm() / math.sqrt(len(cores) - 1)
    for q in range(len(cores) - 1):
        left, size, right = cores[q].shape
        U, sigma, Vh = torch.linalg.svd(cores[q].reshape(left * size, right), full_matrices=False)
        tail = sigma.square().flip(0).cumsum(0).flip(0).sqrt()
        rank = max(1, min(max_rank, int((tail > threshold).sum())))
        cores[q] = U[:, :rank].reshape(left, size, rank)
        cores[q + 1] = torch.tensordot(sigma[:rank, None] * Vh[:rank], cores[q + 1], 1)
    return cores


# %% [markdown]
# The sum of a train and itself is twice that train, stored with twice the ranks. Rounding finds out. And it equals TT-SVD
# of the full tensor, and keeps its promise:

# %%
fat = tt_add(u, u)
slim = tt_round(fat)
assert close(full(slim), 2 * full(u))
assert bonds(slim) == bonds(u)
print(f"ranks {bonds(fat)} rounded to {bonds(slim)}, the same tensor")

# %%
big = random_train((5, 3, 7, 4, 3), (5, 9, 8, 3))
assert close(full(tt_round(big, 0, max_rank=3)), decompose.tt(full(big), 3).to_tensor(), 1e-8)
for tolerance in (0.1, 0.3, 0.6):
    rounded = tt_round(big, tolerance)
    assert close(full(rounded), full(big), tolerance)
    print(f"tolerance {tolerance}: ranks {bonds(rounded)}")

# %% [markdown]
# **Predict, then reveal.** A train of ranks 2, squared entry by entry. The Kronecker product has ranks 4. What remains
# after rounding?

# %% jupyter={"outputs_hidden": true}
two = random_train((5, 6, 7, 6, 5), (2, 2, 2, 2))
square = tt_hadamard(two, two)
print("squared:", bonds(square), " rounded:", bonds(tt_round(square)))
assert close(full(tt_round(square)), full(two) ** 2)

# %% jupyter={"source_hidden": true}
assert bonds(tt_round(square)) == [3, 3, 3, 3]

# %% [markdown]
# <details><summary>What you see, and why</summary>
#
# Three. $\mathbf A \otimes \mathbf A$ maps symmetric vectors to symmetric ones, and these have $R(R+1)/2$ dimensions. Rules
# for ranks give upper limits; rounding tells the truth.
# </details>

# %% [markdown]
# ### What rounding costs
#
# Count an SVD or QR decomposition of an $m \times n$ matrix as $m\,n\min(m, n)$ MACs, which is right up to a constant. Then
# rounding from ranks $R$ to $r$ takes about $Q N R^3 + Q N r R^2$: **linear in $Q$**. TT-SVD of the full tensor starts
# with an $N \times N^{Q-1}$ matrix: exponential. The counts from shapes alone:


# %%
def svd_work(m, n):
    return m * n * min(m, n)


def rounding_work(order, N, R, r):
    R, r = ([1] + [min(rank, N**q, N ** (order - q)) for q in range(1, order)] + [1] for rank in (R, r))
    orthogonalise = sum(svd_work(N * R[q + 1], R[q]) for q in range(1, order))
    return orthogonalise + sum(svd_work(r[q] * N, R[q + 1]) for q in range(order - 1))


# %%
def tt_svd_work(shape, ranks):
    rows, work, rest = 1, 0, math.prod(shape)
    for size, rank in zip(shape[:-1], ranks, strict=True):
        rest //= size
        work, rows = work + svd_work(rows * size, rest), rank
    return work


# %% [markdown]
# Formulas are claims, too. `Tally` listens to torch while our functions and tnlib's run, and adds up the decompositions
# that really happen:


# %%
class Tally(torch.overrides.TorchFunctionMode):
    work = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.linalg.qr, torch.linalg.svd):
            self.work += svd_work(*args[0].shape)
        return func(*args, **(kwargs or {}))


# %%
wide = random_train((4,) * 6, (4, 10, 10, 10, 4))
with Tally() as tally:
    tt_round(wide, 0, max_rank=5)
assert tally.work == rounding_work(6, 4, 10, 5)


with Tally() as tally:
    decompose.tt(full(wide), (4, 5, 5, 5, 4))
assert tally.work == tt_svd_work((4,) * 6, (4, 5, 5, 5, 4))
print("both counts agree with what torch was asked to do")

# %%
orders = range(3, 41)
fig, ax = plt.subplots()
ax.semilogy(orders, [rounding_work(Q, 4, 20, 10) for Q in orders], label="round the train")
few = [Q for Q in orders if Q <= 20]
ax.semilogy(
    few, [tt_svd_work((4,) * Q, [min(10, 4**q) for q in range(1, Q)]) for Q in few], label="TT-SVD of the tensor"
)
ax.set(xlabel="order Q (mode size 4, ranks 20 rounded to 10)", ylabel="work of QR and SVD (MACs)", xlim=(2, 50))
ax.set_title("Rounding is linear in the order, recompressing is exponential")
plots.label_lines(ax)
plt.show()

# %% [markdown]
# At the left end the two lines meet: for a kernel of order 3 or 4 you may as well multiply out. Rounding pays when the
# order is high.

# %% [markdown]
# ### Matrix times train
#
# A **TT-matrix** has cores $R_k \times m_k \times n_k \times R_{k+1}$, a row digit and a column digit each (lesson 04). If the vector is a train
# as well, its digits never need to be expanded. Core by core, sum over the column digit: **ranks multiply**, and a vector
# of $10^{12}$ entries is no obstacle if its ranks are small.


# %%
def tt_matrix_times_train(cores, x):
    return [torch.einsum("aijb,cjd->acibd", g, h).flatten(3).flatten(0, 1) for g, h in zip(cores, x, strict=True)]


# %%
matrix = decompose.tt_matrix(rand(30, 24), (3, 2, 5), (4, 3, 2), (7, 9))
digits = random_train((4, 3, 2), (2, 2))
product = tt_matrix_times_train(matrix.factors, digits)
assert close(full(product).flatten(), matrix.to_matrix() @ full(digits).flatten())
print(f"matrix ranks {bonds(matrix.factors)}, vector ranks {bonds(digits)}, product ranks {bonds(product)}")

# %% [markdown]
# ## A tensor with $2^{40}$ entries
#
# Spins $s_q = \pm 1$ in a row, neighbours coupled by $K$: the Ising chain. A state has the weight
# $w(s_0, \dots, s_{Q-1}) = \exp\big(K \sum_q s_q s_{q+1}\big)$: a tensor of order $Q$ with modes of size 2. Each factor links
# only neighbours, so with $\mathbf T = \begin{pmatrix} e^{K} & e^{-K} \\ e^{-K} & e^{K} \end{pmatrix}$ it is a train of ranks 2,
# $\mathcal G_q(s, i, t) = \delta_{si}\, T_{it}$.


# %%
def ising_train(sites, coupling):
    spins = torch.tensor([1.0, -1.0], dtype=torch.float64)
    T = torch.exp(coupling * torch.outer(spins, spins))
    delta = torch.eye(2, dtype=torch.float64)
    inner = torch.einsum("si,it->sit", delta, T)
    return [T[None], *[inner] * (sites - 2), delta[:, :, None]]


# %% [markdown]
# First small: ten spins, all 1024 weights formed from the definition, and compared.

# %%
spins = torch.tensor([1.0, -1.0], dtype=torch.float64)
states = torch.cartesian_prod(*[spins] * 10)
weights = torch.exp(coupling * (states[:, :-1] * states[:, 1:]).sum(1)).reshape((2,) * 10)
assert close(full(ising_train(10, coupling)), weights)
print("the train of ten spins equals the definition, all 1024 entries")

# %% [markdown]
# Now large. The parameter `sites` is 40 by default.

# %%
chain = ising_train(sites, coupling)
print(
    f"{2.0**sites:.1e} entries, {8 * 2.0**sites / 1e12:,.1f} TB if formed; {sum(g.numel() for g in chain)} numbers in the train"
)

# %% [markdown]
# The sum of all entries, the *partition function*, is an inner product with the train of ones. In closed form
# $Z = 2\,(2\cosh K)^{Q-1}$. The squared norm is a sum of $\exp(2K \dots)$: the same with $2K$.

# %%
ones = [torch.ones(1, 2, 1, dtype=torch.float64)] * sites
Z, squared_norm = tt_inner(chain, ones), tt_inner(chain, chain)
assert math.isclose(Z, 2 * (2 * math.cosh(coupling)) ** (sites - 1), rel_tol=1e-10)
assert math.isclose(squared_norm, 2 * (2 * math.cosh(2 * coupling)) ** (sites - 1), rel_tol=1e-10)
print(f"sum of 2^{sites} entries: {Z:.6e}; sum and squared norm agree with their closed forms")

# %% [markdown]
# A **marginal** sums over all modes but a few: contract each of the others with ones, which leaves a product of matrices.
# Divided by $Z$, weights are probabilities. For a pair at distance $r$ theory says $p(s, s') = \tfrac14 \big(1 + s s' \tanh^r K\big)$.


# %%
def marginal(cores, keep):
    state = torch.ones(1, 1, dtype=torch.float64)
    for q, core in enumerate(cores):
        state = torch.tensordot(state, core, 1).flatten(0, 1) if q in keep else state @ core.sum(1)
    return state.reshape([cores[q].shape[1] for q in sorted(keep)])


# %%
small_chain = ising_train(10, coupling)
assert close(marginal(small_chain, {2, 7}), weights.sum((0, 1, 3, 4, 5, 6, 8, 9)))
print("the marginal of two of ten spins equals the dense sum")

# %%
for a, b in ((0, sites - 1), (1, 2), (sites // 3, sites // 2)):
    theory = (1 + torch.outer(spins, spins) * math.tanh(coupling) ** (b - a)) / 4
    assert close(marginal(chain, {a, b}) / Z, theory)
print(marginal(chain, {1, 2}) / Z)

# %%
distance = range(1, min(sites, 26))
fig, ax = plt.subplots()
for K in (0.5 * coupling, coupling, 2 * coupling):
    cores = ising_train(sites, K)
    total = tt_inner(cores, ones)
    ax.semilogy(
        distance, [((marginal(cores, {0, r}) / total) * torch.outer(spins, spins)).sum().abs() for r in distance], "o"
    )
    ax.semilogy(distance, [abs(math.tanh(K)) ** r for r in distance], color="0.6", zorder=1)
    ax.text(1.02 * max(distance), abs(math.tanh(K)) ** max(distance), f"K = {K:.2g}", va="center")
ax.set(xlabel="distance between two spins", ylabel="absolute correlation", xlim=(0, 1.15 * max(distance)))
ax.set_title(f"Exact correlations out of 2^{sites} entries; lines: the closed form")
plt.show()

# %% [markdown]
# And arithmetic at that size. The square of the weights, entry by entry, is the chain at coupling $2K$: the Hadamard
# product has ranks 4, rounding brings them back to 2.

# %%
squared, twice = tt_round(tt_hadamard(chain, chain)), ising_train(sites, 2 * coupling)
difference = tt_add(squared, [-twice[0], *twice[1:]])
assert set(bonds(squared)) == {2}
assert tt_norm(difference) <= 1e-9 * tt_norm(twice)
print("squared, rounded back to ranks 2: the chain at twice the coupling")

# %% [markdown]
# What made it possible is not the train but the *structure*: a cut through the chain separates two halves that talk
# through one spin. What if every spin talks to every other? Then it depends on what they say. The *energy*
# $\sum_{i<j} K_{ij} s_i s_j$ has ranks that grow by one a spin at most: a half must pass on its own energy, and one sum for each
# spin of the other half. The *weights*, its exponentials, are harder. With equal $K_{ij}$ the left half matters only through
# its sum of spins, which has $q + 1$ values. With a coupling of its own for each pair, every configuration of the half
# matters, and nothing is saved:

# %%
eight, pairs = torch.cartesian_prod(*[spins] * 8), torch.ones(8, 8, dtype=torch.float64).triu(1)
for name, K in {"equal couplings": 0.1 * pairs, "random couplings": 0.5 * rand(8, 8) * pairs}.items():
    energy = torch.einsum("xi,ij,xj->x", eight, K, eight).reshape((2,) * 8)
    of_energy, of_weights = tt_ranks_of(energy), tt_ranks_of(energy.exp())
    half = [min(q, 8 - q) for q in range(1, 8)]
    assert all(rank <= h + 2 for rank, h in zip(of_energy, half, strict=True))
    assert of_weights == [h + 1 if name.startswith("equal") else 2**h for h in half]
    print(f"{name}: ranks of the energy {of_energy}, of the weights {of_weights}")

# %% [markdown]
# ## All formats in one table
#
# You have met all formats by now; what does each cost? First as formulas, for order $Q$, all modes of size $N$, all ranks
# $R \le N$. *Apply* means: contract with one vector a mode, the cheapest order we know; for a matrix, multiply a vector. Work of SVDs is counted as before.


# %%
def tt_svd_uniform(N, Q, R):
    return N ** (Q + 1) + sum(svd_work(R * N, N ** (Q - 1 - q)) for q in range(1, Q - 1))


parameters = {
    "full": ("N^Q", lambda N, Q, R: N**Q),
    "CP": ("Q N R  (+ R weights)", lambda N, Q, R: Q * N * R),
    "Tucker": ("Q N R + R^Q", lambda N, Q, R: Q * N * R + R**Q),
    "TT": ("2 N R + (Q-2) N R^2", lambda N, Q, R: 2 * N * R + (Q - 2) * N * R**2),
    "TT-matrix": ("the same with N = m n", lambda n, Q, R: 2 * n**2 * R + (Q - 2) * n**2 * R**2),
}

# %%
compute = {
    "full": ("0", lambda N, Q, R: 0),
    "CP": ("Q N^Q R  each ALS sweep", lambda N, Q, R: Q * N**Q * R),
    "Tucker": ("Q N^(Q+1)  HOSVD", lambda N, Q, R: Q * N ** (Q + 1)),
    "TT": ("N^(Q+1) + R^2 N^Q + ...  TT-SVD", tt_svd_uniform),
    "TT-matrix": ("the same with N = m n", lambda n, Q, R: tt_svd_uniform(n**2, Q, R)),
}


apply = {
    "full": ("N^Q + N^(Q-1) + ... + N", lambda N, Q, R: sum(N**q for q in range(1, Q + 1))),
    "CP": ("Q N R", lambda N, Q, R: Q * N * R),
    "Tucker": ("Q N R + R^Q + ... + R", lambda N, Q, R: Q * N * R + sum(R**q for q in range(1, Q + 1))),
    "TT": ("parameters + (Q-2) R^2 + 2 R", lambda N, Q, R: 2 * N * R + (Q - 2) * (N + 1) * R**2 + 2 * R),
    "TT-matrix": ("n^(Q+1) ((Q-2) R^2 + 2 R), m = n", lambda n, Q, R: n ** (Q + 1) * ((Q - 2) * R**2 + 2 * R)),
}

# %%
words = {
    "full": ("yes", "-", "-"),
    "CP": ("yes, up to order and scale, under Kruskal's condition", "not always", "iterative; may stall or diverge"),
    "Tucker": ("no: a basis for each mode", "yes", "SVDs, backward stable; within sqrt(Q) of the best"),
    "TT": ("no: a gauge for each bond", "yes", "SVDs, backward stable; within sqrt(Q-1) of the best"),
    "TT-matrix": ("no: a gauge for each bond", "yes", "as TT, on paired digits"),
}

# %%
size = "4 (float32) or 8 each"
rows = {f: (parameters[f][0], size, compute[f][0], apply[f][0], *words[f]) for f in parameters}
rows["QTT"] = ("TT with N = 2, Q = log2(entries)", size, *["as TT"] * 5)
heads = ["parameters", "bytes", "MACs to compute", "MACs to apply", "unique?", "best one exists?", "computation"]
pd.DataFrame(rows, index=heads).T

# %% [markdown]
# Sources of the words: uniqueness Kruskal 1977, Sidiropoulos and Bro 2000; existence de Silva and Lim 2008; Tucker's
# bound De Lathauwer et al. 2000 (the constant as in Hackbusch 2012); TT Oseledets 2011. *Backward stable* is meant of each
# SVD; what the truncations add are the tails $\varepsilon_q$ of the unfoldings (lesson 04).
#
# Now the formulas against real containers. Parameters: count their entries.

# %%
N, Q, R = 6, 5, 3
block = rand(*(N,) * Q)
made = {"CP": decompose.cp(block, R, max_iter=1).factors, "TT": decompose.tt(block, R).factors}
tucker = decompose.tucker(block, R, method="hosvd")
made |= {"Tucker": [tucker.core, *tucker.factors], "full": [block]}
for name, parts in made.items():
    assert sum(part.numel() for part in parts) == parameters[name][1](N, Q, R)
    assert sum(part.nbytes for part in parts) == 8 * parameters[name][1](N, Q, R)
pd.DataFrame({name: [parameters[name][1](N, Q, R)] for name in parameters if name in made}, index=["parameters"])

# %% [markdown]
# QTT and TT-matrix: the ranks at the ends are limited by the sizes, so choose $R \le N$.

# %%
square = decompose.tt_matrix(rand(3**4, 3**4), (3,) * 4, (3,) * 4, 5)
assert sum(g.numel() for g in square.factors) == parameters["TT-matrix"][1](3, 4, 5)
d = 12
quantized = decompose.tt(torch.sin(0.01 * torch.arange(2.0**d, dtype=torch.float64)).reshape((2,) * d), 2)
assert sum(g.numel() for g in quantized.factors) == parameters["TT"][1](2, d, 2)
print("TT-matrix and QTT agree, too")

# %% [markdown]
# The cost to apply: each format contracted with random vectors, the result compared with the dense one, the MACs
# counted by torch.


# %%
def apply_full(tensor, vectors):
    for vector in reversed(vectors):
        tensor = (tensor.reshape(-1, len(vector)) @ vector[:, None]).reshape(tensor.shape[:-1])
    return tensor


# %%
def apply_cp(factors, vectors):
    return torch.stack([v[None] @ f for f, v in zip(factors, vectors, strict=True)]).prod(0).sum()


def apply_tucker(core, factors, vectors):
    return apply_full(core, [(v[None] @ f)[0] for f, v in zip(factors, vectors, strict=True)])


def apply_tt(cores, vectors):
    row = torch.ones(1, 1, dtype=torch.float64)
    for g, v in zip(cores, vectors, strict=True):
        row = row @ torch.tensordot(g, v, dims=([1], [0]))
    return row[0, 0]


# %% [markdown]
# A TT-matrix takes one digit after the other, from the left, as in lesson 04:


# %%
def tt_matvec(cores, vector):
    state = vector.reshape(1, -1)
    for core in cores:
        left, _, n, right = core.shape
        state = torch.tensordot(core, state.reshape(left, n, -1), dims=([0, 2], [0, 1]))  # (m, right, rest)
        state = state.movedim(0, -1).reshape(right, -1)
    return state.flatten()


# %%
vectors = [rand(N) for _ in range(Q)]
runs = {
    "full": (apply_full, (block, vectors), block),
    "CP": (apply_cp, (made["CP"], vectors), tl.cp_to_tensor((torch.ones(R, dtype=torch.float64), made["CP"]))),
    "Tucker": (apply_tucker, (*tucker, vectors), tucker.to_tensor()),
    "TT": (apply_tt, (made["TT"], vectors), full(made["TT"])),
}

# %%
for name, (function, arguments, dense) in runs.items():
    assert torch.isclose(function(*arguments), apply_full(dense, vectors))
    assert macs(function, *arguments) == apply[name][1](N, Q, R)
assert macs(tt_matvec, square.factors, rand(81)) == apply["TT-matrix"][1](3, 4, 5)
print("five costs to apply: same result as dense, MACs as the formulas say")

# %% [markdown]
# The cost to compute: listen to tnlib's SVDs, and count one of the $Q$ products that make an ALS sweep, the unfolding
# times a Khatri-Rao product.

# %%
with Tally() as hosvd:
    decompose.tucker(block, R, method="hosvd")
with Tally() as ttsvd:
    decompose.tt(block, R)
khatri_rao = tl.tenalg.khatri_rao(made["CP"][1:])
assert hosvd.work == compute["Tucker"][1](N, Q, R)
assert ttsvd.work == compute["TT"][1](N, Q, R) == tt_svd_work((N,) * Q, [R] * (Q - 1))
assert Q * macs(torch.matmul, tl.unfold(block, 0), khatri_rao) == compute["CP"][1](N, Q, R)
print("HOSVD, TT-SVD and the ALS sweep cost what the formulas say")

# %% [markdown]
# ### The same on trained weights
#
# Each format gets the largest rank that fits the budget, one for all bonds or modes (unequal ranks do somewhat better): `fraction` of the parameters for the kernel, a tenth of that
# for the MLP's matrix. The error is measured on the factors, not derived. **Predict** the ranking first.


# %%
def capped(shape, rank):
    return [min(rank, limit) for limit in decompose.max_tt_ranks(shape)]


def largest(entries, budget):
    ranks = [rank for rank in range(1, 2000) if entries(rank) <= budget]
    return max(ranks, default=1)


def tt_entries(shape, ranks):
    R = [1, *ranks, 1]
    return sum(R[q] * size * R[q + 1] for q, size in enumerate(shape))


# %% [markdown]
# The convolution, on the feature map that it sees in ResNet-20. CP's work is that of a sweep; it takes `cp_sweeps` of
# them.

# %%
conv = models.load("resnet20-cifar10").get_submodule(layer)
kernel = conv.weight.detach().double()
T, S, kh, kw = conv.weight.shape
feature_map = (1, S, *[{16: 32, 32: 16, 64: 8}[T] * conv.stride[0]] * 2)
chain_shape = (S, kh, kw, T)
entries = {
    "cp": lambda r: r * (T + S + kh + kw),
    "tucker2": lambda r: T * min(r, T) + S * min(r, S) + kh * kw * min(r, T) * min(r, S),
    "tt": lambda r: tt_entries(chain_shape, capped(chain_shape, r)),
}

# %%
work = {
    "cp": lambda r: 4 * kernel.numel() * r,
    "tucker2": lambda r: svd_work(T, S * kh * kw) + svd_work(S, T * kh * kw),
    "tt": lambda r: tt_svd_work(chain_shape, capped(chain_shape, r)),
}


# %%
@torch.no_grad()
def compressed_conv(format, share):
    rank = largest(entries[format], share * kernel.numel())
    options = {"max_iter": cp_sweeps, "seed": seed} if format == "cp" else {}
    chain = layers.factorize(conv, format, rank, **options)
    error = (chain.dense_weight() - conv.weight).norm() / conv.weight.norm()
    cost = measure.cost(chain, feature_map)
    assert cost.params == entries[format](rank)
    return {"weight": layer, "format": format, "rank": rank, "params": cost.params, "bytes": cost.bytes,
            "error": float(error), "work": work[format](rank), "MACs": cost.macs}  # fmt: skip


# %%
cost = measure.cost(conv, feature_map)
original = {
    "weight": layer,
    "format": "full",
    "rank": 0,
    "params": cost.params,
    "bytes": cost.bytes,
    "error": 0.0,
    "work": 0,
    "MACs": cost.macs,
}
rows = [original, *(compressed_conv(format, fraction) for format in entries)]
print(f"{kernel.numel():,} parameters, budget {fraction * kernel.numel():,.0f}")

# %% [markdown]
# The MLP's first matrix, 1024 x 1024 (with 240 nearly empty columns, those of padding), as a matrix, as a tensor of order 4 ($32^4$: two row digits, two column digits), and as
# TT-matrices. Here MACs are those of one product with a vector. For CP and Tucker on $32^4$: contract the two column
# digits, then expand the two row digits.

# %%
W = models.load("mlp1024-mnist")[2].weight.detach().double()
budget, tensor4 = fraction / 10 * W.numel(), W.reshape(32, 32, 32, 32)
print(f"{W.numel():,} parameters, budget {budget:,.0f}")
rank = {
    "svd": largest(lambda r: 2048 * r, budget),
    "cp": largest(lambda r: 128 * r, budget),
    "tucker": largest(lambda r: 128 * r + r**4, budget),
    "tt": largest(lambda r: tt_entries((32,) * 4, capped((32,) * 4, r)), budget),
}

# %%
digits = {"TT-matrix 4x8x8x4": (4, 8, 8, 4), "QTT-matrix 2^10": (2,) * 10}
pair_shape = {name: [n * n for n in dims] for name, dims in digits.items()}
rank |= {name: largest(lambda r, s=s: tt_entries(s, capped(s, r)), budget) for name, s in pair_shape.items()}
print("ranks:", rank)

# %%
svd, cp = decompose.svd(W, rank["svd"]), decompose.cp(tensor4, rank["cp"], max_iter=cp_sweeps, seed=seed)
tucker, train = decompose.tucker(tensor4, rank["tucker"], method="hosvd"), decompose.tt(tensor4, rank["tt"])
trains = {name: decompose.tt_matrix(W, dims, dims, rank[name]) for name, dims in digits.items()}

# %%
dense = {"svd": svd.to_matrix(), "cp": cp.to_tensor(), "tucker": tucker.to_tensor(), "tt": train.to_tensor()}
dense |= {name: t.to_matrix() for name, t in trains.items()}
parts = {
    "svd": [svd.U * svd.S, svd.Vh],
    "cp": cp.factors,
    "tucker": [tucker.core, *tucker.factors],
    "tt": train.factors,
}
parts |= {name: t.factors for name, t in trains.items()}

# %% [markdown]
# Applied to a vector without forming the matrix, five ways. Each must give what the dense matrix gives; torch counts.


# %%
def cp_matvec(x):
    A, B, C, D = parts["cp"]
    return (A * cp.weights * ((x.reshape(32, 32) @ D) * C).sum(0)) @ B.T


def tucker_matvec(x):
    core, A, B, C, D = parts["tucker"]
    inside = torch.tensordot(core, C.T @ (x.reshape(32, 32) @ D), 2)
    return A @ inside @ B.T


# %%
def train_matvec(x):
    g0, g1, g2, g3 = parts["tt"]
    right = torch.tensordot(x.reshape(32, 32), g3[..., 0], dims=([1], [1]))
    bond = torch.tensordot(g2, right, dims=([1, 2], [0, 1]))
    return g0[0] @ torch.tensordot(g1, bond, 1)


# %%
run = {
    "svd": lambda x: parts["svd"][0] @ (parts["svd"][1] @ x[:, None]),
    "cp": cp_matvec,
    "tucker": tucker_matvec,
    "tt": train_matvec,
}
run |= {name: lambda x, name=name: tt_matvec(parts[name], x) for name in trains}

# %%
vector = rand(1024)
for name, function in run.items():
    assert close(function(vector).flatten(), dense[name].reshape(1024, 1024) @ vector, 1e-9)
    assert sum(part.numel() for part in parts[name]) <= budget
print(", ".join(run), "apply what they store, within the budget")

# %%
cube_shape = (32,) * 4
svds = {
    "svd": svd_work(1024, 1024),
    "cp": 4 * W.numel() * rank["cp"],
    "tucker": 4 * svd_work(32, 32**3),
    "tt": tt_svd_work(cube_shape, capped(cube_shape, rank["tt"])),
}

# %%
svds |= {name: tt_svd_work(s, capped(s, rank[name])) for name, s in pair_shape.items()}
rows.append(
    {
        "weight": "MLP",
        "format": "full",
        "rank": 0,
        "params": 2**20,
        "bytes": 2**22,
        "error": 0.0,
        "work": 0,
        "MACs": 2**20,
    }
)
for name, function in run.items():
    params, error = sum(part.numel() for part in parts[name]), (dense[name].reshape(W.shape) - W).norm() / W.norm()
    rows.append({"weight": "MLP", "format": name, "rank": rank[name], "params": params, "bytes": 4 * params,
                 "error": float(error), "work": svds[name], "MACs": macs(function, vector)})  # fmt: skip

# %% [markdown]
# The summary on trained weights. Bytes are those of float32. *Work* is what the decomposition takes, in MACs as counted
# above (CP: one sweep). *MACs* is what applying takes: the kernel on one image, the matrix on one vector.

# %% jupyter={"outputs_hidden": true}
summary = pd.DataFrame(rows).set_index(["weight", "format"])
summary.drop(columns="error").map("{:,}".format).assign(error=summary.error.map("{:.2f}".format))

# %% jupyter={"outputs_hidden": true}
fig, ax = plt.subplots()
shares = (0.1, 0.2, 0.3, 0.45, 0.6)
for format in entries:
    ax.plot(
        shares,
        [compressed_conv(format, share)["error"] for share in shares],
        label=format,
        **plots.FORMAT_STYLE[format],
    )
ax.set(xlabel="parameters / original", ylabel="relative error of the weight", xlim=(0.05, 0.7), ylim=(0, 1))
ax.set_title(f"Equal parameters, unequal error ({layer})")
plots.label_lines(ax)
plt.show()

# %% [markdown]
# <details><summary>What you see</summary>
#
# Read the table a column at a time.
#
# - *Error.* On the kernel CP errs least at equal parameters, though nobody can promise it: it needs an iteration, and more
#   sweeps lower it further. Tucker-2 and TT are close to each other, and done after a fixed amount of work.
# - *MACs.* A chain of convolutions takes MACs nearly in proportion to its parameters. A TT-matrix does not: it stores a few
#   percent of the matrix and takes *more* MACs than the dense product, because its ranks are not small.
# - *The MLP.* At a few percent of its numbers **every** format loses most of the weight. CP, the plain SVD and the train of
#   the digits in their own order lose least; paired digits lose more: the layer was not trained in them.
#
# A relative error of a weight is not a loss of accuracy; notebook 00 has shown how far the two can be apart, and that a
# network can be repaired.
# </details>

# %% [markdown]
# ## Exercises
#
# Replace `...` by your answer and run the cell. A train is given as a list of cores $R_q \times I_q \times R_{q+1}$.
#
# ### 1. Warm-up: sum a train (15 minutes)
#
# Return the sum of all entries of the tensor. Do not form it.


# %%
def tt_sum(cores):
    return ...


check.tt_sum(tt_sum)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Sum each core over its mode; what is left is a matrix. What do you do with matrices that share bonds?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/20_compute_with_trains.ipynb), section 1.
# </details>

# %% [markdown]
# ### 2. Core: the distance of two trains (20 minutes)
#
# Return $\|\mathcal X - \mathcal Y\|$ of two trains of the same shape, with other ranks. Do not form them.


# %%
def tt_distance(x, y):
    return ...


check.tt_distance(tt_distance)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Multiply out $\langle \mathcal X - \mathcal Y, \mathcal X - \mathcal Y \rangle$, or subtract the trains and read the norm off a centre core. Which of
# the two do you trust when the trains are almost equal?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/20_compute_with_trains.ipynb), section 2.
# </details>

# %% [markdown]
# ### 3. Pencil and paper: close the chain (20 minutes)
#
# Put the spins on a ring: the last one is coupled to the first, too. Derive the sum over all $2^Q$ states in closed form,
# for any coupling, and return it.


# %%
def ising_ring(sites, coupling):
    return ...


check.ising_ring(ising_ring)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The sum is a trace of a power of $\mathbf T$. A symmetric $2 \times 2$ matrix with equal diagonal entries has the eigenvectors
# $(1, 1)$ and $(1, -1)$.
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/20_compute_with_trains.ipynb), section 3.
# </details>

# %% [markdown]
# ### 4. Stretch: the energy as a train (25 minutes)
#
# Return cores of a train whose entries are the *energies* of the chain, $\sum_{q=0}^{Q-2} s_q s_{q+1}$ (no exponential, no coupling), for
# `sites` spins, at least 3; index 0 of a mode means $s = +1$, index 1 means $s = -1$. No bond may be larger than 3, for any number
# of spins.


# %%
def ising_energy(sites):
    return ...


check.ising_energy(ising_energy)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Read the chain from left to right. What does the right half have to know? Three states are enough: no pair has been
# started; the spin just read waits for its neighbour; the pair is done. Which entries of $\mathbf G(s)$ lead from which state to
# which, and in which state do you begin and end?
# </details>
# <details><summary>Solution</summary>
#
# In the [solutions](solutions/20_compute_with_trains.ipynb), section 4.
# </details>

# %% [markdown]
# ## Summary
#
# - Ranks add in sums and multiply in products. Rounding is TT-SVD for trains, linear in the order; it takes back what is
#   superfluous.
# - Sums, norms, inner products and marginals run once along the train.
# - What makes an exponential sum easy is little talk across every cut. The format only makes use of it.
# - Storage falls first, arithmetic later if at all. No format wins every column.
#
# ## Further reading
#
# - I. V. Oseledets, [*Tensor-train decomposition*](https://doi.org/10.1137/090752286), SIAM J. Sci. Comput. 33(5), 2011.
# - W. Hackbusch, [*Tensor spaces and numerical tensor calculus*](https://doi.org/10.1007/978-3-642-28027-6), Springer, 2012.
# - J. B. Kruskal, [*Three-way arrays: rank and uniqueness of trilinear decompositions*](https://doi.org/10.1016/0024-3795%2877%2990069-6), Linear Algebra
#   Appl. 18, 1977; for any order N. D. Sidiropoulos, R. Bro, [*On the uniqueness of multilinear decomposition of N-way arrays*](https://doi.org/10.1002/1099-128X%28200005/06%2914:3%3C229::AID-CEM587%3E3.0.CO;2-N),
#   J. Chemometrics 14, 2000.
# - L. De Lathauwer, B. De Moor, J. Vandewalle, [*A multilinear singular value decomposition*](https://doi.org/10.1137/S0895479896305696), SIAM J. Matrix Anal. Appl.
#   21(4), 2000.
# - V. de Silva, L.-H. Lim, [*Tensor rank and the ill-posedness of the best low-rank approximation problem*](https://doi.org/10.1137/06066518X), SIAM J. Matrix
#   Anal. Appl. 30(3), 2008.
#
# Four things beyond this lesson, and what they are for:
#
# - *TT-cross* builds a train from few entries of a tensor that is given as a function: I. Oseledets, E. Tyrtyshnikov,
#   [*TT-cross approximation for multidimensional arrays*](https://doi.org/10.1016/j.laa.2009.07.024), Linear Algebra Appl. 432, 2010.
# - *DMRG* finds the smallest eigenvector of a train operator, two cores at a time: S. R. White, [*Density matrix formulation
#   for quantum renormalization groups*](https://doi.org/10.1103/PhysRevLett.69.2863), Phys. Rev. Lett. 69, 1992.
# - *AMEn* solves linear systems with trains and enlarges ranks by residuals: S. V. Dolgov, D. V. Savostyanov, [*Alternating
#   minimal energy methods for linear systems in higher dimensions*](https://doi.org/10.1137/140953289), SIAM J. Sci. Comput. 36(5), 2014.
# - *Riemannian optimisation* walks on the set of trains of fixed ranks: M. Steinlechner, [*Riemannian optimization for
#   high-dimensional tensor completion*](https://doi.org/10.1137/15M1010506), SIAM J. Sci. Comput. 38(5), 2016.

# %% [markdown]
# Previous: [15 bring a network to a small machine](15_bring_a_network_to_a_small_machine.ipynb) · [Solutions](solutions/20_compute_with_trains.ipynb) · [Glossary](GLOSSARY.md)
