"""From a plan to a file: compressed, frozen, exported, as ONNX and in ONNX Runtime the same network."""

from dataclasses import dataclass

import onnx
import onnxruntime
import pytest
import torch
import torchvision
from compress_networks import Residual, images, seeded
from torch import nn

from tnlib import compress, layers, measure
from tnlib.compress import Budget

BATCH, LENGTH = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=2, max=64)
KEPT = {"svd", "spatial_svd", "tucker2"}  # formats whose factors `freeze` keeps: it merges or pads the others'
SCALARS = 64  # numbers that ONNX adds for scales and the like, at most


class Encoder(nn.Module):
    """Sequences to classes; made as people make it, ready for torch's fused path and for nested tensors."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(64))
        self.head = nn.Linear(64, 10)

    def forward(self, x, padding):
        return self.head(self.encoder(x, src_key_padding_mask=padding)[:, 0])


class Text(nn.Module):
    """Tokens to the word that is missing, the head's weight being the embedding's; or to four classes."""

    def __init__(self, tied):
        super().__init__()
        self.embed = nn.Embedding(400, 48, padding_idx=0)
        self.mix = nn.Sequential(nn.Linear(48, 192), nn.ReLU(), nn.Linear(192, 48))
        self.head = nn.Linear(48, 400 if tied else 4)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.head((x + self.mix(x)).mean(1))


def drawn(make):
    """A network no two of whose parameters are equal: those, ONNX would store once."""
    model, generator = seeded(make), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = 0.1 * torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise if parameter.ndim == 1 else noise * parameter)  # a row of zeros stays one
    return model


def sequences(batch, length, seed):
    generator = torch.Generator().manual_seed(seed)
    padding = torch.rand(batch, length, generator=generator) < 0.3
    padding[:, 0] = False
    return torch.randn(batch, length, 64, generator=generator), padding


def tokens(batch, length, seed):
    return (torch.randint(0, 400, (batch, length), generator=torch.Generator().manual_seed(seed)),)


def photos(batch, seed):
    return (torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed)),)


def numbers(tensors):
    """How many floating-point numbers tensors hold; one that has several names counts once."""
    every = {tensor.data_ptr(): tensor.numel() for tensor in tensors if tensor.is_floating_point()}
    return sum(every.values())


def assert_close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


@dataclass
class Deployed:
    """All that became of a network on its way."""

    plan: compress.Plan
    frozen: nn.Module
    exported: torch.export.ExportedProgram
    held: int
    file: onnx.ModelProto
    session: onnxruntime.InferenceSession

    @property
    def stored(self):
        """Floating-point numbers in the file."""
        own = [torch.tensor(onnx.numpy_helper.to_array(one)) for one in self.file.graph.initializer]
        return sum(one.numel() for one in own if one.is_floating_point())

    @property
    def formats(self):
        return {chosen.format for chosen in self.plan.chosen.values()} - {None}


@torch.no_grad()
def deploy(model, example, others, budget, folder, shapes=None, fixed=False, optimize=True, **how):
    """The whole way; at each step the outputs for inputs of other shapes are those of the step before."""
    plan = compress.plan(model, [example], budget, **how)
    small = plan.apply(model)
    for kind, share in budget.shares().items():
        assert getattr(measure.cost(small, example), kind) == plan.cost[kind] <= share * plan.original[kind]
    frozen = layers.freeze(small, example, fixed=fixed)
    exported = torch.export.export(frozen, example, dynamic_shapes=shapes)
    program = torch.onnx.export(exported, dynamo=True, optimize=False, verbose=False)
    used = [one.const_value for one in program.model.graph.initializers.values()]
    held = sum(one.size for one in used if one.dtype.is_floating_point())
    if optimize:
        program.optimize()
    path = folder / "small.onnx"
    program.save(path, external_data=False)
    assert list(folder.iterdir()) == [path]
    content = path.read_bytes()
    file = onnx.load_model_from_string(content)
    onnx.checker.check_model(file, full_check=True)
    assert not any(one.external_data for one in file.graph.initializer)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])  # no folder, no file
    result = Deployed(plan, frozen, exported, held, file, session)
    for inputs in others:
        want = small(*inputs)
        assert_close(frozen(*inputs), want)
        assert_close(exported.module()(*inputs), want)
        given = {one.name: x.numpy() for one, x in zip(session.get_inputs(), inputs, strict=True)}
        assert_close(torch.tensor(session.run(None, given)[0]), want)
        with measure.without_fast_path():
            original = model(*inputs)
        assert (want - original).norm() > 1e-3 * original.norm()  # 1e-4 tells the compressed network from the original
    assert_numbers(result)
    return result


def assert_numbers(deployed):
    """The plan's numbers are those of the frozen network, of the exported program and of the file."""
    frozen = deployed.frozen
    norms = [module for module in frozen.modules() if isinstance(module, nn.BatchNorm2d)]
    channels = sum(norm.num_features for norm in norms)
    whole = numbers([*frozen.parameters(), *frozen.buffers()])
    assert numbers(deployed.exported.state_dict.values()) == whole
    if deployed.formats <= KEPT:
        assert whole == deployed.plan.cost["params"] + 2 * channels
    assert deployed.held <= whole
    # BatchNorm's four numbers a channel go into the convolution before; nothing is multiplied out.
    assert deployed.held - 4 * channels <= deployed.stored <= deployed.held + SCALARS


def test_resnet18(tmp_path):
    model = drawn(lambda: torchvision.models.resnet18(weights=None))
    how = {"shapes": ({0: BATCH},), "skip": ["layer4"]}  # whose decompositions take longer than all others together
    result = deploy(model, photos(2, 0), [photos(3, 1)], Budget(macs=0.5), tmp_path, **how)
    assert result.held == result.plan.cost["params"] + 2 * 4800
    assert {"svd", "spatial_svd"} <= result.formats
    assert isinstance(result.session.get_inputs()[0].shape[0], str)
    assert (tmp_path / "small.onnx").stat().st_size < 4 * result.plan.original["params"]


CONV = {
    "tucker2": Budget(macs=0.7),
    "cp3": Budget(macs=0.5),
    "tt": Budget(macs=0.7),
    "ttm": Budget(params=0.7),
}


@pytest.mark.parametrize("format", CONV)
def test_convolutions_of_all_sorts(format, tmp_path):
    others = [(images(number, 1),) for number in (1, 7)]
    result = deploy(drawn(Residual), (images(4),), others, CONV[format], tmp_path, ({0: BATCH},), formats=(format,))
    assert result.formats == {format}
    assert result.held == numbers([*result.frozen.parameters(), *result.frozen.buffers()])


@pytest.mark.parametrize(("format", "batch", "one"), [("svd", 4, "mm"), ("cp", 1, "bmm")])
def test_what_is_planned_for_a_fixed_shape_is_exported(format, batch, one, tmp_path):
    model, example = drawn(Residual), (images(batch),)
    how = {"fixed": True, "formats": (format,), "only": ["stem", "twice"]}
    result = deploy(model, example, [(images(batch, 1),)], Budget(macs=0.8), tmp_path, **how)
    assert result.session.get_inputs()[0].shape == [batch, 3, 9, 9]
    with torch.no_grad():
        free = torch.export.export(layers.freeze(result.plan.apply(model), example), example)
    calls = [{str(node.target) for node in program.graph.nodes} for program in (free, result.exported)]
    assert [f"aten.{one}.default" in names for names in calls] == [False, True]


ENCODER = {
    "svd": ({"formats": ("svd",)}, Budget(macs=0.5)),
    "tt": ({"formats": ("tt",), "only": ["encoder.layers.1"]}, Budget(params=0.95)),
}


@pytest.mark.parametrize("name", ENCODER)
def test_a_transformer_encoder_with_padding(name, tmp_path):
    how, budget = ENCODER[name]
    model = drawn(Encoder)
    assert model.encoder.use_nested_tensor
    sizes = {0: BATCH, 1: LENGTH}
    others = [sequences(3, 9, 1), sequences(1, 12, 2)]
    result = deploy(model, sequences(4, 9, 0), others, budget, tmp_path, (sizes, sizes), **how)
    assert result.formats == {name}
    operations = [str(node.target) for node in result.exported.graph.nodes]
    assert operations.count("aten.scaled_dot_product_attention.default") == 2
    assert not any("transformer" in one or "nested" in one for one in operations)


def test_a_tied_embedding_is_stored_once(tmp_path):
    sizes = ({0: BATCH, 1: LENGTH},)
    others = [tokens(3, 9, 1), tokens(1, 5, 2)]
    result = deploy(drawn(lambda: Text(True)), tokens(4, 9, 0), others, Budget(macs=0.5), tmp_path, shapes=sizes)
    assert set(result.plan.left) == {"embed", "head"}
    assert result.frozen.head.weight is result.frozen.embed.weight
    tables = [one for one in result.file.graph.initializer if sorted(one.dims) == [48, 400]]
    assert len(tables) == 1


@pytest.mark.parametrize("format", ["svd", "ttm"])
def test_an_embedding_on_factors(format, tmp_path):
    sizes = ({0: BATCH, 1: LENGTH},)
    others = [tokens(3, 9, 1), tokens(1, 5, 2)]
    # ONNX's optimizer multiplies the cores of a small table out, and stores the product.
    how, budget = {"formats": (format,), "optimize": format != "ttm"}, Budget(params=0.5)
    result = deploy(drawn(lambda: Text(False)), tokens(4, 9, 0), others, budget, tmp_path, sizes, **how)
    assert result.plan.chosen["embed"].format == format
    assert not any(sorted(one.dims) == [48, 400] for one in result.file.graph.initializer)
