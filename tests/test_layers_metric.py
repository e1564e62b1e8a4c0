"""Factoring a kernel in a metric of its channels: whitened, factored, brought back."""

import pytest
import torch
from layer_cases import CASES
from torch import nn

from tnlib import layers
from tnlib.layers import Metric

CHANNELS = [case for case in CASES if not case.cls.in_digits]


def spd(size, seed):
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)


def test_the_svd_in_a_metric_is_the_best_there():
    layer = nn.Linear(7, 6, dtype=torch.float64)
    metric = Metric(inputs=spd(7, 1), outputs=spd(6, 2))
    small = layers.factorize(layer, "svd", 2, metric=metric)
    error = small.dense_weight() - layer.weight
    loss = torch.einsum("ts,tu,uv,sv->", error, metric.outputs, error, metric.inputs)
    left, right = (torch.linalg.cholesky(m).T for m in (metric.outputs, metric.inputs))
    tail = torch.linalg.svdvals(left @ layer.weight @ right.T)[2:].square().sum()
    torch.testing.assert_close(loss, tail)  # Eckart and Young 1936, in the coordinates of the metric
    plain = layers.factorize(layer, "svd", 2).dense_weight() - layer.weight
    assert loss < torch.einsum("ts,tu,uv,sv->", plain, metric.outputs, plain, metric.inputs)


@pytest.mark.parametrize("case", CHANNELS, ids=str)
def test_the_identity_changes_nothing(case):
    layer = case.layer(dtype=torch.float64)
    outputs, inputs = layer.weight.shape[0] // getattr(layer, "groups", 1), layer.weight.shape[1]
    sizes = (outputs, inputs) if case.kind == "Embedding" else (inputs, outputs)
    metric = Metric(*(torch.eye(size) for size in sizes))
    options = {"max_iter": 20} if case.format.startswith("cp") else {}
    plain, same = (layers.factorize(layer, case.format, 2, metric=m, **options) for m in (None, metric))
    torch.testing.assert_close(same.dense_weight(), plain.dense_weight())


def test_what_has_no_metric_says_so():
    with pytest.raises(ValueError, match="digits"):
        layers.factorize(nn.Linear(8, 8), "ttm", 2, metric=Metric(inputs=torch.eye(8)))
    with pytest.raises(ValueError, match="positive definite"):
        layers.factorize(nn.Linear(8, 8), "svd", 2, metric=Metric(inputs=torch.zeros(8, 8)))
