"""The linter finds what would go wrong, says the fix, and changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import exact
import pyro
import pyro.distributions as dist
import pytest
import torch
import tutorial_vae
from pyro.infer import RenyiELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import pvae
from pvae import IWAE, InputError, pair
from pvae.objectives import Objective, Terms, check

X = torch.randn(6, generator=torch.Generator().manual_seed(0))


# A value outside a support is found only if the guide draws one, which six draws need not do.
pytestmark = pytest.mark.usefixtures("seeded")


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + pyro.param("b", torch.tensor(0.1)), 1.0), obs=x)


def guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.5)), 1.0))


def kinds(found: Any) -> list[tuple[str, str, bool]]:
    return [(each.kind, each.subject, each.fatal) for each in found]


def look(own_model: Any = model, own_guide: Any = guide, objective: Any = "elbo", **fields: Tensor) -> Any:
    return check(pair(own_model, own_guide), {"x": X, **fields}, objective)


@pytest.mark.parametrize("objective", ["elbo", "elbo-analytic", "elbo-graph", "iwae", "renyi:alpha=0.2", IWAE(3)])
def test_a_sound_pair_gives_no_finding(objective: Any) -> None:
    assert look(objective=objective) == []


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_the_tutorials_vae_is_sound(objective: str) -> None:
    latent_model = tutorial_vae.VAE(z_dim=2, hidden_dim=4)
    assert check(latent_model, {"x": torch.rand(5, 784).round()}, objective) == []


def wide_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("extra", dist.Normal(0.0, 1.0))


def wide_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        more = pyro.sample("more", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + more, 1.0), obs=x)


def observing_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0), obs=x)


def positive_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Exponential(torch.tensor(1.0)))
        pyro.sample("x", dist.Normal(z + pyro.param("b", torch.tensor(0.1)), 1.0), obs=x)


def positive_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.LogNormal(pyro.param("m", torch.tensor(0.5)), 1.0))


def bernoulli_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Bernoulli(logits=z), obs=x)


def stepwise_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.5)), 1.0).has_rsample_(False))


def infinite_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z / 0.0, 1.0), obs=x)


def failing_model(x: Tensor) -> None:
    torch.zeros(2, 3) @ torch.zeros(2, 3)


def mixture_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        parts = dist.Normal(torch.tensor([-1.0, 1.0]), 1.0)
        z = pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts))
        pyro.sample("x", dist.Normal(z + pyro.param("b", torch.tensor(0.1)), 1.0), obs=x)


@pytest.mark.parametrize(
    ("own_model", "own_guide", "objective", "expected"),
    [
        (wide_model, guide, "elbo", [("missing site", "more", True)]),
        (model, wide_guide, "elbo", [("missing site", "extra", True)]),
        (observing_model, guide, "elbo", [("missing site", "z", True)]),
        (positive_model, guide, "elbo", [("support mismatch", "z", True)]),
        (model, positive_guide, "elbo", [("support mismatch", "z", False)]),
        (bernoulli_model, guide, "elbo", [("outside the support", "x", True)]),
        (model, stepwise_guide, "dreg", [("score-function site", "z", True)]),
        (model, stepwise_guide, "stl", [("score-function site", "z", True)]),
        (model, stepwise_guide, "iwae", []),
        (model, stepwise_guide, "vimco", []),
        (model, stepwise_guide, "reinforce", []),
        (model, stepwise_guide, "elbo", [("no baseline", "z", False)]),
        (model, stepwise_guide, "iwae:particles=1", [("no baseline", "z", False)]),
        (model, stepwise_guide, "iwae:particles=1:gradients=z=score", []),
        (model, stepwise_guide, "iwae:gradients=z=enumerate", [("not possible", "IWAE", True)]),
        (model, stepwise_guide, "iwae:gradients=w=score", [("not possible", "IWAE", True)]),
        (model, guide, "reinforce", [("not possible", "ScoreFunction", True)]),
        (model, guide, "stl:particles=4", [("biased", "StickingTheLanding", False)]),
        (model, guide, "stl", []),
        (model, stepwise_guide, lambda: RenyiELBO(0.0, num_particles=2), [("score-function site", "z", True)]),
        (model, stepwise_guide, "elbo-graph", []),
        (model, guide, "elbo-enum", [("enumeration", "elbo-enum", False)]),
        (infinite_model, guide, "elbo", [("not finite", "x", True)]),
        (failing_model, guide, "elbo", [("program fails", "RuntimeError", True)]),
        (mixture_model, guide, TraceMeanField_ELBO, [("sampled KL", "z", False)]),
    ],
)
def test_what_would_go_wrong_is_found(own_model: Any, own_guide: Any, objective: Any, expected: Any) -> None:
    assert kinds(look(own_model, own_guide, objective)) == expected


def test_enumeration_without_an_enumerating_objective() -> None:
    marked = exact.DiscreteModel(enumerate="parallel")
    batch = {"x": torch.arange(4)}
    assert ("enumeration", "z", True) in kinds(check(marked, batch, "elbo"))
    assert ("summed out", "z", False) in kinds(check(marked, batch, "iwae"))
    assert ("score-function site", "z", True) not in kinds(check(marked, batch, "dreg"))
    assert check(marked, batch, "elbo-enum") == []


def test_a_scale_under_pyros_multi_sample_bound_is_no_bound_and_ours_is() -> None:
    def scaled(program: Any) -> Any:
        def run(x: Tensor) -> None:
            with pyro.poutine.scale(scale=3.0):
                program(x)

        return run

    found = check(pair(scaled(model), scaled(guide)), {"x": X}, RenyiELBO(0.0, num_particles=3))
    assert ("scaled bound", "z", True) in kinds(found)
    assert "pvae.Renyi" in str(found)
    assert check(pair(scaled(model), scaled(guide)), {"x": X}, "iwae") == []


def test_no_plate_is_a_looser_bound_with_pyro_and_impossible_with_weights() -> None:
    def flat_model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + pyro.param("b", torch.tensor(0.1)), 1.0).to_event(1), obs=x)

    def flat_guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(pyro.param("m", torch.zeros(len(x))), 1.0).to_event(1))

    assert kinds(look(flat_model, flat_guide, RenyiELBO(0.0, num_particles=3))) == [
        ("no data plate", "RenyiELBO", False)
    ]
    assert kinds(look(flat_model, flat_guide, "iwae")) == [("not possible", "IWAE", True)]
    assert look(flat_model, flat_guide, "elbo") == []


def test_fields_are_never_dropped_in_silence() -> None:
    found = look(y=torch.arange(6), mask=torch.ones(6), index=torch.arange(6))
    assert kinds(found) == [("unused field", "y", False), ("unused field", "mask", False)]
    assert "labels plots only" in str(found[0])
    assert "no program takes 'mask'." in str(found[1])


def test_parameters_without_a_gradient_are_named() -> None:
    class Idle(pvae.LatentModel):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Parameter(torch.tensor(0.0)), nn.Linear(2, 2)

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.used, 1.0))

    found = check(Idle(), {"x": X}, "elbo")
    assert kinds(found) == [("no gradient", "idle.weight", False)]
    assert "idle.bias" in found[0].message


def test_nothing_to_train_is_fatal() -> None:
    def fixed(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def fixed_model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    assert ("no gradient", "loss", True) in kinds(look(fixed_model, fixed))


class Apart(Objective):
    players = ("theta", "phi")

    def terms(self, model: Any, guide: Any, args: Any, kwargs: Any, player: str) -> Terms:
        loss = -pvae.weights.trace_weights(model, guide, args, kwargs, 1).log_w.sum()
        return Terms(loss.detach(), loss)


def test_parameters_of_both_groups_must_be_declared_where_groups_are_treated_apart() -> None:
    class Shared(pvae.LatentModel):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.tensor(0.0))

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(self.loc, 1.0)), 1.0), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.loc, 1.0))

    assert kinds(check(Shared(), {"x": X}, Apart())) == [("shared parameters", "loc", True)]
    assert check(Shared(), {"x": X}, "elbo") == []


@pytest.mark.paths
def test_a_program_that_fails_says_where() -> None:
    (found,) = look(failing_model)
    assert f"{__file__}:" in found.message
    assert "2x3" in found.message


def test_fatal_findings_raise_one_line_when_required() -> None:
    with pytest.raises(InputError) as caught:
        look(positive_model).require()
    assert "\n" not in str(caught.value)
    look().require()


def test_checking_changes_nothing() -> None:
    latent_model, objective = exact.TwoLayerModel(), IWAE(3)
    before = copy.deepcopy(latent_model.state_dict())
    state, stack = torch.get_rng_state(), len(pyro.poutine.runtime._PYRO_STACK)
    check(latent_model, {"x": torch.randn(4, 3, dtype=torch.float64)}, objective)
    torch.set_rng_state(state)
    check(latent_model, {"x": torch.zeros(4, 3, dtype=torch.float64)}, objective)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in latent_model.state_dict().items())
    assert all(each.grad is None for each in latent_model.parameters())
    assert objective.training
    assert not pyro.get_param_store()
    assert len(pyro.poutine.runtime._PYRO_STACK) == stack


def test_checking_does_not_start_a_baseline() -> None:
    marked = exact.DiscreteModel()
    marked.infer = {"baseline": {"use_decaying_avg_baseline": True}}
    with pvae.models.scope(marked):
        check(marked, {"x": torch.arange(4)}, TraceGraph_ELBO())
        assert [name for name in pyro.get_param_store() if "baseline" in name] == []


def test_the_advice_about_a_marked_site_that_all_data_share_is_no_dead_end() -> None:
    def shared_model(x: Tensor) -> None:
        k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(k + pyro.param("b", torch.tensor(0.1)), 1.0), obs=x)

    programs = pair(shared_model, lambda x: None)
    found = check(programs, {"x": X}, "elbo")
    assert kinds(found) == [("enumeration", "k", True)]
    assert "'elbo-enum'" in str(found)
    assert "'iwae'" not in str(found)
    assert check(programs, {"x": X}, "elbo-enum") == []


@pytest.mark.usefixtures("own_store")
def test_parameters_of_other_programs_in_the_store_are_no_finding() -> None:
    pyro.param("of_another_program", torch.tensor(1.0))
    assert check(pair(model, guide), {"x": X}) == []


@pytest.mark.parametrize("objective", ["elbo", "iwae:particles=3"])
def test_a_distribution_of_another_size_than_its_plate_has_the_site_and_the_remedy(objective: str) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    (finding,) = pvae.check(pvae.pair(model, model), {"x": torch.zeros(8)}, objective).fatal
    assert (finding.kind, finding.subject) == ("wrong shape", "z")
    assert "has size 2, and plate 'rows' there has 8" in finding.message and "test_linter.py:" in finding.message
    assert ".to_event(1)" in finding.fix
