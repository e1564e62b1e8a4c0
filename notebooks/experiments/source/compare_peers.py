# %% [markdown]
# # Compare with other people's tools at equal multiplications
#
# An experiment: one run gives one record, `compare-peers`. A network of `tnlib.models` is compressed by somebody else's tool,
# for each budget to the largest network that the tool makes of at most that share of the multiplications, as
# `measure.cost` counts them. Accuracy is measured as the tool leaves the network, and with BatchNorm's statistics estimated
# anew on images without labels. Nothing is trained. A tool that crashes or cannot reach a budget leaves a gap and its
# message.
#
# The tools come with an extra, in an environment of their own: `pip install -e '.[study,peers]'`. Both run with the torch of
# `requirements.lock`; the extra is not part of `dev`, as it brings two dozen packages that nothing else here needs.

# %% tags=["parameters"]
profile: str = "quick"  # "quick": the committed images; "full": 50,000 to draw from, 10,000 test images
network: str = "resnet20-cifar10"  # a network that `models.load` knows
peer: str = "torch-pruning"  # "torch-pruning", "aimet-spatial-svd", "aimet-channel-pruning" or "none", the dense one
importance: str = "magnitude"  # "magnitude", "lamp" or "taylor", which takes labels: how Torch-Pruning ranks channels
ranking: str = "global"  # "global" or "local": whether it ranks channels of all layers together or of each alone
channels: str = "inner"  # "inner" or "all": whether it leaves the channels that shortcuts add, or prunes them too
candidates: int = 10  # at least 2; AIMET measures a layer at one ratio less, with labels
budgets: list[float] = [0.75, 0.5, 0.35, 0.25, 0.1]  # falling shares of the multiplications
inputs: int = 500  # at least 1; training images: for BatchNorm without labels, for tools that want them with labels
timed: bool = False  # also measure how fast all of them are in ONNX Runtime, one thread; nothing else may run meanwhile
required: bool = False  # fail where the tool is missing, instead of saying so; for sweeps
seed: int = 0  # decides the images of `inputs`

# %%
import contextlib
import copy
import importlib.util
import logging
import tempfile
import time
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tnlib import compress, data, measure, models, networks, study, train

# %%
package = {"torch-pruning": "torch-pruning", "none": "tnlib"}.get(peer, "aimet-torch")
is_here = importlib.util.find_spec(package.replace("-", "_")) is not None
missing = (
    f"{package} is missing, so there is no record: pip install -e '.[study,peers]', best in an environment of its own."
)
if required and not is_here:
    raise ModuleNotFoundError(missing)

# %%
subset = {"quick": "embedded", "full": "full"}[profile]
info = models.model_info(network)
training, test = (data.load(info.dataset, split, subset) for split in ("train", "test"))
looked_at = training.sample(inputs, seed)
shape = (1, *training.info.shape)

# %%
model = models.load(network)
whole = measure.cost(model, shape)
blocks = {name: block for name, block in model.named_modules() if isinstance(block, networks.BasicBlock)}
torch.manual_seed(seed)  # a tool may draw at random


# %%
def share(network):
    return measure.cost(network, shape).macs / whole.macs


# %% [markdown]
# ## Torch-Pruning
# It follows the graph of autograd. The ResNets' parameter-free shortcuts pad channels with zeros, which it does not know: a
# pruned channel would be added to another one. Here they are a module that says where each of its channels comes from,
# and how to prune it. It computes the same and has no multiplications.


# %%
class Shortcut(nn.Module):
    """Channel k of the sum is channel `source[k]` of the input, or zero if the input has no such channel."""

    def __init__(self, block):
        super().__init__()
        self.inputs, self.stride = block.conv1.in_channels, block.stride
        self.source = torch.arange(block.conv2.out_channels) - block.extra // 2

    def forward(self, x):
        inside = (self.source >= 0) & (self.source < self.inputs)
        x = x[:, :, :: self.stride, :: self.stride]
        return x.index_select(1, self.source.clamp(0, self.inputs - 1)) * inside[:, None, None]


# %%
class Block(nn.Module):
    """A block of a ResNet whose shortcut is a module."""

    def __init__(self, block):
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = block.conv1, block.bn1, block.conv2, block.bn2
        self.shortcut = Shortcut(block)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.bn2(self.conv2(y)))


# %%
def pruner_of_shortcuts(base):
    class Pruner(base):
        def prune_out_channels(self, layer, gone):
            layer.source = layer.source[[k for k in range(len(layer.source)) if k not in set(gone)]]
            return layer

        def prune_in_channels(self, layer, gone):
            left = [k for k in range(layer.inputs) if k not in set(gone)]
            place = {old: new for new, old in enumerate(left)}
            layer.source = torch.tensor([place.get(old, -1) for old in layer.source.tolist()])
            layer.inputs = len(left)
            return layer

        def get_out_channels(self, layer):
            return len(layer.source)

        def get_in_channels(self, layer):
            return layer.inputs

    return Pruner()


# %%
def with_modules_for_shortcuts():
    opened = copy.deepcopy(model)
    for name in [name for name, block in blocks.items() if block.extra]:
        opened.set_submodule(name, Block(opened.get_submodule(name)))
    return opened


# %% [markdown]
# The answers stay. With `channels="inner"` so do the channels that a shortcut adds to others.


# %%
def left_alone(opened):
    layers = [m for m in opened.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    added = [opened.get_submodule(name).conv2 for name in blocks] + [opened.conv1] if blocks else []
    return layers[-1:] + (added if channels == "inner" else [])


# %% [markdown]
# As in the authors' benchmark: at most 400 small steps, until the budget is met. Smaller budgets go on from there. Gradients,
# where they count, are those of 100 images, anew every tenth step.


# %%
def differentiate(network):
    network.zero_grad()
    F.cross_entropy(network(looked_at.images[:100]), looked_at.labels[:100]).backward()


# %%
def torch_pruning(steps=400):
    import torch_pruning as tp

    opened = with_modules_for_shortcuts()
    kinds = {"magnitude": tp.importance.GroupMagnitudeImportance, "lamp": tp.importance.LAMPImportance}
    pruner = tp.pruner.BasePruner(
        opened,
        torch.zeros(shape),
        importance=kinds.get(importance, tp.importance.GroupTaylorImportance)(),
        global_pruning=ranking == "global",
        pruning_ratio=1.0,
        iterative_steps=steps,
        ignored_layers=left_alone(opened),
        customized_pruners={Shortcut: pruner_of_shortcuts(tp.BasePruningFunc)},
    )

    def shrink(budget):
        while share(opened) > budget and pruner.current_step < steps:
            if importance == "taylor" and pruner.current_step % 10 == 0:
                differentiate(opened)
            pruner.step()
        return copy.deepcopy(opened)

    return shrink


# %% [markdown]
# ## AIMET
# It chooses ratios greedily: first it measures the accuracy with each layer alone compressed at each ratio, on labelled
# images; training images here. Then it looks for the threshold of accuracy that all layers share at which
# the target is met. Its target is bisected until our count is within 1 % below the budget. It writes its scores to the working
# folder.
#
# Its channel pruning knows no padding, no function that is no module, and not the first layer: it is given the network without
# the preparation of images, rewritten by its own `prepare_model`, and is told to ignore that layer. Its own layers for channels
# that only some readers lose stay off: they crash in this version.


# %%
def for_aimet():
    opened = with_modules_for_shortcuts()
    if peer == "aimet-spatial-svd":
        return nn.Identity(), opened, []
    from aimet_torch.model_preparer import prepare_model

    kinds = networks.Prepare | networks.Standardize
    name, first = next((name, m) for name, m in opened.named_modules() if isinstance(m, kinds))
    opened.set_submodule(name, nn.Identity())
    opened = prepare_model(opened)
    return first, opened, [m for m in opened.modules() if isinstance(m, nn.Conv2d)][:1]


# %%
def for_spatial_svd(automatic):
    from aimet_torch.common.defs import CompressionScheme
    from aimet_torch.defs import SpatialSvdParameters as Parameters

    return CompressionScheme.spatial_svd, Parameters(Parameters.Mode.auto, automatic(Parameters))


# %%
def for_channel_pruning(automatic, first):
    from aimet_torch.common.defs import CompressionScheme
    from aimet_torch.defs import ChannelPruningParameters as Parameters

    pairs = torch.utils.data.TensorDataset(first(looked_at.images), looked_at.labels)
    batches, mode = torch.utils.data.DataLoader(pairs, batch_size=10), Parameters.Mode.auto
    return CompressionScheme.channel_pruning, Parameters(batches, inputs, False, mode, automatic(Parameters))


# %%
def by_aimet(ratio, scores=None):
    from aimet_torch.common.defs import CostMetric, GreedySelectionParameters
    from aimet_torch.compress import ModelCompressor

    first, given, ignored = for_aimet()
    greedy = GreedySelectionParameters(Decimal(ratio), candidates, saved_eval_scores_dict=scores)

    def automatic(parameters):
        return parameters.AutoModeParams(greedy, ignored)

    def measured(network, *_, **__):  # with all scores at hand it reports accuracies, and decides nothing by them
        return 0.0 if scores else train.accuracy(nn.Sequential(first, network), looked_at)

    svd = peer == "aimet-spatial-svd"
    scheme, parameters = for_spatial_svd(automatic) if svd else for_channel_pruning(automatic, first)
    with contextlib.chdir(folder.name), torch.no_grad():
        small, _ = ModelCompressor.compress_model(given, measured, 1, shape, scheme, CostMetric.mac, parameters)
    return nn.Sequential(first, small)


# %%
def aimet():
    by_aimet(0.5)

    def shrink(budget, low=0.0, high=1.0):
        best = None
        for _ in range(12):
            middle = (low + high) / 2
            found = by_aimet(middle, "data/greedy_selection_eval_scores_dict.pkl")
            if share(found) <= budget:
                low, best = middle, found if best is None or share(found) > share(best) else best
            else:
                high = middle
            if best is not None and share(best) > 0.99 * budget:
                return best
        return found if best is None else best

    return shrink


# %% [markdown]
# ## Compress and measure


# %%
def unchanged():
    return lambda budget: model


# %%
def made(prepare, *args):
    """What a tool makes, the seconds it takes, and what it says when it fails."""
    start, result, said = time.perf_counter(), None, ""
    try:
        result = prepare(*args)
    except Exception as error:  # of somebody else's code: anything
        said = f"{type(error).__name__}: {str(error).strip() or 'no message'}"[:300]
    return result, time.perf_counter() - start, said


# %%
folder = tempfile.TemporaryDirectory()
logging.disable(logging.WARNING)
prepare = {"torch-pruning": torch_pruning, "none": unchanged}.get(peer, aimet)
shrink, shared_seconds, broken = made(prepare) if is_here else (None, 0.0, missing)


# %%
def shrunk(budget):
    small, seconds, said = made(shrink, budget) if shrink else (None, 0.0, broken)
    if small is not None and share(small) > budget:
        return None, seconds, f"{share(small):.4f} of the multiplications is the least it reached"
    return small, seconds, said


# %% [markdown]
# Seconds are a tool's, our counts between its steps included. What serves several budgets is part of each one's: preparations,
# and the steps that Torch-Pruning took before.

# %%
names = "macs params raw_accuracy batchnorm_accuracy raw_right batchnorm_right seconds".split()
metrics = {name: [] for name in ("budget", *names)} | {"failed": []}
spent = shared_seconds


# %%
def told(small, seconds):
    cost, repaired = measure.cost(small, shape), compress.repair(small, model, looked_at.images, fit=False)
    row = {"macs": cost.macs / whole.macs, "params": cost.params / whole.params, "seconds": seconds}
    for name, network in {"raw": small, "batchnorm": repaired}.items():
        hits = train.hits(network, test)
        row |= {f"{name}_accuracy": hits.double().mean(), f"{name}_right": np.packbits(hits.numpy()).tobytes().hex()}
    return row


# %%
kept = {}
for budget in budgets if is_here else []:
    small, seconds, said = shrunk(budget)
    kept |= {} if small is None else {budget: small}
    spent = seconds + (spent if peer == "torch-pruning" else shared_seconds)
    row = {} if small is None else told(small, spent)
    for name, value in {"budget": budget, "failed": said, **{name: row.get(name) for name in names}}.items():
        metrics[name].append(value)

# %% [markdown]
# ## Time
# With `timed`, each takes turns with the original and with its rivals: CP3 and spatial SVD of as many multiplications, allocated as
# in `compare_formats`. Tools are asked for as many channels as they take; ours are timed as they are, and padded to whole lanes (lesson 15).


# %%
def found(format):
    return compress.curves(model, looked_at.images[:200], [format], "input", seed=seed)


# %%
def rivals(small, curves):
    """Networks beside the tool's, and the multiples to which their ranks are padded."""
    budget = compress.Budget(macs=min(share(small), 0.99))
    ours = {format: compress.Plan.of(known, budget).apply(model) for format, known in curves.items()}
    padded = {f"{format}, in lanes": (network, 8) for format, network in ours.items()}
    return {"original": (model, 1), "tool": (small, 1)} | {f: (n, 1) for f, n in ours.items()} | padded


# %%
def opened(network, lanes, path):
    from tnlib import deploy

    deploy.export(network, looked_at.images[:2], path, lanes=lanes)
    session = deploy.session(path)
    return lambda x: session.run(None, {session.get_inputs()[0].name: x})


# %%
def raced(small, budget, curves):
    folder_of = Path(folder.name)
    calls = {
        name: opened(network, lanes, folder_of / f"{i}-{budget}.onnx")
        for i, (name, (network, lanes)) in enumerate(rivals(small, curves).items())
    }
    for batch in (1, 64):
        x = looked_at.images.repeat(64, 1, 1, 1)[:batch].numpy()
        speedups = measure.compare(calls, x, rounds=100, block=20.0).speedup
        for name, (middle, low, high) in speedups.items():
            row = {"budget": budget, "batch": batch, "network": name, "speedup": middle}
            yield row | {"speedup_low": low, "speedup_high": high}


# %%
if timed:
    torch.set_num_threads(1)
    curves = {format: found(format) for format in ("cp3", "spatial_svd")}
    metrics["times"] = [row for budget, small in kept.items() for row in raced(small, budget, curves)]

# %%
hits = train.hits(model, test)
metrics |= {"original_accuracy": hits.double().mean(), "test_images": len(test)}
metrics["original_right"] = np.packbits(hits.numpy()).tobytes().hex()

# %%
takes_labels = peer.startswith("aimet") or (peer == "torch-pruning" and importance == "taylor")
metrics |= {"labels_used": takes_labels, "package": package, "version": version(package) if is_here else ""}

# %%
settings = {"profile": profile, "network": network, "peer": peer, "importance": importance, "ranking": ranking}
settings |= {"channels": channels, "candidates": candidates, "budgets": budgets, "inputs": inputs, "timed": timed}
folder.cleanup()

# %% tags=["nbval-ignore-output"]
if is_here:
    study.record(
        "compare-peers",
        metrics,
        parameters=settings,
        source="notebooks/experiments/compare_peers",
        seed=seed,
    )
print("recorded compare-peers" if is_here else missing)
