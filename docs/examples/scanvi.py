"""Counts of genes in cells of which some are annotated with a cell type, in the manner of scANVI.

    z1 ~ Normal(0, 1)    y ~ OneHotCategorical(1/C, ...)    z2 ~ Normal(f(z1, y))    size ~ LogNormal(0, 1)
    x_g ~ NegativeBinomial(mean = size * 100 softmax(h(z2))_g, inverse dispersion theta_g)

y is observed for annotated cells (y >= 0) and summed out for the others (y = -1): the argument `obs_mask` of
`pyro.sample` makes two sites of it, `y_observed` and `y_unobserved`. The classifier q(y given z2) also learns from the
annotated cells, by a factor in the guide that adds 50 log q(y given z2) to the ELBO. Everything is scaled by 1 / genes.

Source: Xu et al., Probabilistic harmonization and annotation of single-cell transcriptomics data with deep generative
models, Molecular Systems Biology 2021; Pyro's tutorial on scANVI.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO
from torch import nn

import pvae

GENES, TYPES = 10, 3


def network(inputs, hidden, outputs):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def normal(numbers):
    loc, raw = numbers.chunk(2, dim=-1)
    return dist.Normal(loc, nn.functional.softplus(raw) + 1e-3).to_event(1)


def join(first, second):
    """Concatenate two tensors whose leading dimensions broadcast, as those of enumerated types do."""
    shape = torch.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    return torch.cat([first.expand(*shape, -1), second.expand(*shape, -1)], -1)


def one_hot(y):
    return torch.eye(TYPES)[y.clamp(min=0)]


class SCANVI(nn.Module):
    def __init__(self, latent=2, hidden=16, weight_of_labels=50.0):
        super().__init__()
        self.latent, self.weight_of_labels = latent, weight_of_labels
        self.z2_of_z1 = network(latent + TYPES, hidden, 2 * latent)
        self.genes_of_z2 = network(latent, hidden, GENES)
        self.z2_and_size_of_x = network(GENES, hidden, 2 * latent + 2)
        self.z1_of_z2 = network(latent + TYPES, hidden, 2 * latent)
        self.classifier = network(latent, hidden, TYPES)
        self.log_theta = nn.Parameter(torch.zeros(GENES))

    def model(self, x, y):
        pyro.module("scanvi", self)
        with pyro.plate("cells", len(x)), poutine.scale(scale=1.0 / GENES):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            types = dist.OneHotCategorical(torch.ones(TYPES) / TYPES)
            label = pyro.sample("y", types, obs=one_hot(y), obs_mask=y >= 0, infer={"enumerate": "parallel"})
            z2 = pyro.sample("z2", normal(self.z2_of_z1(join(z1, label))))
            size = pyro.sample("size", dist.LogNormal(torch.zeros(1), 1.0).to_event(1))
            mean = 100 * size * self.genes_of_z2(z2).softmax(-1)
            theta = self.log_theta.exp()
            counts = dist.NegativeBinomial(total_count=theta, logits=mean.log() - theta.log()).to_event(1)
            pyro.sample("x", counts, obs=x)

    def guide(self, x, y):
        pyro.module("scanvi", self)
        with pyro.plate("cells", len(x)), poutine.scale(scale=1.0 / GENES):
            z2_numbers, size_numbers = self.z2_and_size_of_x(torch.log1p(x)).split([2 * self.latent, 2], -1)
            size_loc, size_raw = size_numbers.chunk(2, -1)
            pyro.sample("size", dist.LogNormal(size_loc, nn.functional.softplus(size_raw) + 1e-3).to_event(1))
            z2 = pyro.sample("z2", normal(z2_numbers))
            q = dist.OneHotCategorical(logits=self.classifier(z2))
            is_annotated = y >= 0
            with poutine.mask(mask=~is_annotated):
                guess = pyro.sample("y_unobserved", q, infer={"enumerate": "parallel"})
            label = torch.where(is_annotated.unsqueeze(-1), one_hot(y), guess)
            pyro.sample("z1", normal(self.z1_of_z2(join(z2, label))))
            log_q = torch.where(is_annotated, q.log_prob(one_hot(y)), 0.0)
            pyro.factor("classification", -self.weight_of_labels * log_q, has_rsample=False)


def make(weight_of_labels=50.0):
    return SCANVI(weight_of_labels=weight_of_labels)


def make_data(size=40, annotated=0.5, seed=0):
    """Return counts of cells, each type with its own genes, and the type of some cells, -1 for the others."""
    generator = torch.Generator().manual_seed(seed)
    types = torch.randint(TYPES, (size,), generator=generator)
    likely = 2 + 20 * (torch.arange(GENES) % TYPES == types.unsqueeze(-1)).float()
    depth = (0.3 * torch.randn(size, 1, generator=generator)).exp()
    hidden = torch.rand(size, generator=generator) >= annotated
    return {"x": torch.poisson(depth * likely, generator=generator), "y": torch.where(hidden, -1, types)}


def main():
    pyro.set_rng_seed(0)
    data, truth = make_data(size=200, annotated=0.1), make_data(size=200, annotated=1.0)["y"]
    scanvi = SCANVI()
    svi = SVI(scanvi.model, scanvi.guide, pyro.optim.Adam({"lr": 1e-2}), loss=TraceEnum_ELBO(max_plate_nesting=1))
    for _ in range(300):
        svi.step(**data)
    z2 = scanvi.z2_and_size_of_x(torch.log1p(data["x"]))[:, : scanvi.latent]
    right = scanvi.classifier(z2).argmax(-1) == truth
    print(f"annotated right: {right[data['y'] < 0].float().mean():.0%} of the cells without annotation")
    print(pvae.check(scanvi, pvae.Batch(**data), "elbo-enum"))


if __name__ == "__main__":
    main()
