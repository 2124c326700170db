"""A small model for each kind of guide that an objective may need; `zoo.ObjectiveCase` names the kinds."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from models import FEATURES, LATENT, Enumerated, Plain
from torch import Tensor, nn

import pvae
from pvae.densities import GivenLabel, label_posterior


class Mixed(pvae.LatentModel):
    """A coin and a Normal that depends on it: a guide with both kinds of site."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(LATENT + 1, FEATURES), nn.Linear(FEATURES, 1 + 2 * LATENT)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(logits=x.new_zeros(len(x), 1)).to_event(1))
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENT), 1.0).to_event(1))
            b, z = (each.expand(*torch.broadcast_shapes(b.shape[:-1], z.shape[:-1]), -1) for each in (b, z))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(torch.cat([b, z], -1))).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            logit, loc, scale = self.encoder(x).split([1, LATENT, LATENT], -1)
            b = pyro.sample("b", dist.Bernoulli(logits=logit).to_event(1))
            pyro.sample("z", dist.Normal(loc + 0.3 * b, scale.exp()).to_event(1))

    def theta(self) -> list[nn.Parameter]:
        return list(self.decoder.parameters())

    def phi(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())


class Quantised(pvae.LatentModel):
    """Two codes by a codebook that both programs use."""

    def __init__(self) -> None:
        super().__init__()
        self.quantiser = pvae.Quantiser(4, LATENT)
        self.decoder, self.encoder = nn.Linear(2 * LATENT, FEATURES), nn.Linear(FEATURES, 2 * LATENT)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=x.new_zeros(2, 4)).to_event(1))
            logits = self.decoder(self.quantiser.embed(k).flatten(-2))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", self.quantiser(self.encoder(x).unflatten(-1, (2, LATENT))))


class Labelled(Enumerated):
    """The same mixture, where some data tell their label."""

    def classify(self, x: Tensor) -> dist.Categorical:
        return dist.Categorical(logits=self.encoder(x))

    def model(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=x.new_zeros(3)))
            pyro.sample("given", GivenLabel(k, 3, dtype=x.dtype), obs=y)
            pyro.sample("x", dist.Bernoulli(logits=self.centres[k]).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", label_posterior(self.encoder(x), y), infer={"enumerate": "parallel"})

    def theta(self) -> list[nn.Parameter]:
        return [self.centres]

    def phi(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())


def multimodal() -> pvae.MultimodalVAE:
    """Two fields with a product of experts."""
    return pvae.MultimodalVAE(FEATURES, {"x": "bernoulli", "w": "gaussian:shape=3"}, latent=LATENT, hidden=4)


def experts() -> pvae.MultimodalVAE:
    """Two fields with a mixture of experts."""
    modalities = {"x": "bernoulli", "w": "gaussian:shape=3"}
    return pvae.MultimodalVAE(FEATURES, modalities, combine="mixture", latent=LATENT, hidden=4)


MODELS: dict[str, Any] = {
    "pathwise": Plain,
    "any": Mixed,
    "marked": Enumerated,
    "labelled": Labelled,
    "quantised": Quantised,
    "multimodal": multimodal,
    "experts": experts,
}


def model_of(kind: str) -> Any:
    return MODELS[kind]


def beside(kind: str, size: int) -> dict[str, Tensor]:
    """The fields that a kind of model takes beside x."""
    if kind in ("multimodal", "experts"):
        return {"w": torch.arange(3.0 * size).reshape(size, 3).sin(), "w_mask": (torch.arange(size) % 3 > 0).float()}
    return {"y": torch.arange(size) % 4 - 1} if kind == "labelled" else {}
