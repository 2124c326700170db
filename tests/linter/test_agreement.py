"""Masks, scales and rows of plates have to be the same in model and guide; right pairs of programs get no finding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from torch import Tensor

import pvae
from pvae import InputError

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

X = torch.randn(12, generator=torch.Generator().manual_seed(0))
SEEN = torch.arange(12) % 2 == 0
BATCH = {"x": X, "seen": SEEN}

Draw = Callable[[Tensor, Tensor], object]


def normal(x: Tensor, *event: int) -> Any:
    return dist.Normal(torch.zeros(len(x), *event), 1.0)


def programs(in_model: Draw, in_guide: Draw) -> Any:
    """The exact posterior of x = z + e beside a second latent t, which each program draws by its own function."""

    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(x))
            in_model(x, seen.bool())
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor, seen: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, 0.5**0.5))
            in_guide(x, seen.bool())

    return pvae.pair(model, guide)


def plain(x: Tensor, seen: Tensor) -> None:
    pyro.sample("t", normal(x))


def by_handler(x: Tensor, seen: Tensor) -> None:
    with poutine.mask(mask=seen):
        pyro.sample("t", normal(x))


def by_distribution(x: Tensor, seen: Tensor) -> None:
    pyro.sample("t", normal(x).mask(seen))


def by_units(x: Tensor, seen: Tensor) -> None:
    pyro.sample("t", normal(x, 2).mask(seen.unsqueeze(-1)).to_event(1))


def by_full_covariance(x: Tensor, seen: Tensor) -> None:
    pyro.sample("t", dist.MultivariateNormal(torch.zeros(len(x), 2), torch.eye(2)).mask(seen))


def first_unit(x: Tensor, seen: Tensor) -> None:
    pyro.sample("t", normal(x, 2).mask(torch.tensor([True, False])).to_event(1))


def both_units(x: Tensor, seen: Tensor) -> None:
    pyro.sample("t", normal(x, 2).to_event(1))


def point(x: Tensor, seen: Tensor) -> None:
    pyro.sample("t", dist.Delta(torch.zeros(len(x))))


def kinds(latent_model: Any, batch: Any = BATCH, objective: Any = "elbo") -> set[tuple[str, str, bool]]:
    findings = pvae.check(latent_model, batch, objective)
    return {(finding.kind, finding.subject, finding.fatal) for finding in findings}


@pytest.mark.parametrize(
    ("in_model", "in_guide"),
    [
        (by_handler, by_handler),
        (by_handler, by_distribution),
        (by_units, by_full_covariance),
        (lambda x, seen: by_distribution(x, seen | True), plain),
        (by_handler, point),
    ],
)
def test_the_same_mask_in_another_way_is_no_finding(in_model: Draw, in_guide: Draw) -> None:
    assert kinds(programs(in_model, in_guide)) - {("point estimate", "t", False)} == set()


@pytest.mark.parametrize(
    ("in_model", "in_guide", "where"),
    [
        (by_handler, plain, "in the model only"),
        (plain, by_distribution, "in the guide only"),
        (first_unit, both_units, "in the model only"),
        (by_handler, lambda x, seen: by_handler(x, ~seen), "with different masks"),
    ],
)
def test_a_mask_in_one_program_is_fatal_and_gives_no_weight(in_model: Draw, in_guide: Draw, where: str) -> None:
    pair = programs(in_model, in_guide)
    (finding,) = pvae.check(pair, BATCH, "elbo").fatal
    assert (finding.kind, finding.subject) == ("mask in one program", "t") and where in finding.message
    with pytest.raises(InputError, match=r"mask in one program \(t\)"):
        pvae.fit(pair, pvae.load_data(BATCH, validation=0, test=0), epochs=1, progress=False)
    for use in (
        lambda: pvae.IWAE(2).loss(pair.model, pair.guide, X, SEEN),
        lambda: pvae.log_weights(pair, BATCH, 2),
        lambda: pvae.evaluate.elbo(pair, pvae.Batch(**BATCH), particles=2),
    ):
        with pytest.raises(InputError, match="masks of site 't'"):
            use()


@pytest.mark.parametrize("autoguide", [AutoNormal, AutoDiagonalNormal])
def test_an_autoguide_of_a_masked_latent_counts_its_entropy_where_nothing_else_counts(autoguide: Any) -> None:
    model = programs(by_handler, plain).model
    assert ("mask in one program", "t", True) in kinds(pvae.pair(model, autoguide(model)))
    assert ("mask in one program", "t", True) not in kinds(pvae.pair(model, AutoDelta(model)))


def test_missing_values_of_pyro_need_their_mask_in_the_guide() -> None:
    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(x))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x, obs_mask=seen)

    def guide_with(mask: Callable[[Tensor], Tensor]) -> Any:
        def guide(x: Tensor, seen: Tensor) -> None:
            slope = pyro.param("slope", torch.tensor(0.5))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(slope * x, 1.0))
                with poutine.mask(mask=mask(seen)):
                    pyro.sample("x_unobserved", dist.Normal(z, 1.0))

        return guide

    assert kinds(pvae.pair(model, guide_with(torch.logical_not))) == set()
    found = kinds(pvae.pair(model, guide_with(torch.ones_like)))
    assert found == {("mask in one program", "x_unobserved", True)}


def scaled(program: Any, scale: float | Tensor) -> Any:
    def run(x: Tensor, seen: Tensor) -> None:
        with poutine.scale(scale=scale):
            program(x, seen)

    return run


def test_a_scale_in_one_program_is_fatal() -> None:
    assert kinds(programs(scaled(plain, 0.3), scaled(plain, torch.tensor(0.3)))) == set()
    assert kinds(programs(scaled(plain, 0.3), point)) == {("point estimate", "t", False)}
    assert kinds(programs(scaled(plain, 0.3), plain)) == {("scale in one program", "t", True)}
    by_datum = scaled(plain, torch.linspace(0.1, 1.0, 12))
    assert kinds(programs(by_datum, by_datum)) == set()
    assert kinds(programs(by_datum, plain)) == {("scale in one program", "t", True)}


@pytest.mark.parametrize("model_scale", [1.0, 3.0])
def test_a_scale_around_the_whole_guide_tempers_no_model(model_scale: float) -> None:
    pair = programs(plain, plain)
    own = pvae.pair(scaled(pair.model, model_scale), scaled(pair.guide, 0.1))
    assert kinds(own) == {("scale in one program", "t", True), ("scale in one program", "z", True)}


def test_a_scale_around_the_whole_model_tempers_it() -> None:
    pair = programs(plain, plain)

    def tempered(x: Tensor, seen: Tensor) -> None:
        with poutine.scale(scale=0.1):
            pair.model(x, seen)

    assert kinds(pvae.pair(tempered, pair.guide)) == {("tempered model", "z", False)}


def test_a_subsampled_plate_in_one_program_is_fatal() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", 100, subsample_size=len(x)):
            z = pyro.sample("z", normal(x))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, 0.5**0.5))

    assert kinds(pvae.pair(model, guide), {"x": X}) == {("scale in one program", "z", True)}


def test_masks_do_not_matter_to_objectives_without_a_density_of_z() -> None:
    assert "mask in one program" not in {kind for kind, _, _ in kinds(programs(by_handler, plain), objective="aae")}


def subsampled(plate: str, observe: bool) -> Any:
    """A program that takes ten of a hundred data itself."""

    def model(x: Tensor) -> None:
        with pyro.plate(plate, 100, subsample_size=10) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.5))
        with pyro.plate(plate, 100, subsample_size=10) as rows:
            pyro.sample("z", dist.Normal(slope * x[rows], 0.5**0.5))

    return model if observe else guide


def test_plates_of_two_names_take_other_rows() -> None:
    batch, model = {"x": torch.randn(100)}, subsampled("data", observe=True)
    assert kinds(pvae.pair(model, subsampled("data", observe=False)), batch) == set()
    assert kinds(pvae.pair(model, AutoNormal(model)), batch) == set()
    found = kinds(pvae.pair(model, subsampled("rows", observe=False)), batch)
    assert found == {("rows in one program", "z", True)}


def test_the_advice_for_summed_out_sites_beside_an_autoguide_names_the_enumerating_loss() -> None:
    @config_enumerate
    def model(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("data", len(x)):
            component = pyro.sample("component", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(2.0 * component, 1.0), obs=x)

    mixture = pvae.pair(model, AutoNormal(poutine.block(model, expose=["weights"])))
    batch = {"x": torch.zeros(4)}
    (finding,) = pvae.check(mixture, batch, "elbo").fatal
    assert (finding.kind, finding.subject) == ("enumeration", "component") and "'elbo-enum'" in finding.fix
    assert not pvae.check(mixture, batch, "elbo-enum").fatal
