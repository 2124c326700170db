"""Sites and parameters keep the names that Pyro gives them: before, during and after pair, check, fit and evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoGuideList, AutoNormal, AutoNormalMessenger
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn

import pvae
from pvae.programs.base import program

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

FIT = {"batch_size": 40, "learning_rate": 0.05, "progress": False}


class Layer(PyroModule):
    """A linear layer with random weights, in a PyroModule of its own; it broadcasts over particles."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule()
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        self.scale = PyroParam(torch.tensor(1.0), dist.constraints.positive)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.linear.weight).sum(-1) * self.scale


class Regression(PyroModule):
    """A regression on a nested layer; it records the parameters that handlers inside the program see."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Layer()
        self.offset = nn.Linear(2, 1)
        self.seen: set[str] = set()

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        with poutine.trace(param_only=True) as inside:
            mean = self.layer(x) + self.offset(x)[..., 0]
        self.seen |= set(inside.trace.nodes)
        with pyro.plate("data", len(x)):
            return pyro.sample("obs", dist.Normal(mean, 0.5), obs=y)


def regression_data() -> dict[str, Tensor]:
    x = torch.randn(40, 2)
    return {"x": x, "y": x @ torch.tensor([1.0, -2.0]) + 0.5 * torch.randn(40)}


def guide_list(model: PyroModule) -> AutoGuideList:
    guide = AutoGuideList(model)
    guide.append(AutoDiagonalNormal(poutine.block(model, expose=["layer.linear.weight"])))
    return guide


class OwningGuide(PyroModule):
    """A guide that has the model as a submodule, which Pyro then names by its path in the guide."""

    def __init__(self, model: PyroModule) -> None:
        super().__init__()
        self.inner = model
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.sample("inner.layer.linear.weight", dist.Normal(self.loc, 0.1).to_event(1))


GUIDES = {
    "AutoNormal": AutoNormal,
    "AutoNormalMessenger": AutoNormalMessenger,
    "AutoGuideList": guide_list,
    "AutoDelta": AutoDelta,
    "owner of the model": OwningGuide,
}


def names_in_pyro(model: Any, guide: Any, x: Tensor, y: Tensor) -> tuple[Any, ...]:
    """Return what plain Pyro calls modules, sites and parameters."""
    traces = [poutine.trace(each).get_trace(x, y) for each in (guide, model)]
    modules = [getattr(module, "_pyro_name", None) for each in (model, guide) for module in each.modules()]
    return modules, [list(trace.nodes) for trace in traces], [list(each.state_dict()) for each in (model, guide)]


@pytest.mark.parametrize("make", GUIDES.values(), ids=GUIDES)
def test_names_are_those_of_plain_pyro_before_during_and_after(make: Any) -> None:
    data = regression_data()
    reference = Regression()
    expected = names_in_pyro(reference, make(reference), **data)
    pyro.clear_param_store()
    model = Regression()
    guide = make(model)
    splits = pvae.load_data(data, validation=0, test=0)
    pair = pvae.pair(model, guide)
    assert pvae.check(pair, pvae.Batch(**data)) is not None
    for _ in range(2):
        run = pvae.fit(pvae.pair(model, guide), splits, epochs=2, **FIT)
        assert torch.isfinite(torch.tensor(run.history[-1]["loss"]))
    assert model.seen == reference.seen
    assert names_in_pyro(model, guide, **data) == expected


def test_predictive_and_svi_go_on_where_fit_has_ended() -> None:
    data = regression_data()
    model = Regression()
    guide = AutoNormal(model)
    pvae.fit(pvae.pair(model, guide), pvae.load_data(data, validation=0, test=0), epochs=100, **FIT)
    drawn = Predictive(model, guide=guide, num_samples=200)(data["x"])["layer.linear.weight"]
    assert torch.allclose(drawn.mean(0).flatten(), guide.median()["layer.linear.weight"].flatten(), atol=0.1)
    before = guide.locs.layer.linear.weight.detach().clone()
    SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(**data)
    moved = guide.locs.layer.linear.weight.detach() - before
    assert ((moved.abs() > 0) & (moved.abs() < 0.02)).all()


@pytest.mark.parametrize("make", [AutoNormal, AutoNormalMessenger, AutoDiagonalNormal])
def test_two_models_of_the_same_names_do_not_share(make: Any) -> None:
    data = regression_data()
    first, second = Regression(), Regression()
    guides = make(first), make(second)
    guides[0](**data)  # plain Pyro, in the global store
    location = next(guides[0].parameters())
    location.data.fill_(7.0)
    pvae.check(pvae.pair(second, guides[1]), pvae.Batch(**data))  # it starts from the values of the global store
    assert next(guides[1].parameters()).abs().max() < 5.0
    assert (next(guides[0].parameters()) == 7.0).all()


def test_a_guide_with_the_names_of_its_model_keeps_parameters_of_its_own() -> None:
    class Side(PyroModule):
        def __init__(self, start: float) -> None:
            super().__init__()
            self.loc = PyroParam(torch.tensor(start))

    class Model(Side):
        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(self.loc, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    class Guide(Side):
        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.loc, 1.0))

    model, guide = Model(1.0), Guide(-1.0)
    pvae.fit(pvae.pair(model, guide), pvae.load_data({"x": torch.zeros(8)}, validation=0, test=0), epochs=1, **FIT)
    assert model.loc.item() == pytest.approx(0.95, abs=0.02)
    assert guide.loc.item() == pytest.approx(-0.95, abs=0.02)


@pytest.mark.parametrize("module_local", [False, True])
def test_checkpoints_exchange_with_the_module_of_pyros_elbo(module_local: bool) -> None:
    data = regression_data()
    with pyro.settings.context(module_local_params=module_local):
        networks = [Regression() for _ in range(2)]
        guides = [AutoNormal(network) for network in networks]
        ours = pvae.objectives.adapt(Trace_ELBO())(networks[0], guides[0])
        theirs = Trace_ELBO()(networks[1], guides[1])
        for module in (ours, theirs):
            pyro.clear_param_store()
            module(**data)
        guides[0].locs.layer.linear.weight = torch.tensor([3.0, 4.0])
        theirs.load_state_dict(ours.state_dict())
        assert guides[1].median()["layer.linear.weight"].tolist() == [3.0, 4.0]
        guides[1].locs.layer.linear.weight = torch.tensor([5.0, 6.0])
        ours.load_state_dict(theirs.state_dict())
        assert guides[0].median()["layer.linear.weight"].tolist() == [5.0, 6.0]
        assert len(list(ours.parameters())) == len(list(theirs.parameters()))


def test_a_pair_has_the_parameter_names_of_pyros_elbo() -> None:
    model = Regression()
    guide = AutoNormal(model)
    guide(**regression_data())
    assert list(pvae.pair(model, guide).state_dict()) == list(Trace_ELBO()(model, guide).state_dict())


def test_a_module_of_two_bound_methods_has_all_parameters_under_the_names_of_pyro() -> None:
    class Machine(pvae.LatentModel):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(1, 1)

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x[:, None])[:, 0], 1.0))

    machine = Machine()
    ours = pvae.IWAE(particles=2)(machine.model, machine.guide)
    theirs = Trace_ELBO()(program(machine, "model"), program(machine, "guide"))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    ours(torch.zeros(3)).backward()
    assert machine.encoder.weight.grad is not None


@pytest.mark.parametrize("make", [AutoDiagonalNormal, AutoNormalMessenger])
def test_a_run_of_an_autoguide_resumes_to_the_same_bits(make: Any, tmp_path: Path) -> None:
    data = regression_data()
    splits = pvae.load_data(data, validation=0, test=0)

    def fit(name: str, epochs: int, **options: Any) -> pvae.Run:
        torch.manual_seed(0)
        model = Regression()
        return pvae.fit(pvae.pair(model, make(model)), splits, epochs=epochs, out=tmp_path / name, **FIT, **options)

    whole = fit("whole", 4)
    fit("parts", 2)
    assert fit("parts", 4, resume=True).history[-1]["loss"] == whole.history[-1]["loss"]


def shifted(x: Tensor) -> None:
    mean = pyro.param("mean", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def test_a_training_says_where_the_values_of_param_statements_are(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.randn(40) + 3
    splits = pvae.load_data({"x": x}, validation=0, test=0)
    options: dict[str, Any] = FIT | {"progress": None, "epochs": 200}
    run = pvae.fit(pvae.pair(shifted, lambda x: None), splits, **options)
    said = capsys.readouterr().err
    assert said.count("the trained parameters mean") == 1
    assert "`with pvae.programs.scope(run.model):`" in said
    with pvae.programs.scope(run.model):
        shifted(x)
        assert pyro.param("mean").item() == pytest.approx(x.mean().item(), abs=1e-3)
    net = Regression()
    pvae.fit(pvae.pair(net, AutoNormal(net)), pvae.load_data(regression_data(), validation=0, test=0), epochs=1)
    assert "trained parameters" not in capsys.readouterr().err
