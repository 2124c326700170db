"""Contracts that every named objective keeps: graph equals eager, loss moves nothing, scales stay outside."""

from __future__ import annotations

import functools
import warnings

import pyro
import pytest
import torch
import zoo
from models import data
from objective_models import Mixed, beside, model_of
from pyro import poutine
from pyro.infer import SVI
from stepping import after
from torch import Tensor

from pvae.objectives import make_objective, objective_names
from pvae.programs.bound import BoundPrograms
from pvae.programs.data_counter import DataCounter

MAKE = zoo.OBJECTIVES


pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def test_every_name_has_a_row() -> None:
    assert {name for name, _ in objective_names()} == {text.split(":")[0] for text in MAKE}


@pytest.mark.parametrize("text", MAKE)
def test_graph_equals_eager_in_every_bit(text: str) -> None:
    case = MAKE[text]
    fields = {"beside": functools.partial(beside, case.guide)}
    dtype = torch.float64 if len(text) % 2 else torch.float32  # either, as it falls
    # Of one size, so that a trace runs on other data than it was made from; tests/train/test_step.py has two sizes.
    fields["last"] = 8
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
