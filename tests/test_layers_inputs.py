"""Every factorized layer on inputs of all shapes, strides and types: it answers as the layer that it replaced."""

import pytest
import torch
from layer_cases import CASES, CHANNELS_LAST, CONVS, FLOATS, assert_same, dense, difference


@pytest.mark.parametrize("case", CASES, ids=str)
def test_empty_batches(case):
    layer, module, x = case.layer(), case.make(), case.input()[:0]
    with torch.no_grad():
        assert module(x).shape == layer(x).shape
    y = module(x)
    assert y.dtype == layer(x).dtype
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert all(not parameter.grad.any() for parameter in module.parameters())


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_strides_are_the_replaced_layers(case, moved):
    layer, module, x = case.layer(), case.make(), case.input()
    inputs = [x]
    if x.ndim == 4:  # torch's own layers of three dimensions keep channels_last only with several threads
        last = CHANNELS_LAST[x.ndim]
        inputs.append(x.contiguous(memory_format=last))
        if moved:
            layer, module = layer.to(memory_format=last), module.to(memory_format=last)
    if case.kind == "Linear":
        inputs.append(torch.stack([x, 2 * x]))
        inputs.append(inputs[-1].transpose(0, 1))
    for x in inputs:
        for context in (torch.no_grad, torch.enable_grad):
            with context():
                want, got = layer(x), module(x)
                assert got.stride() == want.stride()
                assert_same(got, dense(layer, module, x))
                if want.is_contiguous():
                    got.view(-1)
    if case.kind == "Conv3d" and case.format != "ttm":  # torch refuses it for all weights of order 4
        x = x.contiguous(memory_format=torch.channels_last_3d)
        assert_same(module.to(memory_format=torch.channels_last_3d)(x), dense(layer, module, x))


@pytest.mark.parametrize("memory_format", CHANNELS_LAST.values())
@pytest.mark.parametrize("case", [case for case in CASES if case.kind not in ("Conv2d", "Conv3d")], ids=str)
def test_memory_formats_of_a_whole_network_are_taken(case, memory_format):
    """A network of images is moved as one, its linear layers too."""
    layer, module, x = case.layer(), case.make(), case.input()
    if memory_format is torch.channels_last_3d and any(p.ndim == 4 for p in module.parameters()):
        with pytest.raises(RuntimeError, match="rank 5"):  # as torch says of an nn.Conv2d in such a network
            module.to(memory_format=memory_format)
        return
    layer.to(memory_format=memory_format)
    module.to(memory_format=memory_format)
    assert_same(module(x), dense(layer, module, x))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_types_and_devices(case):
    layer, module, x = case.layer(), case.make(), case.input()
    with torch.no_grad():
        want = module(x)
        for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.float32):
            module, layer = module.to(dtype), layer.to(dtype)
            x = x if case.kind == "Embedding" else x.to(dtype)
            assert module(x).dtype == dtype
            assert difference(module(x), want) < 0.05
        assert_same(module(x), dense(layer, module, x))
    shape = module.to("meta")(x.to("meta"))
    assert (shape.shape, shape.device.type) == (want.shape, "meta")
    assert module.to_empty(device="cpu")(x).shape == want.shape


@pytest.mark.parametrize("case", CONVS, ids=str)
def test_images_of_other_sizes_take_turns(case):
    layer, module = case.layer(), case.make()
    with torch.no_grad():
        for size in (*range(4, 12), *range(4, 12)):
            x = torch.randn(2, layer.in_channels, *[size] * int(case.kind[4]))
            assert_same(module(x), dense(layer, module, x))


@pytest.mark.parametrize("case", FLOATS, ids=str)
def test_inputs_that_are_not_contiguous(case):
    layer, module, x = case.layer(), case.make(), case.input(6)
    wide = torch.cat([x, x], 1)[::2, : x.shape[1]]
    turned = x.transpose(0, -1).contiguous().transpose(0, -1)
    for view in (wide, turned, x[:1].expand_as(x), x.flip(0)):
        before = view.clone()
        for context in (torch.no_grad, torch.enable_grad):
            with context():
                assert_same(module(view), dense(layer, module, view.contiguous()))
        assert torch.equal(view, before)
