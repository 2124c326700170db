"""Codes for pictures: continuous sites are numbers, discrete sites are categories, and what is given is no code."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pvae
from pvae.batch import Batch
from pvae.models.latent_codes import infer_codes
from pvae.models.rendering import interpolate
from pvae.models.semisupervised import SemiSupervisedVAE

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


class Given(pvae.LatentModel):
    """A user's programs in which the label enters the guide as a point mass, and the condition as a site too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(3, 2)

    def model(self, x: Tensor, y: Tensor, c: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("label", dist.Categorical(torch.ones(4)))
            pyro.sample("condition", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("bits", dist.Bernoulli(0.5 * torch.ones(len(x), 3)).to_event(1))
            pyro.sample("one_hot", dist.OneHotCategorical(torch.ones(len(x), 5)))
            pyro.sample("count", dist.Poisson(3.0 * torch.ones(len(x))))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(-1, 3), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor, c: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("label", dist.Delta(y).mask(False))
            pyro.sample("condition", dist.Delta(c))
            pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))
            pyro.sample("bits", dist.Bernoulli(logits=x).to_event(1))
            pyro.sample("one_hot", dist.OneHotCategorical(logits=torch.cat([x, -x[:, :2]], 1)))
            pyro.sample("count", dist.Poisson(3.0 * torch.ones(len(x))))


def test_given_fields_are_left_out_and_discrete_sites_are_categories() -> None:
    model = Given()
    x, y, c = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 2, 1]), torch.randn(6)
    codes = infer_codes(model, Batch(x=x, y=y, c=c))
    assert list(codes.continuous) == ["z"] and codes.given == ("y", "c")
    assert torch.equal(codes.joined(), model.net(x).detach()) and codes.unit_names == ("z[0]", "z[1]")
    assert set(codes.categories) == {"bits", "one_hot", "count"}
    assert torch.equal(codes.categories["bits"], (x > 0).long())
    assert torch.equal(codes.categories["one_hot"], torch.cat([x, -x[:, :2]], 1).argmax(-1, keepdim=True))
    assert codes.describe() == "Inferred: z, bits, one_hot, count. Given: x, y, c."


def test_labels_are_hidden_from_a_model_that_infers_them() -> None:
    model = SemiSupervisedVAE((12,), 3, latent=2, hidden=8)
    data = Batch(x=torch.bernoulli(torch.full((40, 12), 0.5)), y=torch.arange(40) % 3)
    codes = infer_codes(model, data)
    inferred = model.classify(data.x).logits.argmax(-1)
    assert codes.hidden and codes.given == ()
    assert torch.equal(codes.categories["y"][:, 0], inferred) and bool((inferred != data.y).any())
    mean = model.encode(data.x, model.code(inferred)).mean
    assert torch.allclose(codes.joined().to(mean), mean, atol=1e-6)


def test_a_perfect_classifier_is_not_mistaken_for_a_given_label() -> None:
    class Perfect(Given):
        def guide(self, x: Tensor, y: Tensor, c: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("label", dist.Categorical(logits=100 * torch.nn.functional.one_hot(x[:, 0].long(), 4)))
                pyro.sample("condition", dist.Normal(c, 1.0))
                pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    y = torch.tensor([0, 1, 2, 3, 2, 1])
    x = torch.cat([y[:, None].float(), torch.randn(6, 2)], 1)
    codes = infer_codes(Perfect(), Batch(x=x, y=y, c=torch.randn(6)))
    assert torch.equal(codes.categories["label"][:, 0], y) and list(codes.continuous) == ["z"]


def test_lines_keep_the_most_probable_category_and_do_not_draw_one() -> None:
    model = SemiSupervisedVAE((12,), 3, latent=2, hidden=8)
    x = torch.bernoulli(torch.full((6, 12), 0.5))
    hidden = Batch(x=x, y=torch.full((6,), -1))
    lines = interpolate(model, hidden.take(slice(0, 3)), hidden.take(slice(3, 6)), steps=2)
    label = model.classify(x[:3]).logits.argmax(-1)
    start = model.reconstruct(x[:3], y=label)
    assert torch.allclose(lines[:, 0].reshape(start.shape), start, atol=1e-5)
