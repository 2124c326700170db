"""`calibrate` on models with a known posterior: what passes, what is found, and by which quantity."""

from __future__ import annotations

from collections.abc import Mapping

import exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from planted import OneMode, Planted
from torch import Tensor

import pvae
from pvae import InputError
from pvae.evaluate import calibrate
from pvae.evaluate.evaluation_context import evaluation_context
from pvae.evaluate.simulated_pairs import simulate_pairs
from pvae.models import MaskedVAE

pytestmark = pytest.mark.usefixtures("own_store")
X = torch.zeros(64, 3, dtype=torch.float64)


def rejected(model: object, data: object, simulations: int = 512, **settings: object) -> list[str]:
    """The quantities whose ranks are not uniform, by the adjusted p-value."""
    found = calibrate(model, data, simulations, progress=False, **settings)  # type: ignore[arg-type]
    return [name for name, ranks in found.quantities.items() if ranks.adjusted <= 0.05]


def test_the_exact_posterior_passes() -> None:
    found = calibrate(Planted(), X, 512, progress=False)
    assert found.status == "fine"
    assert list(found.quantities) == ["z[0]", "z[1]", "log p(x given z)", "log p(x, z)", "log q(z given x)"]
    assert found.cost == 512 * 100


def test_a_guide_equal_to_the_prior_is_seen_by_the_log_densities_alone() -> None:
    assert rejected(Planted(prior=True), X) == ["log p(x given z)", "log p(x, z)"]


def test_a_narrow_guide_is_bad_and_a_dropped_correlation_passes() -> None:
    narrow = calibrate(Planted(scale=0.7), X, 512, progress=False)
    assert narrow.status == "bad"
    assert "not uniform" in narrow.reason
    assert calibrate(Planted(diagonal=True), X, 512, progress=False).status == "fine"


def test_a_guide_on_one_of_two_modes_is_bad() -> None:
    found = calibrate(OneMode(), torch.zeros(64, 1, dtype=torch.float64), 256, draws=39, progress=False)
    assert found.status == "bad"
    assert found.quantities["z"].distance == pytest.approx(0.5, abs=0.1)  # half of the z are below all draws


def test_a_quantity_of_the_caller_sees_what_the_units_do_not() -> None:
    def product(z: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return z["z"][:, 0] * z["z"][:, 1]

    class Opposite(Planted):
        """The marginals of the posterior, with the opposite correlation, in a model of strong correlation."""

        def __init__(self) -> None:
            super().__init__()
            self.factor = torch.tensor([[1.0, 0.0], [-0.9, 0.19**0.5]], dtype=torch.float64)

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                factor = torch.tensor([[1.0, 0.0], [0.9, 0.19**0.5]], dtype=torch.float64)
                pyro.sample("z", dist.MultivariateNormal(x.new_zeros(len(x), 2), scale_tril=factor))
                pyro.sample("x", dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.MultivariateNormal(x.new_zeros(len(x), 2), scale_tril=self.factor))

    names = rejected(Opposite(), X, quantities={"z0 z1": product})
    assert "z0 z1" in names
    assert not {"z[0]", "z[1]"} & set(names)
    with pytest.raises(InputError, match=r"quantities\['z'\] needs to return one number per datum"):
        calibrate(Opposite(), X, 64, quantities={"z": lambda z, x: z["z"]}, progress=False)


@pytest.mark.parametrize("marked", [True, False])
def test_hidden_labels_stay_hidden_so_that_their_posterior_is_tested(marked: bool) -> None:
    # The guide's q(y given x) is wrong, and its q(z given x, y) is exact. A label that is summed out is drawn from its
    # exact posterior.
    hidden = exact.labelled_batch(*[-1] * 64, x=0.4)
    names = rejected(exact.LabelledModel(marked=marked, slope=(0.0, -3.0)), hidden, 256, draws=39)
    assert (names == []) == marked


def test_missing_entries_are_simulated_and_not_scored() -> None:
    mask = torch.ones(8, 6)
    mask[0], mask[1, :3] = 0.0, 0.0
    data = {"x": torch.ones(8, 6) * mask, "mask": mask}
    model = MaskedVAE(data_shape=(6,), latent=1, hidden=(3,))
    with evaluation_context(model, data) as context:
        pairs = simulate_pairs(context, context.batch)
    assert torch.equal(pairs.batch["mask"], mask)
    assert pairs.log_likelihood[0] == 0.0
    assert (pairs.log_likelihood[1:] < 0.0).all()
    assert calibrate(model, data, 40, draws=19, progress=False).count == 40


def test_the_result_follows_from_the_seed_and_a_batch_from_its_number() -> None:
    first, again, other = (calibrate(Planted(), X, 128, seed=seed, progress=False) for seed in (1, 1, 2))
    more = calibrate(Planted(), X, 192, seed=1, progress=False)
    ranks = [found.quantities["z[0]"].ranks for found in (first, again, other, more)]
    assert (ranks[0] == ranks[1]).all()
    assert (ranks[0] == ranks[3][:128]).all()
    assert (ranks[0] != ranks[2]).any()


def test_models_that_cannot_be_calibrated_are_refused_by_name() -> None:
    class Shared(LatentWithShared):
        pass

    with pytest.raises(InputError, match="all data share site 'w'"):
        calibrate(Shared(), X, 64, progress=False)
    with pytest.raises(InputError, match="site 'x' are not one of the fields"):
        calibrate(Shifted(), X, 64, progress=False)
    with pytest.raises(InputError, match="simulations needs a whole number of at least 20"):
        calibrate(Planted(), X, 3, progress=False)


class LatentWithShared(pvae.LatentModel):
    """A regression whose slope all data share."""

    def model(self, x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w.expand(len(x), 3), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("w", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))


class Shifted(Planted):
    """A model that observes a function of x."""

    def model(self, x: Tensor) -> None:
        super().model(2.0 * x + 1.0)


def test_an_interrupt_leaves_the_state_of_the_process_unchanged() -> None:
    def interrupt(z: Mapping[str, Tensor], x: Tensor) -> Tensor:
        raise KeyboardInterrupt

    torch.manual_seed(3)
    before, model = torch.get_rng_state(), Planted().train()
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, X, 64, draws=19, quantities={"stop": interrupt}, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert torch.is_grad_enabled()
    assert not list(pyro.get_param_store())


def test_the_figure_has_a_curve_for_each_quantity() -> None:
    figure = calibrate(Planted(), X, 64, draws=19, progress=False).plot()
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert {"z[0]", "z[1]", "log p(x, z)"} <= set(labels)
