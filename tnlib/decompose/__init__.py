"""Matrices and tensors in, factors out.

Every function takes a real floating torch tensor of any magnitude, computes in float64, and gives contiguous factors of
the input's dtype on the input's device, all of them finite, or one clear error. Containers are TensorLy's (`CPTensor`,
`TuckerTensor`, `TTTensor`, `TTMatrix`), so their `to_tensor()` works on the result; importing this package selects
TensorLy's pytorch backend for the process.
"""

import tensorly as _tensorly

_tensorly.set_backend("pytorch")

from tnlib.decompose._validate import max_cp_rank, max_tt_ranks  # noqa: E402
from tnlib.decompose.bounds import cp_bound, cp_dimension, cp_factor_bounds  # noqa: E402
from tnlib.decompose.correction import correct_cp, greedy_cp  # noqa: E402
from tnlib.decompose.coupled import coupled_cp  # noqa: E402
from tnlib.decompose.coupled_tucker import coupled_tucker  # noqa: E402
from tnlib.decompose.cp import cp  # noqa: E402
from tnlib.decompose.matrix import TruncatedSVD, svd  # noqa: E402
from tnlib.decompose.rank_choice import VBMF, description_length_rank, energy_rank, vbmf  # noqa: E402
from tnlib.decompose.tensor_train import tt, tt_matrix  # noqa: E402
from tnlib.decompose.tucker import tucker  # noqa: E402

__all__ = [
    "VBMF",
    "TruncatedSVD",
    "correct_cp",
    "coupled_cp",
    "coupled_tucker",
    "cp",
    "cp_bound",
    "cp_dimension",
    "cp_factor_bounds",
    "description_length_rank",
    "energy_rank",
    "greedy_cp",
    "max_cp_rank",
    "max_tt_ranks",
    "svd",
    "tt",
    "tt_matrix",
    "tucker",
    "vbmf",
]
