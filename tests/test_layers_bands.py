"""CP convolutions of one small image: filters as band matrices, against the layer, for all geometries."""

import warnings

import pytest
import torch
from torch import nn

from tnlib import layers
from tnlib.layers.frozen_bands import FrozenBands

WINDOWS = [(3, 3), (9, 1), (2, 5)]
STRIDES = [(1, 1), (2, 1)]
PADDINGS = [(0, 0), (1, 2)]
DILATIONS = [(1, 1), (2, 1)]


def make(inputs=5, window=(3, 3), size=(17, 11), **options):
    torch.manual_seed(0)
    conv = nn.Conv2d(inputs, 7, window, **options)
    layer = layers.factorize(conv, "cp", 4, weights="fresh").requires_grad_(False)
    return layer, torch.randn(1, inputs, *size)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dilation", DILATIONS)
@pytest.mark.parametrize("inputs", [1, 5])
def test_outputs_are_the_layers(window, stride, padding, dilation, inputs):
    layer, image = make(inputs, window, stride=stride, padding=padding, dilation=dilation, bias=inputs == 5)
    frozen = layers.freeze(layer, image)
    assert isinstance(frozen, FrozenBands)
    for x in (
        image,
        image.to(memory_format=torch.channels_last),
        image[0],
        image.expand(3, -1, -1, -1),
        torch.randn(1, inputs, 18, 14),
    ):
        close(frozen(x), layer(x))
    assert frozen(image).is_contiguous()
    close(frozen.dense_weight(), layer.dense_weight())


def test_a_window_as_large_as_the_image():
    layer, image = make(size=(8, 6), window=(8, 6))
    frozen = layers.freeze(layer, image)
    assert frozen.window.shape == (4, 48)
    close(frozen(image), layer(image))


def test_channels_last_stays():
    layer, image = make()
    image = image.to(memory_format=torch.channels_last)
    assert layers.freeze(layer, image)(image).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 5, 9, 9), {}),  # several images
        ((1, 5, 33, 9), {}),  # a large one
        ((1, 5, 9, 9), {"padding": 1, "padding_mode": "reflect"}),
        ((1, 6, 9, 9), {"groups": 2}),
    ],
)
def test_other_layers_go_another_way(shape, options):
    torch.manual_seed(0)
    conv = nn.Conv2d(shape[1], 8, 3, **options)
    layer = layers.factorize(conv, "cp", 3, weights="fresh").requires_grad_(False)
    frozen, x = layers.freeze(layer, torch.zeros(shape)), torch.randn(shape)
    assert not isinstance(frozen, FrozenBands)
    close(frozen(x), layer(x))


def test_fixed_shapes_are_kept_by_tracing():
    layer, image = make()
    free, fixed = layers.freeze(layer, image), layers.freeze(layer, image, fixed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is called legacy
        kinds = [{node.kind() for node in torch.jit.trace(m, image).inlined_graph.nodes()} for m in (free, fixed)]
        traced = torch.jit.trace(fixed, image)
    assert ["aten::bmm" in names for names in kinds] == [False, True]
    close(traced(image), layer(image))
    for strict in (False, True):
        exported = torch.export.export(fixed, (image,), strict=strict)
        assert torch.ops.aten.bmm.default in [node.target for node in exported.graph.nodes]
        close(exported.module()(image), layer(image))


@pytest.mark.parametrize("batch", [1, 2])
def test_fixed_shapes_refuse_others(batch):
    layer, image = make()
    image = image.expand(batch, -1, -1, -1)
    frozen = layers.freeze(nn.Sequential(layer), image, fixed=True)
    close(frozen(image), layer(image))
    with pytest.raises(ValueError, match="alone, got"):
        frozen(torch.randn(1, 5, 12, 12))


def test_frozen_for_one_image_and_exported_for_any_number():
    layer, image = make()
    frozen, two = layers.freeze(layer, image), image.expand(2, -1, -1, -1)
    batch = torch.export.Dim("batch", min=1, max=512)
    exported = torch.export.export(frozen, (two,), dynamic_shapes=({0: batch},)).module()
    for number in (1, 2, 5):
        x = torch.randn(number, *image.shape[1:])
        close(exported(x), layer(x))
