"""Contracts that every named objective keeps: graph equals eager, loss moves nothing, scales stay outside."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import zoo
from models import FEATURES, LATENT, Enumerated, Plain, data
from pyro import poutine
from pyro.infer import SVI
from stepping import after
from torch import Tensor, nn

import pvae
from pvae.densities import GivenLabel, label_posterior
from pvae.objectives import make_objective, objective_names
from pvae.programs.bound import BoundPrograms
from pvae.programs.data_counter import DataCounter

MAKE = zoo.OBJECTIVES


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


pytestmark = pytest.mark.usefixtures("own_store", "seeded")


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


def model_of(kind: str) -> Any:
    return {"pathwise": Plain, "any": Mixed, "marked": Enumerated, "labelled": Labelled, "quantised": Quantised}[kind]


def beside(kind: str, size: int) -> dict[str, Tensor]:
    """The fields that a kind of model takes beside x."""
    return {"y": torch.arange(size) % 4 - 1} if kind == "labelled" else {}


def test_every_name_has_a_row() -> None:
    assert {name for name, _ in objective_names()} == {text.split(":")[0] for text in MAKE}


@pytest.mark.parametrize("text", MAKE)
def test_graph_equals_eager_in_every_bit(text: str) -> None:
    case = MAKE[text]
    fields = {"beside": functools.partial(beside, case.guide)}
    dtype = torch.float64 if len(text) % 2 else torch.float32  # either, as it falls
    with warnings.catch_warnings():
        warnings.simplefilter("error" if case.traced else "ignore")
        graph = after(model_of(case.guide), make_objective(text), graph=True, dtype=dtype, **fields)
        eager = after(model_of(case.guide), make_objective(text), graph=False, dtype=dtype, **fields)
    assert graph[3].graph is case.traced
    assert torch.isfinite(graph[0]).all()
    if case.guide == "marked":  # sums the same terms in another order
        torch.testing.assert_close(graph[0], eager[0], rtol=1e-6, atol=0.0)
        return
    assert torch.equal(graph[0], eager[0])
    assert graph[1].keys() == eager[1].keys() and all(torch.equal(graph[1][n], eager[1][n]) for n in graph[1])
    assert torch.equal(graph[2], eager[2]), "the generator stands elsewhere"


@pytest.mark.parametrize("text", MAKE)
def test_a_plain_svi_script_moves_the_parameters_and_loss_moves_nothing(text: str) -> None:
    model, objective, x = model_of(MAKE[text].guide)(), make_objective(text)(), data(16).x
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.01}), loss=objective)
    fields = beside(MAKE[text].guide, len(x))
    svi.step(x, **fields)
    before = {name: each.clone() for name, each in [*model.state_dict().items(), *objective.state_dict().items()]}
    objective.loss(model.model, model.guide, x, **fields)
    held = {**model.state_dict(), **objective.state_dict()}
    assert all(torch.equal(held[name], each) for name, each in before.items())
    for _ in range(2):  # objectives that alternate move one group a step
        svi.step(x, **fields)
    resting = {id(each) for group in MAKE[text].untrained for each in getattr(model, group)()}
    for name, each in model.named_parameters():
        assert torch.equal(each, before[name]) is (id(each) in resting), name


class Scaled(Mixed):
    """Every datum counts three times, as in a plate of which a third is seen."""

    def model(self, x: Tensor) -> None:
        with pyro.poutine.scale(scale=3.0):
            Mixed.model.__wrapped__(self, x) if hasattr(Mixed.model, "__wrapped__") else Mixed.model(self, x)

    def guide(self, x: Tensor) -> None:
        with pyro.poutine.scale(scale=3.0):
            Mixed.guide.__wrapped__(self, x) if hasattr(Mixed.guide, "__wrapped__") else Mixed.guide(self, x)


@pytest.mark.parametrize("text", [text for text, case in MAKE.items() if case.guide == "any" and case.scales])
def test_a_scale_multiplies_loss_and_gradient(text: str) -> None:
    plain, scaled, x = Mixed(), Scaled(), data(16).x
    scaled.load_state_dict(plain.state_dict())
    found = []
    for model in (plain, scaled):
        torch.manual_seed(7)
        objective = make_objective(text)()
        player = objective.players[-1]
        terms = objective.terms(model.model, model.guide, (x,), {}, player)
        group = list(model.parameters()) if player == "all" else getattr(model, player)()
        gradients = torch.autograd.grad(terms.surrogate, group, allow_unused=True)
        found.append((terms.loss, [g for g in gradients if g is not None]))
    torch.testing.assert_close(3 * found[0][0], found[1][0], rtol=1e-5, atol=0)
    for mine, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(3 * mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", [text for text, case in zoo.OBJECTIVES.items() if case.scales])
def test_numbers_and_state_per_datum_do_not_depend_on_a_scale(text: str) -> None:
    kind, x = zoo.OBJECTIVES[text].guide, data(16, torch.float64).x
    fields, model = beside(kind, len(x)), model_of(kind)().double()
    found = []
    for scale in (1.0, 1 / 200):
        programs = [poutine.scale(program, scale=scale) for program in (model.model, model.guide)]
        torch.manual_seed(7)
        objective = make_objective(text)().double()
        for player in objective.players:
            with DataCounter(BoundPrograms(*programs, (x,), fields), objective.data_plate) as counter:
                terms = objective.terms(*programs, (x,), fields, player)
            group = [each for each in model.parameters() if each.requires_grad]
            gradients = torch.autograd.grad(terms.surrogate / counter.count, group, allow_unused=True)
            numbers = [terms.loss / counter.count, *(number / counter.count for number in terms.named.values())]
        state = [] if text.startswith("elbo-graph") else [each.clone() for each in objective.buffers()]
        found.append([*numbers, *(each for each in gradients if each is not None), *state])
    for plain, scaled in zip(*found, strict=True):
        torch.testing.assert_close(scaled, plain, rtol=1e-9, atol=1e-9)
