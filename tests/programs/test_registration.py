"""Parameters reach Pyro's store by identity: what plain SVI leaves untrained in silence elsewhere is trained here."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
import tutorial_vae
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn

from pvae.models import LatentModel, bind, pair, restore_store, scope, store_tensors
from pvae.programs.registration import Registration

X = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7]])

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


class Plain(LatentModel):
    """One layer, plain modules."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2, 3), nn.Linear(3, 4)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Named(Plain):
    """The habit of Pyro's tutorials: the same name in every instance."""

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        super().model(x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        super().guide(x)


class Scaled(PyroModule):
    """A nested PyroModule with a constrained, a plain and a submodule's parameters."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.shift = nn.Parameter(torch.zeros(outputs))
        self.scale = PyroParam(torch.ones(outputs), dist.constraints.positive)

    def forward(self, value: Tensor) -> Tensor:
        return self.linear(value) * self.scale + self.shift


class Nested(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = Scaled(2, 3), Scaled(3, 4)


def svi(model: nn.Module) -> SVI:
    return SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.001}), loss=Trace_ELBO())


def moved(model: nn.Module, step: Callable[[], object]) -> dict[str, bool]:
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    step()
    return {name: not torch.equal(each, before[name]) for name, each in model.named_parameters()}


def assert_trained(model: nn.Module) -> None:
    found = moved(model, lambda: svi(model).step(X))
    assert found
    assert all(found.values()), found


def test_plain_svi_moves_every_parameter() -> None:
    assert_trained(Plain())


@pytest.mark.parametrize("make", [Plain, Named, Nested])
def test_a_copy_trains_and_leaves_its_original(make: type[Plain]) -> None:
    original = make()
    assert_trained(original)
    duplicate = copy.deepcopy(original)
    found = moved(original, lambda: assert_trained(duplicate))
    assert not any(found.values()), found


@pytest.mark.parametrize("make", [Plain, Named, Nested])
def test_two_instances_never_share(make: type[Plain]) -> None:
    first, second = make(), make()
    assert_trained(first)
    found = moved(first, lambda: assert_trained(second))
    assert not any(found.values()), found
    assert_trained(first)


@pytest.mark.parametrize("make", [Plain, Named])
def test_a_replaced_submodule_trains(make: type[Plain]) -> None:
    model = make()
    assert_trained(model)
    model.decoder = nn.Linear(2, 3)
    assert_trained(model)


def test_a_replaced_nested_pyro_module_trains() -> None:
    model = Nested()
    assert_trained(model)
    model.decoder = Scaled(2, 3)
    assert_trained(model)


@pytest.mark.parametrize("make", [Plain, Named, Nested])
def test_a_parameter_that_is_not_contiguous_trains(make: type[Plain]) -> None:
    model = make()
    layer = model.encoder if isinstance(model.encoder, nn.Linear) else model.encoder.linear
    layer.weight = nn.Parameter(torch.randn(3, 4).T)
    assert not layer.weight.is_contiguous()
    assert_trained(model)


@pytest.mark.parametrize("make", [Plain, Named, Nested])
def test_parameters_trade_places_by_assign(make: type[Plain]) -> None:
    model = make()
    assert_trained(model)
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
    assert_trained(model)


@pytest.mark.parametrize("make", [Plain, Nested])
def test_a_trained_model_can_be_pickled(make: type[Plain]) -> None:
    model = make()
    assert_trained(model)
    again = pickle.loads(pickle.dumps(model))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert_trained(again)


def test_the_store_holds_the_very_tensors_and_forgets_the_replaced() -> None:
    model = Plain()
    model.model(X)
    model.decoder = nn.Linear(2, 3, bias=False)
    model.model(X)
    held = {id(each) for each in model.parameters()}
    stored = {id(each) for _, each in pyro.get_param_store().named_parameters()}
    assert stored == held


def test_a_constrained_parameter_stays_positive() -> None:
    model = Nested()
    optimiser = svi(model)
    for _ in range(3):
        optimiser.step(X)
    assert (model.decoder.scale > 0).all()
    assert not torch.equal(model.decoder.scale, torch.ones(3))


def test_frozen_parameters_stay() -> None:
    model = Plain()
    model.decoder.requires_grad_(False)
    found = moved(model, lambda: svi(model).step(X))
    assert found == {
        "decoder.weight": False,
        "decoder.bias": False,
        "encoder.weight": True,
        "encoder.bias": True,
    }


def test_sample_sites_of_pyro_modules_keep_plain_names() -> None:
    class Bayesian(LatentModel):
        def __init__(self) -> None:
            super().__init__()
            self.linear = PyroModule[nn.Linear](2, 3)
            self.linear.bias = PyroSample(dist.Normal(torch.zeros(3), 1.0).to_event(1))

        def model(self, x: Tensor) -> None:
            self.linear(torch.zeros(2))

        def guide(self, x: Tensor) -> None:
            self.linear(torch.zeros(2))

    names = [pyro.poutine.trace(Bayesian().model).get_trace(X).stochastic_nodes for _ in range(2)]
    assert names == [["linear.bias"], ["linear.bias"]]


def test_two_tutorial_models_train_in_scopes_of_their_own() -> None:
    x = torch.rand(3, 784).round()
    for _ in range(2):
        model = tutorial_vae.VAE(z_dim=2, hidden_dim=4)
        with scope(model):
            found = moved(
                model,
                lambda model=model: SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.001}), Trace_ELBO()).step(x),
            )
        assert all(found.values()), found
    assert not pyro.get_param_store()


def test_a_bound_tutorial_model_trains_after_its_decoder_was_replaced() -> None:
    model = tutorial_vae.VAE(z_dim=2, hidden_dim=4)
    batch = {"x": torch.rand(3, 784).round()}

    def step() -> None:
        with scope(model):
            programs = bind(model, batch)
            SVI(programs.model, programs.guide, pyro.optim.Adam({"lr": 0.001}), Trace_ELBO()).step(batch["x"])

    assert all(moved(model, step).values())
    model.decoder = tutorial_vae.Decoder(2, 4)
    assert all(moved(model, step).values())


def test_a_scope_keeps_its_parameters_and_shows_them_to_nobody() -> None:
    def model(x: Tensor) -> None:
        pyro.param("w", lambda: torch.tensor(3.0))

    first, second = pair(model, model), pair(model, model)
    with scope(first):
        model(X)
        pyro.param("w").data.fill_(7.0)
    with scope(second):
        model(X)
        assert pyro.param("w").item() == 3.0
    with scope(first), scope(first):
        assert pyro.param("w").item() == 7.0
    assert "w" not in pyro.get_param_store()


def test_a_scope_inherits_what_plain_svi_trained_only_when_asked() -> None:
    pyro.param("w", torch.tensor(5.0))
    function = lambda x: pyro.param("w", torch.tensor(1.0))
    with scope(pair(function, function), inherit=True):
        assert function(X).item() == 5.0
    with scope(pair(function, function)):
        assert function(X).item() == 1.0


def test_saved_store_values_return_with_their_constraint() -> None:
    def function(x: Tensor) -> Tensor:
        return pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)

    first = pair(function, function)
    with scope(first):
        function(X)
        saved = {name: each.detach().clone() + 1.0 for name, each in store_tensors(first).items()}
    again = pair(function, function)
    restore_store(again, saved)
    with scope(again):
        assert function(X).item() == pytest.approx(2.0 * torch.e)
        assert function(X).item() == pytest.approx(2.0 * torch.e)


def test_registration_shows_each_parameter_once_as_a_param_site() -> None:
    model = Nested()
    with pyro.poutine.trace(param_only=True) as seen, Registration(model):
        pass
    tensors = [site["value"].unconstrained() for site in seen.trace.nodes.values()]
    assert {id(each) for each in tensors} == {id(each) for each in model.parameters()}
    assert len(tensors) == len(list(model.parameters()))


def test_a_model_can_die() -> None:
    import weakref

    model = Plain()
    with scope(model):
        model.model(X)
        model.guide(X)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
