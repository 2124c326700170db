"""Models as people bring them: each case here once broke something, most of them in silence."""

from __future__ import annotations

import types
import warnings
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

import pvae
from pvae import IWAE, InputError, pair
from pvae.models import bind, encode, has_bernoulli_likelihood
from pvae.programs.bound import BoundPrograms

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


class Linear(pvae.LatentModel):
    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2, 3), nn.Linear(3, 2)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


def data(size: int = 20, width: int = 3) -> Any:
    x = torch.randn(size, width, generator=torch.Generator().manual_seed(1))
    return pvae.load_data(x, validation=0, test=0)


def fit(model: Any, splits: Any = None, **options: Any) -> Any:
    chosen = {"epochs": 1, "batch_size": 20, "progress": False, **options}
    return pvae.fit(model, data() if splits is None else splits, **chosen)


def test_parameters_of_the_same_name_are_all_trained() -> None:
    model, guide = Linear(), Linear()
    both = types.SimpleNamespace(model=model.model, guide=guide.guide)
    before = model.decoder.weight.detach().clone(), guide.encoder.weight.detach().clone()
    model.encoder, guide.decoder = nn.Identity(), nn.Identity()
    model.net, guide.net = model.decoder, guide.encoder
    fit(both)
    assert not torch.equal(model.decoder.weight, before[0])
    assert not torch.equal(guide.encoder.weight, before[1])


def test_a_module_and_a_global_parameter_of_one_name_are_both_trained() -> None:
    class Both(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def decode(self, z: Tensor) -> Tensor:
            return self.decoder(z) * self.scale

        def guide(self, x: Tensor) -> None:
            scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), scale).to_event(1))

    model = Both()
    fit(model)
    assert not torch.equal(model.scale, torch.ones(3))


def test_functions_trained_on_by_svi_are_judged_as_they_are_now() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + pyro.param("shift", torch.tensor(0.0)), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x - 9.0, 1.0))

    both, x = pair(model, guide), torch.full((30,), 9.0)
    splits = pvae.load_data(x, validation=0, test=0)
    before = pvae.evaluate.log_evidence(both, x, particles=50).value
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.3}), Trace_ELBO())
    for _ in range(100):
        svi.step(x)
    after = pvae.evaluate.log_evidence(both, x, particles=50).value
    assert after > before + 20
    shift = pyro.param("shift").item()
    pvae.check(both, {"x": x}, "elbo")
    fit(both, splits)
    assert pyro.param("shift").item() == shift


@pytest.mark.parametrize("hidden", [False, True])
def test_mixing_is_found_beneath_dropout_and_beside_a_large_likelihood(hidden: bool) -> None:
    class Mixes(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.1 if hidden else 0.0)

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("wide", dist.Bernoulli(logits=torch.zeros(5000)).to_event(1), obs=torch.ones(len(x), 5000))
                mixed = nn.functional.normalize(z)  # over dimension 1, which the particles make that of the data
                pyro.sample("x", dist.Normal(self.decoder(self.dropout(mixed)), 1.0).to_event(1), obs=x)

    with pytest.warns(UserWarning, match="one by one"):
        pvae.log_weights(Mixes(), {"x": data().train.x}, 5)


class Warmed(Linear):
    """Its loss changes by a number that pvae knows nothing of."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = {"now": 0.1}
        self.calls = 0

    def model(self, x: Tensor) -> None:
        with pyro.poutine.scale(scale=self.weight["now"]):
            super().model(x)


def test_a_program_that_counts_its_calls_runs_eagerly() -> None:
    class Counting(Warmed):
        def model(self, x: Tensor) -> None:
            self.calls += 1
            self.weight["now"] = 0.1 if self.calls < 40 else 1.0
            super().model(x)

    with pytest.warns(UserWarning, match=r"changes .*Counting\.calls"):
        graph = fit(Counting(), epochs=15, batch_size=5)
    torch.manual_seed(0)
    eager = fit(Counting(), epochs=15, batch_size=5, step="eager")
    assert graph.step == "eager"
    assert graph.history[-1]["loss"] > 2 * graph.history[0]["loss"]
    assert eager.history[-1]["loss"] > 2 * eager.history[0]["loss"]


def test_the_count_of_data_is_asked_for_each_size() -> None:
    def program(x: Tensor) -> None:
        with pyro.plate("data", 20, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    counts = [BoundPrograms(program, lambda x: None, (torch.zeros(size),)).count for size in (20, 5, 20)]
    assert counts == [20, 20, 20]


def test_a_wrapped_method_keeps_its_owner() -> None:
    inner = Linear()
    scaled = pair(pyro.poutine.scale(inner.model, scale=0.5), pyro.poutine.scale(inner.guide, scale=0.5))
    assert {id(each) for each in scaled.parameters()} == {id(each) for each in inner.parameters()}


def test_handlers_as_decorators_of_methods() -> None:
    class Decorated(Linear):
        @pyro.poutine.scale(scale=0.5)
        def model(self, x: Tensor) -> None:
            Linear.model(self, x)

        @pyro.poutine.scale(scale=0.5)
        def guide(self, x: Tensor) -> None:
            Linear.guide(self, x)

    model = Decorated()
    assert bind(model, {"x": torch.zeros(2, 3)}).fields == ("x",)
    assert pvae.log_weights(model, {"x": torch.zeros(4, 3)}, 3).scale == 0.5


def test_tied_weights_train() -> None:
    class Tied(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

        def decode(self, z: Tensor) -> Tensor:
            return self.second(self.first(self.decoder(z)))

    model = Tied()
    before = model.first.weight.detach().clone()
    fit(model)
    assert model.first.weight is model.second.weight
    assert not torch.equal(model.first.weight, before)


def ppca(x: Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + shift, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("guide", [AutoNormal, AutoDiagonalNormal])
def test_autoguides_train_on_the_full_batch(guide: Any) -> None:
    own = guide(ppca)
    run = fit(pair(ppca, own), data(40), batch_size=40, epochs=3)
    assert run.history[-1]["loss"] < run.history[0]["loss"]


def test_a_plate_of_another_name_in_the_guide_is_refused_by_name() -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    with pytest.raises(InputError, match=r"z \(guide\)"):
        pvae.log_weights(pair(Linear().model, guide), {"x": torch.zeros(4, 3)}, 3)


def test_deterministic_sites_are_no_likelihood() -> None:
    class Recorded(Linear):
        def model(self, x: Tensor) -> None:
            pyro.deterministic("norm", self.decoder.weight.norm())
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                logits = pyro.deterministic("logits", self.decoder(z), event_dim=1)
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    model, batch = Recorded(), {"x": torch.zeros(4, 3)}
    assert pvae.log_weights(model, batch, 3).log_w.shape == (3, 4)
    assert has_bernoulli_likelihood(model, batch)


def test_a_flow_without_support_or_inverse_serves_as_guide() -> None:
    class Flow(Linear):
        def __init__(self) -> None:
            super().__init__()
            self.flow = dist.transforms.Planar(2)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                base = dist.Normal(self.encoder(x), 1.0).to_event(1)
                pyro.sample("z", dist.TransformedDistribution(base, [self.flow]))

    model = Flow()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pvae.log_weights(model, {"x": torch.zeros(4, 3)}, 3).log_w.shape == (3, 4)
    assert pvae.check(model, {"x": torch.zeros(4, 3)}, IWAE(3)) == []


def test_a_pyro_module_in_a_pair_keeps_its_own_names() -> None:
    class Bayesian(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.lin = PyroModule[nn.Linear](3, 1)
            self.lin.weight = PyroSample(dist.Normal(torch.zeros(1, 3), 1.0).to_event(2))

        def forward(self, x: Tensor) -> None:
            mean = self.lin(x).squeeze(-1)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(mean, 1.0), obs=x[:, 0])

    model = Bayesian()

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(1, 3))
        pyro.sample("lin.weight", dist.Normal(loc, 1.0).to_event(2))

    assert not pvae.check(pair(model, guide), {"x": torch.zeros(4, 3)}, "elbo").fatal
    assert "lin.weight" in pyro.poutine.trace(model).get_trace(torch.zeros(4, 3)).nodes


def test_a_plain_object_of_two_modules_resumes(tmp_path: Path) -> None:
    def make() -> Any:
        torch.manual_seed(3)
        return types.SimpleNamespace(model=Linear().model, guide=Linear().guide)

    fit(make(), out=tmp_path / "r")
    run = fit(make(), out=tmp_path / "r", epochs=2, resume=True)
    assert run.epoch == 2


def test_a_scale_of_one_program_only_is_refused_in_words() -> None:
    inner = Linear()
    with pytest.raises(InputError, match=r"of the model has 2\. Give both programs the same scale"):
        pvae.log_weights(
            pair(pyro.poutine.scale(inner.model, scale=torch.ones(4) * 2), inner.guide), {"x": torch.zeros(4, 3)}, 3
        )


def test_training_and_checking_inside_no_grad() -> None:
    model = Linear()
    with torch.no_grad():
        assert pvae.check(model, {"x": data().train.x}, "elbo") == []
        fit(model, step="eager")
    assert encode(model, {"x": data().train.x})["z"].shape == (20, 2)
