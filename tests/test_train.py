"""Training: resuming changes nothing, schedules, BatchNorm re-estimation against its definition."""

import copy
import sys

import pytest
import torch
from torch import nn

from tnlib import data, networks, train


@pytest.fixture
def images():
    return data.load("cifar10", "train").sample(60)


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(networks.Prepare((0.5,) * 3, (0.2,) * 3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))  # fmt: skip


RECIPE = train.Recipe(epochs=3, batch=25, lr=0.05, resolution=((0.0, 24), (0.5, 32)))


def test_an_interrupted_training_resumed_equals_an_uninterrupted_one(images, tmp_path):
    whole = small_net()
    losses, _ = train.fit(whole, images, RECIPE, device="cpu")

    class Power(Exception):
        pass

    def cut(epoch, loss, seconds):
        if epoch == 2:
            raise Power

    checkpoint = tmp_path / "c.pt"
    with pytest.raises(Power):
        train.fit(small_net(), images, RECIPE, device="cpu", checkpoint=checkpoint, on_epoch=cut)
    resumed, done = small_net(), []
    again = train.fit(
        resumed, images, RECIPE, device="cpu", checkpoint=checkpoint, on_epoch=lambda e, *_: done.append(e)
    )
    assert done == [3]
    assert again.losses == losses
    assert len(again.seconds) == RECIPE.epochs
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_a_checkpoint_of_another_recipe_is_refused(images, tmp_path):
    train.fit(small_net(), images, RECIPE, device="cpu", checkpoint=tmp_path / "c.pt")
    with pytest.raises(ValueError, match="another recipe"):
        train.fit(small_net(), images, train.Recipe(epochs=1), device="cpu", checkpoint=tmp_path / "c.pt")


def test_distilling_teaches_the_answers_of_the_teacher_and_needs_one(images):
    teacher, student = small_net().eval(), small_net()
    nn.init.normal_(student[-1].weight)
    wrong = data.ImageSet(images.info, images.images, torch.zeros_like(images.labels))
    recipe = train.Recipe(epochs=30, batch=20, lr=0.05, padding=0, flip=False, distill=1.0)

    def apart():
        with torch.no_grad():
            answers = [net.eval()(images.images).softmax(1) for net in (teacher, student)]
        return float((answers[0] - answers[1]).abs().sum(1).mean())

    before, state = apart(), copy.deepcopy(teacher.state_dict())
    train.fit(student, wrong, recipe, device="cpu", teacher=teacher)
    assert apart() < 0.3 * before  # the labels, all the same and wrong, count for nothing
    assert all(torch.equal(a, b) for a, b in zip(state.values(), teacher.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="needs a teacher"):
        train.fit(student, wrong, recipe, device="cpu")


def test_the_distilled_loss_is_the_divergence_and_a_constant():
    logits, answers = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y = torch.arange(7), torch.tensor([0, 1, 2, 3, 4, 0, 1])
    student, teacher = nn.Embedding.from_pretrained(logits), nn.Embedding.from_pretrained(answers)
    plain = nn.functional.cross_entropy(logits, y)
    p, q = (answers / 2).softmax(1), (logits / 2).softmax(1)
    expected = 4 * (p * (p / q).log()).sum(1).mean() - 4 * (p * p.log()).sum(1).mean()
    squares = (logits - answers).square().mean()
    for share in (0.0, 0.3, 1.0):
        for match, distance in (("answers", expected), ("logits", squares)):
            recipe = train.Recipe(1, distill=share, match=match)
            loss = train._loss(student, x, y, teacher, recipe)
            assert torch.isclose(loss, (1 - share) * plain + share * distance)
    assert train._loss(student, x, y, None, train.Recipe(1)) == plain


def test_a_share_of_one_looks_at_no_label():
    outside = torch.full((7,), 99)  # of no class: cross-entropy would raise
    networks = [nn.Embedding(7, 5) for _ in range(2)]
    for match in ("answers", "logits"):
        assert (
            train._loss(networks[0], torch.arange(7), outside, networks[1], train.Recipe(1, distill=1.0, match=match))
            > 0
        )


def test_frozen_norms_keep_their_statistics_and_learn_their_scales(images):
    model = small_net()
    before = copy.deepcopy(model[2].state_dict())
    train.fit(model, images, train.Recipe(epochs=1, lr=0.01, norms="frozen"), device="cpu")
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(model[2].state_dict()[name], before[name])
    assert not torch.equal(model[2].weight, before["weight"])
    for wrong in ({"norms": "melted"}, {"match": "noises"}):
        with pytest.raises(ValueError, match="unknown recipe"):
            train.fit(model, images, train.Recipe(epochs=1, **wrong), device="cpu")


def test_float32_is_never_left_when_asked_for(images, monkeypatch):
    seen = set()

    class Watched(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            seen.add(y.dtype)
            return y

    monkeypatch.setattr(train, "has_fast_bf16", lambda: True)
    for precision, dtype in (("float32", torch.float32), ("auto", torch.bfloat16)):
        seen.clear()
        model = nn.Sequential(networks.Prepare((0.5,) * 3, (0.2,) * 3), nn.Flatten(), Watched(3072, 10))
        train.fit(model, images, train.Recipe(epochs=1, lr=0.01), device="cpu", precision=precision)
        assert seen == {dtype}
    with pytest.raises(ValueError, match="float32"):
        train.fit(model, images, RECIPE, precision="float16")


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_others_than_sgd_learn_too(optimizer, images):
    how = {"epochs": 30, "batch": 20, "padding": 0, "flip": False}
    losses, _ = train.fit(small_net(), images, train.Recipe(**how, lr=0.01, optimizer=optimizer), device="cpu")
    assert losses[-1] < losses[0] - 0.3


def test_unknown_optimizers_and_missing_packages_are_told(images, monkeypatch):
    with pytest.raises(ValueError, match="expected sgd, adam or soap"):
        train.fit(small_net(), images, train.Recipe(epochs=1, optimizer="lion"), device="cpu")
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ModuleNotFoundError, match="pytorch_optimizer"):
        train.fit(small_net(), images, train.Recipe(epochs=1, optimizer="soap"), device="cpu")


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_what_an_optimizer_knows_is_kept_in_a_checkpoint(optimizer, images, tmp_path):
    recipe = train.Recipe(epochs=3, batch=20, lr=0.01, optimizer=optimizer)
    whole, cut_off = small_net(), small_net()
    losses, _ = train.fit(whole, images, recipe, device="cpu")

    def cut(epoch, *_):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.fit(cut_off, images, recipe, device="cpu", checkpoint=tmp_path / "c.pt", on_epoch=cut)
    resumed = small_net()
    again, _ = train.fit(resumed, images, recipe, device="cpu", checkpoint=tmp_path / "c.pt")
    assert again == pytest.approx(losses, rel=1e-5)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_training_learns_a_small_set_by_heart(images):
    model = small_net()
    losses, _ = train.fit(model, images, train.Recipe(epochs=30, batch=20, lr=0.1, padding=0, flip=False), device="cpu")
    assert losses[-1] < 0.6 * losses[0]
    assert not model.training


def test_rate_warms_up_and_falls_to_zero():
    recipe = train.Recipe(epochs=1, lr=0.3, warmup=0.2)
    assert recipe.rate(0.0) == 0.0
    assert recipe.rate(0.1) == pytest.approx(0.15)
    assert recipe.rate(0.2) == pytest.approx(0.3)
    assert recipe.rate(0.6) == pytest.approx(0.15)
    assert recipe.rate(1.0) == pytest.approx(0.0, abs=1e-12)


def test_resolution_grows():
    assert [RECIPE.crop(d) for d in (0.0, 0.4, 0.5, 0.9)] == [24, 24, 32, 32]
    assert train.Recipe(epochs=1).crop(0.5) is None


def test_weight_decay_spares_biases_and_batchnorm(images):
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    # A vanishing loss gradient is not to be had; a huge decay is: what is spared moves by the gradient only.
    train.fit(model, images, train.Recipe(epochs=1, batch=60, lr=1e-6, weight_decay=1e5, momentum=0.0), device="cpu")
    after = model.state_dict()
    assert float(after["1.weight"].norm()) < 0.97 * float(before["1.weight"].norm())
    for name in ("1.bias", "2.weight", "2.bias", "6.bias"):
        assert torch.allclose(after[name], before[name], atol=1e-4), name


def test_modes_of_submodules_survive_an_evaluation_even_one_that_fails(images):
    model = small_net().train()
    model[2].eval()
    train.accuracy(model, images)
    assert model.training
    assert model[1].training
    assert not model[2].training
    with pytest.raises(RuntimeError):
        train.reestimate_batchnorm(model, data.ImageSet(images.info, images.images[:, :2], images.labels))
    assert model[2].momentum == 0.1
    assert not model[2].training


def test_reestimated_batchnorm_holds_the_mean_and_variance_of_its_inputs(images):
    model = small_net().train()
    weights = copy.deepcopy(model.state_dict())
    train.reestimate_batchnorm(model, images, batch=60)
    with torch.no_grad():
        inputs = model[1](model[0](images.images))
    assert torch.allclose(model[2].running_mean, inputs.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model[2].running_var, inputs.var((0, 2, 3)), rtol=1e-4)
    assert torch.equal(weights["1.weight"], model[1].weight)
    assert model[2].momentum == 0.1
    assert model.training


def test_accuracy_counts_and_restores_the_mode(images):
    class Oracle(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot(images.labels[: len(x)], 10).float().roll(1 if self.wrong else 0, 1)

    model = Oracle()
    for model.wrong, want in ((False, 1.0), (True, 0.0)):
        assert train.accuracy(model, images) == want
        assert torch.equal(train.hits(model, images), torch.full((len(images),), want > 0))
    assert model.training


def test_hits_are_in_the_order_of_the_images_whatever_the_batch(images):
    model = small_net().eval()
    with torch.no_grad():
        expected = model(images.images).argmax(1) == images.labels
    assert 0 < expected.sum() < len(images)
    for batch in (7, 1000):
        assert torch.equal(train.hits(model, images, batch=batch), expected)


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match="no recipe for 'vgg'; expected one of mlp1024-mnist"):
        train.train("vgg")
