"""What the log weights of a datum show of the guide: golden numbers, and what they do not show."""

from __future__ import annotations

from pathlib import Path

import exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from planted import OneMode, Planted, PlantedPoint
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor

from pvae.evaluate import DataTrust, diagnose
from pvae.evaluate.all_checks.data_trust import data_trust
from pvae.evaluate.weight_notes import suspect_data
from pvae.evaluate.weight_trust import WeightTrust, trust_statistics

pytestmark = pytest.mark.usefixtures("own_store")
X = torch.tensor(exact.A_X)


@pytest.mark.parametrize(
    ("model", "variance", "ess", "accuracy", "kl"),
    [
        (exact.LinearGaussianModel(), 5.145403, 0.270646, 0.757821, 1.389621),
        (Planted(diagonal=True), 0.011181, 0.988434, 0.516969, 0.005622),
        (Planted(prior=True), 63.2, None, None, 5.552116),
    ],
)
def test_the_numbers_of_each_datum_are_the_golden_ones(
    model: object, variance: float, ess: float | None, accuracy: float | None, kl: float
) -> None:
    found = diagnose(model, X.expand(64, 3), 2000)
    assert found.trust is not None
    for values, golden, resolution in (
        (found.trust.log_weight_variance, variance, 0.02),
        (found.ess / 2000, ess, 0.02),
        (found.trust.accuracy, accuracy, 0.02),
        (found.trust.kl, kl, 0.02),
    ):
        if golden is not None:
            mean, error = mean_and_error(values)
            # ESS and log p(x) of 2000 draws have a bias of the order of 1 / 2000; 63.2 is rounded.
            assert_close_in_sigmas(mean, golden, error + golden * 1e-3, effect=golden, resolution=resolution)


def test_particles_may_come_in_parts() -> None:
    log_w = 30.0 + 3.0 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    statistics = trust_statistics(50)
    for part in log_w.split([7, 1, 42]):
        for statistic in statistics:
            statistic.add(part)
    evidence, elbo, variance, accuracy = (statistic.result() for statistic in statistics)
    weights = log_w.exp()
    torch.testing.assert_close(evidence, weights.mean(0).log())
    torch.testing.assert_close(elbo, log_w.mean(0))
    torch.testing.assert_close(variance, log_w.var(0))
    torch.testing.assert_close(accuracy, 0.5 + (weights / weights.mean(0) - 1).abs().mean(0) / 4)


def test_the_accuracy_keeps_the_weights_of_2000_particles() -> None:
    log_w = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    accuracy = trust_statistics(3000)[-1]
    for part in log_w.split(700):
        accuracy.add(part)
    weights = log_w[:2000].exp()
    torch.testing.assert_close(accuracy.result(), 0.5 + (weights / weights.mean(0) - 1).abs().mean(0) / 4)


def test_a_guide_on_one_of_two_modes_has_perfect_weights_and_is_never_fine() -> None:
    found = diagnose(OneMode(), OneMode().draw(20), 500)
    assert found.trust is not None
    assert found.trust.accuracy.max() < 0.5 + 1e-6
    assert found.trust.kl.max() < 1e-6
    assert data_trust(found, is_calibrated=None).status == "look"
    assert data_trust(found, is_calibrated=False).status == "look"
    assert data_trust(found, is_calibrated=True).status == "fine"


def test_the_worst_data_are_listed_first(tmp_path: Path) -> None:
    class Uneven(Planted):
        """Exact, but shifted on two data."""

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                rows = torch.arange(len(x))
                shift = torch.where(rows == 5, 3.0, torch.where(rows == 11, 2.0, 0.0)).unsqueeze(-1)
                pyro.sample("z", dist.MultivariateNormal((x - self.bias) @ self.gain.T + shift, scale_tril=self.factor))

    diagnosis = diagnose(Uneven(), Planted().draw(40), 500)
    finding = data_trust(diagnosis, is_calibrated=True)
    assert isinstance(finding, DataTrust)
    assert finding.worst == (5, 11)
    assert (finding.value, finding.status) == (2 / 40, "look")
    (_, suspect, *_) = diagnosis.plot(tmp_path / "trust.svg").axes[0].lines
    assert sorted(suspect.get_ydata()) == sorted(diagnosis.trust.kl[[5, 11]].tolist())
    rows = {row["quantity"]: row for row in diagnosis.table()}
    median = diagnosis.to_json()["kl"]["median"]
    assert (
        rows["KL(q to posterior), nats"]["value"] == f"{median:.4g}" and "<svg" in (tmp_path / "trust.svg").read_text()
    )


def test_khat_kl_and_few_effective_particles_each_make_a_datum_suspect() -> None:
    khat, ess = torch.tensor([0.1, 0.9, 0.1, 0.1, 0.9]), torch.tensor([50.0, 50.0, 50.0, 5.0, 50.0])
    trust = WeightTrust(torch.tensor([1.0, 1, 1, 1, 0]), torch.tensor([0.5, 0.5, 2, 0.5, 0]), torch.full((5,), 0.5))
    assert suspect_data(khat, ess, 1000, trust).tolist() == [False, True, True, True, False]


def test_a_point_is_not_available() -> None:
    found = diagnose(PlantedPoint(), Planted().draw(5), 50)
    assert found.trust is not None
    assert found.trust.accuracy.isnan().all()
    assert found.to_json()["accuracy"]["median"] is None
    finding = data_trust(found, is_calibrated=True)
    assert finding.status == "not run"
    assert finding.reason.startswith("Not available")
